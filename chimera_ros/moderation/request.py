"""Result of a moderation, and the check of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

from chimera_ros.flight.moderation_call import (
    MAX_DEADLINE_S,
    MAX_TRAJECTORIES,
    MIN_DEADLINE_S,
    KnotSequence,
    ModerationRequest,
    ModerationStatus,
)

from .errors import ModerationError, ModerationReason


@dataclass(frozen=True, slots=True)
class DroneConflict:
    """A conflict of two named drones at their closest: time (s after the start) and distances (m)."""

    first: str
    second: str
    t_s: float
    horizontal_m: float
    vertical_m: float

    def sentence(self) -> str:
        """The conflict as a clause for people."""
        return (
            f"{self.first} and {self.second} come within {self.horizontal_m:.2f} m "
            f"(and {self.vertical_m:.2f} m in height) at {self.t_s:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that was run: name, duration and outcome (on the wire: a rung)."""

    name: str
    ms: float
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class ModerationResult:
    """A verified result, or why there is none.

    `knots` are conflict-free with CONFLICT_FREE, a verified hold (or none) with INFEASIBLE, none with FAILED.
    `before` are the conflicts of the request, `remaining` those that no solution resolves. `cost` is extra
    path in metres plus delay as metres plus penalties of small margins; a gain is how much more another
    solver's choice costs, NaN if that found none. `backend` executed quantum circuits, empty: none were.
    `proven`: optimal among the candidates. `undecided`, with INFEASIBLE: no solution was found, but none was
    shown to be impossible; without it, starts or goals overlap.
    """

    status: ModerationStatus
    reason: str = ""
    winner: str = ""
    knots: tuple[KnotSequence, ...] = ()
    before: tuple[DroneConflict, ...] = ()
    remaining: tuple[DroneConflict, ...] = ()
    cost: float = nan
    gain_over_greedy: float = nan
    gain_over_annealing: float = nan
    proven: bool = False
    undecided: bool = False
    backend: str = ""
    qubits: int = 0
    shots: int = 0
    stages: tuple[Stage, ...] = ()
    total_ms: float = 0.0


def check(request: ModerationRequest) -> None:
    """Raises ModerationError for an invalid request."""
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
    request: ModerationRequest,
    before: Sequence[DroneConflict],
    remaining: Sequence[DroneConflict],
    at_ends: bool,
    cut_short: bool,
    hold: tuple[KnotSequence, ...],
    why_not: str,
) -> ModerationResult:
    """The result without a solution: `hold` unless `why_not` says why it cannot be flown.

    Overlapping starts or goals (`at_ends`) are a proof of infeasibility, a search that found nothing is none:
    manoeuvres are a finite choice, and with `cut_short` not even all of them were tried.
    """
    if at_ends:
        what = "starts or goals are too close"
    elif not cut_short:
        what = "no combination of the manoeuvres tried is conflict-free, which does not show that none exists"
    else:
        limit = "the work budget" if request.offline else f"the deadline of {request.deadline_s:g} s"
        what = f"no conflict-free solution was found within {limit}, which does not show that none exists"
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
        undecided=not at_ends,
    )
