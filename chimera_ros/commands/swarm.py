"""`chimera swarm`: start a swarm, monitor it, land it, report."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import IO, TYPE_CHECKING, cast

from chimera_ros.commands.interrupts import Interrupts
from chimera_ros.commands.output import DetachedOutput
from chimera_ros.commands.picture import NotDrawn, draw
from chimera_ros.commands.start_checks import hold_keystore
from chimera_ros.commands.swarm_setup import Prepared, add_arguments, ask_key_passphrase, prepare
from chimera_ros.formats.display import json_escaped
from chimera_ros.launcher.supervisor import (
    ErrorLogged,
    Event,
    Exited,
    Restarted,
    StartFailed,
    StatusReceived,
    Supervisor,
)
from chimera_ros.records.process_status import SitlStatus
from chimera_ros.records.report import (
    ProcessDeath,
    ProcessError,
    Report,
    ReportFailed,
    build_report,
    is_stream,
    render_report,
    write_report,
)
from chimera_ros.records.status import StatusAggregator
from chimera_ros.records.status_view import SwarmView
from chimera_ros.records.table import LiveTable
from chimera_ros.swarm import drone_name
from chimera_ros.terminal.lines import print_line
from chimera_ros.terminal.styled import Console

if TYPE_CHECKING:
    from chimera_ros.launcher.usage import Usage

LAND_S = 60.0  # for the supervised landing after the first Ctrl-C
ORPHANED_S = 100.0  # for nodes to land and end if this process is killed
RETURN_S = 120.0  # without a leader: followers hold, return after 15 s, and land
STOP_S = 15.0  # for processes to exit; the logger signs its totals then
RESTARTS = 5  # of one process
RESTART_S = 1.0
LOGGER_RESTART_S = 10.0  # of the telemetry logger, once it was started so often
CRYPTO_RESTART_S = 0.2  # active crypto node and standbys
AIRBORNE_M = 0.3  # above the pad
MAX_DEATHS = 50
MAX_ERRORS = 200

_AIRBORNE = frozenset({"taking_off", "holding", "following", "returning", "landing", "failsafe"})
_BEFORE_MISSION = frozenset({"starting", "waiting"})  # phases of the leader
_CRASHES = tuple(-n for n in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE))


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chimera swarm`."""
    add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fly a swarm. Returns 0 only if the mission completed with no collision, 1 for failure, 2 for misuse."""
    ask_key_passphrase(arguments)
    prepared = prepare(arguments)
    with hold_keystore(prepared.spec.keystore):
        return Flight(prepared).run()


def restart_policy(event: Exited) -> float | None:
    """Seconds until a process that exited by itself is started again; None: it is lost for this flight."""
    if event.process == "telemetry_logger":  # records end no flight
        return RESTART_S if event.starts <= RESTARTS else LOGGER_RESTART_S
    if event.process in ("leader", "sitl") or event.starts > RESTARTS:
        return None
    return CRYPTO_RESTART_S if event.process.startswith("crypto") else RESTART_S


class Flight:
    """One run of a swarm: processes, table, landing, report."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._began_s = time.monotonic()
        names = [drone_name(i) for i in range(1, prepared.spec.drones + 1)]
        self._aggregator = StatusAggregator(names, self._began_s)
        self._interrupts = Interrupts()
        self._failure: str | None = None
        self._landing_s: float | None = None  # when the landing was ordered
        self._leaderless_s: float | None = None  # when the leader had ended
        self._sitl: SitlStatus | None = None
        self._first_takeoff_s: float | None = None
        self._usage: Usage | None = None
        self._deaths: list[ProcessDeath] = []
        self._errors: dict[tuple[str, str], ProcessError] = {}
        self._problems: list[str] = []
        self._show: Callable[[str], None] = lambda _text: None  # a line beside the table

    def run(self) -> int:
        """Start all processes, wait for the end of the flight, stop them, write the report."""
        prepared = self.prepared
        title = f"chimera swarm · {prepared.spec.drones} drones · {prepared.mission_name}"
        with DetachedOutput(sys.stderr if prepared.json else sys.stdout) as output:
            with self._interrupts:
                with (
                    Supervisor(prepared.log_dir, on_exit=restart_policy, landing_s=ORPHANED_S) as supervisor,
                    LiveTable(title, console=_console(output, output.isatty())) as table,
                ):
                    self._interrupts.wake(supervisor.wake)
                    self._show = table.print_above
                    self._fly(supervisor, table)
                    self._usage = supervisor.usage()
                    table.update(self._aggregator.view(time.monotonic()), time.monotonic(), force=True)
                    if self._failure:
                        table.print_above(self._failure)
                    for event in supervisor.stop(deadline_s=STOP_S):
                        self._take_after(event)
                    self._problems += supervisor.problems()
                for what, problem in (("table", table.problem), ("output", output.problem)):
                    if problem:
                        self._problems.append(f"the {what} of the command is incomplete: {problem}")
                report, saved = self._conclude()
            written = self._print(report, output)
        return 0 if report.ok and saved and written else 1

    def _fly(self, supervisor: Supervisor, table: LiveTable) -> None:
        """Start all processes; returns when the flight is over."""
        try:
            for spec in self.prepared.processes:
                self._aggregator.expect(spec.name)
                supervisor.start(spec)
        except StartFailed as error:
            self._failure = str(error)
        while True:
            for event in supervisor.poll(0.2):
                self._take(event, supervisor)
            now = time.monotonic()
            view = self._aggregator.view(now)
            started = view.phase not in _BEFORE_MISSION and not view.finished  # motors may run
            supervisor.report_in_air(started or self._in_air(view))
            table.update(view, now)
            if self._over(view, supervisor, now):
                return

    def _take(self, event: Event, supervisor: Supervisor) -> None:
        now = time.monotonic()
        match event:
            case StatusReceived():
                status = self._aggregator.feed(event.status, now, pid=event.pid)
                if status is not None and isinstance(status.details, SitlStatus):
                    self._sitl = status.details
                    self._watch_takeoff(supervisor, now)
            case ErrorLogged():
                self._take_error(event, now)
            case Exited():
                self._aggregator.process_exited(event.process, event.reason, now, expected=event.expected)
                if event.expected:
                    return
                if self._landing_s is None or event.returncode != -signal.SIGUSR1:  # it had not begun
                    self._take_death(event, now)
                if event.restart_in_s is None:
                    last = f": {event.last_lines[-1]}" if event.last_lines else ""
                    self._fail(f"process {event.process} {event.reason}{last} (its log is {event.log_path})")
            case Restarted():
                if event.problem:
                    self._fail(f"process {event.process} could not be started again: {event.problem}")
                else:
                    self._aggregator.process_restarted(event.process, now)

    def _take_after(self, event: Event) -> None:
        """Take an event of the time in which all processes are stopped."""
        now = time.monotonic()
        if isinstance(event, ErrorLogged):
            self._take_error(event, now)
        elif isinstance(event, Exited):
            if event.killed:
                self._problems.append(f"process {event.process} had to be killed after {STOP_S:g} s")
            elif event.returncode in _CRASHES:
                self._take_death(event, now)

    def _take_error(self, event: ErrorLogged, now: float) -> None:
        key = (event.process, event.text)
        if key not in self._errors and len(self._errors) < MAX_ERRORS:
            self._errors[key] = ProcessError(now - self._began_s, event.process, event.text)
            self._aggregator.alarm(f"{event.process}: {event.text}", now)

    def _take_death(self, event: Exited, now: float) -> None:
        if len(self._deaths) < MAX_DEATHS:
            self._deaths.append(
                ProcessDeath(now - self._began_s, event.process, event.reason, event.last_lines)
            )

    def _watch_takeoff(self, supervisor: Supervisor, now: float) -> None:
        if self._first_takeoff_s is None and self._simulated_in_air():
            self._first_takeoff_s = now - self._began_s
            supervisor.restart_measuring()  # CPU and memory of the flight, not of the start

    def _simulated_in_air(self) -> bool:
        positions = self._sitl.positions_enu_m if self._sitl is not None else ()
        return any(
            position is not None and position[2] - pad[2] > AIRBORNE_M
            for position, pad in zip(positions, self.prepared.pads, strict=False)
        )

    def _in_air(self, view: SwarmView) -> bool:
        """True if a drone flies: by the embedded simulation, else by what the drones reported last."""
        if self._sitl is not None:
            return self._simulated_in_air()
        return any(row.state.lower() in _AIRBORNE for row in view.drones)

    def _over(self, view: SwarmView, supervisor: Supervisor, now: float) -> bool:
        interrupts = self._interrupts.count
        if interrupts >= 2:
            self._fail("the second interrupt ended the flight before the swarm had landed")
            return True
        if view.finished:
            return True
        running = supervisor.running()
        if self._sitl is not None and "sitl" not in running:
            return True  # there is nothing that could land
        if "leader" not in running:
            self._fail("the leader has ended; the drones return and land by themselves")
            self._leaderless_s = now if self._leaderless_s is None else self._leaderless_s
            return not self._in_air(view) or now - self._leaderless_s > RETURN_S
        if self._landing_s is None:
            limit_s = self.prepared.duration_s
            if interrupts:
                self._land("interrupted", supervisor, now)
            elif limit_s is not None and now - self._began_s > limit_s:
                self._land(f"--duration {limit_s:g} s is over", supervisor, now)
            elif self._failure is not None:  # a process is lost
                if not self._in_air(view):
                    return True
                self._land("a process is lost", supervisor, now)
        elif now - self._landing_s > LAND_S:
            self._fail(f"the swarm had not landed {LAND_S:g} s after it was ordered to")
            return True
        return False

    def _land(self, why: str, supervisor: Supervisor, now: float) -> None:
        self._aggregator.event(f"{why}: landing all drones (a second Ctrl-C ends at once)", now)
        self._show(f"{why}: all drones are ordered to land (a second Ctrl-C ends at once)")
        self._fail(f"{why} before the mission was complete; all drones were ordered to land")
        self._landing_s = now
        supervisor.kill("leader", signal.SIGUSR1)

    def _fail(self, sentence: str) -> None:
        if self._failure is None:
            self._failure = sentence
        elif sentence not in self._failure:
            self._failure += f"; {sentence}"

    def _conclude(self) -> tuple[Report, bool]:
        """Write the report, draw the picture and add it. The second value is true if the report is saved."""
        report = self._build()
        self._save(report)  # first: the picture may take long, fail, or be interrupted
        concluded = self._draw(report)
        complaints = self._save(concluded)
        return replace(concluded, problems=(*concluded.problems, *complaints)), not complaints

    def _build(self) -> Report:
        prepared, spec, usage = self.prepared, self.prepared.spec, self._usage
        totals = self._aggregator.totals()
        return build_report(
            totals,
            drones=spec.drones,
            mission=prepared.mission_name,
            duration_s=time.monotonic() - self._began_s,
            asked_separation_m=prepared.separation_m,
            time_to_first_takeoff_s=self._first_takeoff_s,
            failure=self._failure or totals.failure,
            seed=spec.seed,
            cpu_percent=usage.cpu_percent if usage else None,
            rss_mb=usage.rss_mb if usage else None,
            pss_mb=usage.pss_mb if usage else None,
            records=str(spec.record) if spec.record else None,
            deaths=tuple(self._deaths),
            errors=tuple(self._errors.values()),
            problems=tuple(self._problems),
            logs=str(prepared.log_dir),
        )

    def _save(self, report: Report) -> list[str]:
        """Write the report to its files; returns what could not be done."""
        complaints = []
        for path in dict.fromkeys((self.prepared.run_dir / "report.json", self.prepared.report)):
            if path is None or is_stream(path):
                continue
            try:
                write_report(report, path)
            except ReportFailed as error:
                complaints.append(str(error))
        return complaints

    def _draw(self, report: Report) -> Report:
        """The report with the plot of the flown tracks, or with the reason why there is none."""
        tracks = self.prepared.spec.tracks
        if tracks is None or not tracks.is_file() or tracks.stat().st_size == 0:
            return report
        picture = self.prepared.run_dir / "tracks.png"
        before = self._interrupts.count
        try:
            draw(
                tracks,
                picture,
                title=self.prepared.mission_name,
                separation_m=self.prepared.separation_m,
                log_dir=self.prepared.log_dir,
                interrupted=lambda: self._interrupts.count > min(before, 1),
            )
        except NotDrawn as error:
            return replace(report, problems=(*report.problems, f"the tracks were not drawn: {error}"))
        return replace(report, pictures=(str(picture),))

    def _print(self, report: Report, output: DetachedOutput) -> bool:
        """Print the summary, or the report as JSON; False if what a program may read could not be written."""
        prepared = self.prepared
        complaints = []
        if prepared.report is not None and is_stream(prepared.report):
            try:
                write_report(report, prepared.report)
            except ReportFailed as error:
                complaints.append(str(error))
        output.drain()
        if prepared.json:
            with DetachedOutput(sys.stdout) as result:
                result.write(json_escaped(json.dumps(json.loads(report.to_json()))) + "\n")
                result.drain()
            if result.problem:
                complaints.append(f"the report cannot be printed: {result.problem}")
        else:
            _console(output).print(render_report(report))
            output.drain()
            if output.problem:
                _complain(f"the summary cannot be printed: {output.problem}")
        for sentence in (*complaints, *(report.problems if prepared.json else ())):
            _complain(sentence)
        return not complaints


def _console(output: DetachedOutput, terminal: bool | None = None) -> Console:
    return Console(file=cast("IO[str]", output), force_terminal=terminal)  # None: FORCE_COLOR may decide


def _complain(sentence: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
            print_line(f"chimera swarm: {sentence}", error=True, flush=True)
