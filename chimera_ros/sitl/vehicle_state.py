"""State of one simulated vehicle: what its estimator reports and what its commander has decided.

Commander, flight modes and failsafes act on it; MAVLink messages are built from it. Times are simulation
seconds. Positions are estimates in world NED metres from the swarm datum; `origin_m` is the vehicle's own EKF
origin there: clients see `position - origin` as local position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from .config import Vec3
from .geodesy import LocalEarth
from .guidance import SetpointGuidance
from .mavlink_types import CommanderEvent, FlightMode, LandedState, Severity, StatusText
from .missions import MissionExecution
from .parameters import Parameters

MAX_EVENTS = 64


@dataclass(slots=True)
class VehicleEstimate:
    """Estimator output of one vehicle (world NED), with true ground contact, damage, battery and motors."""

    position_m: Vec3
    velocity_m_s: Vec3
    contact: bool
    crashed: bool
    battery: float
    motors: bool


@dataclass(frozen=True, slots=True)
class OffboardSetpoint:
    """A streamed setpoint in world NED; None where the client masked a field out."""

    position_m: tuple[float | None, float | None, float | None]
    velocity_m_s: Vec3 | None
    acceleration_m_s2: Vec3 | None
    yaw_rad: float | None
    yaw_rate_rad_s: float
    stamp_s: float  # when it was made, by the client's clock

    def repeats(self, other: OffboardSetpoint) -> bool:
        """True if all but stamp and yaw rate is the same: client libraries repeat their last setpoint."""
        return (self.position_m, self.velocity_m_s, self.acceleration_m_s2, self.yaw_rad) == (
            other.position_m,
            other.velocity_m_s,
            other.acceleration_m_s2,
            other.yaw_rad,
        )


class ReturnPhase(Enum):
    """Stages of the return mode."""

    CLIMB = "climb"
    HOMEWARD = "homeward"
    DESCEND = "descend"
    LAND = "land"


@dataclass(slots=True, eq=False, kw_only=True)
class SimulatedState:
    """One vehicle. `index` is its row in the arrays of fleet and controller; `events` wait to be sent."""

    index: int
    system_id: int
    parameters: Parameters
    earth: LocalEarth
    guidance: SetpointGuidance
    estimate: VehicleEstimate
    origin_m: Vec3
    local_shift_m: Vec3  # fault bad_origin: error of the local position against the global one
    home_m: Vec3
    takeoff_down_m: float
    reset_counter: int = 0  # of the estimator, one byte
    ready: bool = False  # the position estimate allows arming

    mode: FlightMode = FlightMode.HOLD
    return_phase: ReturnPhase = ReturnPhase.CLIMB
    mission: MissionExecution = field(default_factory=MissionExecution)
    setpoint: OffboardSetpoint | None = None  # the last that was no repetition
    setpoint_s: float = -math.inf  # when the last one arrived, repeated or not

    armed: bool = False
    armed_since_s: float = 0.0
    flown: bool = False  # since arming
    landed: bool = True
    landed_since_s: float = 0.0
    contact_since_s: float | None = None  # while the controller flies
    crashed: bool = False

    failsafe: bool = False
    battery_level: int = 0  # 0 normal, 1 low, 2 critical, 3 emergency; never falls
    gcs_heartbeat_s: float | None = None
    link_lost: bool = False

    events: list[CommanderEvent] = field(default_factory=list)

    @property
    def landed_state(self) -> LandedState:
        """MAV_LANDED_STATE."""
        if self.landed:
            return LandedState.ON_GROUND
        if self.mode is FlightMode.TAKEOFF:
            return LandedState.TAKEOFF
        if self.mode is FlightMode.LAND or (
            self.mode is FlightMode.RETURN and self.return_phase is ReturnPhase.LAND
        ):
            return LandedState.LANDING
        return LandedState.IN_AIR

    def setpoints_lost(self, now: float) -> bool:
        """True if no offboard setpoint has arrived for COM_OF_LOSS_T."""
        return now - self.setpoint_s > self.parameters["COM_OF_LOSS_T"]

    def local_m(self, world_m: Vec3) -> Vec3:
        """A world position in the vehicle's own local frame."""
        o, s = self.origin_m, self.local_shift_m
        return world_m[0] - o[0] + s[0], world_m[1] - o[1] + s[1], world_m[2] - o[2] + s[2]

    def world_m(self, local_m: Vec3) -> Vec3:
        """A position in the vehicle's own local frame, in the world frame."""
        o, s = self.origin_m, self.local_shift_m
        return local_m[0] + o[0] - s[0], local_m[1] + o[1] - s[1], local_m[2] + o[2] - s[2]

    def report(self, severity: Severity, text: str) -> None:
        """Emit a STATUSTEXT."""
        self.emit(StatusText(severity, text))

    def emit(self, event: CommanderEvent) -> None:
        """Queue an event for the clients; beyond `MAX_EVENTS` unsent ones it is dropped."""
        if len(self.events) < MAX_EVENTS:
            self.events.append(event)
