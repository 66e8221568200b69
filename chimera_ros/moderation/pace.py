"""Recent durations of stages on this machine, to predict whether another one ends before a deadline."""

from __future__ import annotations

from typing import Final

_DECAY: Final = 0.8  # of a maximum with every later measurement


class StageDurations:
    """Decaying maxima of seconds, by step and size (in powers of two)."""

    def __init__(self) -> None:
        self._max_s: dict[tuple[str, int], float] = {}

    def record(self, step: str, size: int, seconds: float) -> None:
        """Adds the duration of a step of this size."""
        key = step, size.bit_length()
        self._max_s[key] = max(seconds, _DECAY * self._max_s.get(key, 0.0))

    def decay(self, step: str, size: int) -> None:
        """Lowers the maximum of a step that was skipped, so that it is tried again."""
        if (step, size.bit_length()) in self._max_s:
            self.record(step, size, 0.0)

    def expected(self, step: str, size: int, otherwise: float = 0.0) -> float:
        """Expected seconds of a step of this size; `otherwise` if none was measured yet."""
        return self._max_s.get((step, size.bit_length()), otherwise)
