"""A stale setpoint becomes a position hold; a hung interpreter ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chimera_ros.autopilot.watchdog import InterpreterWatchdog, SetpointWatchdog
from chimera_ros.flight.vehicle import Setpoint

MOVING = Setpoint((1.0, 2.0, 3.0), (4.0, 0.0, 0.0), (0.5, 0.0, 0.0), 0.7)


def test_fresh_setpoints_are_left_alone() -> None:
    dog = SetpointWatchdog()
    for k in range(100):
        dog.fresh(MOVING, 0.05 * k)
        assert dog.check(0.05 * k + 0.04) is None
    assert dog.degraded == 0


def test_stale_setpoint_becomes_a_hold_at_rest_once() -> None:
    dog = SetpointWatchdog()
    assert dog.check(100.0) is None
    dog.fresh(MOVING, 10.0)
    assert dog.check(10.5) is None
    hold = dog.check(10.51)
    assert hold == Setpoint((1.0, 2.0, 3.0), yaw_enu_rad=0.7)
    assert hold.velocity_enu_m_s == hold.acceleration_enu_m_s2 == (0.0, 0.0, 0.0)
    assert dog.check(10.6) is None
    assert dog.degraded == 1
    dog.fresh(MOVING, 11.0)
    assert not dog.stale
    assert dog.check(11.6) is not None
    assert dog.degraded == 2


def test_nothing_is_held_after_offboard_has_ended() -> None:
    dog = SetpointWatchdog()
    dog.fresh(MOVING, 1.0)
    dog.forget()
    assert dog.check(9.0) is None


SCRIPT = """
import sys, time
from chimera_ros.autopilot.watchdog import InterpreterWatchdog
dog = InterpreterWatchdog(2.0)  # so long may a busy machine keep a process waiting
dog.pet()
time.sleep(2.2)  # not enabled: nothing happens
dog.enable()
until = time.monotonic() + 2.2
while time.monotonic() < until:
    dog.pet()
    time.sleep(0.02)
print("alive", flush=True)
if sys.argv[1] == "disable":
    dog.disable()
    time.sleep(2.2)
    print("ended well", flush=True)
else:
    pow(7, 10**8)  # one call that holds the interpreter lock for minutes
    print("not reached", flush=True)
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=120, check=False
    )


def test_hung_interpreter_ends_with_a_traceback() -> None:
    ended = run("hang")
    assert ended.returncode != 0
    assert ended.stdout == "alive\n"
    assert "Timeout" in ended.stderr
    assert "line" in ended.stderr


def test_disabled_watchdog_lets_the_process_end() -> None:
    ended = run("disable")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "alive\nended well\n"


def test_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        InterpreterWatchdog(0.0)
