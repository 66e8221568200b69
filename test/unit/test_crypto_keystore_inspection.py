"""What members could not write is found before a start, with the remedy: owner, mode, file system, space."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from chimera_ros.crypto.errors import KeystoreError
from chimera_ros.crypto.keystore import inspection
from chimera_ros.crypto.keystore.inspection import keystore_faults, member_faults, merged
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.member_state import STATE_FILES, FileStore, StoredState
from chimera_ros.crypto.testing.swarm import WALL_START_NS

NOBODY = 65534
NAMES = ("drone_01", "drone_02")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Keystore(tmp_path_factory.mktemp("whole") / "keys", durable=False)
    store.create("testswarm", wall_ns=WALL_START_NS)
    for name in NAMES:
        store.enroll(name, "drone", wall_ns=WALL_START_NS)
        state = store.state_store(name)
        state.save(StoredState(highest_epoch=4))
        state.save(StoredState(highest_epoch=8))
        state.save(StoredState(highest_epoch=12, evictions=frozenset({bytes(32)})))
        store.lock(name).release()
    return store.path


@pytest.fixture
def store(whole: Path) -> Iterator[Keystore]:
    """A copy in a folder that every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="chimera_ros_test_"))
    folder.chmod(0o755)
    yield Keystore(shutil.copytree(whole, folder / "keys"), durable=False)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


@contextlib.contextmanager
def another_user(store: Keystore, *, owner: bool) -> Iterator[None]:
    """As a user without privileges, who owns the keystore or not; root may read and write everything."""
    if os.geteuid():
        if not owner:
            pytest.skip("only root can make files of another user")
        yield
        return
    if owner:
        for path in (store.path, *store.path.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_nothing_is_wrong_with_a_new_keystore_and_nothing_is_left_in_it(store: Keystore) -> None:
    before = sorted(path for path in store.path.rglob("*"))
    assert keystore_faults(store, NAMES) == []
    assert [member_faults(store, name) for name in NAMES] == [[], []]
    assert sorted(path for path in store.path.rglob("*")) == before
    with store.lock("drone_01"):
        assert member_faults(store, "drone_01") == []


@pytest.mark.parametrize("mode", [0o500, 0o400, 0o000])
def test_a_folder_that_its_owner_may_not_change(store: Keystore, mode: int) -> None:
    folder = store.member_path("drone_01")
    with another_user(store, owner=True):
        folder.chmod(mode)
        (fault,) = member_faults(store, "drone_01")
        assert f"the mode of {folder} is {mode:04o}: run `chmod u+rwx {folder}`" in fault
        assert member_faults(store, "drone_02") == []
        folder.chmod(0o700)
        assert member_faults(store, "drone_01") == []


@pytest.mark.parametrize("file", [*STATE_FILES, "in_use.lock", "crl.der", "policy.signed"])
@pytest.mark.parametrize("mode", [0o400, 0o000])
def test_a_file_that_its_owner_may_not_change(store: Keystore, file: str, mode: int) -> None:
    path = store.member_path("drone_01") / file
    path.touch()
    with another_user(store, owner=True):
        path.chmod(mode)
        (fault,) = member_faults(store, "drone_01")
        assert f"the mode of {path} is {mode:04o}: run `chmod u+rw {path}`" in fault


def test_folders_and_files_of_another_user(store: Keystore) -> None:
    with another_user(store, owner=False):
        (fault,) = member_faults(store, "drone_01")
    assert f"{store.path} belongs to user 0: run this as that user, or copy the keystore" in fault
    if os.geteuid():
        return
    folder = store.member_path("drone_01")
    os.chown(folder, NOBODY, NOBODY)
    (fault,) = member_faults(store, "drone_01")
    assert f"{folder}: it belongs to user {NOBODY}: run this as that user, or `chown -R 0 {folder}`" in fault
    os.chown(folder, 0, 0)
    os.chown(folder / "state.json.number", NOBODY, NOBODY)  # as after one flight with sudo
    (fault,) = member_faults(store, "drone_01")
    assert f"state.json.number: it belongs to user {NOBODY}" in fault


@pytest.mark.parametrize("file", STATE_FILES)
def test_numbers_that_cannot_be_read_are_not_forgotten(store: Keystore, file: str) -> None:
    path = store.member_path("drone_01") / file
    assert store.state_store("drone_01").load().highest_epoch == 12
    with another_user(store, owner=True):
        path.chmod(0o000)
        with pytest.raises(KeystoreError, match=rf"{file}: cannot read \(Permission denied\)"):
            FileStore(store.member_path("drone_01") / STATE_FILES[0]).load()


@pytest.mark.parametrize("place", ["", "members", "members/drone_01"])
def test_a_folder_that_everybody_may_change(store: Keystore, place: str) -> None:
    (store.path / place).chmod(0o777)
    faults = keystore_faults(store, NAMES) + member_faults(store, "drone_01")
    assert [fault for fault in faults if f"run `chmod o-w {store.path / place}`" in fault] == faults
    assert len(faults) == 1


def test_missing_folders(store: Keystore) -> None:
    shutil.rmtree(store.member_path("drone_01"))
    (fault,) = member_faults(store, "drone_01")
    assert "members/drone_01: cannot read (No such file or directory)" in fault
    shutil.rmtree(store.path)
    assert len(keystore_faults(store, NAMES)) == 2


def test_too_little_space_and_too_few_files(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    def file_system(**changes: int) -> None:
        values = {"f_blocks": 100, "f_frsize": 4096, "f_bavail": 10**6, "f_files": 100, "f_favail": 10**6}
        found = SimpleNamespace(**{**values, **changes})
        monkeypatch.setattr(inspection.os, "statvfs", lambda path: found)

    file_system(f_bavail=100)
    (fault,) = keystore_faults(store, NAMES)
    assert "400 KiB are free on its file system, but the swarm's members need 2048 KiB; free space" in fault
    file_system(f_favail=3)
    (fault,) = keystore_faults(store, NAMES)
    assert "has room for 3 more files" in fault
    file_system(f_blocks=0, f_bavail=0, f_files=0, f_favail=0)  # a file system without such numbers
    assert keystore_faults(store, NAMES) == []


def test_what_several_members_share_is_stated_once(store: Keystore) -> None:
    names = [f"drone_{number:02d}" for number in range(1, 9)]
    faults = {name: [f"{store.path / 'members' / name}: cannot write"] for name in names}
    faults["drone_04"].append("another fault")
    first, second = merged(store, faults)
    assert first == (
        f"{store.path}/members/drone_01: cannot write The same holds for drone_02, drone_03, drone_04, "
        "drone_05 and 3 more."
    )
    assert second == "another fault"


@contextlib.contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[None]:
    done = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_system_that_is_mounted_read_only(store: Keystore) -> None:
    path = str(store.path)
    with mounted(store.path, "--bind", "-o", "ro", path):
        for name in NAMES:
            (fault,) = member_faults(store, name)
            assert "cannot write (Read-only file system); mount its file system writable" in fault
        with pytest.raises(KeystoreError, match="Read-only file system"):
            store.lock("drone_01")
        assert len(store.list()) == 2
    assert member_faults(store, "drone_01") == []


def test_a_full_file_system(store: Keystore) -> None:
    copy = store.path.with_name("copy")
    shutil.copytree(store.path, copy)
    with mounted(store.path, "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "none"):
        shutil.copytree(copy, store.path, dirs_exist_ok=True)
        assert any("free space" in fault for fault in keystore_faults(store, NAMES))
        with contextlib.suppress(OSError), (store.path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        (fault,) = member_faults(store, "drone_01")
        assert "cannot write (No space left on device); free space there" in fault
        store.lock("drone_01").release()  # who restarts in flight on a full disk has locked before


def test_files_that_an_attribute_protects(store: Keystore) -> None:
    path = store.member_path("drone_01") / STATE_FILES[0]
    if shutil.which("chattr") is None or subprocess.run(["chattr", "+i", str(path)], check=False).returncode:
        pytest.skip("no such attributes here")
    try:
        (fault,) = member_faults(store, "drone_01")
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)
    assert "cannot write (Operation not permitted)" in fault
    assert "`chattr -i`" in fault
