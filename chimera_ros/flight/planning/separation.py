"""Separation between drones: exact on synchronous straight lines, a lower bound on any paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from ..trajectory import Array, Path

_CHUNK = 1_500_000  # pair-intervals held in memory at once


@dataclass(frozen=True, slots=True)
class ClosestApproach:
    """Closest approach of two paths: a lower bound in metres, their rows, and the time (s)."""

    distance_m: float
    first: int
    second: int
    t_s: float


NO_PAIR = ClosestApproach(inf, -1, -1, 0.0)


def line_separations(starts: Array, goals: Array) -> Array:
    """Exact smallest distances (N, N) on synchronous straight lines; the diagonal is infinite.

    The relative position is linear in the common path parameter s, so the closest approach is the foot of a
    perpendicular, clamped to [0, 1].
    """
    d0 = starts[:, None, :] - starts[None, :, :]
    step = (goals[:, None, :] - goals[None, :, :]) - d0
    square = (step**2).sum(-1)
    foot = np.where(square > 1e-12, -(d0 * step).sum(-1) / np.where(square > 1e-12, square, 1.0), 0.0)
    near = d0 + np.clip(foot, 0.0, 1.0)[..., None] * step
    out: Array = np.sqrt((near**2).sum(-1))
    np.fill_diagonal(out, inf)
    return out


def nearest_pair(points: Array) -> ClosestApproach:
    """The closest two of points (N, 3)."""
    if len(points) < 2:
        return NO_PAIR
    distances = line_separations(points, points)
    first, second = divmod(int(distances.argmin()), len(points))
    return ClosestApproach(float(distances[first, second]), first, second, 0.0)


def smallest_separation(paths: Sequence[Path], step_s: float = 0.1) -> ClosestApproach:
    """A lower bound of the smallest distance between any two paths with a common start time.

    Each interval of `step_s` is replaced by its chord, on which the closest approach has a closed form;
    between samples a relative path leaves its chord by at most h^2/8 times the relative acceleration, which
    is subtracted. After its end a path stays at its last point.
    """
    count = len(paths)
    if count < 2:
        return NO_PAIR
    duration = max(path.duration_s for path in paths)
    times = np.linspace(0.0, duration, max(2, int(np.ceil(duration / step_s)) + 1))
    points = np.stack([path.sample(times) for path in paths], axis=1)  # (T, N, 3)
    slack = np.array([path.bounds().acceleration_m_s2 for path in paths]) * (times[1] - times[0]) ** 2 / 8.0
    rows, columns = np.triu_indices(count, 1)
    margin = slack[rows] + slack[columns]
    best = NO_PAIR
    block = max(1, _CHUNK // len(rows))
    for low in range(0, len(times) - 1, block):
        part = points[low : low + block + 1]
        d = part[:, rows] - part[:, columns]
        d0, step = d[:-1], d[1:] - d[:-1]
        square = np.einsum("tpx,tpx->tp", step, step)
        foot = -np.einsum("tpx,tpx->tp", d0, step) / np.maximum(square, 1e-12)
        near = d0 + np.clip(foot, 0.0, 1.0)[..., None] * step
        distance = np.sqrt(np.einsum("tpx,tpx->tp", near, near)) - margin
        index = int(distance.argmin())
        when, pair = divmod(index, len(rows))
        if distance[when, pair] < best.distance_m:
            at = float(times[low + when])
            best = ClosestApproach(float(distance[when, pair]), int(rows[pair]), int(columns[pair]), at)
    return best
