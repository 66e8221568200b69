"""Hold: all drones brake on their paths, at once or later where that keeps them clear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array, MotionLimits, hermite

from .conflicts import Conflict, find_conflicts
from .manoeuvres import PLANNED, Candidate, MotionBounds
from .priority import Options, one_by_one
from .timing import at_rest, follow
from .tracks import Track

_STANDING_S = 1.0  # duration of the trajectory of a drone at rest
_PARTS = 8  # pieces of a braking trajectory
_STRETCH = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)  # of the shortest braking time that the limits allow


@dataclass(frozen=True, slots=True)
class HoldPlan:
    """A hold: tracks by drone, and the conflicts that remain (none: it may be commanded)."""

    tracks: tuple[Track, ...]
    conflicts: tuple[Conflict, ...]


def plan_hold(
    tracks: Sequence[Track], limits: Sequence[MotionLimits] | MotionLimits, separation: Separation
) -> HoldPlan:
    """Each drone brakes on its planned path as soon as its limits allow, or later to avoid conflicts.

    Drones at rest stay in place. The conflicts are those of the returned tracks.
    """
    options = []
    for i, track in enumerate(tracks):
        mine = limits if isinstance(limits, MotionLimits) else limits[i]
        stops = [standing(track)] if at_rest(track) else braking(track, mine)
        options.append(Options.of([Candidate(PLANNED, stop, stop.duration_s) for stop in stops]))
    chosen = None
    for attempt in one_by_one(options, separation, list(range(len(tracks)))):
        chosen = attempt.chosen
    best = tuple(c.track for c in chosen) if chosen else tuple(mine.track(0) for mine in options)
    return HoldPlan(best, tuple(find_conflicts(best, separation)))


def standing(track: Track) -> Track:
    """A track at rest at the first point."""
    states = np.zeros((2, 9))
    states[:, :3] = track.states[0, :3]
    times = np.array([0.0, _STANDING_S])
    return Track(times, states, track.yaws_rad[[0, 0]], hermite(times, states), track.start_s)


def braking(track: Track, limits: MotionLimits) -> list[Track]:
    """Braking tracks on the planned path, shortest first; the planned track if it ends earlier."""
    bounds = MotionBounds.of(track, limits)
    speed = float(np.sqrt((track.states[:, 3:6] ** 2).sum(1)).max())
    shortest = max(1.5 * speed / bounds.acceleration, float(np.sqrt(6.0 * speed / bounds.jerk)), 0.1)
    out = []
    for stretch in _STRETCH:
        length = shortest * stretch
        if length / 2.0 > track.duration_s:
            break
        stop = _stop(track, length)
        if float(bounds.excess(stop.coefficients[None], np.diff(stop.times_s)[None])[0]) <= 1.0 + 1e-6:
            out.append(stop)
    return out or [track]


def _stop(track: Track, length_s: float) -> Track:
    x = np.linspace(0.0, 1.0, _PARTS + 1)
    s, rate = length_s * (x - x**3 + 0.5 * x**4), 1.0 - 3.0 * x**2 + 2.0 * x**3
    states, yaws = follow(track, s, rate, -6.0 * x * (1.0 - x) / length_s)
    states[0] = track.states[0]
    times: Array = length_s * x
    return Track(times, states, yaws, hermite(times, states), track.start_s)
