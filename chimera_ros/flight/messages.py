"""Messages of the swarm as frozen dataclasses, with the field names and numbers of `msg/`.

Positions are ENU metres in the frame `map`, orientations body FLU in `map`, times nanoseconds of swarm time;
vectors are tuples.
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
NO_POSITION: Vec3 = (nan, nan, nan)


class CommandKind(IntEnum):
    """Kind of a `SwarmCommand`; the numbers of SwarmCommand.msg."""

    TAKEOFF = 1
    LAND = 2
    HOLD = 3
    RETURN = 4
    GOTO = 5
    FOLLOW = 6
    ARM_CHECK = 7


class AckStatus(IntEnum):
    """Status of an acknowledgement; the numbers of CommandAck.msg."""

    ACCEPTED = 1
    COMPLETED = 2
    REFUSED = 3
    FAILED = 4


class DroneState(IntEnum):
    """State of a drone; the numbers of DroneTelemetry.msg."""

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


class ReasonCode(IntEnum):
    """Why a drone is not ready or left its task; the REASON_ numbers of DroneTelemetry.msg."""

    NONE = 0
    NOT_READY = 1
    OPERATOR_STOP = 2
    OFFBOARD_LEFT = 3
    LEADER_LOST = 4
    BATTERY_LOW = 5
    BATTERY_CRITICAL = 6
    DISARMED = 7
    ORDER_FAILED = 8


@dataclass(frozen=True, slots=True)
class SwarmCommand:
    """A command of the leader; empty `targets` mean every drone. Mirrors SwarmCommand.msg.

    `target_enu_m` is the goal of GOTO; its z alone is the take-off height of TAKEOFF (m, frame map) and the
    return altitude of RETURN (0: the drone's own). `yaw_enu_rad` NaN keeps the yaw, `speed_m_s` 0 is the
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
    """Acknowledgement of a command (`command_id`) or a trajectory (`plan_id`). Mirrors CommandAck.msg."""

    drone: str
    command_id: int
    plan_id: int
    term: int
    status: AckStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TrajectoryKnot:
    """A knot of a trajectory; quintic Hermite between knots. Mirrors TrajectoryKnot.msg."""

    t_s: float
    position_enu_m: Vec3
    velocity_enu_m_s: Vec3 = (0.0, 0.0, 0.0)
    acceleration_enu_m_s2: Vec3 = (0.0, 0.0, 0.0)
    yaw_enu_rad: float = nan


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One drone's trajectory of a plan; `start_ns` is the swarm time of t_s = 0. Mirrors Trajectory.msg."""

    plan_id: int
    term: int
    drone: str
    start_ns: int
    knots: tuple[TrajectoryKnot, ...]


@dataclass(frozen=True, slots=True)
class DroneTelemetry:
    """State of a drone. Mirrors DroneTelemetry.msg; `reference_enu_m` is NaN without a reference.

    `reason` is text for people; programs branch on `reason_code`.
    """

    drone: str
    stamp_ns: int
    state: DroneState
    armed: bool = False
    in_air: bool = False
    ready: bool = False
    reason: str = ""
    position_enu_m: Vec3 = NO_POSITION
    velocity_enu_m_s: Vec3 = (0.0, 0.0, 0.0)
    orientation: Quaternion = (0.0, 0.0, 0.0, 1.0)
    reference_enu_m: Vec3 = NO_POSITION
    tracking_error_m: float = nan
    battery_fraction: float = nan
    clock_offset_s: float = 0.0
    plan_id: int = 0
    command_id: int = 0
    epoch: int = 0
    reason_code: ReasonCode = ReasonCode.NONE


@dataclass(frozen=True, slots=True)
class LeaderHeartbeat:
    """Heartbeat of the leader, 10 Hz. Mirrors LeaderHeartbeat.msg."""

    leader: str
    term: int
    plan_id: int
    command_id: int
    transcript_hash: bytes = b""
    phase: str = ""
    mission_time_s: float = 0.0
