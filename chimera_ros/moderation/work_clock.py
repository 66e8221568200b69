"""Work clock of offline moderation: nominal seconds that only the work done advances.

A verdict under this clock depends neither on the speed nor on the load of the machine. The charges are about
the durations on an idle machine; their sum is bounded by the deadline of the request, plus one slice.
"""

from __future__ import annotations

from typing import Final

CANDIDATES_S: Final = 2e-3  # the candidates of one drone
SLICE_S: Final = 0.01  # of a solver; CP-SAT counts its work itself
PRIORITY_S: Final = 5e-3  # a batch of options of priority planning


class WorkClock:
    """Seconds charged so far."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        """The present time, s."""
        return self._now_s

    def charge(self, seconds: float) -> None:
        """Adds the nominal duration of a piece of work."""
        self._now_s += seconds
