"""MAVLink enumerations that the simulated PX4 uses, and the events that it emits to its clients."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class FlightMode(Enum):
    """Flight modes as PX4 numbers them in HEARTBEAT.custom_mode: (main mode, sub mode)."""

    POSITION = (3, 0)  # no manual control is simulated, so it hovers
    TAKEOFF = (4, 2)
    HOLD = (4, 3)
    MISSION = (4, 4)
    RETURN = (4, 5)
    LAND = (4, 6)
    OFFBOARD = (6, 0)

    @property
    def custom_mode(self) -> int:
        """HEARTBEAT.custom_mode: the main mode in bits 16 to 23, the sub mode in bits 24 to 31."""
        return self.value[0] << 16 | self.value[1] << 24


MODES = {mode.value: mode for mode in FlightMode}  # by (main mode, sub mode)


class MavResult(IntEnum):
    """MAV_RESULT: result of a command."""

    ACCEPTED = 0
    TEMPORARILY_REJECTED = 1  # may succeed when the state has changed
    DENIED = 2
    UNSUPPORTED = 3
    FAILED = 4


class LandedState(IntEnum):
    """MAV_LANDED_STATE, without UNDEFINED."""

    ON_GROUND = 1
    IN_AIR = 2
    TAKEOFF = 3
    LANDING = 4


class Severity(IntEnum):
    """MAV_SEVERITY: the values in use."""

    EMERGENCY = 0
    CRITICAL = 2
    WARNING = 4
    INFO = 6


@dataclass(frozen=True, slots=True)
class StatusText:
    """STATUSTEXT: a severity and a text, of which the first 50 characters are sent."""

    severity: Severity
    text: str


class StateChange(Enum):
    """Change of a state whose messages are then sent at once, in addition to their stream."""

    VEHICLE_STATUS = "vehicle_status"  # HEARTBEAT, EXTENDED_SYS_STATE and SYS_STATUS
    HOME_POSITION = "home_position"
    EKF_ORIGIN = "ekf_origin"  # GPS_GLOBAL_ORIGIN
    MISSION_CURRENT = "mission_current"


@dataclass(frozen=True, slots=True)
class MissionItemReached:
    """MISSION_ITEM_REACHED, with the sequence number of the item."""

    seq: int


CommanderEvent = StatusText | StateChange | MissionItemReached


class MavCommand(IntEnum):
    """MAV_CMD numbers that the simulated autopilot implements."""

    RETURN = 20
    LAND = 21
    TAKEOFF = 22
    LOITER = 17
    SET_MODE = 176
    CHANGE_SPEED = 178
    SET_HOME = 179
    TERMINATE = 185
    REPOSITION = 192
    MISSION_START = 300
    SET_MISSION_CURRENT = 224
    ARM_DISARM = 400
    RUN_PREARM_CHECKS = 401
    GET_INTERVAL = 510
    SET_INTERVAL = 511
    REQUEST_MESSAGE = 512
    REQUEST_CAPABILITIES = 520


FORCE_CODE = 21196  # param2 of MAV_CMD_COMPONENT_ARM_DISARM: force arming or disarming
