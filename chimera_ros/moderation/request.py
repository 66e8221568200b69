"""What the ladder answers, and whether a request can be worked on: nothing of ROS, files or solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from chimera_ros.flight.moderation_call import (
    MAX_DEADLINE_S,
    MAX_TRAJECTORIES,
    MIN_DEADLINE_S,
    Knots,
    ModerationRequest,
    ModerationStatus,
)

from .errors import ModerationError, ModerationReason


@dataclass(frozen=True, slots=True)
class DroneConflict:
    """Two drones nearer than allowed: when (s after the start) and how near (m) at their closest."""

    first: str
    second: str
    t_s: float
    horizontal_m: float
    vertical_m: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.first} and {self.second} come within {self.horizontal_m:.2f} m "
            f"(and {self.vertical_m:.2f} m in height) at {self.t_s:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the ladder that was tried: its name, how long it took, and what came of it."""

    name: str
    ms: float
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class ModerationResult:
    """A verified answer, or why there is none.

    `knots` are verified: conflict-free with CONFLICT_FREE, a hold (or nothing) with INFEASIBLE, nothing with
    FAILED. `cost` is metres of extra way plus delay as metres, thin margins included; gains are how much more
    the same stage of another solver would have cost, NaN where that found nothing conflict-free. `backend`
    names what executed quantum circuits, empty where none was. `proven`: nothing cheaper exists among the
    manoeuvres looked at.
    """

    status: ModerationStatus
    reason: str = ""
    winner: str = ""
    knots: tuple[Knots, ...] = ()
    before: tuple[DroneConflict, ...] = ()
    remaining: tuple[DroneConflict, ...] = ()
    cost: float = nan
    gain_over_greedy: float = nan
    gain_over_annealing: float = nan
    proven: bool = False
    backend: str = ""
    qubits: int = 0
    shots: int = 0
    rungs: tuple[Stage, ...] = ()
    total_ms: float = 0.0


def check(request: ModerationRequest) -> None:
    """Whether a request can be worked on at all. Raises ModerationError."""
    count = len(request.drones)
    if not count:
        raise ModerationError(ModerationReason.NO_DRONES, "there is no trajectory in the request")
    if count > MAX_TRAJECTORIES:
        raise ModerationError(
            ModerationReason.TOO_MANY, f"{count} trajectories are more than {MAX_TRAJECTORIES}"
        )
    if len(request.knots) != count or len(set(request.drones)) != count:
        raise ModerationError(ModerationReason.BAD_KNOTS, "every drone needs one name and one trajectory")
    if not MIN_DEADLINE_S <= request.deadline_s <= MAX_DEADLINE_S:
        raise ModerationError(
            ModerationReason.BAD_LIMITS, f"the deadline must be {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g} s"
        )


def infeasible_result(
    before: Sequence[DroneConflict],
    remaining: Sequence[DroneConflict],
    stuck: bool,
    hold: tuple[Knots, ...],
    why_not: str,
) -> ModerationResult:
    """The answer where no way was found: `hold` unless `why_not` says why that cannot be."""
    what = "starts or goals are too near" if stuck else "no conflict-free way was found in time"
    more = f" and {len(remaining) - 1} more pairs" if len(remaining) > 1 else ""
    first = f": {remaining[0].sentence()}{more}" if remaining else ""
    where = f"nor can all hold: {why_not}" if why_not else "all can hold where they are"
    return ModerationResult(
        ModerationStatus.INFEASIBLE,
        f"{what}{first}; {where}."[:500],
        winner="" if why_not else "hold",
        knots=() if why_not else hold,
        before=tuple(before),
        remaining=tuple(remaining),
    )
