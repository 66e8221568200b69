"""Token buckets that bound the work which unauthenticated input can cause."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Final

_SET_BACK_S: Final = 1.0  # times of threads may differ by this; a clock further back was set


class TokenBucket:
    """Token bucket with `rate_per_s` tokens per second and a capacity of `burst`.

    Times are seconds, preferably monotonic; a clock that was set back adds no tokens until it advances again.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate_per_s: float, burst: float | None = None) -> None:
        self._rate = rate_per_s
        self._burst = burst if burst is not None else rate_per_s
        self._level = self._burst
        self._at: float | None = None

    def holds(self, now: float) -> bool:
        """True if the bucket holds a token."""
        taken = self.take(now)
        self._level += taken
        return taken

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Takes `cost` tokens; False, and none is taken, if there are fewer."""
        if self._at is not None and now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        if self._at is None or now > self._at or now < self._at - _SET_BACK_S:
            self._at = now
        if self._level < cost:
            return False
        self._level -= cost
        return True


class RateLimiter:
    """A token bucket shared by all purposes, and a small reserved one for each.

    A flood of one kind of message empties the shared bucket; the other kinds still have their reserve.
    """

    __slots__ = ("_reserves", "_shared")

    def __init__(self, rate_per_s: float, purposes: Iterable[Hashable], share: float = 0.02) -> None:
        """`share`: each reserve's part of `rate_per_s`, which is the rate of all together."""
        reserve = rate_per_s * share
        self._reserves = {purpose: TokenBucket(reserve, max(reserve, 1.0)) for purpose in purposes}
        self._shared = TokenBucket(rate_per_s - reserve * len(self._reserves))

    def take(self, purpose: Hashable, now: float) -> bool:
        """Takes a token from the shared bucket or the purpose's reserve; False if both are empty."""
        return self._shared.take(now) or self._reserves[purpose].take(now)
