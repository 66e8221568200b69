"""What the status of a swarm's processes adds up to: a view for the table, totals for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chimera_ros.records.histogram import Histogram
from chimera_ros.records.process_status import STALE_S, DroneStatus, ModerationTotals
from chimera_ros.records.security_summary import SecuritySummary

SILENT_S: Final = 3 * STALE_S  # a process that has sent no status line for so long is shown as silent


@dataclass(frozen=True, slots=True)
class SecurityTotals:
    """Sums over all processes."""

    suite: str = ""
    epoch: int | None = None
    members: int = 0
    rotations: int = 0
    sealed: int = 0
    opened: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    summary: SecuritySummary = field(default_factory=SecuritySummary)

    @property
    def rejected_total(self) -> int:
        """Rejected messages, whatever the reason."""
        return sum(self.rejected.values())


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process of the swarm. `age_s` is the time since its last status line, None if it sent none."""

    process: str
    running: bool
    age_s: float | None
    note: str = ""

    @property
    def silent(self) -> bool:
        """True if it runs and has sent no status line for more than `SILENT_S`."""
        return self.running and self.age_s is not None and self.age_s > SILENT_S


@dataclass(frozen=True, slots=True)
class SwarmView:
    """Everything the table shows at one moment."""

    elapsed_s: float
    drones: tuple[DroneStatus, ...]
    processes: tuple[ProcessRow, ...]
    security: SecurityTotals
    phase: str
    mission_time_s: float
    finished: bool  # the leader has nothing more to do
    failure: str | None
    waiting: tuple[tuple[str, str], ...]  # drones that are not ready, and why
    real_time_factor: float | None
    min_separation_m: float | None
    collisions: int
    commands_sent: int
    recorded: int
    records: str
    moderation: ModerationTotals
    alarms: tuple[str, ...]  # newest last
    events: tuple[tuple[float, str], ...]  # (elapsed_s, text), newest last


@dataclass(frozen=True, slots=True)
class SwarmTotals:
    """What the report needs after a flight. Latencies in milliseconds, lengths in metres."""

    security: SecurityTotals
    rekey_ms: tuple[float, ...]
    command_latency_ms: Histogram
    tracking_m: Histogram
    commands_sent: int
    mission_time_s: float
    first_takeoff_s: float | None
    real_time_factor: float | None
    min_separation_m: float | None
    collisions: int
    completed: bool
    failure: str | None
    drones_lost: tuple[str, ...]
    records: str
    events: tuple[tuple[float, str], ...]
    moderation: ModerationTotals
