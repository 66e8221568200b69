"""Status of the processes of a swarm: one frozen type per kind of process, shared by its writer and its
reader.

`ProcessStatus` is what all have in common; `details` belongs to the kind, which follows from the process's
name. `to_json` gives the object of a status line (`status_line`), `from_json` reads one through
`StatusFields`: nothing raises; what is missing or wrong has its default. Counts and histograms count from
the start of the process. Positions are metres in the frame `map` (ENU).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chimera_ros.records.histogram import Histogram
from chimera_ros.records.security_summary import SecuritySummary
from chimera_ros.records.status_fields import StatusFields, Vec3

STALE_S: Final = 2.0  # a drone that was not received for so long is shown as stale


@dataclass(frozen=True, slots=True)
class SecurityStatus:
    """Security of one process: the part of `SecureSession.status` that is read, under the same keys."""

    suite: str = ""
    sealed: int = 0
    opened: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)  # envelopes, by reason
    control: Mapping[str, int] = field(default_factory=dict)  # rejected control messages, by reason
    shell: Mapping[str, int] = field(default_factory=dict)  # what the ROS side counts
    alarms: tuple[str, ...] = ()  # the newest; they come again with every line
    summary: SecuritySummary = field(default_factory=SecuritySummary)

    def to_json(self) -> dict[str, Any]:
        """The field `security` of a status line."""
        return {
            "suite": self.suite,
            "sealed": self.sealed,
            "opened": self.opened,
            "rejected": dict(self.rejected),
            "control": dict(self.control),
            "shell": dict(self.shell),
            "alarms": list(self.alarms),
            "state": self.summary.to_json(),
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> SecurityStatus:
        """From a status line, or from `SecureSession.status`."""
        return cls(
            fields.text("suite", ""),
            fields.count("sealed", 0),
            fields.count("opened", 0),
            fields.counts("rejected"),
            fields.counts("control"),
            fields.counts("shell"),
            fields.texts("alarms"),
            SecuritySummary.from_json(fields.inner("state")),
        )


@dataclass(frozen=True, slots=True)
class ModerationTotals:
    """Path moderation as the leader saw it; `ms` is from the request to its answer.

    `unused` counts by reason the calls after which the leader flew its own plan.
    """

    calls: int = 0
    conflicts: int = 0
    winner: Mapping[str, int] = field(default_factory=dict)  # flown answers, by solver
    unused: Mapping[str, int] = field(default_factory=dict)
    ms: Histogram = field(default_factory=Histogram)

    def to_json(self) -> dict[str, Any]:
        """The field `moderation` of the leader's status line."""
        return {
            "calls": self.calls,
            "conflicts": self.conflicts,
            "winner": dict(self.winner),
            "unused": dict(self.unused),
            "ms": self.ms.to_status(),
        }

    @classmethod
    def from_json(cls, fields: StatusFields | None) -> ModerationTotals:
        """From a status line."""
        if fields is None:
            return cls()
        return cls(
            fields.count("calls", 0),
            fields.count("conflicts", 0),
            fields.counts("winner"),
            fields.counts("unused"),
            fields.histogram("ms"),
        )


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    """The mission. `events` are those since the last line, everything else is the present state."""

    phase: str = "starting"
    mission_time_s: float = 0.0
    finished: bool = False  # nothing more will be done
    completed: bool = True  # once `finished`: every step of the mission was flown
    failure: str | None = None
    lost: tuple[str, ...] = ()  # drones that no longer take part
    events: tuple[str, ...] = ()
    commands_sent: int = 0
    moderation: ModerationTotals = field(default_factory=ModerationTotals)
    waiting: tuple[tuple[str, str], ...] = ()  # drones that are not ready, and why
    first_takeoff_s: float | None = None

    @property
    def succeeded(self) -> bool:
        """True if the mission is over and was completed."""
        return self.finished and self.completed and self.failure is None

    def to_json(self) -> dict[str, Any]:
        """Fields of the leader's status line."""
        return {
            "phase": self.phase,
            "mission_time_s": self.mission_time_s,
            "finished": self.finished,
            "completed": self.completed,
            "failure": self.failure,
            "lost": list(self.lost),
            "events": list(self.events),
            "commands_sent": self.commands_sent,
            "moderation": self.moderation.to_json(),
            "waiting": [{"drone": drone, "reason": reason} for drone, reason in self.waiting],
            "first_takeoff_s": self.first_takeoff_s,
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> LeaderStatus:
        """From a status line."""
        waiting = ((item.text("drone", ""), item.text("reason", "")) for item in fields.objects("waiting"))
        return cls(
            fields.text("phase", "starting"),
            fields.number("mission_time_s", 0.0),
            fields.flag("finished", False),
            fields.flag("completed", True),
            fields.text("failure", None),
            fields.texts("lost"),
            fields.texts("events"),
            fields.count("commands_sent", 0),
            ModerationTotals.from_json(fields.inner("moderation")),
            tuple(waiting),
            fields.number("first_takeoff_s", None),
        )


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """A process that hosts drones. `latency_ms`: from the leader's publish to the setpoint handed over."""

    drones: tuple[str, ...] = ()
    latency_ms: Histogram = field(default_factory=Histogram)
    tracking_m: Histogram = field(default_factory=Histogram)

    def to_json(self) -> dict[str, Any]:
        """Fields of a follower's status line."""
        return {
            "drones": list(self.drones),
            "latency_ms": self.latency_ms.to_status(),
            "tracking_m": self.tracking_m.to_status(),
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> FollowerStatus:
        """From a status line."""
        return cls(fields.texts("drones"), fields.histogram("latency_ms"), fields.histogram("tracking_m"))


@dataclass(frozen=True, slots=True)
class CryptoStatus:
    """A crypto node, active or standby. `rekey_ms` are the rekeying times since the last line."""

    active: bool = True
    epoch: int | None = None
    members: tuple[str, ...] = ()  # of the epoch
    rotations: int = 0
    rekey_ms: tuple[float, ...] = ()
    entropy: Mapping[str, str] = field(default_factory=dict)  # state by source; written only

    def to_json(self) -> dict[str, Any]:
        """Fields of a crypto node's status line."""
        return {
            "active": self.active,
            "epoch": self.epoch,
            "members": list(self.members),
            "rotations": self.rotations,
            "rekey_ms": list(self.rekey_ms),
            "entropy": dict(self.entropy),
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> CryptoStatus:
        """From a status line."""
        return cls(
            fields.flag("active", True),
            fields.count("epoch", None),
            fields.texts("members"),
            fields.count("rotations", 0),
            fields.durations("rekey_ms"),
        )


@dataclass(frozen=True, slots=True)
class DroneStatus:
    """A drone by its newest telemetry. `age_s` is the time since that was received; None: never."""

    drone: str
    state: str = "not heard"
    error_m: float | None = None  # tracking error
    battery: float | None = None  # 0..1
    epoch: int | None = None
    age_s: float | None = None
    enu_m: Vec3 | None = None
    process: str = ""  # the follower that hosts it; added by the reader

    @property
    def stale(self) -> bool:
        """True if nothing was received for more than `STALE_S`, or ever."""
        return self.age_s is None or self.age_s > STALE_S

    def to_json(self) -> dict[str, Any]:
        """An item of `drones` on the logger's status line."""
        return {
            "drone": self.drone,
            "state": self.state,
            "error_m": self.error_m,
            "battery": self.battery,
            "epoch": self.epoch,
            "age_s": self.age_s,
            "enu": self.enu_m,
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> DroneStatus:
        """From a status line; `drone` is empty where it has no name."""
        return cls(
            fields.text("drone", ""),
            fields.text("state", "unknown"),
            fields.number("error_m", None),
            fields.number("battery", None),
            fields.count("epoch", None),
            fields.number("age_s", None),
            fields.point("enu"),
        )


@dataclass(frozen=True, slots=True)
class LoggerStatus:
    """The telemetry logger: every drone as it was last received, and what was recorded."""

    drones: tuple[DroneStatus, ...] = ()
    recorded: int = 0  # messages
    records: str = ""  # folder
    doubts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by drone; written only

    def to_json(self) -> dict[str, Any]:
        """Fields of the logger's status line."""
        return {
            "drones": [drone.to_json() for drone in self.drones],
            "recorded": self.recorded,
            "records": self.records,
            "doubts": {drone: dict(counts) for drone, counts in self.doubts.items()},
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> LoggerStatus:
        """From a status line."""
        drones = []
        for item in fields.objects("drones"):
            drone = DroneStatus.from_json(item)
            if drone.drone:
                drones.append(drone)
            else:
                fields.ignored["drone"] += 1
        return cls(tuple(drones), fields.count("recorded", 0), fields.path("records", ""))


@dataclass(frozen=True, slots=True)
class SitlStatus:
    """The embedded SITL: ground truth. Written by `sitl/`, which imports no other package."""

    real_time_factor: float | None = None
    min_separation_m: float | None = None
    collisions: int = 0
    positions_enu_m: tuple[Vec3 | None, ...] = ()  # by drone

    def to_json(self) -> dict[str, Any]:
        """Fields of the simulator's status line."""
        return {
            "real_time_factor": self.real_time_factor,
            "min_separation_m": self.min_separation_m,
            "collisions": self.collisions,
            "vehicles": [{"enu": position} for position in self.positions_enu_m],
        }

    @classmethod
    def from_json(cls, fields: StatusFields) -> SitlStatus:
        """From a status line."""
        return cls(
            fields.number("real_time_factor", None),
            fields.number("min_separation_m", None),
            fields.count("collisions", 0),
            tuple(vehicle.point("enu") for vehicle in fields.objects("vehicles")),
        )


Details = LeaderStatus | FollowerStatus | CryptoStatus | LoggerStatus | SitlStatus


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One status line. `alarms` are those since the last line; path moderation has no details."""

    process: str
    security: SecurityStatus | None = None
    alarms: tuple[str, ...] = ()
    details: Details | None = None

    def to_json(self) -> dict[str, Any]:
        """The object of the status line."""
        line: dict[str, Any] = {"process": self.process, "alarms": list(self.alarms)}
        if self.security is not None:
            line["security"] = self.security.to_json()
        return line if self.details is None else line | self.details.to_json()

    @classmethod
    def from_json(cls, fields: StatusFields) -> ProcessStatus | None:
        """From a status line; None where it names no process."""
        process = fields.text("process", "")
        if not process:
            return None
        security = fields.inner("security")
        return cls(
            process,
            None if security is None else SecurityStatus.from_json(security),
            fields.texts("alarms"),
            _details(process, fields),
        )


def _details(process: str, fields: StatusFields) -> Details | None:
    match process:
        case "leader":
            return LeaderStatus.from_json(fields)
        case "telemetry_logger":
            return LoggerStatus.from_json(fields)
        case "sitl":
            return SitlStatus.from_json(fields)
        case "path_moderation":
            return None
    if process == "crypto" or process.startswith("crypto_"):
        return CryptoStatus.from_json(fields)
    return FollowerStatus.from_json(fields)
