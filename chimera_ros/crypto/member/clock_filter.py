"""Clock filter: offset to the crypto node from four-timestamp exchanges (RFC 5905, sections 8 and 10).

A delayed answer makes an exchange worse, never wrong: the true offset is within half the round trip of the
measured one, whichever way was delayed. So the best exchange stays until a better one comes; only one that
contradicts it (a clock was set) replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DRIFT: Final = 50e-6  # s/s, assumed bound of a quartz against another
_SLACK_S: Final = 2e-4  # error of the time stamps themselves
_NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Sample:
    offset_s: float
    delay_s: float
    at: float


class ClockFilter:
    """Keeps the best `window` exchanges and uses the one whose error is smallest now.

    Offsets are server minus own clock, in seconds: add `offset_s` to the own clock to get the server's.
    """

    def __init__(self, window: int = 8, max_delay_s: float = 1.0) -> None:
        self._samples: list[_Sample] = []
        self._window = window
        self._max_delay_s = max_delay_s
        self._now = 0.0

    def add(self, t1_ns: int, t2_ns: int, t3_ns: int, t4_ns: int, now: float) -> bool:
        """One exchange: own send, server receive, server send, own receive. False if it is implausible."""
        delay_s = ((t4_ns - t1_ns) - (t3_ns - t2_ns)) * _NS
        self._now = max(self._now, now)
        if t4_ns < t1_ns or t3_ns < t2_ns or delay_s < -1e-4 or delay_s > self._max_delay_s:
            return False
        offset_s = ((t2_ns - t1_ns) + (t3_ns - t4_ns)) * 0.5 * _NS
        new = _Sample(offset_s, max(delay_s, 0.0), now)
        if any(
            abs(new.offset_s - old.offset_s) > self._error_s(new) + self._error_s(old) + _SLACK_S
            for old in self._samples
        ):
            self._samples.clear()  # they contradict: one of the clocks was set since
        self._samples.append(new)
        if len(self._samples) > self._window:
            self._samples.remove(max(self._samples, key=self._error_s))
        return True

    def _error_s(self, sample: _Sample) -> float:
        return sample.delay_s / 2 + DRIFT * (self._now - sample.at)

    def _best(self) -> _Sample | None:
        return min(self._samples, key=self._error_s, default=None)

    @property
    def samples(self) -> int:
        """Number of exchanges held."""
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
        return self._error_s(best) if best else float("inf")

    def synchronised(self, limit_s: float = 0.02, now: float | None = None) -> bool:
        """True if the offset is known to within `limit_s` seconds."""
        if now is not None:
            self._now = max(self._now, now)
        return self.error_s <= limit_s
