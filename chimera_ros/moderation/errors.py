"""Why trajectories cannot be moderated: one class, a reason for counters and one sentence for people."""

from __future__ import annotations

from enum import StrEnum


class ModerationReason(StrEnum):
    """What was wrong with a request."""

    NOT_FINITE = "not_finite"  # NaN or infinity
    BAD_KNOTS = "bad_knots"  # a single point, times running backwards, too many knots
    BAD_LIMITS = "bad_limits"
    OUTSIDE_FENCE = "outside_fence"  # start, goal or the planned way itself
    TOO_MANY = "too_many"  # drones, candidates or choices
    NO_DRONES = "no_drones"


class ModerationError(ValueError):
    """A request that no plan can answer. `reason` is for counters; the text is one sentence."""

    def __init__(self, reason: ModerationReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
