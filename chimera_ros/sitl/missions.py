"""MAVLink mission of one vehicle: checks of its items, and its progress."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

MAX_ITEMS = 500

FRAME_GLOBAL = (0, 5)
FRAME_RELATIVE = (3, 6)
FRAME_MISSION = 2

WAYPOINT, LOITER_UNLIMITED, LOITER_TIME, RETURN, LAND, TAKEOFF = 16, 17, 19, 20, 21, 22
DELAY, CHANGE_SPEED = 93, 178
MOVING = {WAYPOINT, LOITER_UNLIMITED, LOITER_TIME, LAND, TAKEOFF}

# MAV_MISSION_RESULT
ACCEPTED, ERROR, UNSUPPORTED_FRAME, UNSUPPORTED, NO_SPACE, INVALID, INVALID_SEQUENCE, CANCELLED = (
    0,
    1,
    2,
    3,
    4,
    5,
    13,
    15,
)


@dataclass(frozen=True, slots=True)
class MissionItem:
    """A mission item as MISSION_ITEM_INT carries it; latitude and longitude in degrees."""

    command: int
    frame: int
    params: tuple[float, float, float, float]
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    autocontinue: int = 1

    def check(self) -> int:
        """MAV_MISSION_RESULT: why the item cannot be flown, or ACCEPTED."""
        if self.command in MOVING:
            if self.frame not in FRAME_GLOBAL + FRAME_RELATIVE:
                return UNSUPPORTED_FRAME
            place = (self.latitude_deg, self.longitude_deg, self.altitude_m)
            if not all(map(math.isfinite, place)) or abs(place[0]) > 90.0 or abs(place[1]) > 180.0:
                return INVALID
        elif self.command < RETURN or self.command in (82, 84, 85):
            return UNSUPPORTED  # navigation that a multicopter without spline support cannot do
        return ACCEPTED


@dataclass(slots=True)
class MissionExecution:
    """The stored mission and its progress; `speed_m_s` is set by DO_CHANGE_SPEED while it runs."""

    items: list[MissionItem] = field(default_factory=list)
    current: int = 0
    finished: bool = False
    speed_m_s: float | None = None
    arrived_s: float | None = None  # when the current item was reached
    begun: int = -1  # the item that was started last

    def replace(self, items: list[MissionItem]) -> None:
        """Store another mission and begin at its start."""
        self.items = items
        self.restart(0)

    def restart(self, at: int) -> None:
        """Continue with item number `at`."""
        self.current = at
        self.finished = False
        self.arrived_s = None
        self.begun = -1
        self.speed_m_s = None

    def rewind_item(self) -> None:
        """Start the current item again (after another flight mode)."""
        self.arrived_s = None
        self.begun = -1
