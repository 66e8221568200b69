"""Token buckets: every piece of work that a stranger can cause is paid from one."""

from __future__ import annotations


class Budget:
    """`rate_per_s` pieces of work per second, at most `burst` at once. Times are monotonic seconds."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate_per_s: float, burst: float | None = None) -> None:
        self._rate = rate_per_s
        self._burst = burst if burst is not None else rate_per_s
        self._level = self._burst
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """True, and one piece is used up, when the budget allows it."""
        if self._at is not None and now > self._at:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        if self._at is None or now > self._at:
            self._at = now
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True
