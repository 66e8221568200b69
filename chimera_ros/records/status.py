"""Puts the status lines of a swarm's processes together: one view for the table, totals for the report.

Pure: time comes in as `now` (monotonic seconds). A line may be wrong in any way (its writer may be broken):
fields of the wrong type are ignored and counted in `ignored`, nothing raises. Counters and histograms on a
line count from the start of its process; when a process was restarted (another pid) what the old one had
counted is kept.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from chimera_ros.records.histogram import Histogram, percentile
from chimera_ros.records.status_view import (
    SILENT_S,
    DroneRow,
    ModerationTotals,
    ProcessRow,
    SecurityTotals,
    SwarmTotals,
    SwarmView,
    Vec3,
)

from .security_summary import SecuritySummary, read_summary, together

MAX_DRONES = 512
MAX_TEXT = 200
MAX_EVENTS = 1000
MAX_ALARMS = 100
MAX_REKEYS = 10_000
MAX_REASONS = 64

T = TypeVar("T")


@dataclass(slots=True)
class _Counts:
    """What one run of a process has counted so far."""

    sealed: int = 0
    opened: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[str, int] = field(default_factory=dict)
    commands: int = 0
    rotations: int = 0
    collisions: int = 0
    latency: Histogram = field(default_factory=Histogram)
    tracking: Histogram = field(default_factory=Histogram)

    def absorb(self, other: _Counts) -> None:
        self.sealed += other.sealed
        self.opened += other.opened
        self.commands += other.commands
        self.rotations += other.rotations
        self.collisions += other.collisions
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count
        for name, count in other.checkpoints.items():
            self.checkpoints[name] = self.checkpoints.get(name, 0) + count
        self.latency.merge(other.latency)
        self.tracking.merge(other.tracking)


@dataclass(slots=True)
class _Process:
    heard_s: float | None = None
    running: bool = True
    note: str = ""
    pid: int | None = None
    summary: SecuritySummary = field(default_factory=SecuritySummary)
    spoke: bool = False  # of its security
    now: _Counts = field(default_factory=_Counts)
    before: _Counts = field(default_factory=_Counts)


class StatusAggregator:
    """Feed it status lines and process events; ask for a `view` at any time and for `totals` at the end."""

    def __init__(self, drones: Sequence[str], now: float) -> None:
        self._began_s = now
        self._drones = {name: DroneRow(name) for name in drones[:MAX_DRONES]}
        self._drone_heard_s: dict[str, float] = {}
        self._lost: dict[str, None] = {}
        self._processes: dict[str, _Process] = {}
        self._events: deque[tuple[float, str]] = deque(maxlen=MAX_EVENTS)
        self._alarms: deque[str] = deque(maxlen=MAX_ALARMS)
        self._rekey_ms: deque[float] = deque(maxlen=MAX_REKEYS)
        self._view = SwarmView(0.0, (), (), SecurityTotals())
        self._first_takeoff_s: float | None = None
        self._suite = ""
        self._epoch: int | None = None
        self._members = 0
        self.ignored = 0

    # -- in ------------------------------------------------------------------------------------------------

    def expect(self, process: str) -> None:
        """Gives a process its row before it is first heard."""
        self._processes.setdefault(process, _Process())

    def feed(self, status: Mapping[str, Any], now: float, pid: int | None = None) -> None:
        """Takes one status line."""
        name = _text(status.get("process"))
        if name is None:
            self.ignored += 1
            return
        process = self._processes.setdefault(name, _Process())
        if pid is not None and process.pid is not None and pid != process.pid:
            process.before.absorb(process.now)
            process.now = _Counts()
        process.pid = pid if pid is not None else process.pid
        process.heard_s = now
        process.running = True
        process.note = ""
        self._take_security(process, status.get("security"))
        for text in self._texts(status, "alarms"):
            self.alarm(f"{name}: {text}", now)
        if name == "leader":
            self._take_leader(process, status, now)
        elif name == "crypto" or name.startswith("crypto_"):
            self._take_crypto(process, status)
        elif name == "sitl":
            self._take_sitl(process, status)
        elif name == "telemetry_logger":
            self._take_logger(status, now)
        if "latency_ms" in status:
            process.now.latency = self._histogram(status["latency_ms"], process.now.latency)
        if "tracking_m" in status:
            process.now.tracking = self._histogram(status["tracking_m"], process.now.tracking)
        if name not in ("telemetry_logger", "sitl", "leader") and not name.startswith("crypto"):
            for drone in self._texts(status, "drones"):
                self._update_drone(drone, process=name)

    def process_exited(self, process: str, reason: str, now: float, *, expected: bool = False) -> None:
        """Notes that a process has ended; an unexpected end is an alarm."""
        row = self._processes.setdefault(process, _Process())
        row.running = False
        row.note = reason[:MAX_TEXT]
        if not expected:
            self.alarm(f"process {process} {reason}", now)

    def process_restarted(self, process: str, now: float) -> None:
        """Notes that a process was started again."""
        row = self._processes.setdefault(process, _Process())
        row.running = True
        row.heard_s = now
        row.note = "restarted"
        self.event(f"process {process} was restarted", now)

    def alarm(self, text: str, now: float) -> None:
        """Notes something that a person should see; also becomes an event."""
        text = text[:MAX_TEXT]
        self._alarms.append(text)
        self.event(text, now)

    def event(self, text: str, now: float) -> None:
        """Notes something for the report."""
        self._events.append((round(now - self._began_s, 3), text[:MAX_TEXT]))

    def drone_lost(self, drone: str) -> None:
        """Counts a drone as lost for the report."""
        self._lost[drone] = None

    # -- out -----------------------------------------------------------------------------------------------

    def view(self, now: float) -> SwarmView:
        """Everything the table shows at `now`."""
        rows = []
        for name, row in self._drones.items():
            if row.age_s is not None:
                row = replace(row, age_s=row.age_s + max(0.0, now - self._drone_heard_s.get(name, now)))
            rows.append(row)
        processes = tuple(
            ProcessRow(name, p.running, None if p.heard_s is None else max(0.0, now - p.heard_s), p.note)
            for name, p in self._processes.items()
        )
        counts = self._counts()
        return replace(
            self._view,
            elapsed_s=now - self._began_s,
            drones=tuple(rows),
            processes=processes,
            security=self._security(counts, now),
            commands_sent=counts.commands,
            collisions=counts.collisions,
            alarms=tuple(self._alarms),
            events=tuple(self._events),
        )

    def totals(self) -> SwarmTotals:
        """What the report needs."""
        counts = self._counts()
        return SwarmTotals(
            security=self._security(counts),
            rekey_ms=tuple(self._rekey_ms),
            command_latency_ms=counts.latency,
            tracking_m=counts.tracking,
            commands_sent=counts.commands,
            mission_time_s=self._view.mission_time_s,
            first_takeoff_s=self._first_takeoff_s,
            real_time_factor=self._view.real_time_factor,
            min_separation_m=self._view.min_separation_m,
            collisions=counts.collisions,
            completed=self._view.completed,
            failure=self._view.failure,
            drones_lost=tuple(self._lost),
            records=self._view.records,
            events=tuple(self._events),
            ignored=self.ignored,
            moderation=self._view.moderation,
        )

    # -- inside --------------------------------------------------------------------------------------------

    def _take_leader(self, process: _Process, status: Mapping[str, Any], now: float) -> None:
        old = self._view
        waiting = []
        for item in self._list(status, "waiting"):
            drone = _text(item.get("drone")) if isinstance(item, Mapping) else None
            if drone is None:
                self.ignored += 1
            else:
                waiting.append((drone, _text(item.get("reason")) or ""))
        finished = self._get(status, "finished", _flag, old.finished)
        failure = self._get(status, "failure", _text, None)
        self._view = replace(
            old,
            phase=self._get(status, "phase", _text, old.phase),
            mission_time_s=self._get(status, "mission_time_s", _number, old.mission_time_s),
            finished=finished,
            completed=finished and failure is None and self._get(status, "completed", _flag, True),
            failure=failure,
            waiting=tuple(waiting),
        )
        self._take_moderation(status)
        process.now.commands = self._get(status, "commands_sent", _count, process.now.commands)
        takeoff_s = self._get(status, "first_takeoff_s", _number, None)
        if takeoff_s is not None and self._first_takeoff_s is None:
            self._first_takeoff_s = takeoff_s
        for text in self._texts(status, "events"):
            self.event(text, now)

    def _take_moderation(self, status: Mapping[str, Any]) -> None:
        said = status.get("moderation")
        if said is None:
            return
        if not isinstance(said, Mapping):
            self.ignored += 1
            return
        old = self._view.moderation
        ms = self._histogram(status["moderation_ms"], old.ms) if "moderation_ms" in status else old.ms
        fresh = ModerationTotals(
            calls=self._get(said, "calls", _count, old.calls),
            conflicts=self._get(said, "conflicts", _count, old.conflicts),
            winner=self._tallies(said, "winner"),
            unused=self._tallies(said, "unused"),
            ms=ms,
        )
        self._view = replace(self._view, moderation=fresh)

    def _tallies(self, source: Mapping[str, Any], key: str) -> dict[str, int]:
        """Counts by name."""
        value = source.get(key)
        if not isinstance(value, Mapping):
            self.ignored += value is not None
            return {}
        found = {}
        for name, count in list(value.items())[:MAX_REASONS]:
            text, number = _text(name), _count(count)
            if text is None or number is None:
                self.ignored += 1
            else:
                found[text[:64]] = number
        return found

    def _take_crypto(self, process: _Process, status: Mapping[str, Any]) -> None:
        if status.get("in_charge") is False:
            return  # a standby: the node in charge tells
        self._epoch = self._get(status, "epoch", _count, self._epoch)
        if "members" in status:
            self._members = len(self._texts(status, "members"))
        process.now.rotations = self._get(status, "rotations", _count, process.now.rotations)
        for value in self._list(status, "rekey_ms"):
            duration = _number(value)
            if duration is None or duration < 0:
                self.ignored += 1
            else:
                self._rekey_ms.append(duration)

    def _take_sitl(self, process: _Process, status: Mapping[str, Any]) -> None:
        old = self._view
        self._view = replace(
            old,
            real_time_factor=self._get(status, "real_time_factor", _number, old.real_time_factor),
            min_separation_m=self._get(status, "min_separation_m", _number, old.min_separation_m),
        )
        process.now.collisions = self._get(status, "collisions", _count, process.now.collisions)

    def _take_logger(self, status: Mapping[str, Any], now: float) -> None:
        old = self._view
        self._view = replace(
            old,
            recorded=self._get(status, "recorded", _count, old.recorded),
            records=self._get(status, "records", _path, old.records),
        )
        for item in self._list(status, "drones"):
            name = _text(item.get("drone")) if isinstance(item, Mapping) else None
            if name is None:
                self.ignored += 1
                continue
            self._update_drone(
                name,
                state=self._get(item, "state", _text, "unknown"),
                error_m=self._get(item, "error_m", _number, None),
                battery=self._get(item, "battery", _number, None),
                epoch=self._get(item, "epoch", _count, None),
                age_s=self._get(item, "age_s", _number, None),
                enu_m=self._get(item, "enu", _vec3, None),
                reason=self._get(item, "reason", _text, ""),
            )
            self._drone_heard_s[name] = now

    def _update_drone(self, name: str, **values: Any) -> None:
        if name not in self._drones and len(self._drones) >= MAX_DRONES:
            self.ignored += 1
            return
        self._drones[name] = replace(self._drones.get(name, DroneRow(name)), **values)

    def _take_security(self, process: _Process, security: object) -> None:
        """Reads a session's status: counters stand at the top or under `counters`."""
        if security is None:
            return
        if not isinstance(security, Mapping):
            self.ignored += 1
            return
        counters = security.get("counters")
        for source in (security, counters if isinstance(counters, Mapping) else {}):
            process.now.sealed = self._get(source, "sealed", _count, process.now.sealed)
            process.now.opened = self._get(source, "opened", _count, process.now.opened)
            rejected = source.get("rejected")
            if isinstance(rejected, Mapping):
                found = {}
                for reason, count in list(rejected.items())[:MAX_REASONS]:
                    number = _count(count)
                    if number is None:
                        self.ignored += 1
                    elif number:
                        found[str(reason)[:64]] = number
                process.now.rejected = found
        self._suite = self._get(security, "suite", _text, self._suite)
        process.summary = read_summary(security.get("state"))
        process.spoke = True
        process.now.checkpoints = dict(process.summary.checkpoints) or process.now.checkpoints

    def _counts(self) -> _Counts:
        total = _Counts()
        for process in self._processes.values():
            total.absorb(process.before)
            total.absorb(process.now)
        return total

    def _security(self, counts: _Counts, now: float | None = None) -> SecurityTotals:
        """At `now` by those who are heard: what a dead or hanging process said last is no state.
        None, or after the flight: by all.
        """
        known = [item for item in self._processes.values() if item.spoke]
        fresh = [
            item
            for item in known
            if now is None
            or self._view.finished
            or (item.running and item.heard_s is not None and now - item.heard_s <= SILENT_S)
        ]
        return SecurityTotals(
            suite=self._suite,
            epoch=self._epoch,
            members=self._members,
            rotations=counts.rotations,
            sealed=counts.sealed,
            opened=counts.opened,
            rejected=dict(sorted(counts.rejected.items())),
            summary=together(
                (item.summary for item in fresh), counts.checkpoints, stale=bool(known) and not fresh
            ),
        )

    def _histogram(self, value: object, old: Histogram) -> Histogram:
        try:
            if isinstance(value, Mapping):
                return Histogram.from_status(value)
        except ValueError:
            pass
        self.ignored += 1
        return old

    def _get(
        self, source: Mapping[str, Any], key: str, parse: Callable[[object], T | None], default: Any
    ) -> Any:
        """The parsed field, or the default where it is missing, null or wrong (which is counted)."""
        value = source.get(key)
        if value is None:
            return default
        parsed = parse(value)
        if parsed is None:
            self.ignored += 1
            return default
        return parsed

    def _list(self, source: Mapping[str, Any], key: str) -> list[Any]:
        value = source.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.ignored += 1
            return []
        return value[:MAX_EVENTS]

    def _texts(self, source: Mapping[str, Any], key: str) -> list[str]:
        found = []
        for item in self._list(source, key):
            text = _text(item)
            if text is None:
                self.ignored += 1
            else:
                found.append(text)
        return found


def rekey_spread(totals: SwarmTotals) -> tuple[float | None, float | None]:
    """p50 and p99 of the rekeying times, in milliseconds."""
    return percentile(totals.rekey_ms, 50.0), percentile(totals.rekey_ms, 99.0)


def _text(value: object) -> str | None:
    """Text from a child goes to a terminal: bounded, and without control characters."""
    if not isinstance(value, str):
        return None
    return "".join(char if char.isprintable() else " " for char in value[:MAX_TEXT])


def _path(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= 4096 and value.isprintable() else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value) if abs(value) < 1e300 else math.inf
    return number if math.isfinite(number) else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        return None
    return value


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _vec3(value: object) -> Vec3 | None:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    numbers = [_number(item) for item in value]
    if any(number is None for number in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]  # type: ignore[return-value]  # None was ruled out above
