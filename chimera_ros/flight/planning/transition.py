"""Moves of a whole swarm from one set of places to another without coming too near, verified before it is
returned.

Tried in this order: straight synchronous lines; altitude layers (climb, cross, descend); by way of a flat
grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
from numpy.typing import NDArray

from ..limits import Fence
from ..messages import TrajectoryKnot
from ..trajectory import Array, MotionLimits, curved_legs, joined, straight_legs
from .assignment import assign
from .formations import slots
from .separation import line_separations

Legs = list[tuple[TrajectoryKnot, ...]]  # one knot list per drone; empty lists when nobody moves


class MoveInfeasible(ValueError):
    """No conflict-free way was found; the text says between whom and how near. `pair` are two rows."""

    def __init__(self, text: str, pair: tuple[int, int] | None = None) -> None:
        super().__init__(text)
        self.pair = pair


@dataclass(frozen=True, slots=True)
class MoveConstraints:
    """What a move must respect: wanted centre distance, its part of margin, motion limits and the fence."""

    separation_m: float  # planned smallest distance, tracking margin included
    layer_m: float  # vertical distance of altitude layers
    limits: MotionLimits
    fence: Fence


def smallest_line_separation(stops: Sequence[Array], room: MoveConstraints) -> tuple[float, tuple[int, int]]:
    """The smallest separation over synchronous straight legs through the stops, and between which rows."""
    best, pair = float("inf"), (0, 0)
    for start, goal in pairwise(stops):
        distances = line_separations(start, goal)
        index = int(distances.argmin())
        if distances.flat[index] < best:
            best, pair = float(distances.flat[index]), divmod(index, len(start))
    return best, pair


def move(starts: Array, goals: Array, room: MoveConstraints) -> Legs:
    """Fixed goals: drone i flies from row i of `starts` to row i of `goals` (N, 3). Raises Infeasible."""
    tried = []
    stops = [starts, goals]
    best, pair = smallest_line_separation(stops, room)
    tried.append((best, pair))
    if best >= room.separation_m:
        return _straight_paths(stops, room)
    for candidate in (_layers(starts, goals, room), _over_grid(starts, goals, room)):
        if candidate is None:
            continue
        best, pair = smallest_line_separation(candidate, room)
        if best >= room.separation_m and _inside_fence(candidate, room):
            return _straight_paths(candidate, room)
        tried.append((best, pair))
    best, pair = max(tried)
    raise MoveInfeasible(
        f"come within {best:.2f} m on the best way found, {room.separation_m:.2f} m are needed", pair
    )


def move_any(starts: Array, targets: Array, room: MoveConstraints) -> tuple[Legs, Array]:
    """Free goals: each drone gets the target that costs least in sum. Returns the legs and the goals by
    drone.
    """
    goals = assign(starts, targets)
    return move(starts, goals, room), goals


def rotate(starts: Array, angle_rad: float, room: MoveConstraints) -> tuple[Legs, Array]:
    """The whole formation turns rigidly about its centre (counter-clockwise): distances stay as they are."""
    return _spiral(starts, angle_rad, 1.0, room)


def swap(starts: Array, layers: int, room: MoveConstraints) -> tuple[Legs, Array]:
    """Each drone goes to the opposite side: layers by turns, each layer spirals inwards, around and out
    again.

    Inside a layer the figure only turns and shrinks, so distances scale by one known factor.
    """
    center = starts.mean(axis=0)
    offset = starts - center
    order = np.argsort(np.arctan2(offset[:, 1], offset[:, 0]), kind="stable")
    layer = np.empty(len(starts), dtype=int)
    layer[order] = np.arange(len(starts)) % layers
    used = int(layer.max()) + 1
    rise = _layer_heights(used, float(starts[:, 2].min()), room, float(starts[:, 2].min()))
    if rise is None:
        raise MoveInfeasible(
            f"need {used} layers of {room.layer_m:.1f} m, which do not fit below the fence's highest height"
        )
    lifted = starts.copy()
    lifted[:, 2] += (rise - float(starts[:, 2].min()))[layer]
    flat = np.hypot(*(offset[:, None, :2] - offset[None, :, :2]).transpose(2, 0, 1))
    same = (layer[:, None] == layer[None, :]) & ~np.eye(len(starts), dtype=bool)
    nearest = float(flat[same].min()) if same.any() else float("inf")
    shrink = min(1.0, max(0.2, 1.02 * room.separation_m / max(nearest, 1e-6)))
    spiral, opposite = _spiral(lifted, pi, shrink, room)
    goals = opposite.copy()
    goals[:, 2] = starts[:, 2]
    up, down = straight_legs(starts, lifted, room.limits), straight_legs(opposite, goals, room.limits)
    return [joined(parts) for parts in zip(up, spiral, down, strict=True)], goals


def _spiral(starts: Array, angle_rad: float, shrink: float, room: MoveConstraints) -> tuple[Legs, Array]:
    """Turn by an angle while the horizontal figure shrinks to `shrink` at half way."""
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
    return [tuple(knots) for knots in curved_legs(curve, room.limits)], goals


def _straight_paths(stops: Sequence[Array], room: MoveConstraints) -> Legs:
    parts = [straight_legs(a, b, room.limits) for a, b in pairwise(stops)]
    return [joined(mine) for mine in zip(*parts, strict=True)]


def _inside_fence(stops: Sequence[Array], room: MoveConstraints) -> bool:
    points = np.vstack(list(stops[1:-1]))
    return room.fence.worst(points) >= 0 and points[:, 2].max() <= room.fence.max_height_m


def _layer_heights(count: int, level: float, room: MoveConstraints, lowest: float) -> Array | None:
    """Heights (count,) of layers, as near to `level` as fence and `lowest` allow; None if they do not fit."""
    floor, ceiling = max(room.fence.min_height_m + 0.5, min(lowest, level)), room.fence.max_height_m - 0.5
    if (count - 1) * room.layer_m > ceiling - floor:
        floor = room.fence.min_height_m + 0.5
        if (count - 1) * room.layer_m > ceiling - floor:
            return None
    base = max(floor, min(level, ceiling - (count - 1) * room.layer_m))
    heights: Array = base + room.layer_m * np.arange(count, dtype=float)
    return heights


def _greedy_colouring(conflict: NDArray[np.bool_]) -> NDArray[np.int_]:
    """A greedy colouring (largest saturation first, Brelaz) of a conflict graph (N, N) of booleans."""
    count = len(conflict)
    colour = np.full(count, -1)
    degree = conflict.sum(1)
    for _ in range(count):
        open_ = np.flatnonzero(colour < 0)
        seen = [len({int(c) for c in colour[conflict[i]] if c >= 0}) for i in open_]
        chosen = open_[max(range(len(open_)), key=lambda k: (seen[k], degree[open_[k]], -open_[k]))]
        taken = set(colour[conflict[chosen]].tolist())
        colour[chosen] = next(c for c in range(count) if c not in taken)
    return colour


def _layers(starts: Array, goals: Array, room: MoveConstraints) -> list[Array] | None:
    """Climb to layers, cross, descend; drones that would meet horizontally are in different layers."""
    flat_start, flat_goal = starts * (1, 1, 0), goals * (1, 1, 0)
    colour = _greedy_colouring(line_separations(flat_start, flat_goal) < room.separation_m)
    used = int(colour.max()) + 1
    level = float(max(starts[:, 2].min(), goals[:, 2].min()))
    heights = _layer_heights(used, level, room, level)
    if heights is None:
        return None
    # the lowest start takes the lowest layer, so that drones standing above one another keep their order
    mean = [starts[colour == c, 2].mean() for c in range(used)]
    rank = np.argsort(np.argsort(mean, kind="stable"), kind="stable")
    z = heights[rank[colour]]
    lifted, crossed = starts.copy(), goals.copy()
    lifted[:, 2], crossed[:, 2] = z, z
    return [starts, lifted, crossed, goals]


def _over_grid(starts: Array, goals: Array, room: MoveConstraints) -> list[Array] | None:
    """First a flat grid where everyone has the nearest place, then layers to the goals."""
    spacing = 1.5 * room.separation_m
    center = (starts.mean(axis=0) + goals.mean(axis=0)) / 2
    center[2] = min(max(float(starts[:, 2].max()), float(goals[:, 2].max())), room.fence.max_height_m - 0.5)
    grid = assign(starts, slots("grid", len(starts), spacing) + center)
    if smallest_line_separation([grid, goals], room)[0] >= room.separation_m:
        return [starts, grid, goals]
    rest = _layers(grid, goals, room)
    return None if rest is None else [starts, *rest]
