"""Aggregator of the status lines of a swarm's processes: one view for the table, totals for the report.

A line replaces the former one of its process. Counts and histograms on a line count from the start of its
process: when a process was restarted (another pid), what its former run had counted is kept. Pure: time comes
in as `now` (monotonic seconds). Whatever stands on a line, nothing raises (`StatusFields`); `ignored` counts
fields of the wrong type. Drones, events, alarms and rekeying times are bounded.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from chimera_ros.records.histogram import Histogram
from chimera_ros.records.process_status import (
    CryptoStatus,
    DroneStatus,
    FollowerStatus,
    LeaderStatus,
    LoggerStatus,
    ProcessStatus,
    SitlStatus,
)
from chimera_ros.records.security_summary import together
from chimera_ros.records.status_fields import MAX_TEXT, StatusFields
from chimera_ros.records.status_view import SILENT_S, ProcessRow, SecurityTotals, SwarmTotals, SwarmView

MAX_ROWS: Final = 512  # drones
MAX_EVENTS: Final = 1000
MAX_ALARMS: Final = 100
MAX_REKEYS: Final = 10_000


@dataclass(slots=True)
class _Counts:
    """Sums over runs of processes."""

    sealed: int = 0
    opened: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=dict)
    commands: int = 0
    rotations: int = 0
    collisions: int = 0
    latency_ms: Histogram = field(default_factory=Histogram)
    tracking_m: Histogram = field(default_factory=Histogram)

    def add(self, status: ProcessStatus) -> None:
        """Add what one run has counted, by its last line."""
        if status.security is not None:
            self.sealed += status.security.sealed
            self.opened += status.security.opened
            _add(self.rejected, status.security.rejected)
            _add(self.checkpoints, status.security.summary.checkpoints)
        match status.details:
            case LeaderStatus(commands_sent=commands):
                self.commands += commands
            case CryptoStatus(rotations=rotations):
                self.rotations += rotations
            case SitlStatus(collisions=collisions):
                self.collisions += collisions
            case FollowerStatus(latency_ms=latency_ms, tracking_m=tracking_m):
                self.latency_ms.merge(latency_ms)
                self.tracking_m.merge(tracking_m)


@dataclass(slots=True)
class _Process:
    heard_s: float | None = None
    running: bool = True
    note: str = ""
    pid: int | None = None
    status: ProcessStatus | None = None


class StatusAggregator:
    """Feed it status lines and process events; ask for a `view` at any time and for `totals` at the end."""

    def __init__(self, drones: Sequence[str], now: float) -> None:
        self._began_s = now
        self._drones = {name: DroneStatus(name) for name in drones[:MAX_ROWS]}
        self._drone_heard_s: dict[str, float] = {}
        self._lost: dict[str, None] = {}
        self._processes: dict[str, _Process] = {}
        self._former = _Counts()  # of runs that have ended
        self._events: deque[tuple[float, str]] = deque(maxlen=MAX_EVENTS)
        self._alarms: deque[str] = deque(maxlen=MAX_ALARMS)
        self._rekey_ms: deque[float] = deque(maxlen=MAX_REKEYS)
        self._leader = LeaderStatus()
        self._crypto = CryptoStatus()  # of the active node
        self._logger = LoggerStatus()
        self._sitl = SitlStatus()
        self._suite = ""
        self.ignored = 0

    # -- in ------------------------------------------------------------------------------------------------

    def expect(self, process: str) -> None:
        """Give a process its row before its first line."""
        self._processes.setdefault(process, _Process())

    def feed(self, line: Mapping[str, Any], now: float, pid: int | None = None) -> ProcessStatus | None:
        """Take one status line; returns it typed, None where it names no process."""
        fields = StatusFields(line)
        status = ProcessStatus.from_json(fields)
        self.ignored += fields.ignored.total()
        if status is None:
            self.ignored += 1
            return None
        process = self._processes.setdefault(status.process, _Process())
        if process.status is not None and pid is not None and process.pid not in (None, pid):
            self._former.add(process.status)
        process.pid = pid if pid is not None else process.pid
        process.heard_s = now
        process.running = True
        process.note = ""
        process.status = status
        if status.security is not None:
            self._suite = status.security.suite or self._suite
        for text in status.alarms:
            self.alarm(f"{status.process}: {text}", now)
        match status.details:
            case LeaderStatus() as leader:
                self._leader = leader
                self._lost.update(dict.fromkeys(leader.lost))
                for text in leader.events:
                    self.event(text, now)
            case CryptoStatus() as crypto:
                self._crypto = crypto if crypto.active else self._crypto
                self._rekey_ms.extend(crypto.rekey_ms)
            case SitlStatus() as sitl:
                self._sitl = sitl
            case LoggerStatus() as logger:
                self._logger = logger
                for drone in logger.drones:
                    if self._has_row(drone.drone):
                        host = self._drones[drone.drone].process
                        self._drones[drone.drone] = replace(drone, process=host)
                        self._drone_heard_s[drone.drone] = now
            case FollowerStatus() as follower:
                for name in follower.drones:
                    if self._has_row(name):
                        self._drones[name] = replace(self._drones[name], process=status.process)
        return status

    def process_exited(self, process: str, reason: str, now: float, *, expected: bool = False) -> None:
        """Note that a process has ended; an unexpected end is an alarm."""
        row = self._processes.setdefault(process, _Process())
        row.running = False
        row.note = reason[:MAX_TEXT]
        if not expected:
            self.alarm(f"process {process} {reason}", now)

    def process_restarted(self, process: str, now: float) -> None:
        """Note that a process was started again."""
        row = self._processes.setdefault(process, _Process())
        row.running = True
        row.heard_s = now
        row.note = "restarted"
        self.event(f"process {process} was restarted", now)

    def alarm(self, text: str, now: float) -> None:
        """Note something that a person should see; it is an event as well."""
        text = text[:MAX_TEXT]
        self._alarms.append(text)
        self.event(text, now)

    def event(self, text: str, now: float) -> None:
        """Note something for the report."""
        self._events.append((round(now - self._began_s, 3), text[:MAX_TEXT]))

    # -- out -----------------------------------------------------------------------------------------------

    def view(self, now: float) -> SwarmView:
        """Everything the table shows at `now`."""
        counts = self._counts()
        return SwarmView(
            elapsed_s=now - self._began_s,
            drones=tuple(self._aged(row, now) for row in self._drones.values()),
            processes=tuple(
                ProcessRow(name, p.running, None if p.heard_s is None else max(0.0, now - p.heard_s), p.note)
                for name, p in self._processes.items()
            ),
            security=self._security(counts, now),
            phase=self._leader.phase,
            mission_time_s=self._leader.mission_time_s,
            finished=self._leader.finished,
            failure=self._leader.failure,
            waiting=self._leader.waiting,
            real_time_factor=self._sitl.real_time_factor,
            min_separation_m=self._sitl.min_separation_m,
            collisions=counts.collisions,
            commands_sent=counts.commands,
            recorded=self._logger.recorded,
            records=self._logger.records,
            moderation=self._leader.moderation,
            alarms=tuple(self._alarms),
            events=tuple(self._events),
        )

    def totals(self) -> SwarmTotals:
        """What the report needs."""
        counts = self._counts()
        return SwarmTotals(
            security=self._security(counts),
            rekey_ms=tuple(self._rekey_ms),
            command_latency_ms=counts.latency_ms,
            tracking_m=counts.tracking_m,
            commands_sent=counts.commands,
            mission_time_s=self._leader.mission_time_s,
            first_takeoff_s=self._leader.first_takeoff_s,
            real_time_factor=self._sitl.real_time_factor,
            min_separation_m=self._sitl.min_separation_m,
            collisions=counts.collisions,
            completed=self._leader.succeeded,
            failure=self._leader.failure,
            drones_lost=tuple(self._lost),
            records=self._logger.records,
            events=tuple(self._events),
            moderation=self._leader.moderation,
        )

    # -- inside --------------------------------------------------------------------------------------------

    def _has_row(self, name: str) -> bool:
        """True if the drone has a row; a new one gets it while there is room."""
        if name not in self._drones and len(self._drones) >= MAX_ROWS:
            self.ignored += 1
            return False
        self._drones.setdefault(name, DroneStatus(name))
        return True

    def _aged(self, row: DroneStatus, now: float) -> DroneStatus:
        """The row with its age at `now`."""
        if row.age_s is None:
            return row
        return replace(row, age_s=row.age_s + max(0.0, now - self._drone_heard_s.get(row.drone, now)))

    def _counts(self) -> _Counts:
        total = copy.deepcopy(self._former)
        for process in self._processes.values():
            if process.status is not None:
                total.add(process.status)
        return total

    def _security(self, counts: _Counts, now: float | None = None) -> SecurityTotals:
        """At `now` by processes that still report: the last line of a dead or hanging one is no state.
        None, or after the flight: by all.
        """
        summaries, stale = [], False
        for process in self._processes.values():
            if process.status is None or process.status.security is None:
                continue
            if (
                now is None
                or self._leader.finished
                or (process.running and process.heard_s is not None and now - process.heard_s <= SILENT_S)
            ):
                summaries.append(process.status.security.summary)
            else:
                stale = True
        return SecurityTotals(
            suite=self._suite,
            epoch=self._crypto.epoch,
            members=len(self._crypto.members),
            rotations=counts.rotations,
            sealed=counts.sealed,
            opened=counts.opened,
            rejected=dict(sorted(counts.rejected.items())),
            summary=together(summaries, counts.checkpoints, stale=stale and not summaries),
        )


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count
