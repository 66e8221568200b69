"""Whole swarms under a terminal, a service manager, and a command that is killed: all of them are landed."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

_spec = importlib.util.spec_from_file_location(
    "swarm_end_to_end", Path(__file__).with_name("test_swarm_end_to_end.py")
)
assert _spec is not None and _spec.loader is not None
_end_to_end: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_end_to_end)

LANDING_S = 150.0

SHORT = """
mission: up_and_down
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 30]}
steps:
  - takeoff: {height_m: 4, wave: 5}
  - hold: {seconds: 2}
  - land
"""


@pytest.fixture
def start(tmp_path: Path, ros_domain: int, mavlink_port: int) -> Iterator[Callable[..., Any]]:
    swarms: list[Any] = []

    def make(**options: object) -> Any:
        swarms.append(_end_to_end.Swarm(tmp_path / "swarm", ros_domain, mavlink_port, **options))
        return swarms[-1]

    yield make
    for swarm in swarms:
        swarm.close()


class Terminal:
    """A pseudo-terminal that is the controlling one of a process; what appears on it is read all the time."""

    def __init__(self) -> None:
        self._master, self._terminal = os.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._shown = bytearray()
        self._closing = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def popen(self) -> dict[str, Any]:
        """Arguments for the process."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._terminal)
        return {**streams, "start_new_session": True, "preexec_fn": self._take}

    def shows(self, words: str) -> bool:
        """True if these words have appeared."""
        return words.encode() in self._shown

    def press_ctrl_c(self) -> None:
        """The kernel makes a SIGINT of it, for the foreground process."""
        os.write(self._master, b"\x03")

    def close(self) -> None:
        """Close the window: SIGHUP, and every write fails from then on."""
        self._closing = True
        self._reader.join()
        os.close(self._terminal)
        os.close(self._master)

    def _take(self) -> None:
        _end_to_end.accept_signals()
        fcntl.ioctl(self._terminal, termios.TIOCSCTTY, 0)

    def _read(self) -> None:
        while not self._closing:
            if select.select([self._master], [], [], 0.1)[0]:
                self._shown += os.read(self._master, 65536)


def landed(swarm: Any) -> dict[str, Any]:
    """Assert that the swarm was landed and nothing is left running; the report."""
    assert swarm.end(LANDING_S) == 1
    assert max(swarm.heights()) < 0.3, "a drone was left in the air"
    report: dict[str, Any] = swarm.report()
    assert "interrupted" in report["failure"] and "ordered to land" in report["failure"]
    assert report["collisions"] == 0 and report["deaths"] == [] and report["drones_lost"] == []
    assert swarm.orphans() == []
    return report


def test_ctrl_c_in_a_terminal_lands_a_swarm_that_flies_a_moderated_step(start: Callable[..., Any]) -> None:
    terminal = Terminal()
    swarm = start(text=_end_to_end.THROUGH_THE_MIDDLE, popen=terminal.popen())
    swarm.wait_for(lambda: terminal.shows("3/4 swap"), "the moderated step")
    before = swarm.positions()
    swarm.wait_for(lambda: moved_m(before, swarm.positions()) > 1.0, "the drones to move")
    terminal.press_ctrl_c()
    terminal.press_ctrl_c()  # at once, as an impatient hand does
    report = landed(swarm)
    assert report["moderation"]["calls"] >= 2
    assert terminal.shows("are ordered to land")
    assert terminal.shows("MISSION NOT COMPLETED")
    terminal.close()


def test_a_terminal_that_is_closed_lands_the_swarm(start: Callable[..., Any]) -> None:
    terminal = Terminal()
    swarm = start(hold_s=120.0, popen=terminal.popen())
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    terminal.close()
    report = landed(swarm)
    assert any("Input/output error" in problem for problem in report["problems"])


def test_a_service_manager_that_signals_every_process_lands_the_swarm(start: Callable[..., Any]) -> None:
    """systemd: standard input from /dev/null, output to a pipe; KillMode=control-group, SendSIGHUP."""
    swarm = start(hold_s=120.0)
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    for process in (psutil.Process(swarm.process.pid), *swarm.children()):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
    landed(swarm)


@pytest.mark.parametrize("streams", ["closed", "/dev/null"])
def test_a_flight_with_the_streams_of_a_service_manager(start: Callable[..., Any], streams: str) -> None:
    def close() -> None:
        _end_to_end.accept_signals()
        for fd in (0, 1, 2):
            os.close(fd)

    null = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    swarm = start(text=SHORT, popen={"preexec_fn": close} if streams == "closed" else null)
    assert swarm.end() == 0
    report = swarm.report()
    assert report["completed"] is True and report["problems"] == []
    assert swarm.orphans() == []


def test_a_background_job_of_a_script_lands_at_sigterm(start: Callable[..., Any], tmp_path: Path) -> None:
    """`nohup chimera swarm &`: the shell lets it ignore SIGINT and SIGQUIT, nohup SIGHUP."""
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nnohup "$@" &\necho $! > "$0.pid"\nwait\n')
    swarm = start(hold_s=120.0, prefix=("sh", str(script)))
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    processes = swarm.children()
    for process in processes:
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            process.send_signal(number)
    os.kill(int((tmp_path / "script.pid").read_text()), signal.SIGTERM)
    swarm.wait_for(swarm.report_path.exists, "the report", LANDING_S)
    assert max(swarm.heights()) < 0.3, "a drone was left in the air"
    assert "interrupted" in swarm.report()["failure"]
    _, alive = psutil.wait_procs(processes, timeout=60.0)
    assert alive == []


def test_when_the_command_is_killed_the_nodes_land_the_swarm_and_end(start: Callable[..., Any]) -> None:
    swarm = start(hold_s=120.0)
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    swarm.children()
    swarm.process.kill()
    swarm.process.wait()
    _, alive = psutil.wait_procs(list(swarm._seen), timeout=LANDING_S)
    assert alive == []
    assert max(swarm.heights()) < 0.3, "a drone was left in the air"


def moved_m(before: list[list[float]], after: list[list[float]]) -> float:
    """Largest horizontal distance between two sets of positions."""
    return max(
        (abs(complex(one[0] - two[0], one[1] - two[1])) for one, two in zip(before, after, strict=False)),
        default=0.0,
    )
