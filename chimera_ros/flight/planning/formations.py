"""Formations: slots of a grid, line, vee, circle or sphere around its centre."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, cos, pi, radians, sin, sqrt

import numpy as np

from ..trajectory import Array

_ARM = radians(40.0)  # of a vee from straight back: neighbours across the apex are 1.29 spacings apart


def slots(shape: str, count: int, spacing_m: float, heading_deg: float = 0.0) -> Array:
    """Slots (count, 3), ENU metres, centred on the origin, neighbours at least `spacing_m` apart.

    A line is perpendicular to `heading_deg` (clockwise from north), a vee points along it. Raises KeyError
    for an unknown shape.
    """
    points = SHAPES[shape](count, spacing_m)
    points = points - points.mean(axis=0)
    angle = -radians(heading_deg)
    turn = np.array([[cos(angle), -sin(angle), 0.0], [sin(angle), cos(angle), 0.0], [0.0, 0.0, 1.0]])
    out: Array = points @ turn.T
    return out


def _grid(count: int, spacing: float) -> Array:
    columns = ceil(sqrt(count))
    return np.array([((i % columns) * spacing, -(i // columns) * spacing, 0.0) for i in range(count)])


def _line(count: int, spacing: float) -> Array:
    return np.array([(i * spacing, 0.0, 0.0) for i in range(count)])


def _vee(count: int, spacing: float) -> Array:
    points = []
    for i in range(count):
        rank = (i + 1) // 2
        side = -1.0 if i % 2 else 1.0
        points.append((side * rank * spacing * sin(_ARM), -rank * spacing * cos(_ARM), 0.0))
    return np.array(points)


def _circle(count: int, spacing: float) -> Array:
    radius = spacing / (2 * sin(pi / count)) if count > 1 else 0.0
    return np.array(
        [(radius * cos(2 * pi * i / count), radius * sin(2 * pi * i / count), 0.0) for i in range(count)]
    )


def _sphere(count: int, spacing: float) -> Array:
    """Fibonacci lattice, scaled so that the closest two slots are one spacing apart."""
    golden = pi * (3.0 - sqrt(5.0))
    points = []
    for i in range(count):
        z = 1.0 - (2 * i + 1) / count
        r = sqrt(max(0.0, 1.0 - z * z))
        points.append((r * cos(golden * i), r * sin(golden * i), z))
    unit = np.array(points)
    if count < 2:
        return np.zeros((count, 3))
    gaps = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    gaps[np.diag_indices(count)] = np.inf
    out: Array = unit * (spacing / gaps.min())
    return out


SHAPES: dict[str, Callable[[int, float], Array]] = {
    "grid": _grid,
    "line": _line,
    "vee": _vee,
    "circle": _circle,
    "sphere": _sphere,
}
