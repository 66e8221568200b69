"""Requests to stop: what counts as one, what is kept of the caller's choices, and an ended parent."""

import os
import select
import signal
import subprocess
import sys

import pytest

from chimera_ros.parent_watch import LAUNCH_PID, ParentWatch
from chimera_ros.sitl.stop_condition import DOWN_S, STAY_S, StopCondition
from chimera_ros.stop_requests import INSISTING, REPEAT_S, StopRequests


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def requests(clock):
    return StopRequests(clock)


@pytest.fixture
def handlers():
    """Restores the handlers of all signals."""
    numbers = (*INSISTING, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_two_signals_within_milliseconds_are_one(requests, clock):
    requests.request(insists=True)
    requests.request(insists=True)
    assert requests.take() == 1
    assert requests.take() == 0
    clock.now += REPEAT_S - 0.01
    requests.request(insists=True)
    assert requests.take() == 0


def test_a_signal_after_a_second_insists(requests, clock):
    requests.request(insists=True)
    assert requests.take() == 1
    clock.now += REPEAT_S
    requests.request(insists=True)
    assert requests.take() == 2


def test_signals_before_the_first_was_handled_are_one(requests, clock):
    """A process that is busy for seconds has not answered yet: who presses again does not insist."""
    requests.request(insists=True)
    clock.now += 5.0
    requests.request(insists=True)
    assert requests.take() == 1
    assert requests.take() == 0


def test_a_closed_terminal_requests_and_never_insists(requests, clock):
    requests.request(insists=False)
    assert requests.take() == 1
    clock.now += 10.0
    requests.request(insists=False)
    assert requests.take() == 0


@pytest.mark.parametrize("number", [*INSISTING, signal.SIGHUP])
def test_signals_are_requests(requests, handlers, number):
    requests.install()
    os.kill(os.getpid(), number)
    assert requests.take() == 1


@pytest.mark.parametrize("number", [*INSISTING, signal.SIGHUP])
def test_what_the_caller_ignores_stays_ignored(requests, handlers, number):
    signal.signal(number, signal.SIG_IGN)
    requests.install()
    assert signal.getsignal(number) is signal.SIG_IGN


# The parent ------------------------------------------------------------------------------------------


def test_without_launch_nothing_is_watched():
    for environ in ({}, {LAUNCH_PID: ""}, {LAUNCH_PID: "-1"}, {LAUNCH_PID: "zero"}, {LAUNCH_PID: "0"}):
        watch = ParentWatch(environ)
        assert not watch.launched
        assert not watch.ended


def test_the_end_of_launch_is_noticed():
    """Launch need not be the parent: a prefix stands between the two."""
    launch = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    watch = ParentWatch({LAUNCH_PID: str(launch.pid)})
    assert watch.launched
    assert not watch.ended
    launch.kill()
    os.waitid(os.P_PID, launch.pid, os.WEXITED | os.WNOWAIT)  # a zombie has ended
    assert watch.ended
    launch.wait()
    assert watch.ended
    assert ParentWatch({LAUNCH_PID: str(launch.pid)}).ended


def test_the_end_of_launch_is_noticed_without_pidfd(monkeypatch):
    def refused(_pid):
        raise PermissionError

    monkeypatch.setattr(os, "pidfd_open", refused)
    assert not ParentWatch({LAUNCH_PID: str(os.getppid())}).ended
    assert ParentWatch({LAUNCH_PID: str(os.getpid())}).ended  # no parent of this process


ROS2 = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE)
print(child.stdout.readline().decode(), end="", flush=True)
input()
"""
WATCHES = """
import os, time
from chimera_ros.parent_watch import ParentWatch
watch = ParentWatch({})
print(os.getpid(), watch.launched, watch.ended, flush=True)
end = time.monotonic() + 60
while not watch.ended and time.monotonic() < end:
    time.sleep(0.05)
"""


@pytest.mark.parametrize(("name", "watched"), [("ros2", True), ("other", False)])
def test_the_end_of_ros2_run_is_noticed(tmp_path, name, watched):
    program = tmp_path / name
    program.write_text(ROS2)
    command = [sys.executable, str(program), "run", WATCHES]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid, launched, ended = parent.stdout.readline().split()
    child = os.pidfd_open(int(pid))
    try:
        assert (launched, ended) == ("False", "False")
        parent.kill()
        parent.wait()
        exited = select.poll()
        exited.register(child, select.POLLIN)
        assert bool(exited.poll(20_000 if watched else 1_000)) == watched
    finally:
        signal.pidfd_send_signal(child, signal.SIGKILL) if not watched else None
        os.close(child)
        parent.stdin.close()
        parent.stdout.close()


# The simulation --------------------------------------------------------------------------------------


class Launch:
    """Stands for `ParentWatch`."""

    def __init__(self, launched):
        self.launched = launched
        self.ended = False


def simulation(requests, clock, *, launched):
    launch = Launch(launched)
    return launch, StopCondition(requests, follow_parent=False, launch=launch, clock=clock)


def up():
    return True


def down():
    return False


def test_a_simulation_of_its_own_ends_at_the_first_signal(requests, clock):
    _, stop = simulation(requests, clock, launched=False)
    assert not stop(up)
    requests.request(insists=True)
    assert stop(up)


def test_a_launched_simulation_stays_until_all_vehicles_are_down(requests, clock):
    launch, stop = simulation(requests, clock, launched=True)
    assert not stop(up)
    launch.ended = True
    clock.now += 1.0
    assert not stop(up)
    clock.now += 20.0
    assert not stop(up)
    clock.now += DOWN_S - 0.1
    assert not stop(down)
    clock.now += 0.1
    assert stop(down)


def test_a_launched_simulation_on_the_ground_ends_at_once(requests, clock):
    _, stop = simulation(requests, clock, launched=True)
    requests.request(insists=True)
    assert stop(down)


def test_a_launched_simulation_does_not_stay_for_ever(requests, clock):
    _, stop = simulation(requests, clock, launched=True)
    requests.request(insists=True)
    assert not stop(up)
    clock.now += STAY_S
    assert stop(up)


def test_a_second_signal_ends_a_launched_simulation(requests, clock):
    _, stop = simulation(requests, clock, launched=True)
    requests.request(insists=True)
    assert not stop(up)
    clock.now += REPEAT_S
    requests.request(insists=True)
    assert stop(up)
