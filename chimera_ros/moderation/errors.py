"""Error of a request that cannot be moderated: a reason for counters, a sentence for people."""

from __future__ import annotations

from enum import StrEnum


class ModerationReason(StrEnum):
    """Why a request is invalid."""

    NOT_FINITE = "not_finite"  # NaN or infinity
    BAD_KNOTS = "bad_knots"  # a single knot, times that do not rise, too many knots
    BAD_LIMITS = "bad_limits"
    OUTSIDE_FENCE = "outside_fence"  # start, goal or planned trajectory
    TOO_MANY = "too_many"  # drones, candidates or choices
    NO_DRONES = "no_drones"


class ModerationError(ValueError):
    """An invalid request. `reason` is for counters; the text is one sentence."""

    def __init__(self, reason: ModerationReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
