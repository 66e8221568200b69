"""What steps of the ladder took lately on this machine: whoever plans with a deadline must know."""

from __future__ import annotations

from typing import Final

_FORGETS: Final = 0.8  # a slow moment counts less with every later one


class StageDurations:
    """Fading maxima of seconds, by step and by size (in powers of two)."""

    def __init__(self) -> None:
        self._took_s: dict[tuple[str, int], float] = {}

    def took(self, step: str, size: int, seconds: float) -> None:
        """A step of this size took so long."""
        key = step, size.bit_length()
        self._took_s[key] = max(seconds, _FORGETS * self._took_s.get(key, 0.0))

    def skipped(self, step: str, size: int) -> None:
        """A step was left out for what it took before: it is not believed to be slow for ever."""
        if (step, size.bit_length()) in self._took_s:
            self.took(step, size, 0.0)

    def expected(self, step: str, size: int, otherwise: float = 0.0) -> float:
        """Seconds that a step of this size will take; `otherwise` where none was measured yet."""
        return self._took_s.get((step, size.bit_length()), otherwise)
