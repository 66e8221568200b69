"""Anti-replay window of 1024 counters per epoch, sender and lane (RFC 4303, section 3.4.3)."""

from __future__ import annotations

from typing import Final

WINDOW: Final = 1024
_MASK: Final = (1 << WINDOW) - 1


class ReplayWindow:
    """Bitmap of the accepted ones among the last 1024 counters; counters start at 1."""

    __slots__ = ("_seen", "highest")

    def __init__(self) -> None:
        self.highest = 0
        self._seen = 0  # bit i: counter `highest - i` was accepted

    def fresh(self, counter: int) -> bool:
        """True if `counter` may still be accepted. Changes nothing."""
        ahead = counter - self.highest
        if ahead > 0:
            return True
        return counter > 0 and -ahead < WINDOW and not (self._seen >> -ahead) & 1

    def accept(self, counter: int) -> bool:
        """Marks `counter` as accepted; False, and nothing changes, if it is not fresh."""
        ahead = counter - self.highest
        if ahead > 0:
            self._seen = 1 if ahead >= WINDOW else ((self._seen << ahead) | 1) & _MASK
            self.highest = counter
            return True
        if counter <= 0 or -ahead >= WINDOW or (self._seen >> -ahead) & 1:
            return False
        self._seen |= 1 << -ahead
        return True
