"""What a swarm's status adds up to: one view for the table, totals for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chimera_ros.records.histogram import Histogram

from .security_summary import SecuritySummary

STALE_S: Final = 2.0  # a drone not heard for so long is shown as such
SILENT_S: Final = 3 * STALE_S  # and a process

Vec3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class DroneRow:
    """What is known of one drone. `age_s` is the time since it was last heard, None if it never was."""

    drone: str
    state: str = "not heard"
    error_m: float | None = None
    battery: float | None = None  # 0..1
    epoch: int | None = None
    age_s: float | None = None
    enu_m: Vec3 | None = None
    reason: str = ""
    process: str = ""  # which process flies it

    @property
    def stale(self) -> bool:
        """Not heard for so long that its values are only of the past."""
        return self.age_s is None or self.age_s > STALE_S


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
        """All that was rejected, for whatever reason."""
        return sum(self.rejected.values())


@dataclass(frozen=True, slots=True)
class ModerationTotals:
    """What the leader says of path moderation: calls, conflicts, whose answers it flew, why not others.

    `ms` counts milliseconds from asking to hearing the answer.
    """

    calls: int = 0
    conflicts: int = 0
    winner: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)
    ms: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process that is to run: whether it does, and how long ago it was heard."""

    process: str
    running: bool
    age_s: float | None
    note: str = ""

    @property
    def silent(self) -> bool:
        """Runs but has said nothing for too long."""
        return self.running and self.age_s is not None and self.age_s > SILENT_S


@dataclass(frozen=True, slots=True)
class SwarmView:
    """Everything the table shows at one moment."""

    elapsed_s: float
    drones: tuple[DroneRow, ...]
    processes: tuple[ProcessRow, ...]
    security: SecurityTotals
    phase: str = "starting"
    mission_time_s: float = 0.0
    finished: bool = False  # the leader has nothing more to do
    completed: bool = False  # and everything that the mission asked for was done
    failure: str | None = None
    waiting: tuple[tuple[str, str], ...] = ()
    real_time_factor: float | None = None
    min_separation_m: float | None = None
    collisions: int = 0
    commands_sent: int = 0
    recorded: int = 0
    records: str = ""
    moderation: ModerationTotals = ModerationTotals()
    alarms: tuple[str, ...] = ()  # newest last
    events: tuple[tuple[float, str], ...] = ()  # (elapsed_s, text), newest last


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
    ignored: int
    moderation: ModerationTotals = ModerationTotals()
