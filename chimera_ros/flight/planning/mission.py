"""Mission: datum, separation, geofence, motion limits, pads, battery and steps as frozen dataclasses.

ENU metres in the frame `map`; headings in degrees clockwise from north.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import radians

import numpy as np

from ..datum import Datum
from ..limits import Fence
from ..trajectory import MotionLimits
from ..vehicle import Vec3
from .formations import slots


@dataclass(frozen=True, slots=True)
class Takeoff:
    """All drones climb vertically to `height_m` (frame map), `wave` at a time, waves `interval_s` apart."""

    height_m: float
    wave: int = 5
    interval_s: float = 2.0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Formation:
    """A formation around `center_enu_m`; slots are assigned at the least total cost.

    With `moderate` drone i flies straight to slot i, and path moderation resolves the conflicts.
    """

    shape: str
    spacing_m: float
    center_enu_m: Vec3
    heading_deg: float = 0.0
    moderate: bool = False
    line: int = 0


@dataclass(frozen=True, slots=True)
class Goto:
    """Move the whole formation: its centre to `center_enu_m`, or by `by_enu_m`; exactly one of the two is
    given.
    """

    center_enu_m: Vec3 | None = None
    by_enu_m: Vec3 | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Hover for `seconds`."""

    seconds: float
    line: int = 0


@dataclass(frozen=True, slots=True)
class Rotate:
    """Rotate the formation about its centre, clockwise seen from above when positive."""

    angle_deg: float
    line: int = 0


@dataclass(frozen=True, slots=True)
class Swap:
    """Each drone flies to the opposite side of the centre, on a spiral in one of `layers` altitude layers.

    With `moderate` all fly straight through the centre, and path moderation resolves the conflicts.
    """

    layers: int = 4
    moderate: bool = False
    line: int = 0


@dataclass(frozen=True, slots=True)
class Land:
    """Fly above the pads and land, `wave` at a time, `interval_s` apart; `own` pads or `any` free ones."""

    wave: int = 10
    interval_s: float = 1.0
    pads: str = "any"
    line: int = 0


Step = Takeoff | Formation | Goto | Hold | Rotate | Swap | Land
STEP_NAMES: dict[type, str] = {
    Takeoff: "takeoff",
    Formation: "formation",
    Goto: "goto",
    Hold: "hold",
    Rotate: "rotate",
    Swap: "swap",
    Land: "land",
}


def step_title(step: Step) -> str:
    """One or two words for a step, such as `formation circle`."""
    name = STEP_NAMES[type(step)]
    return f"{name} {step.shape}" if isinstance(step, Formation) else name


@dataclass(frozen=True, slots=True)
class PadGrid:
    """Launch pads: a grid on the ground, facing `heading_deg`."""

    spacing_m: float = 4.0
    center_enu_m: Vec3 = (0.0, 0.0, 0.0)
    heading_deg: float = 0.0

    def positions(self, count: int) -> list[Vec3]:
        """Pads of drones 0..count-1, ENU metres."""
        points = slots("grid", count, self.spacing_m, self.heading_deg) + np.array(self.center_enu_m)
        return [(float(x), float(y), float(z)) for x, y, z in points]


@dataclass(frozen=True, slots=True)
class Battery:
    """Endurance of a full battery, and the fraction that must be left on landing."""

    endurance_s: float = 900.0
    reserve: float = 0.25


@dataclass(frozen=True, slots=True)
class Mission:
    """A mission. `datum` None: the local frame of an external pose source."""

    name: str
    datum: Datum | None
    separation_m: float
    fence: Fence
    limits: MotionLimits = field(default_factory=MotionLimits)
    pads: PadGrid = field(default_factory=PadGrid)
    battery: Battery = field(default_factory=Battery)
    steps: tuple[Step, ...] = ()

    def pad_positions(self, count: int) -> list[Vec3]:
        """Pads of drones 0..count-1, ENU metres in the frame `map`."""
        return self.pads.positions(count)


def compass_to_enu(angle_deg: float) -> float:
    """A clockwise angle in degrees as a counter-clockwise one in radians."""
    return -radians(angle_deg)
