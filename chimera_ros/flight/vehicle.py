"""Vehicle interface between flight logic and autopilot bridge: orders, setpoints and vehicle state.

ENU metres in the frame `map`, yaw counter-clockwise from east (REP 103, REP 105). NED exists only behind the
bridge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

Vec3 = tuple[float, float, float]


class OrderKind(Enum):
    """One-shot orders to the autopilot. Forced arming and forced disarming are deliberately missing."""

    ARM = "arm"
    DISARM = "disarm"  # the autopilot refuses it in the air
    TAKEOFF = "takeoff"  # climb vertically to `height_m` above the pad
    LAND = "land"  # land in place
    HOLD = "hold"  # the autopilot's hold mode
    START_OFFBOARD = "start_offboard"  # needs a setpoint first
    STOP_OFFBOARD = "stop_offboard"
    KILL = "kill"  # stops the motors in flight; only where the flight was started with --allow-kill


@dataclass(frozen=True, slots=True)
class Order:
    """A one-shot order; its result is an `OrderResult` with the same `order_id`."""

    order_id: int
    kind: OrderKind
    height_m: float = 0.0  # TAKEOFF only: metres above the pad
    deadline_s: float = 5.0  # how long the bridge may try


@dataclass(frozen=True, slots=True)
class OrderResult:
    """Result of an order. `reason` is one sentence when `ok` is False."""

    order_id: int
    kind: OrderKind
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Setpoint:
    """Offboard setpoint: position with feed-forward velocity and acceleration, ENU, frame `map`.

    A stale setpoint that is repeated must not be a velocity: the bridge degrades it to a position hold.
    """

    position_enu_m: Vec3
    velocity_enu_m_s: Vec3 = (0.0, 0.0, 0.0)
    acceleration_enu_m_s2: Vec3 = (0.0, 0.0, 0.0)
    yaw_enu_rad: float = 0.0


@dataclass(frozen=True, slots=True)
class VehicleState:
    """The newest state of one vehicle as the bridge received it.

    `stamp_s` is the bridge's monotonic clock at the newest position. `blockers` are the reasons why the
    vehicle cannot arm now, one sentence each (estimator not ready, frames disagree, wrong system id, …).
    """

    drone: str
    stamp_s: float = float("-inf")
    connected: bool = False
    armed: bool = False
    in_air: bool = False
    offboard: bool = False
    mode: str = "unknown"  # autopilot's flight mode in lower case: hold, offboard, land, return, takeoff, …
    position_enu_m: Vec3 = (float("nan"),) * 3
    velocity_enu_m_s: Vec3 = (0.0, 0.0, 0.0)
    orientation_xyzw: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)  # body FLU in map ENU
    yaw_enu_rad: float = 0.0
    battery_fraction: float = float("nan")
    blockers: tuple[str, ...] = field(default=())
