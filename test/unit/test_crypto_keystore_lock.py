"""Locks of identities: one process at a time, and free again however it ends."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera_ros.crypto.errors import IdentityInUse, KeystoreError
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.member_lock import LOCK_FILE
from chimera_ros.crypto.testing.swarm import WALL_START_NS

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from chimera_ros.crypto.keystore.keystore import Keystore
lock = Keystore(sys.argv[1]).lock(sys.argv[2])
print("held", flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    made = Keystore(tmp_path / "keys", durable=False)
    made.create("testswarm", wall_ns=WALL_START_NS)
    for name in ("drone_01", "drone_02"):
        made.enroll(name, "drone", wall_ns=WALL_START_NS)
    return made


def program(store: Keystore, name: str, then: str) -> subprocess.Popen[str]:
    """A process that locks a member and goes on as `then` says; returns once it holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + then, str(store.path), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@contextlib.contextmanager
def holder(store: Keystore, name: str, then: str = "sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    process = program(store, name, then)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_free(store: Keystore, name: str, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while True:
        try:
            store.lock(name).release()
            return
        except IdentityInUse:
            assert time.monotonic() < end, "the lock of an ended process is still held"
            time.sleep(0.02)


def test_a_second_process_is_refused_and_told_whom_to_end(store: Keystore) -> None:
    with holder(store, "drone_01") as other:
        with pytest.raises(IdentityInUse) as caught:
            store.lock("drone_01")
        sentence = str(caught.value)
        assert f"drone_01 is in use by process {other.pid} on this machine" in sentence
        assert "end that process" in sentence
        assert "\n" not in sentence
        store.lock("drone_02").release()


def test_a_look_at_a_lock_changes_nothing(store: Keystore) -> None:
    path = store.member_path("drone_01") / LOCK_FILE
    store.check_unlocked("drone_01")
    assert not path.exists()
    with store.lock("drone_01"), pytest.raises(IdentityInUse, match="drone_01 is in use by"):
        store.check_unlocked("drone_01")
    before = path.read_bytes()
    store.check_unlocked("drone_01")
    assert path.read_bytes() == before
    store.lock("drone_01").release()


def test_so_is_a_second_session_of_one_process(store: Keystore) -> None:
    lock = store.lock("drone_01")
    with pytest.raises(IdentityInUse, match="by this process itself"):
        store.lock("drone_01")
    lock.release()
    lock.release()
    store.lock("drone_01").release()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_the_identity_of_a_killed_process_is_free(store: Keystore, number: signal.Signals) -> None:
    process = program(store, "drone_01", "sys.stdin.read()")
    process.send_signal(number)
    process.communicate(timeout=60)
    store.lock("drone_01").release()  # at once: a restarted node comes as soon as its predecessor is gone


def test_a_program_that_replaces_the_process_finds_its_own_identity_free(store: Keystore) -> None:
    again = "import os; os.execv(sys.executable, [sys.executable, '-c', 'import sys; sys.stdin.read()'])"
    with holder(store, "drone_01", again):
        wait_until_free(store, "drone_01")


@pytest.mark.parametrize(
    "child",
    [
        "import os, time\nif not os.fork(): time.sleep(600)",
        "import multiprocessing, time\nmultiprocessing.get_context('fork').Process(target=time.sleep, "
        "args=(600,)).start()\nimport os; os._exit(0)",
        "import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])",
        "import os\nos.posix_spawn('/bin/sleep', ['sleep', '600'], {})",
    ],
    ids=["fork", "multiprocessing", "subprocess", "posix_spawn"],
)
def test_children_that_outlive_a_process_do_not_hold_its_identity(store: Keystore, child: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD + child, str(store.path), "drone_01"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        assert process.wait(timeout=60) == 0
        wait_until_free(store, "drone_01")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_fork_does_not_release_what_its_parent_holds(store: Keystore) -> None:
    lock = store.lock("drone_01")
    child = os.fork()
    if not child:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(IdentityInUse):
        store.lock("drone_01")
    lock.release()


def test_a_lock_that_nobody_refers_to_is_released(store: Keystore) -> None:
    lock = store.lock("drone_01")
    del lock
    gc.collect()
    store.lock("drone_01").release()


@pytest.mark.parametrize("content", [b"", b"no number", b"\xff" * 100, b"1" * 5000])
def test_what_an_unused_lock_file_says_does_not_matter(store: Keystore, content: bytes) -> None:
    path = store.member_path("drone_01") / LOCK_FILE
    path.write_bytes(content)
    with store.lock("drone_01"), pytest.raises(IdentityInUse, match="in use by"):
        store.lock("drone_01")
    assert path.exists()


def test_a_lock_file_that_cannot_be_one_is_named_with_the_remedy(store: Keystore) -> None:
    path = store.member_path("drone_01") / LOCK_FILE
    path.mkdir()
    with pytest.raises(
        KeystoreError, match=r"in_use\.lock: cannot write .*move away what stands in its place"
    ):
        store.lock("drone_01")
    path.rmdir()
    path.symlink_to(path)
    with pytest.raises(KeystoreError, match=r"in_use\.lock: cannot write"):
        store.lock("drone_01")
    with pytest.raises(KeystoreError, match="cannot write"):
        store.lock("drone_77")  # which has no folder


def test_of_two_swarms_that_start_with_one_keystore_one_goes_on(store: Keystore) -> None:
    with store.lock_swarm(), pytest.raises(IdentityInUse, match="another swarm"):
        Keystore(store.path).lock_swarm()
    with store.lock_swarm(), store.lock("drone_01"):
        store.enroll("drone_03", "drone", wall_ns=WALL_START_NS)  # what needs no identity goes on
