"""Clock offset to the crypto node from four-timestamp exchanges (RFC 5905, sections 8 and 10)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

DRIFT: Final = 50e-6  # s/s, assumed bound of a quartz against another
_NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Sample:
    offset_s: float
    delay_s: float
    at: float


class ClockFilter:
    """Keeps the last `window` exchanges and trusts the one with the smallest delay.

    Offsets are server minus own clock, in seconds: add `offset_s` to the own clock to get the server's.
    """

    def __init__(self, window: int = 8, max_delay_s: float = 1.0, max_age_s: float = 120.0) -> None:
        self._samples: deque[_Sample] = deque(maxlen=window)
        self._max_delay_s = max_delay_s
        self._max_age_s = max_age_s
        self._now = 0.0

    def add(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int, now: float) -> bool:
        """One exchange: own send, server receive, server send, own receive. False when it makes no sense."""
        delay_s = ((t4_ns - t1_ns) - (t3_ns - t2_ns)) * _NS
        self._now = max(self._now, now)
        if t4_ns < t1_ns or t3_ns < t2_ns or delay_s < -1e-4 or delay_s > self._max_delay_s:
            return False
        offset_s = ((t2_ns - t1_ns) + (t3_ns - t4_ns)) * 0.5 * _NS
        self._samples.append(_Sample(offset_s, max(delay_s, 0.0), now))
        return True

    def _best(self) -> _Sample | None:
        usable = [sample for sample in self._samples if self._now - sample.at <= self._max_age_s]
        return min(
            usable, key=lambda sample: sample.delay_s / 2 + DRIFT * (self._now - sample.at), default=None
        )

    @property
    def samples(self) -> int:
        """How many exchanges the filter holds."""
        return len(self._samples)

    @property
    def offset_s(self) -> float:
        """Server minus own clock, s; 0 before the first exchange."""
        best = self._best()
        return best.offset_s if best else 0.0

    @property
    def error_s(self) -> float:
        """Largest error that the offset can have, s (half the round trip plus drift); infinite before the
        first.
        """
        best = self._best()
        return best.delay_s / 2 + DRIFT * (self._now - best.at) if best else float("inf")

    def synchronised(self, limit_s: float = 0.02, now: float | None = None) -> bool:
        """True when the offset is known to within `limit_s` seconds."""
        if now is not None:
            self._now = max(self._now, now)
        return self.error_s <= limit_s
