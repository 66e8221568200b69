"""Token buckets: every piece of work that a stranger can cause is paid from one."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

_BACK_S: Final = 1.0  # threads may be that far apart; a clock that goes back further was set


class TokenBucket:
    """`rate_per_s` pieces of work per second, at most `burst` at once. Times are seconds, monotonic where
    there is a choice; a clock that was set back pays nothing out, and counts from there on.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate_per_s: float, burst: float | None = None) -> None:
        self._rate = rate_per_s
        self._burst = burst if burst is not None else rate_per_s
        self._level = self._burst
        self._at: float | None = None

    def holds(self, now: float) -> bool:
        """Would `take` say yes? Uses nothing up."""
        found = self.take(now)
        self._level += found
        return found

    def take(self, now: float, cost: float = 1.0) -> bool:
        """True, and `cost` pieces are used up, when the budget allows it."""
        if self._at is not None and now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        if self._at is None or now > self._at or now < self._at - _BACK_S:
            self._at = now
        if self._level < cost:
            return False
        self._level -= cost
        return True


class RateLimiter:
    """One budget for everything, and a small reserve for each purpose that only it may use.

    So a flood of one kind of message uses up what is shared, and the other kinds still get through.
    """

    __slots__ = ("_reserves", "_shared")

    def __init__(self, rate_per_s: float, purposes: Iterable[Hashable], share: float = 0.02) -> None:
        """`share`: each reserve's part of `rate_per_s`, which is the rate of all together."""
        reserve = rate_per_s * share
        self._reserves = {purpose: TokenBucket(reserve, max(reserve, 1.0)) for purpose in purposes}
        self._shared = TokenBucket(rate_per_s - reserve * len(self._reserves))

    def take(self, purpose: Hashable, now: float) -> bool:
        """True, and one piece is used up, when the shared budget or the purpose's own reserve allows it."""
        return self._shared.take(now) or self._reserves[purpose].take(now)
