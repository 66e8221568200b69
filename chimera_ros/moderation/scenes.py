"""Benchmark scenes, seeded: straight trajectories that conflict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array, MotionLimits, straight_legs

from .errors import ModerationError, ModerationReason

SEPARATION = Separation(5.0, 4.0)
CIRCLE_M = 200.0  # diameter
HEIGHT_M = 60.0
LIMITS = MotionLimits(speed_m_s=12.0, climb_m_s=5.0, descent_m_s=4.0, acceleration_m_s2=5.0, jerk_m_s3=20.0)
FENCE = Fence.box((-150.0, 150.0), (-150.0, 150.0), (20.0, 100.0))


@dataclass(frozen=True, slots=True)
class Scene:
    """Knots by drone from time 0, with separation, motion limits and fence."""

    name: str
    knots: tuple[tuple[TrajectoryKnot, ...], ...]
    separation: Separation = SEPARATION
    limits: MotionLimits = LIMITS
    fence: Fence = FENCE


def _legs(starts: Array, goals: Array, speeds: Array) -> tuple[tuple[TrajectoryKnot, ...], ...]:
    out = []
    for start, goal, speed in zip(starts, goals, speeds, strict=True):
        limits = MotionLimits(
            float(speed), LIMITS.climb_m_s, LIMITS.descent_m_s, LIMITS.acceleration_m_s2, LIMITS.jerk_m_s3
        )
        out.append(tuple(straight_legs(start[None], goal[None], limits)[0]))
    return tuple(out)


def _spread(rng: np.random.Generator, count: int, half_m: float, apart_m: float) -> Array:
    """Random points (count, 3) of a square at HEIGHT_M +- 1 m, no two nearer than `apart_m` in plan."""
    points: list[Array] = []
    for _ in range(200 * count):
        point = np.array([*rng.uniform(-half_m, half_m, 2), HEIGHT_M + rng.uniform(-1.0, 1.0)])
        if all(np.hypot(*(point - p)[:2]) >= apart_m for p in points):
            points.append(point)
            if len(points) == count:
                return np.array(points)
    raise ModerationError(
        ModerationReason.TOO_MANY, f"{count} drones do not fit into a square of {2 * half_m:.0f} m"
    )


def crossings(count: int, seed: int = 0) -> Scene:
    """Random starts and goals in a square of 200 m, mostly far apart, 8 to 12 m/s; 7 m apart at both ends."""
    rng = np.random.default_rng([seed, count, 1])
    half = CIRCLE_M / 2
    starts, goals = _spread(rng, count, half, 7.0), _spread(rng, count, half, 7.0)
    # long paths: each drone's goal is a distant one
    for _ in range(4):
        short = np.hypot(*(goals - starts).T[:2]) < half
        if not short.any():
            break
        for row in np.flatnonzero(short).tolist():
            other = int(rng.integers(count))
            goals[np.array([row, other])] = goals[np.array([other, row])]
    return Scene(f"crossings-{count}-{seed}", _legs(starts, goals, rng.uniform(8.0, 12.0, count)))


def antipodal(count: int, seed: int = 0) -> Scene:
    """Drones on a circle of 200 m fly to the opposite side, 8 to 12 m/s; the seed rotates the circle."""
    rng = np.random.default_rng([seed, count, 2])
    angle = rng.uniform(0.0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
    radius = CIRCLE_M / 2
    starts = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, HEIGHT_M)], axis=1)
    goals = starts * np.array([-1.0, -1.0, 1.0])
    return Scene(f"antipodal-{count}-{seed}", _legs(starts, goals, rng.uniform(8.0, 12.0, count)))


def wide(count: int, seed: int = 0, duration_s: float = 40.0, area_m2: float = 4000.0) -> Scene:
    """Traffic over a wide area: one drone per `area_m2`, straight for 40 s at 8 to 12 m/s, 60 m of heights.

    Starts may conflict: for detection only.
    """
    rng = np.random.default_rng([seed, count, 3])
    half = np.sqrt(count * area_m2) / 2
    starts = np.column_stack([rng.uniform(-half, half, (count, 2)), rng.uniform(30.0, 90.0, count)])
    speed, heading = rng.uniform(8.0, 12.0, count), rng.uniform(0.0, 2 * np.pi, count)
    ramp = 1.5 * speed / LIMITS.acceleration_m_s2
    length = speed * (duration_s - np.maximum(ramp, np.sqrt(6.0 * speed / LIMITS.jerk_m_s3)))
    offsets = np.stack([length * np.cos(heading), length * np.sin(heading), np.zeros(count)], axis=1)
    return Scene(f"wide-{count}-{seed}", _legs(starts, starts + offsets, speed))


SCENES: Mapping[str, Callable[[int, int], Scene]] = {"crossings": crossings, "antipodal": antipodal}
