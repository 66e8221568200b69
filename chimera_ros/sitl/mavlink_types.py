"""Words of the simulated PX4: flight modes, command results, what it tells its clients."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class FlightMode(Enum):
    """Flight modes as PX4 numbers them in HEARTBEAT.custom_mode: (main mode, sub mode)."""

    POSITION = (3, 0)  # no pilot is simulated, so it hovers
    TAKEOFF = (4, 2)
    HOLD = (4, 3)
    MISSION = (4, 4)
    RETURN = (4, 5)
    LAND = (4, 6)
    OFFBOARD = (6, 0)

    @property
    def custom_mode(self) -> int:
        """The 32-bit field of HEARTBEAT."""
        return self.value[0] << 16 | self.value[1] << 24


MODES = {mode.value: mode for mode in FlightMode}


class Result(IntEnum):
    """MAV_RESULT."""

    ACCEPTED = 0
    REJECTED = 1  # temporarily: try again when the state has changed
    DENIED = 2
    UNSUPPORTED = 3
    FAILED = 4


class Landed(IntEnum):
    """MAV_LANDED_STATE."""

    ON_GROUND = 1
    IN_AIR = 2
    TAKEOFF = 3
    LANDING = 4


class Severity(IntEnum):
    """MAV_SEVERITY."""

    EMERGENCY = 0
    CRITICAL = 2
    WARNING = 4
    INFO = 6


@dataclass(frozen=True, slots=True)
class Text:
    """Something the autopilot says to people (STATUSTEXT, at most 50 characters are shown)."""

    severity: Severity
    text: str


class Notice(Enum):
    """Messages that go out at once because what they tell has changed."""

    STATE = "state"  # HEARTBEAT and EXTENDED_SYS_STATE
    HOME = "home"
    ORIGIN = "origin"
    MISSION = "mission"  # MISSION_CURRENT


@dataclass(frozen=True, slots=True)
class Reached:
    """A mission item was reached."""

    item: int


Event = Text | Notice | Reached


# MAV_CMD numbers that the simulated autopilot acts on.
class MavCommand(IntEnum):
    """MAV_CMD."""

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


FORCE_CODE = 21196  # PX4's magic number in ARM_DISARM: skip the checks
