"""Warm-up before the first request: loads libraries and measures the stages of small scenes."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from chimera_ros.flight.moderation_call import ModerationRequest

from .cp_sat import load as load_cp_sat
from .ladder import Moderator
from .scenes import antipodal
from .solver import SolverUnavailable

_DRONES: Final = (5, 10)
_DEADLINE_S: Final = 1.0  # of each, mostly unused


def warm_up(moderator: Moderator | None = None) -> None:
    """Loads libraries; with a moderator, runs small scenes so that it knows its stages' durations."""
    with suppress(SolverUnavailable):
        load_cp_sat()
    if moderator is None:
        return
    for count in _DRONES:
        scene = antipodal(count, 1)
        names = tuple(map(str, range(count)))
        moderator.run(
            ModerationRequest(names, scene.knots, scene.separation, scene.limits, scene.fence, _DEADLINE_S)
        )
