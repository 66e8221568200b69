"""What flight asks path moderation, and what it hears; a service answers, or a function of this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from .limits import Fence
from .messages import TrajectoryKnot
from .trajectory import MotionLimits

Knots = tuple[TrajectoryKnot, ...]


class ModerationStatus(IntEnum):
    """The numbers of ModerateTrajectories.srv."""

    CONFLICT_FREE = 1
    INFEASIBLE = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class ModerationCall:
    """Paths of drones that begin together, to be made conflict-free within `deadline_s`.

    A pair is to be kept `separation_m` apart, plus twice `tracking_error_m`, plus what `clock_skew_s` costs
    at their relative speed. Metres ENU, seconds; `start_ns` is the swarm time of t = 0.
    """

    call_id: int
    drones: tuple[str, ...]
    knots: tuple[Knots, ...]
    start_ns: int
    separation_m: float
    tracking_error_m: float
    limits: MotionLimits
    fence: Fence
    deadline_s: float
    clock_skew_s: float = 0.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class ModerationAnswer:
    """What came back; nothing of it is trusted. `conflicts` were found in what was asked."""

    call_id: int
    status: ModerationStatus
    reason: str = ""
    winner: str = ""
    drones: tuple[str, ...] = ()
    knots: tuple[Knots, ...] = ()
    conflicts: int = 0


Moderate = Callable[[ModerationCall], ModerationAnswer]


def deadline_for(drones: int) -> float:
    """How long, s, moderation of so many drones may take, transport included."""
    return 0.25 if drones <= 10 else 1.0 if drones <= 20 else 3.0
