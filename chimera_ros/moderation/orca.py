"""Reactive avoidance without planning (ORCA), for comparison only; never flown.

Optimal reciprocal collision avoidance: van den Berg, Guy, Lin, Manocha, ISRR 2011. The half planes are
those of the paper; the velocity is chosen from a polar grid instead of by a linear program. Avoidance is only
horizontal; acceleration is not limited, which favours ORCA in the comparison. Frame: ENU, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array

_RADII, _ANGLES = 8, 32
_NEAR_GOAL_M = 0.5


@dataclass(frozen=True, slots=True)
class AvoidanceResult:
    """Outcome of a flight with ORCA: least clearance, a norm in the separation ellipsoid (below 1 is a
    conflict), conflicting pairs, extra path and delay summed over all drones, number of arrivals.
    """

    clearance: float
    conflicts: int
    extra_m: float
    late_s: float
    arrived: int


def fly(
    knots: Sequence[Sequence[TrajectoryKnot]],
    separation: Separation,
    *,
    horizon_s: float = 4.0,
    step_s: float = 0.1,
    duration_factor: float = 2.0,
    fastest_m_s: float = 12.0,
    seed: int = 0,
) -> AvoidanceResult:
    """Simulates a flight from first to last knots (ENU m), for `duration_factor` longest plans at most."""
    rng = np.random.default_rng(seed)
    place = np.array([mine[0].position_enu_m for mine in knots])
    goal = np.array([mine[-1].position_enu_m for mine in knots])
    planned_s = np.array([mine[-1].t_s for mine in knots])
    length = np.hypot(*(goal - place)[:, :2].T)
    speed = np.minimum(length / planned_s, fastest_m_s)
    rise = (goal - place)[:, 2] / np.maximum(length, 1e-9)
    start_z = place[:, 2].copy()
    count = len(knots)
    velocity = np.zeros((count, 2))
    radius = np.linspace(0.0, fastest_m_s, _RADII + 1)[1:]
    angle = 2 * np.pi * np.arange(_ANGLES) / _ANGLES
    disc = (radius[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)).reshape(-1, 2)
    arrived_s = np.full(count, np.inf)
    flown_m = np.zeros(count)
    clearance = np.full((count, count), np.inf)
    scale = np.array([separation.horizontal_m, separation.horizontal_m, separation.vertical_m])
    end_s = duration_factor * float(planned_s.max())
    for tick in range(int(end_s / step_s)):
        remaining = (goal - place)[:, :2]
        left = np.hypot(*remaining.T)
        arrived_s = np.where((left < _NEAR_GOAL_M) & np.isinf(arrived_s), tick * step_s, arrived_s)
        if np.isfinite(arrived_s).all():
            break
        wanted = remaining / np.maximum(left, 1e-9)[:, None] * np.minimum(speed, left / step_s)[:, None]
        wanted += rng.normal(0.0, 0.01, wanted.shape)  # breaks exact symmetry
        options = np.concatenate([np.broadcast_to(disc, (count, *disc.shape)), wanted[:, None]], axis=1)
        options = np.concatenate([options, np.zeros((count, 1, 2))], axis=1)
        point, normal, active = half_planes(place, velocity, separation, horizon_s, step_s)
        inside = np.einsum("ivx,ijx->ivj", options, normal) - (point * normal).sum(-1)[:, None, :]
        missing = np.where(active[:, None, :], np.maximum(-inside, 0.0), 0.0).max(2)
        off = np.hypot(*np.moveaxis(options - wanted[:, None], -1, 0))
        best = np.where(missing > 1e-9, 1e3 * (1.0 + missing), off).argmin(1)
        velocity = options[np.arange(count), best]
        before = place.copy()
        place[:, :2] += velocity * step_s
        flown_m += np.hypot(*(velocity * step_s).T)
        done = 1.0 - np.minimum(np.hypot(*(goal - place)[:, :2].T) / np.maximum(length, 1e-9), 1.0)
        place[:, 2] = start_z + rise * length * done
        clearance = np.minimum(clearance, _closest(before / scale, place / scale))
    pairs = clearance[np.triu_indices(count, 1)]
    late = np.minimum(arrived_s, end_s) - planned_s
    return AvoidanceResult(
        float(pairs.min(initial=np.inf)),
        int((pairs < 1.0).sum()),
        float(np.maximum(flown_m - length, 0.0).sum()),
        float(np.maximum(late, 0.0).sum()),
        int(np.isfinite(arrived_s).sum()),
    )


def half_planes(
    place: Array, velocity: Array, separation: Separation, horizon_s: float, step_s: float
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Half planes of velocities (ENU m/s) that neighbours permit: points, normals (n, n, 2), active (n, n).

    `active` is True where the half plane applies, that is for neighbours within the vertical separation.
    """
    p = (place[None, :] - place[:, None])[..., :2]
    v = velocity[:, None] - velocity[None, :]
    gap = np.maximum((p**2).sum(-1), 1e-9)
    radius = separation.horizontal_m
    touching = gap <= radius * radius
    horizon = np.where(touching, step_s, horizon_s)
    w = v - p / horizon[..., None]
    size = np.maximum(np.hypot(*np.moveaxis(w, -1, 0)), 1e-9)
    along = (w * p).sum(-1)
    cutoff = touching | ((along < 0.0) & (along**2 > radius**2 * size**2))
    unit = w / size[..., None]
    leg = np.sqrt(np.maximum(gap - radius**2, 0.0))
    left = p[..., 0] * w[..., 1] - p[..., 1] * w[..., 0] > 0.0
    sign = np.where(left, 1.0, -1.0)
    x, y = p[..., 0], p[..., 1]
    direction = (
        np.stack([x * leg - sign * y * radius, sign * x * radius + y * leg], -1) * (sign / gap)[..., None]
    )
    to_leg = (v * direction).sum(-1)[..., None] * direction - v
    to_circle = (radius / horizon - size)[..., None] * unit
    u = np.where(cutoff[..., None], to_circle, to_leg)
    normal = np.where(cutoff[..., None], unit, np.stack([-direction[..., 1], direction[..., 0]], -1))
    height = np.abs(place[None, :, 2] - place[:, None, 2])
    active = (height < separation.vertical_m) & ~np.eye(len(place), dtype=bool)
    return velocity[:, None] + 0.5 * u, normal, active


def _closest(before: Array, after: Array) -> Array:
    """Least distances (n, n) of points in linear motion from `before` to `after`."""
    p = before[None, :] - before[:, None]
    d = (after[None, :] - after[:, None]) - p
    size = (d**2).sum(-1)
    t = np.clip(-(p * d).sum(-1) / np.maximum(size, 1e-12), 0.0, 1.0)
    out: Array = np.sqrt(((p + t[..., None] * d) ** 2).sum(-1))
    return out
