"""Verification of results: the knots themselves are checked, independently of how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.spatial import cKDTree

from chimera_ros.flight.moderation_call import KnotSequence, ModerationRequest
from chimera_ros.flight.trajectory import Path

from .conflicts import Conflict, find_conflicts
from .hold import braking, plan_hold, standing
from .request import DroneConflict
from .timing import at_rest
from .tracks import Track, TrackTable, compiled
from .verify import path_conflicts, verify

_OUTSIDE_M = 0.05
_SAMPLED_FROM, _SAMPLE = 200, 100  # drones
_CONFLICT_S = 6e-5  # duration of the detection of one conflict
_INDEPENDENT_UP_TO = 100  # drones; above, the independent verification takes too long: detection is used


def tracks_of(request: ModerationRequest, knots: Sequence[KnotSequence]) -> list[Track]:
    """Tracks of knots. Raises ModerationError, which names the drone."""
    return [Track.of_knots(found, 0.0, name) for name, found in zip(request.drones, knots, strict=True)]


def drone_conflicts(request: ModerationRequest, found: Sequence[Conflict]) -> tuple[DroneConflict, ...]:
    """Conflicts with the names of the drones, the closest first."""
    return tuple(
        DroneConflict(request.drones[c.first], request.drones[c.second], c.t_s, c.horizontal_m, c.vertical_m)
        for c in sorted(found, key=lambda c: c.ratio)
    )


def conflicts_of(request: ModerationRequest, knots: Sequence[KnotSequence]) -> list[Conflict]:
    """Conflicts between knots. Raises ModerationError."""
    return find_conflicts(TrackTable(tracks_of(request, knots)), request.separation)


def first_conflicts(
    request: ModerationRequest, tracks: Sequence[Track], limit_s: float
) -> tuple[list[Conflict], bool]:
    """The conflicts of a request, and True if the search was complete.

    A large swarm is sampled first. If the full search would take longer than `limit_s`, the conflicts of the
    sample are returned: no stage could resolve them in time either.
    """
    if len(tracks) > _SAMPLED_FROM:
        sample = np.linspace(0, len(tracks) - 1, _SAMPLE).astype(int).tolist()
        found = find_conflicts(TrackTable([tracks[i] for i in sample]), request.separation)
        if _CONFLICT_S * len(found) * (len(tracks) / _SAMPLE) ** 2 > limit_s or limit_s <= 0.0:
            named = [replace(c, first=sample[c.first], second=sample[c.second]) for c in found]
            return named, False
    return find_conflicts(TrackTable(tracks), request.separation), True


def endpoint_conflicts(request: ModerationRequest, tracks: Sequence[Track]) -> tuple[DroneConflict, ...]:
    """Pairs whose starts or goals conflict, which no path can resolve."""
    scale, norm = request.separation.scale, request.separation.required_norm()
    end_s = max(track.end_s for track in tracks)
    found = []
    for points, t_s in (
        (np.array([k[0].position_enu_m for k in request.knots]), 0.0),
        (np.array([k[-1].position_enu_m for k in request.knots]), end_s),
    ):
        pairs = cKDTree(points / scale).query_pairs(norm * (1.0 - 1e-9), output_type="ndarray")
        for i, j in pairs.tolist():
            d = points[i] - points[j]
            names = request.drones[i], request.drones[j]
            found.append(DroneConflict(*names, t_s, float(np.hypot(d[0], d[1])), float(abs(d[2]))))
    return tuple(sorted(found, key=lambda c: (c.t_s, c.horizontal_m)))


def result_fault(request: ModerationRequest, knots: Sequence[KnotSequence]) -> str:
    """Why a result is refused; empty if it is not: ends, limits, fence, then every pair."""
    for name, planned, found in zip(request.drones, request.knots, knots, strict=True):
        if found is not planned:
            verification = verify([found], request.separation, [planned], request.limits, request.fence)
            if verification.reasons:
                return f"{name}: {verification.reasons[0]}"
    return _pairs(request, knots)


def _pairs(request: ModerationRequest, knots: Sequence[KnotSequence]) -> str:
    if len(knots) > _INDEPENDENT_UP_TO:
        left = conflicts_of(request, knots)
    else:
        paths = [compiled(found, name) for name, found in zip(request.drones, knots, strict=True)]
        left = path_conflicts(paths, request.separation)
    return drone_conflicts(request, left)[0].sentence() if left else ""


def hold_knots(request: ModerationRequest, tracks: Sequence[Track]) -> tuple[KnotSequence, ...]:
    """Knots of a hold: all drones brake, at once or later to avoid conflicts. They are not verified."""
    if all(at_rest(track) for track in tracks):
        return tuple(standing(track).knots() for track in tracks)
    if len(tracks) <= _INDEPENDENT_UP_TO:
        return tuple(track.knots() for track in plan_hold(tracks, request.limits, request.separation).tracks)
    return tuple(
        (standing(track) if at_rest(track) else braking(track, request.limits)[0]).knots() for track in tracks
    )


def hold_fault(request: ModerationRequest, knots: Sequence[KnotSequence]) -> str:
    """Why a hold is refused (fence, a conflict); empty if it is not."""
    fence = request.fence
    if fence is not None:
        for name, planned, found in zip(request.drones, request.knots, knots, strict=True):
            # a hold stays on the requested path, except for the rounding of its knots
            if (
                fence.worst(compiled(found, name).hull())
                < min(0.0, fence.worst(Path(planned).hull())) - _OUTSIDE_M
            ):
                return f"{name} would stop outside the fence"
    return _pairs(request, knots)
