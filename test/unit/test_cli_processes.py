"""The child-process supervisor with small real children: crash, deafness, floods, restarts, orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from chimera_ros.launcher import shared_memory
from chimera_ros.launcher.supervisor import (
    READ_BYTES,
    ChildSpec,
    Event,
    Exited,
    Restarted,
    StartFailed,
    StatusReceived,
    Supervisor,
)

ROOT = Path(__file__).resolve().parents[2]
TALK = """
import json, os, sys, time
fd = int(os.environ["CHIMERA_STATUS_FD"])
def say(**status):
    os.write(fd, json.dumps({"process": "child", **status}).encode() + b"\\n")
"""
WAIT_S = 20.0


def child(name: str, code: str, **env: str) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-I", "-S", "-u", "-c", TALK + textwrap.dedent(code)), env)


def poll_until(supervisor: Supervisor, done: Callable[[list[Event]], bool]) -> list[Event]:
    events: list[Event] = []
    end = time.monotonic() + WAIT_S
    while not done(events):
        assert time.monotonic() < end, f"nothing came, only {events}"
        events += supervisor.poll(0.5)
    return events


def exits(events: list[Event]) -> list[Exited]:
    return [event for event in events if isinstance(event, Exited)]


def statuses(events: list[Event]) -> list[StatusReceived]:
    return [event for event in events if isinstance(event, StatusReceived)]


def test_status_output_and_exit_of_a_child(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        pid = supervisor.start(
            child("one", "say(n=1); print('hello'); print('oh', file=sys.stderr); say(n=2)")
        )
        events = poll_until(supervisor, lambda seen: bool(exits(seen)))
    assert [event.status["n"] for event in statuses(events)] == [1, 2]
    assert {event.pid for event in statuses(events)} == {pid}
    (exited,) = exits(events)
    assert (exited.returncode, exited.expected, exited.killed) == (0, False, False)
    assert exited.last_lines == ("hello", "oh")
    assert exited.log_path.read_text() == "hello\noh\n"


def test_a_child_leads_its_own_session_so_ctrl_c_does_not_reach_it(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        pid = supervisor.start(child("one", "say(); time.sleep(60)"))
        poll_until(supervisor, lambda seen: bool(statuses(seen)))
        assert os.getsid(pid) == pid
        assert os.getpgid(pid) != os.getpgrp()


def test_a_crash_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(child("one", "raise RuntimeError('no keys')"))
        events = poll_until(supervisor, lambda seen: bool(exits(seen)))
        assert supervisor.last_lines("one")[-1] == "RuntimeError: no keys"
    assert exits(events)[0].reason == "ended with status 1"


def test_death_by_signal_is_named(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(child("one", "say(); time.sleep(60)"))
        poll_until(supervisor, lambda seen: bool(statuses(seen)))
        supervisor.kill("one", signal.SIGKILL)
        (exited,) = exits(poll_until(supervisor, lambda seen: bool(exits(seen))))
    assert exited.reason == "was ended by SIGKILL"
    assert not exited.expected


def test_the_restart_policy_decides(tmp_path: Path) -> None:
    asked: list[int] = []

    def policy(exited: Exited) -> float | None:
        asked.append(exited.starts)
        return 0.05 if exited.starts < 3 else None

    with Supervisor(tmp_path, on_exit=policy) as supervisor:
        first = supervisor.start(child("one", "sys.exit(3)"))
        events = poll_until(supervisor, lambda seen: len(exits(seen)) == 3)
        assert supervisor.running() == []
    assert asked == [1, 2, 3]
    assert [event.restart_in_s for event in exits(events)] == [0.05, 0.05, None]
    restarted = [event for event in events if isinstance(event, Restarted)]
    assert [event.starts for event in restarted] == [2, 3]
    assert first not in [event.pid for event in restarted]


def test_stop_is_no_reason_to_restart(tmp_path: Path) -> None:
    with Supervisor(tmp_path, on_exit=lambda exited: 0.0) as supervisor:
        supervisor.start(child("one", "say(); time.sleep(60)"))
        poll_until(supervisor, lambda seen: bool(statuses(seen)))
        (exited,) = exits(supervisor.stop(deadline_s=5.0))
        assert exited.expected
        assert exited.returncode == -signal.SIGTERM
        assert not exited.killed
        assert supervisor.poll(0.1) == []
        assert supervisor.running() == []


def test_a_child_deaf_to_sigterm_is_killed_after_the_deadline(tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); say(); time.sleep(60)"
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(child("deaf", deaf))
        supervisor.start(child("good", "say(); time.sleep(60)"))
        poll_until(supervisor, lambda seen: len(statuses(seen)) == 2)
        began = time.monotonic()
        ended = {exited.process: exited for exited in exits(supervisor.stop(deadline_s=3.0))}
        took_s = time.monotonic() - began
    assert ended["deaf"].killed
    assert not ended["good"].killed
    assert 3.0 <= took_s < WAIT_S


def test_a_flood_from_one_child_neither_starves_the_other_nor_grows_the_log(tmp_path: Path) -> None:
    flood = """
    say(n=0)
    while True:
        print("x" * 1000)
        os.write(fd, b"no json\\n" * 50 + b"y" * 70000 + b"\\n")
    """
    with Supervisor(tmp_path, log_max_bytes=200_000) as supervisor:
        supervisor.start(child("flood", flood))
        supervisor.start(child("calm", "[(say(n=i), time.sleep(0.02)) for i in range(20)]"))
        events = poll_until(supervisor, lambda seen: any(exited.process == "calm" for exited in exits(seen)))
        poll_until(supervisor, lambda seen: (tmp_path / "flood.log.1").exists())
        assert supervisor.rejected_lines["flood"] > 100
        assert "calm" not in supervisor.rejected_lines
    assert [event.status["n"] for event in statuses(events) if event.process == "calm"] == list(range(20))
    size = sum(path.stat().st_size for path in tmp_path.glob("flood.log*"))
    assert size <= 2 * 200_000 + READ_BYTES


def test_grandchildren_end_with_their_parent(tmp_path: Path) -> None:
    code = """
    import subprocess
    grandchild = subprocess.Popen(["sleep", "60"])
    say(pid=grandchild.pid)
    """
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(child("one", code))
        events = poll_until(supervisor, lambda seen: bool(exits(seen)))
        pid = statuses(events)[0].status["pid"]
        end = time.monotonic() + WAIT_S
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("guard", ["setpriv", "python"])
def test_no_orphans_when_the_supervisor_itself_is_killed(tmp_path: Path, guard: str) -> None:
    parent_code = f"""
import sys, time
from pathlib import Path
from chimera_ros.launcher import supervisor
if {guard!r} == "python":
    supervisor.shutil.which = lambda name, path=None, real=supervisor.shutil.which: (
        None if name == "setpriv" else real(name, path=path))
children = supervisor.Supervisor(Path({str(tmp_path)!r}))
code = {TALK!r} + "say(); time.sleep(60)"
pid = children.start(supervisor.ChildSpec("x", (sys.executable, "-I", "-S", "-c", code)))
while not children.poll(1.0):
    pass
print(pid, flush=True)
time.sleep(60)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        orphan = psutil.Process(pid)
        parent.kill()
    end = time.monotonic() + WAIT_S
    while orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the child outlived its supervisor"
        time.sleep(0.01)


def test_children_in_the_air_that_do_not_end_are_killed_after_the_landing(tmp_path: Path) -> None:
    parent_code = f"""
import sys, time
from pathlib import Path
from chimera_ros.launcher import supervisor
children = supervisor.Supervisor(Path({str(tmp_path)!r}), landing_s=1.5)
code = {TALK!r} + "say(); time.sleep(60)"
pid = children.start(supervisor.ChildSpec("x", (sys.executable, "-I", "-S", "-c", code)))
children.report_in_air(True)
while not children.poll(1.0):
    pass
print(pid, flush=True)
time.sleep(60)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, env=env) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    killed = time.monotonic()
    time.sleep(0.5)
    assert orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE, "it had no time to land"
    psutil.wait_procs([orphan], timeout=WAIT_S)
    assert 1.0 < time.monotonic() - killed < WAIT_S


def test_a_child_that_flies_is_stopped_by_its_supervisor_only(tmp_path: Path) -> None:
    with Supervisor(tmp_path, landing_s=10.0) as supervisor:
        pid = supervisor.start(child("one", "say(); time.sleep(60)"))
        poll_until(supervisor, lambda seen: bool(statuses(seen)))
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGHUP)
        assert supervisor.poll(0.5) == []
        (exited,) = exits(supervisor.stop(deadline_s=5.0))
    assert exited.returncode == -signal.SIGINT
    assert not exited.killed


def test_no_file_descriptors_left_is_a_failed_start(tmp_path: Path) -> None:
    # In a process of its own: which numbers are free here, and how high the limit is, others decide.
    code = f"""
        import os, resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(ROOT)!r})
        from chimera_ros.launcher.supervisor import ChildSpec, StartFailed, Supervisor

        def opened():
            return len(os.listdir("/proc/self/fd"))

        with Supervisor(Path({str(tmp_path)!r})) as supervisor:
            before = opened()
            free = os.dup(0)  # the lowest number that is free
            os.close(free)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, hard))
            try:
                supervisor.start(ChildSpec("one", (sys.executable, "-c", "pass"), {{}}))
            except StartFailed as error:
                print(error)
            print(opened() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    first, second, *_ = [*done.stdout.splitlines(), "", ""]
    assert "process one cannot start: Too many open files" in first, done.stderr
    assert second == "0"


def test_usage_counts_the_busy_child(tmp_path: Path) -> None:
    with Supervisor(tmp_path, own_name="me") as supervisor:
        busy = "end = time.process_time() + 1.0\nwhile time.process_time() < end: pass\nsay()\ntime.sleep(60)"
        supervisor.start(child("busy", busy))
        supervisor.start(child("idle", "say(done=1); time.sleep(60)"))
        supervisor.restart_measuring()
        poll_until(supervisor, lambda seen: len(statuses(seen)) == 2)
        usage = supervisor.usage()
    busy_s = usage.cpu_percent["busy"] / 100.0 * usage.window_s
    assert 0.9 < busy_s < 2.0
    assert usage.cpu_percent["idle"] / 100.0 * usage.window_s < 0.5  # its start; longer on a busy machine
    assert usage.cpu_percent["total"] == pytest.approx(
        sum(value for name, value in usage.cpu_percent.items() if name != "total")
    )
    assert usage.rss_mb["total"] >= usage.rss_mb["me"] + usage.rss_mb["busy"] - 1.0
    assert 0.0 < usage.pss_mb["me"] <= usage.rss_mb["me"]
    assert usage.pss_mb["busy"] > 1.0


def test_wake_ends_a_poll(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.wake()
        began = time.monotonic()
        assert supervisor.poll(30.0) == []
        assert time.monotonic() - began < 25.0


def test_what_cannot_start_is_said_in_one_sentence(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        with pytest.raises(StartFailed, match=r"process ghost cannot start: .*no_such_program"):
            supervisor.start(ChildSpec("ghost", ("no_such_program",)))
        supervisor.start(child("one", "time.sleep(60)"))
        with pytest.raises(StartFailed, match="already running"):
            supervisor.start(child("one", "pass"))


def test_file_descriptors_do_not_leak(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Supervisor(tmp_path) as supervisor:
        for _ in range(5):
            supervisor.start(child("one", "pass"))
            poll_until(supervisor, lambda seen: bool(exits(seen)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_shared_memory_of_the_dead_is_removed_and_of_the_living_is_not(tmp_path: Path) -> None:
    """The children do with lock files what Fast DDS does: open and flock them as long as they live."""
    hold = """
    import fcntl
    folder, name = os.environ["FOLDER"], os.environ["NAME"]
    open(f"{folder}/{name}", "w").close()
    open(f"{folder}/sem.{name}_mutex", "w").close()
    fd2 = os.open(f"{folder}/{name}_el", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(fd2, fcntl.LOCK_EX)
    say(); time.sleep(60)
    """
    dead, living = "fastdds_0123456789abcdef", "fastdds_port7401"
    (tmp_path / "unrelated").write_text("")
    with Supervisor(tmp_path / "log") as supervisor:
        for name in (dead, living):
            supervisor.start(child(name, hold, FOLDER=str(tmp_path), NAME=name))
        poll_until(supervisor, lambda seen: len(statuses(seen)) == 2)
        pid = supervisor.pid(dead)
        assert pid is not None
        assert shared_memory.segments_of(pid, tmp_path) == {dead}
        assert shared_memory.dead_segments(tmp_path) == []
        supervisor.kill(dead)
        poll_until(supervisor, lambda seen: bool(exits(seen)))
        assert shared_memory.dead_segments(tmp_path) == [dead]
        assert shared_memory.remove([dead, living], tmp_path) == [dead]
        assert sorted(path.name for path in tmp_path.glob("*fastdds*")) == [
            living,
            f"{living}_el",
            f"sem.{living}_mutex",
        ]
    assert (tmp_path / "unrelated").exists()
