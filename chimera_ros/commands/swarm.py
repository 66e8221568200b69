"""`chimera swarm`: start a swarm, monitor it, land it, report."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from chimera_ros.commands.start_checks import hold_keystore
from chimera_ros.commands.swarm_setup import Prepared, add_arguments, prepare
from chimera_ros.launcher.supervisor import Event, Exited, StartFailed, StatusReceived, Supervisor
from chimera_ros.records.process_status import SitlStatus
from chimera_ros.records.report import ReportFailed, build_report, render_report, write_report
from chimera_ros.records.status import StatusAggregator
from chimera_ros.records.status_view import SwarmView
from chimera_ros.records.table import LiveTable
from chimera_ros.swarm import drone_name

if TYPE_CHECKING:
    from chimera_ros.launcher.usage import Usage

LAND_S = 60.0  # for the supervised landing after the first Ctrl-C
STOP_S = 15.0  # for processes to exit; the logger signs its totals then
RESTARTS = 5  # of one process
RESTART_S = 1.0
CRYPTO_RESTART_S = 0.2  # active crypto node and standbys
AIRBORNE_M = 0.3  # above the pad


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chimera swarm`."""
    add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fly a swarm. Returns 0 only if the mission completed with no collision, 1 for failure, 2 for misuse."""
    prepared = prepare(arguments)
    with hold_keystore(prepared.spec.keystore):
        return Flight(prepared).run()


def restart_policy(event: Exited) -> float | None:
    """Seconds until a process that exited by itself is started again; None: the flight is over."""
    if event.process in ("leader", "sitl") or event.starts > RESTARTS:
        return None
    return CRYPTO_RESTART_S if event.process.startswith("crypto") else RESTART_S


@dataclass
class Flight:
    """One run of a swarm: processes, table, landing, report."""

    prepared: Prepared
    interrupts: int = 0
    landing_since_s: float | None = None
    failure: str | None = None
    first_takeoff_s: float | None = None
    usage: Usage | None = None

    def run(self) -> int:
        """Start all processes, wait for the end of the flight, stop them, write the report."""
        prepared = self.prepared
        began = time.monotonic()
        names = [drone_name(i) for i in range(1, prepared.spec.drones + 1)]
        aggregator = StatusAggregator(names, began)
        title = f"chimera swarm · {prepared.spec.drones} drones · {prepared.mission_name}"
        with (
            Supervisor(prepared.log_dir, on_exit=restart_policy) as supervisor,
            _Signals(self, supervisor),
            LiveTable(title, console=Console(stderr=prepared.json)) as table,
        ):
            try:
                for spec in prepared.processes:
                    aggregator.expect(spec.name)
                    supervisor.start(spec)
            except StartFailed as error:
                self.failure = str(error)
            while self.failure is None or self.landing_since_s is not None:
                now = time.monotonic()
                for event in supervisor.poll(0.2):
                    self._take(event, aggregator, supervisor, began)
                view = aggregator.view(now)
                table.update(view, now)
                if self._over(view, aggregator, supervisor, now, began):
                    break
            self.usage = supervisor.usage()
            table.update(aggregator.view(time.monotonic()), time.monotonic(), force=True)
            if self.failure:
                table.print_above(self.failure)
            supervisor.stop(deadline_s=STOP_S)
        return self._finish(aggregator, time.monotonic() - began)

    def _take(self, event: Event, aggregator: StatusAggregator, supervisor: Supervisor, began: float) -> None:
        now = time.monotonic()
        if isinstance(event, StatusReceived):
            status = aggregator.feed(event.status, now, pid=event.pid)
            if status is not None and isinstance(status.details, SitlStatus):
                self._watch_takeoff(status.details, supervisor, now - began)
        elif isinstance(event, Exited):
            aggregator.process_exited(event.process, event.reason, now, expected=event.expected)
            if not event.expected and event.restart_in_s is None:
                last = f": {event.last_lines[-1]}" if event.last_lines else ""
                self._fail(f"process {event.process} {event.reason}{last} (its log is {event.log_path})")
        elif event.problem:
            self._fail(f"process {event.process} could not be started again: {event.problem}")
        else:
            aggregator.process_restarted(event.process, now)

    def _watch_takeoff(self, status: SitlStatus, supervisor: Supervisor, elapsed_s: float) -> None:
        if self.first_takeoff_s is not None:
            return
        for position, pad in zip(status.positions_enu_m, self.prepared.pads, strict=False):
            if position is not None and position[2] - pad[2] > AIRBORNE_M:
                self.first_takeoff_s = elapsed_s
                supervisor.restart_measuring()  # CPU and memory of the flight, not of the start
                return

    def _over(
        self,
        view: SwarmView,
        aggregator: StatusAggregator,
        supervisor: Supervisor,
        now: float,
        began: float,
    ) -> bool:
        if self.interrupts >= 2:
            self._fail("ended by the second interrupt before the swarm had landed")
            return True
        if view.finished:
            return True
        if "leader" not in supervisor.running():
            self._fail("the leader has ended; the drones return and land by themselves")
            return True
        limit_s = self.prepared.duration_s
        if self.landing_since_s is None and (
            self.interrupts or (limit_s is not None and now - began > limit_s)
        ):
            why = "interrupted" if self.interrupts else f"--duration {limit_s:g} s is over"
            aggregator.event(f"{why}: landing all drones (a second Ctrl-C ends at once)", now)
            self.failure = f"{why} before the mission was complete; all drones were ordered to land"
            self.landing_since_s = now
            supervisor.kill("leader", signal.SIGUSR1)
        if self.landing_since_s is not None and now - self.landing_since_s > LAND_S:
            self._fail(f"the swarm had not landed {LAND_S:g} s after it was ordered to")
            return True
        return False

    def _fail(self, sentence: str) -> None:
        if self.failure is None:
            self.failure = sentence

    def _finish(self, aggregator: StatusAggregator, duration_s: float) -> int:
        prepared, spec = self.prepared, self.prepared.spec
        totals = aggregator.totals()
        pictures = _draw(prepared)
        usage = self.usage
        report = build_report(
            totals,
            drones=spec.drones,
            mission=prepared.mission_name,
            duration_s=duration_s,
            asked_separation_m=prepared.separation_m,
            time_to_first_takeoff_s=self.first_takeoff_s,
            failure=self.failure or totals.failure,
            seed=spec.seed,
            cpu_percent=usage.cpu_percent if usage else None,
            rss_mb=usage.rss_mb if usage else None,
            pss_mb=usage.pss_mb if usage else None,
            records=str(spec.record) if spec.record else None,
            pictures=pictures,
        )
        status = 0 if report.ok else 1
        for path in dict.fromkeys((prepared.run_dir / "report.json", prepared.report)):
            if path is None:
                continue
            try:
                write_report(report, path)
            except ReportFailed as error:
                print(f"chimera swarm: {error}", file=sys.stderr)
                status = 1
        if prepared.json:
            print(json.dumps(json.loads(report.to_json())))
        else:
            Console().print(render_report(report))
        return status


def _draw(prepared: Prepared) -> tuple[str, ...]:
    """The plot of the flown tracks, if there are any."""
    tracks = prepared.spec.tracks
    if tracks is None or not tracks.exists() or tracks.stat().st_size == 0:
        return ()
    from chimera_ros.records.tracks import TracksFailed, draw_tracks

    picture = prepared.run_dir / "tracks.png"
    try:
        draw_tracks(tracks, picture, title=prepared.mission_name, asked_separation_m=prepared.separation_m)
    except TracksFailed as error:
        print(f"chimera swarm: {error}", file=sys.stderr)
        return ()
    return (str(picture),)


class _Signals:
    """Counts SIGINT, SIGTERM and SIGHUP while a flight runs; `Flight._over` acts on them."""

    def __init__(self, flight: Flight, supervisor: Supervisor) -> None:
        self._flight, self._supervisor = flight, supervisor
        self._old: dict[int, object] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._old[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._flight.interrupts += 1
        self._supervisor.wake()
