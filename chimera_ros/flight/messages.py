"""The swarm's messages as plain frozen objects: the same field names and numbers as in `msg/`, tuples for
geometry.

Positions are ENU metres in the frame `map`, orientations body FLU in `map`, times nanoseconds of swarm time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from math import nan

from .vehicle import Vec3

Quaternion = tuple[float, float, float, float]  # x, y, z, w

MAX_TARGETS = 256
MAX_KNOTS = 512
MAX_REASON = 200
MAX_NAME = 48
OPERATOR = "operator "  # begins the reason of a drone that an operator has stopped
TAKEN = "the autopilot left offboard"  # begins the reason of a drone that somebody else flies now
NOWHERE: Vec3 = (nan, nan, nan)


class CommandKind(IntEnum):
    """What a `SwarmCommand` asks for; the numbers of SwarmCommand.msg."""

    TAKEOFF = 1
    LAND = 2
    HOLD = 3
    RETURN = 4
    GOTO = 5
    FOLLOW = 6
    ARM_CHECK = 7


class AckStatus(IntEnum):
    """A drone's answer; the numbers of CommandAck.msg."""

    ACCEPTED = 1
    COMPLETED = 2
    REFUSED = 3
    FAILED = 4


class DroneState(IntEnum):
    """What a drone is doing; the numbers of DroneTelemetry.msg."""

    UNKNOWN = 0
    GROUNDED = 1
    ARMED = 2
    TAKING_OFF = 3
    HOLDING = 4
    FOLLOWING = 5
    RETURNING = 6
    LANDING = 7
    LANDED = 8
    FAILSAFE = 9
    LOST = 10


@dataclass(frozen=True, slots=True)
class SwarmCommand:
    """An order from the leader; empty `targets` mean every drone. Mirrors SwarmCommand.msg.

    `target_enu_m` is the goal of GOTO; its z alone is the height (m, frame map) for TAKEOFF, and the return
    height for RETURN (0 keeps the drone's own). `yaw_enu_rad` NaN keeps the yaw, `speed_m_s` 0 means the
    drone's default.
    """

    command_id: int
    term: int
    kind: CommandKind
    targets: tuple[str, ...] = ()
    target_enu_m: Vec3 = (0.0, 0.0, 0.0)
    yaw_enu_rad: float = nan
    speed_m_s: float = 0.0
    plan_id: int = 0
    deadline_ns: int = 0


@dataclass(frozen=True, slots=True)
class CommandAck:
    """A drone's answer to a command (`command_id`) or to a trajectory (`plan_id`). Mirrors CommandAck.msg."""

    drone: str
    command_id: int
    plan_id: int
    term: int
    status: AckStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TrajectoryKnot:
    """A point of a trajectory; between knots it is the quintic Hermite polynomial. Mirrors
    TrajectoryKnot.msg.
    """

    t_s: float
    position_enu_m: Vec3
    velocity_enu_m_s: Vec3 = (0.0, 0.0, 0.0)
    acceleration_enu_m_s2: Vec3 = (0.0, 0.0, 0.0)
    yaw_enu_rad: float = nan


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A drone's part of a plan; `start_ns` is the swarm time of t_s = 0. Mirrors Trajectory.msg."""

    plan_id: int
    term: int
    drone: str
    start_ns: int
    knots: tuple[TrajectoryKnot, ...]


@dataclass(frozen=True, slots=True)
class DroneTelemetry:
    """A drone's state. Mirrors DroneTelemetry.msg; NaN in `reference_enu_m` when it follows nothing."""

    drone: str
    stamp_ns: int
    state: DroneState
    armed: bool = False
    in_air: bool = False
    ready: bool = False
    reason: str = ""
    position_enu_m: Vec3 = NOWHERE
    velocity_enu_m_s: Vec3 = (0.0, 0.0, 0.0)
    orientation: Quaternion = (0.0, 0.0, 0.0, 1.0)
    reference_enu_m: Vec3 = NOWHERE
    tracking_error_m: float = nan
    battery_fraction: float = nan
    clock_offset_s: float = 0.0
    plan_id: int = 0
    command_id: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class LeaderHeartbeat:
    """The leader's sign of life, 10 Hz. Mirrors LeaderHeartbeat.msg."""

    leader: str
    term: int
    plan_id: int
    command_id: int
    transcript_hash: bytes = b""
    phase: str = ""
    mission_time_s: float = 0.0
