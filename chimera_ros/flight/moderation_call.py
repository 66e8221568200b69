"""Request to path moderation and its answer, as ModerateTrajectories.srv has them on the wire.

A service answers, or a function of the same process (`Moderate`). The leader, the planner and path moderation
share these types; flight must not import moderation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import numpy as np

from .limits import Fence
from .messages import TrajectoryKnot
from .trajectory import Array, MotionLimits

MAX_TRAJECTORIES: Final = 1024
MIN_DEADLINE_S: Final = 0.02
MAX_DEADLINE_S: Final = 60.0
MAX_SEED: Final = 2**63 - 1

SEPARATION_RANGES: Final = {
    "horizontal_m": (1e-3, 1e4),
    "vertical_m": (1e-3, 1e4),
    "tracking_error_m": (0.0, 1e3),
    "clock_skew_s": (0.0, 10.0),
}

KnotSequence = tuple[TrajectoryKnot, ...]  # of one trajectory


class ModerationStatus(IntEnum):
    """The numbers of ModerateTrajectories.srv."""

    CONFLICT_FREE = 1
    INFEASIBLE = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Separation:
    """Separation ellipsoid of two drones: half axes in metres between their centres.

    `tracking_error_m` bounds each drone's deviation from its trajectory, `clock_skew_s` that of its clock
    from swarm time; both count once for each drone of a pair. Raises ValueError.
    """

    horizontal_m: float
    vertical_m: float
    tracking_error_m: float = 0.0
    clock_skew_s: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in SEPARATION_RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # written so that NaN is refused
                raise ValueError(f"the separation's {name} is {value}; {low:g} to {high:g} is allowed")

    @property
    def scale(self) -> Array:
        """Metres (3,) per unit of the norm in which the ellipsoid is the unit ball."""
        return np.array([self.horizontal_m, self.horizontal_m, self.vertical_m])

    def norm(self, flat_and_rise: Array) -> Array:
        """The norm (...) of horizontal and vertical metres (..., 2)."""
        flat, rise = flat_and_rise[..., 0] / self.horizontal_m, flat_and_rise[..., 1] / self.vertical_m
        out: Array = np.sqrt(flat * flat + rise * rise)  # faster than hypot; no overflow at these lengths
        return out

    def required_norm(self) -> float:
        """Required norm between two drones at rest: 1 plus both tracking errors."""
        return 1.0 + 2.0 * self.tracking_error_m / min(self.horizontal_m, self.vertical_m)


@dataclass(frozen=True, slots=True)
class ModerationRequest:
    """Trajectories with a common start, to be made conflict-free: by drone a name and knots (ENU m).

    `deadline_s` counts from the call. With `offline` (not on the wire) it is a work budget in nominal seconds
    instead: the answer is the same on every machine, however loaded. `call_id` returns in the answer,
    `start_ns` is the swarm time of t = 0; path moderation uses neither.
    """

    drones: tuple[str, ...]
    knots: tuple[KnotSequence, ...]
    separation: Separation
    limits: MotionLimits = field(default_factory=MotionLimits)
    fence: Fence | None = None
    deadline_s: float = 0.25
    seed: int = 1
    call_id: int = 0
    start_ns: int = 0
    offline: bool = False


@dataclass(frozen=True, slots=True)
class ModerationAnswer:
    """Answer to a request, untrusted. `conflicts` is the number of conflicts in the request.

    `undecided` (not on the wire), with INFEASIBLE: a solution was not found, but may exist.
    """

    call_id: int
    status: ModerationStatus
    reason: str = ""
    winner: str = ""
    drones: tuple[str, ...] = ()
    knots: tuple[KnotSequence, ...] = ()
    conflicts: int = 0
    undecided: bool = False


Moderate = Callable[[ModerationRequest], ModerationAnswer]


def deadline_for(drones: int) -> float:
    """Deadline, s, for the moderation of so many drones, transport included."""
    return 0.25 if drones <= 10 else 1.0 if drones <= 20 else 3.0
