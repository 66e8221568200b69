"""Warm-up before the first request: loads solvers and measures the stages of small scenes."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from chimera_ros.flight.moderation_call import ModerationRequest

from .cp_sat import load as load_cp_sat
from .for_flight import local_moderate
from .ladder import Clock, Moderator
from .scenes import antipodal
from .solver import SolverUnavailable

_DRONES: Final = (5, 10)
_DEADLINE_S: Final = 1.0  # of each, mostly unused


def warm_up(moderator: Moderator) -> None:
    """Loads libraries and runs small scenes, so that the moderator knows its stages' durations."""
    with suppress(SolverUnavailable):
        load_cp_sat()
    for count in _DRONES:
        moderator.run(_request(count))


def load_solvers(clock: Clock) -> None:
    """Loads libraries and solves one small scene, for `local_moderate` in flight."""
    with suppress(SolverUnavailable):
        load_cp_sat()
    local_moderate(clock)(_request(_DRONES[-1]))


def _request(count: int) -> ModerationRequest:
    scene = antipodal(count, 1)
    names = tuple(map(str, range(count)))
    return ModerationRequest(names, scene.knots, scene.separation, scene.limits, scene.fence, _DEADLINE_S)
