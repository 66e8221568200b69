"""Vector arithmetic on (x, y, z) tuples; metres, ENU."""

from __future__ import annotations

from math import dist, hypot, sqrt

from .vehicle import Vec3


def plus(a: Vec3, b: Vec3) -> Vec3:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def minus(a: Vec3, b: Vec3) -> Vec3:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def norm(a: Vec3) -> float:
    return sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


def flat_distance(a: Vec3, b: Vec3) -> float:
    """Horizontal distance, m."""
    return hypot(a[0] - b[0], a[1] - b[1])


def distance(a: Vec3, b: Vec3) -> float:
    """Distance, m."""
    return dist(a, b)
