"""Conflict-free moves of a swarm between two sets of positions, verified before they are returned.

In this order: synchronous straight lines; altitude layers (climb, cross, descend); via a flat grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
from numpy.typing import NDArray

from ..limits import Fence
from ..moderation_call import KnotSequence
from ..trajectory import Array, MotionLimits, curved_legs, joined, straight_legs
from .assignment import assign
from .formations import slots
from .separation import line_separations


class MoveInfeasible(ValueError):
    """No conflict-free move was found; the text says how close two drones come, `pair` are their rows."""

    def __init__(self, text: str, pair: tuple[int, int] | None = None) -> None:
        super().__init__(text)
        self.pair = pair


@dataclass(frozen=True, slots=True)
class MoveLimits:
    """Limits of a move: separations with margins, motion and geofence."""

    separation_m: float  # smallest planned distance, tracking margin included
    layer_m: float  # vertical spacing of altitude layers
    motion: MotionLimits
    fence: Fence


def smallest_line_separation(waypoints: Sequence[Array]) -> tuple[float, tuple[int, int]]:
    """The smallest distance on synchronous straight lines through waypoints, and between which rows."""
    best, pair = float("inf"), (0, 0)
    for start, goal in pairwise(waypoints):
        distances = line_separations(start, goal)
        index = int(distances.argmin())
        if distances.flat[index] < best:
            best, pair = float(distances.flat[index]), divmod(index, len(start))
    return best, pair


def move(starts: Array, goals: Array, limits: MoveLimits) -> list[KnotSequence]:
    """Drone i moves from row i of `starts` to row i of `goals` (N, 3). Raises MoveInfeasible."""
    tried = []
    waypoints = [starts, goals]
    best, pair = smallest_line_separation(waypoints)
    tried.append((best, pair))
    if best >= limits.separation_m:
        return _straight_paths(waypoints, limits)
    for candidate in (_layers(starts, goals, limits), _over_grid(starts, goals, limits)):
        if candidate is None:
            continue
        best, pair = smallest_line_separation(candidate)
        if best >= limits.separation_m and _inside_fence(candidate, limits):
            return _straight_paths(candidate, limits)
        tried.append((best, pair))
    best, pair = max(tried)
    raise MoveInfeasible(
        f"come within {best:.2f} m on the best move found; {limits.separation_m:.2f} m are required",
        pair,
    )


def move_any(starts: Array, targets: Array, limits: MoveLimits) -> tuple[list[KnotSequence], Array]:
    """Targets are assigned at the least total cost. Returns paths and goals by drone."""
    goals = assign(starts, targets)
    return move(starts, goals, limits), goals


def rotate(starts: Array, angle_rad: float, limits: MoveLimits) -> tuple[list[KnotSequence], Array]:
    """A rigid rotation about the centre (counter-clockwise), which keeps all distances."""
    return _spiral(starts, angle_rad, 1.0, limits)


def swap(starts: Array, layers: int, limits: MoveLimits) -> tuple[list[KnotSequence], Array]:
    """Each drone flies to the opposite side of the centre, neighbours in different altitude layers.

    Within a layer the formation rotates while it shrinks and grows, so distances scale by a known factor.
    """
    center = starts.mean(axis=0)
    offset = starts - center
    order = np.argsort(np.arctan2(offset[:, 1], offset[:, 0]), kind="stable")
    layer = np.empty(len(starts), dtype=int)
    layer[order] = np.arange(len(starts)) % layers
    used = int(layer.max()) + 1
    rise = _layer_heights(used, float(starts[:, 2].min()), limits, float(starts[:, 2].min()))
    if rise is None:
        raise MoveInfeasible(
            f"need {used} layers of {limits.layer_m:.1f} m, which do not fit below the fence's highest height"
        )
    lifted = starts.copy()
    lifted[:, 2] += (rise - float(starts[:, 2].min()))[layer]
    flat = np.hypot(*(offset[:, None, :2] - offset[None, :, :2]).transpose(2, 0, 1))
    same = (layer[:, None] == layer[None, :]) & ~np.eye(len(starts), dtype=bool)
    nearest = float(flat[same].min()) if same.any() else float("inf")
    shrink = min(1.0, max(0.2, 1.02 * limits.separation_m / max(nearest, 1e-6)))
    spiral, opposite = _spiral(lifted, pi, shrink, limits)
    goals = opposite.copy()
    goals[:, 2] = starts[:, 2]
    up = straight_legs(starts, lifted, limits.motion)
    down = straight_legs(opposite, goals, limits.motion)
    return [joined(parts) for parts in zip(up, spiral, down, strict=True)], goals


def _spiral(
    starts: Array, angle_rad: float, shrink: float, limits: MoveLimits
) -> tuple[list[KnotSequence], Array]:
    """Rotation by an angle while the formation shrinks to `shrink` at half way."""
    center = starts.mean(axis=0)
    x, y = (starts - center)[:, 0], (starts - center)[:, 1]

    def curve(s: Array) -> tuple[Array, Array, Array]:
        w, depth = angle_rad, 1.0 - shrink
        scale = (1.0 - depth * np.sin(pi * s) ** 2)[:, None]
        scale1 = (-depth * pi * np.sin(2 * pi * s))[:, None]
        scale2 = (-depth * 2 * pi**2 * np.cos(2 * pi * s))[:, None]
        c, n = np.cos(w * s)[:, None], np.sin(w * s)[:, None]
        east, north = c * x - n * y, n * x + c * y
        p = np.stack(
            [center[0] + scale * east, center[1] + scale * north, np.ones_like(scale) * starts[:, 2]], -1
        )
        nil = np.zeros_like(east)
        d1 = np.stack([scale1 * east - scale * w * north, scale1 * north + scale * w * east, nil], -1)
        d2 = np.stack(
            [
                scale2 * east - 2 * scale1 * w * north - scale * w**2 * east,
                scale2 * north + 2 * scale1 * w * east - scale * w**2 * north,
                nil,
            ],
            -1,
        )
        return p, d1, d2

    goals = curve(np.array([1.0]))[0][0]
    if float(np.linalg.norm(starts[:, :2] - center[:2], axis=1).max()) * abs(angle_rad) < 0.05:
        return [() for _ in starts], goals
    return [tuple(knots) for knots in curved_legs(curve, limits.motion)], goals


def _straight_paths(waypoints: Sequence[Array], limits: MoveLimits) -> list[KnotSequence]:
    parts = [straight_legs(a, b, limits.motion) for a, b in pairwise(waypoints)]
    return [joined(path) for path in zip(*parts, strict=True)]


def _inside_fence(waypoints: Sequence[Array], limits: MoveLimits) -> bool:
    points = np.vstack(list(waypoints[1:-1]))
    return limits.fence.worst(points) >= 0 and points[:, 2].max() <= limits.fence.max_height_m


def _layer_heights(count: int, level: float, limits: MoveLimits, lowest: float) -> Array | None:
    """Heights (count,) of layers, as close to `level` as fence and `lowest` allow, or None."""
    fence, span = limits.fence, (count - 1) * limits.layer_m
    floor, ceiling = max(fence.min_height_m + 0.5, min(lowest, level)), fence.max_height_m - 0.5
    if span > ceiling - floor:
        floor = fence.min_height_m + 0.5
        if span > ceiling - floor:
            return None
    base = max(floor, min(level, ceiling - span))
    heights: Array = base + limits.layer_m * np.arange(count, dtype=float)
    return heights


def _greedy_colouring(conflict: NDArray[np.bool_]) -> NDArray[np.int_]:
    """Greedy colouring of a conflict graph (N, N), largest saturation first (Brelaz, DSATUR)."""
    count = len(conflict)
    colour = np.full(count, -1)
    degree = conflict.sum(1)
    for _ in range(count):
        uncoloured = np.flatnonzero(colour < 0)
        seen = [len({int(c) for c in colour[conflict[i]] if c >= 0}) for i in uncoloured]
        chosen = uncoloured[
            max(range(len(uncoloured)), key=lambda k: (seen[k], degree[uncoloured[k]], -uncoloured[k]))
        ]
        taken = set(colour[conflict[chosen]].tolist())
        colour[chosen] = next(c for c in range(count) if c not in taken)
    return colour


def _layers(starts: Array, goals: Array, limits: MoveLimits) -> list[Array] | None:
    """Waypoints via altitude layers; drones whose horizontal paths conflict are in different layers."""
    flat_start, flat_goal = starts * (1, 1, 0), goals * (1, 1, 0)
    colour = _greedy_colouring(line_separations(flat_start, flat_goal) < limits.separation_m)
    used = int(colour.max()) + 1
    level = float(max(starts[:, 2].min(), goals[:, 2].min()))
    heights = _layer_heights(used, level, limits, level)
    if heights is None:
        return None
    # the lowest start takes the lowest layer, so that drones above one another keep their order
    mean = [starts[colour == c, 2].mean() for c in range(used)]
    rank = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
    z = heights[rank[colour]]
    lifted, crossed = starts.copy(), goals.copy()
    lifted[:, 2], crossed[:, 2] = z, z
    return [starts, lifted, crossed, goals]


def _over_grid(starts: Array, goals: Array, limits: MoveLimits) -> list[Array] | None:
    """Waypoints via a flat grid with assigned places, then altitude layers to the goals."""
    spacing = 1.5 * limits.separation_m
    center = (starts.mean(axis=0) + goals.mean(axis=0)) / 2
    center[2] = min(max(float(starts[:, 2].max()), float(goals[:, 2].max())), limits.fence.max_height_m - 0.5)
    grid = assign(starts, slots("grid", len(starts), spacing) + center)
    if smallest_line_separation([grid, goals])[0] >= limits.separation_m:
        return [starts, grid, goals]
    rest = _layers(grid, goals, limits)
    return None if rest is None else [starts, *rest]
