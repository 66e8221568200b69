"""How a flight ends and what it leaves behind, whoever has started it; acted_flight.py acts the processes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from chimera_ros.commands.interrupts import Interrupts
from chimera_ros.stop_requests import REPEAT_S

SCRIPT = Path(__file__).with_name("acted_flight.py")
ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0  # for a loaded machine

Ignored = tuple[signal.Signals, ...]


class Acted:
    """A flight in a process of its own, with streams and signal dispositions as its caller leaves them."""

    def __init__(
        self, folder: Path, *, ignored: Ignored = (), env: dict[str, str] | None = None, **options: Any
    ):
        self.folder = folder
        self.seen: set[psutil.Process] = set()
        streams = {name: options.pop(name) for name in ("stdin", "stdout", "stderr") if name in options}
        terminal = options.pop("terminal", None)
        closed = options.pop("closed", ())

        def prepare() -> None:
            # These tests themselves may be a background job, which ignores some.
            for number in (*ignored, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
            if terminal is not None:
                fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            for fd in closed:
                os.close(fd)

        if terminal is not None:
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        self.output = folder / "output.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), json.dumps({"folder": str(folder), **options})],
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                preexec_fn=prepare,  # this process has no threads that matter
                start_new_session=True,
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **streams},  # type: ignore[arg-type]
            )

    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, f"ended while waiting for {what}:\n{self.text()}"
            assert time.monotonic() < until, f"{what} did not happen:\n{self.text()}"
            time.sleep(0.02)

    def height(self) -> float:
        lines = (self.folder / "record" / "tracks.jsonl").read_text().splitlines()
        return float(json.loads(lines[-1])["enu"][0][2])

    def airborne(self) -> bool:
        self.children()
        with contextlib.suppress(OSError, ValueError, IndexError):
            return self.height() > 3.0
        return False

    def flying(self) -> Acted:
        self.wait_for(self.airborne, "the take-off")
        return self

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        self.seen.update(found)
        return found

    def child(self, act: str) -> psutil.Process:
        (found,) = (child for child in self.children() if act in child.cmdline())
        return found

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(WAIT_S)

    def landed(self) -> None:
        """Assert that the swarm was landed, not dropped, and that nothing runs any more."""
        assert self.end() == 1, self.text()
        report = self.report()
        assert "interrupted" in report["failure"] and "ordered to land" in report["failure"]
        assert self.height() == 0.0, "the drones were left in the air"
        self.nothing_left()

    def nothing_left(self) -> None:
        _, alive = psutil.wait_procs(list(self.seen), timeout=WAIT_S)
        assert alive == []

    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "record" / "report.json").read_text())


@pytest.fixture
def act(tmp_path: Path) -> Iterator[Callable[..., Acted]]:
    flights: list[Acted] = []

    def make(**options: Any) -> Acted:
        folder = tmp_path / f"flight{len(flights)}"
        folder.mkdir()
        flights.append(Acted(folder, **options))
        return flights[-1]

    yield make
    for flight in flights:
        if flight.process.poll() is None:
            flight.process.kill()
            flight.process.wait()


def dispositions(pid: int) -> set[int]:
    """Signals that a process ignores."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            mask = int(line.split()[1], 16)
            return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    raise AssertionError("no SigIgn")


def fill(fd: int) -> None:
    """Write until a reader would have to read."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(fd, b"x" * 100):
            pass
    os.set_blocking(fd, True)


def read_all(master: int) -> bytes:
    """What comes out of a terminal until nobody has it open."""
    data = b""
    with contextlib.suppress(OSError), open(master, "rb", buffering=0) as reader:
        while part := reader.read(65536):
            data += part
    return data


# -- interrupts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP])
def test_one_signal_lands(act: Callable[..., Acted], number: signal.Signals) -> None:
    flight = act().flying()
    flight.send(number)
    flight.landed()


def test_repeats_within_a_second_are_one(act: Callable[..., Acted]) -> None:
    """A terminal and `ros2 launch` both send SIGINT, `timeout` two SIGTERM, systemd SIGHUP as well."""
    flight = act().flying()
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        flight.send(number)
        time.sleep(0.005)  # the kernel merges what is pending
    flight.landed()


def test_the_second_interrupt_ends_at_once(act: Callable[..., Acted]) -> None:
    flight = act(acts={"leader": ["leader", "60", "60"]}, picture=True).flying()
    flight.send(signal.SIGINT)
    flight.wait_for(lambda: "are ordered to land" in flight.text(), "the landing")
    time.sleep(REPEAT_S + 0.1)
    flight.send(signal.SIGINT)
    assert flight.end() == 1
    assert "second interrupt" in flight.report()["failure"]
    assert flight.report()["problems"] == ["the tracks were not drawn: interrupted"]
    flight.nothing_left()


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,)])
def test_a_signal_to_every_process_lands(act: Callable[..., Acted], ignored: Ignored) -> None:
    """systemd's KillMode=control-group, its default, with SendSIGHUP."""
    flight = act(acts={"follower_0": ["follower"]}, ignored=ignored).flying()
    for process in (*flight.children(), flight.process):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGHUP)
    flight.landed()
    assert flight.report()["deaths"] == []


def test_when_the_command_is_killed_in_flight_the_swarm_lands(act: Callable[..., Acted]) -> None:
    flight = act(acts={"follower_0": ["follower"]}).flying()
    flight.wait_for(lambda: "| cruise |" in flight.text(), "the command to know")
    flight.send(signal.SIGKILL)
    flight.end()
    flight.nothing_left()
    assert flight.height() == 0.0, "the drones were left in the air"


def test_when_the_command_is_killed_on_the_ground_nothing_is_left(act: Callable[..., Acted]) -> None:
    flight = act(acts={"leader": ["follower"], "deaf": ["deaf"]})
    flight.wait_for((flight.folder / "deaf_started").exists, "the processes to start")
    flight.children()
    flight.send(signal.SIGKILL)
    flight.end()
    flight.nothing_left()


def test_a_terminal_closed_during_the_landing_does_not_end_it(act: Callable[..., Acted]) -> None:
    flight = act(acts={"leader": ["leader", "60", "2.5"]}).flying()
    flight.send(signal.SIGINT)
    flight.wait_for(lambda: "are ordered to land" in flight.text(), "the landing")
    time.sleep(REPEAT_S + 0.1)
    flight.send(signal.SIGHUP)
    flight.landed()


def test_dispositions_are_restored_after_the_flight() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Interrupts() as interrupts:
        for number in numbers:
            os.kill(os.getpid(), number)
        assert interrupts.count == 1
        assert interrupts.count == 1
    assert [signal.getsignal(number) for number in numbers] == before


# -- what a caller ignores --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param((signal.SIGHUP,), id="nohup"),
        pytest.param((signal.SIGINT, signal.SIGQUIT), id="background job of a script"),
    ],
)
def test_what_the_caller_ignores_stays_ignored_in_every_process(
    act: Callable[..., Acted], ignored: Ignored
) -> None:
    flight = act(ignored=ignored, acts={"leader": ["leader", "3"]}).flying()
    for pid in (flight.process.pid, *(child.pid for child in flight.children())):
        assert dispositions(pid) >= set(ignored)
    for number in ignored:
        flight.send(number)
    assert flight.end() == 0, flight.text()
    flight.nothing_left()


def test_a_job_that_ignores_sigint_is_landed_by_sigterm(act: Callable[..., Acted]) -> None:
    flight = act(ignored=(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)).flying()
    flight.send(signal.SIGTERM)
    flight.landed()


def test_the_supervisor_works_whatever_its_caller_ignores(act: Callable[..., Acted]) -> None:
    """SIGCHLD ignored: the kernel would reap; SIGTERM and SIGUSR1: children must receive them anyway."""
    every = (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1, signal.SIGPIPE, signal.SIGALRM)
    flight = act(ignored=every, acts={"follower_0": ["follower", "", "0.5"]}).flying()
    flight.wait_for(lambda: "ended with status 1" in flight.text(), "the exit status")
    flight.send(signal.SIGTERM)
    flight.send(signal.SIGINT)
    flight.landed()
    assert not any("killed" in problem for problem in flight.report()["problems"])


# -- streams ----------------------------------------------------------------------------------------------


def test_closed_streams(act: Callable[..., Acted]) -> None:
    flight = act(closed=(0, 1, 2), acts={"leader": ["leader", "1"]})
    assert flight.end() == 0
    assert flight.report()["completed"] is True


def test_colour_that_is_forced_makes_no_terminal_of_a_file(act: Callable[..., Acted]) -> None:
    flight = act(acts={"leader": ["leader", "1"]}, env={"FORCE_COLOR": "1"})
    assert flight.end() == 0
    assert "\x1b[?25l" not in flight.text(), "the cursor is hidden"
    assert " | cruise | 2 drones: " in flight.text() or " | over | 2 drones: " in flight.text()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_behind_a_stream(act: Callable[..., Acted], stream: str) -> None:
    with open("/dev/full", "w") as full:
        flight = act(acts={"leader": ["leader", "1"]}, **{stream: full})
        assert flight.end() == 0
    assert flight.report()["completed"] is True
    assert flight.text().count("No space left") == (stream == "stdout")


def test_json_that_cannot_be_printed_is_a_failure(act: Callable[..., Acted]) -> None:
    with open("/dev/full", "w") as full:
        flight = act(acts={"leader": ["leader", "1"]}, stdout=full, json=True)
        assert flight.end() == 1
    assert "the report cannot be printed: No space left on device" in flight.text()
    assert flight.report()["completed"] is True


def test_a_reader_that_leaves_does_not_end_the_flight(act: Callable[..., Acted]) -> None:
    ours, theirs = os.pipe()
    flight = act(acts={"leader": ["leader", "7"]}, stdout=theirs)
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert flight.end() == 0, flight.text()
    assert flight.report()["completed"] is True
    assert "Traceback" not in flight.text()


def test_a_reader_that_stalls_does_not_hold_up_the_landing(act: Callable[..., Acted]) -> None:
    ours, theirs = os.pipe()
    fill(theirs)
    flight = act(stdout=theirs).flying()
    os.close(theirs)
    flight.send(signal.SIGTERM)
    flight.wait_for((flight.folder / "record" / "report.json").exists, "the report")
    assert "interrupted" in flight.report()["failure"]
    flight.nothing_left()
    with open(ours, "rb") as reader:
        assert b"MISSION NOT COMPLETED" in reader.read()
    flight.landed()


def test_a_terminal_that_goes_away(act: Callable[..., Acted]) -> None:
    """The kernel sends SIGHUP, and every write fails from then on."""
    master, terminal = os.openpty()
    flight = act(terminal=terminal)
    os.close(terminal)
    flight.wait_for(flight.airborne, "the take-off")
    os.close(master)
    flight.landed()
    assert any("Input/output error" in problem for problem in flight.report()["problems"])


def test_ctrl_c_in_a_terminal_that_is_not_read(act: Callable[..., Acted]) -> None:
    """As through a connection that hangs: the live table fills what the terminal buffers."""
    master, terminal = os.openpty()
    fill(terminal)
    flight = act(terminal=terminal).flying()
    os.close(terminal)
    time.sleep(REPEAT_S)  # the table is drawn meanwhile
    os.write(master, b"\x03")
    flight.wait_for((flight.folder / "record" / "report.json").exists, "the report")
    assert flight.height() == 0.0
    flight.nothing_left()
    assert b"MISSION NOT COMPLETED" in read_all(master)
    flight.landed()


# -- what is written --------------------------------------------------------------------------------------


def test_ctrl_c_during_the_picture_costs_the_picture_only(act: Callable[..., Acted], tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    (slow / "matplotlib").mkdir(parents=True)
    (slow / "matplotlib" / "__init__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'drawing')!r}).touch()\ntime.sleep(600)\n"
    )
    paths = os.pathsep.join((str(slow), str(ROOT)))
    flight = act(acts={"leader": ["leader", "0.5"]}, env={"PYTHONPATH": paths}, picture=True)
    flight.wait_for((tmp_path / "drawing").exists, "the picture to be drawn")
    flight.children()
    assert flight.report()["completed"] is True, "the report is written first"
    flight.send(signal.SIGINT)
    assert flight.end() == 0
    assert flight.report()["problems"] == ["the tracks were not drawn: interrupted"]
    assert "MISSION COMPLETED" in flight.text()
    assert "the tracks were not drawn: interrupted" in flight.text()
    flight.nothing_left()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise RuntimeError('no fonts')", "RuntimeError: no fonts"),
        ("import os; os.abort()", "was ended by SIGABRT"),
        ("raise ImportError('broken')", "ImportError: broken"),
        ("import sys; sys.exit()", ""),
    ],
)
def test_a_picture_that_fails_is_a_sentence_in_the_summary(
    act: Callable[..., Acted], tmp_path: Path, module: str, reason: str
) -> None:
    (tmp_path / "broken" / "matplotlib").mkdir(parents=True)
    (tmp_path / "broken" / "matplotlib" / "__init__.py").write_text(module + "\n")
    paths = os.pathsep.join((str(tmp_path / "broken"), str(ROOT)))
    env = {"PYTHONPATH": paths, "COLUMNS": "200"}
    flight = act(acts={"leader": ["leader", "0.5"]}, env=env, picture=True)
    assert flight.end() == 0
    assert flight.report()["completed"] is True
    assert flight.report()["pictures"] == []
    assert f"the tracks were not drawn: {reason}" in flight.text()


def test_errors_and_last_words_reach_summary_and_report(act: Callable[..., Acted]) -> None:
    text = "\x1b[31m[ERROR] [1234.5] [chimera.follower_0]: the keystore is read-only\x1b[0m\x07"
    flight = act(
        acts={"follower_0": ["follower", text, "0.3"], "leader": ["leader", "2"]}, env={"COLUMNS": "200"}
    )
    assert flight.end() == 0
    report = flight.report()
    assert [(error["process"], error["text"]) for error in report["errors"]] == [
        ("follower_0", "the keystore is read-only?")
    ]
    assert {death["process"] for death in report["deaths"]} == {"follower_0"}
    assert report["deaths"][0]["reason"] == "ended with status 1"
    assert report["deaths"][0]["last_lines"][-1] == "the last words"
    for words in (
        "follower_0: the keystore is read-only",
        "the last words",
        "follower_0 ended with status 1",
    ):
        assert words in flight.text()
    assert "\x1b" not in flight.text()
    log = (flight.folder / "record" / "log" / "follower_0.log").read_text()
    assert log.count("the last words") == len(report["deaths"]) > 1


# No path in /dev itself: code that is wrong, run by root, would replace a device.
@pytest.mark.parametrize("target", ["/dev/fd/1", "/proc/self/fd/1", "pipe"])
def test_a_report_to_a_stream(act: Callable[..., Acted], tmp_path: Path, target: str) -> None:
    """It is written to, once, and not replaced by a file."""
    path = tmp_path / "pipe" if target == "pipe" else Path(target)
    if target == "pipe":
        os.mkfifo(path)
    flight = act(acts={"leader": ["leader", "0.5"]}, report=str(path))
    text = path.read_text() if target == "pipe" else ""
    assert flight.end() == 0, flight.text()
    text = text or flight.text()
    assert text.count('"real_time_factor"') == 1
    assert "MISSION COMPLETED" in flight.text()
    assert target != "pipe" or path.is_fifo()


# -- processes that are lost ------------------------------------------------------------------------------


def test_the_swarm_is_landed_when_a_process_is_lost_for_good(act: Callable[..., Acted]) -> None:
    flight = act(acts={"crypto": ["follower", "", "0.5"]}).flying()
    assert flight.end() == 1
    assert flight.height() == 0.0, "the drones were left in the air"
    failure = flight.report()["failure"]
    assert failure.startswith("process crypto ended with status 1: the last words (its log is ")
    assert len(flight.report()["deaths"]) == 6
    flight.nothing_left()


def test_without_the_leader_the_drones_have_time_to_land(act: Callable[..., Acted]) -> None:
    flight = act(acts={"follower_0": ["follower"]}).flying()
    flight.child("leader").kill()
    flight.wait_for(lambda: "leader was ended by SIGKILL" in flight.text(), "the loss")
    time.sleep(1.0)
    assert flight.process.poll() is None
    (flight.folder / "height").write_text("0")
    assert flight.end() == 1
    assert "process leader was ended by SIGKILL" in flight.report()["failure"]
    flight.nothing_left()
