"""Time-parametrised trajectories: piecewise quintic Hermite paths, and the time laws that make them.

A path is given by knots (time, position, velocity, acceleration); between two knots each axis is the one
quintic polynomial that meets both, so paths are C2. ENU metres, seconds since the path's own start.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from math import comb, isfinite, isnan, pi, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .messages import MAX_KNOTS, TrajectoryKnot
from .vehicle import Vec3

Array = NDArray[np.float64]

MAX_DURATION_S: Final = 86_400.0
MAX_COORDINATE: Final = 1e6  # of a position, velocity or acceleration
_DEGREE = 5
_SPLITS = 8  # sub-intervals per piece when bounding: keeps the bound within about 2 % of the true maximum


@dataclass(frozen=True, slots=True)
class MotionLimits:
    """Motion limits of a drone: m/s, m/s^2, m/s^3; speed is horizontal, climb and descent vertical."""

    speed_m_s: float = 5.0
    climb_m_s: float = 2.0
    descent_m_s: float = 1.5
    acceleration_m_s2: float = 2.5
    jerk_m_s3: float = 6.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Upper bounds over a whole path (m/s, m/s^2, m/s^3) and the box that contains it (m, ENU)."""

    horizontal_speed_m_s: float
    vertical_speed_m_s: float
    acceleration_m_s2: float
    jerk_m_s3: float
    low_enu_m: Vec3
    high_enu_m: Vec3


@cache
def _bound_matrix(degree: int, splits: int) -> Array:
    """Power coefficients on [0, 1] -> Bezier points of `splits` equal sub-intervals, stacked."""
    size = degree + 1
    bezier = np.array([[comb(j, k) / comb(degree, k) for k in range(size)] for j in range(size)])
    rows = []
    for part in range(splits):
        low, width = part / splits, 1.0 / splits
        shift = np.zeros((size, size))
        for k in range(size):
            for m in range(k, size):
                shift[k, m] = comb(m, k) * low ** (m - k) * width**k
        rows.append(bezier @ shift)
    return np.vstack(rows)


class NotFiniteError(ValueError):
    """A knot of a trajectory holds NaN or infinity."""


class Path:
    """A compiled trajectory.

    Raises NotFiniteError for knots that are not finite, ValueError for times that do not rise from 0, and for
    fewer than two or too many knots.
    """

    __slots__ = ("_bounds", "_coef", "_flat", "_times", "_yaws", "duration_s", "knots")

    def __init__(self, knots: Sequence[TrajectoryKnot]) -> None:
        if not 2 <= len(knots) <= MAX_KNOTS:
            raise ValueError(f"a trajectory has 2 to {MAX_KNOTS} knots, this one has {len(knots)}")
        times = [k.t_s for k in knots]
        table = np.array(
            [k.position_enu_m + k.velocity_enu_m_s + k.acceleration_enu_m_s2 for k in knots], dtype=float
        )
        if not (np.isfinite(table).all() and all(map(isfinite, times))):
            raise NotFiniteError("a trajectory's knots must be finite numbers")
        if times[0] != 0.0 or any(b - a < 1e-3 for a, b in pairwise(times)):
            raise ValueError("a trajectory's times must rise from 0 by at least 1 ms per knot")
        if times[-1] > MAX_DURATION_S or np.abs(table).max() > MAX_COORDINATE:
            raise ValueError("a trajectory must end within a day and stay within 1000 km")
        self.knots = tuple(knots)
        self.duration_s = float(times[-1])
        self._times = times
        self._yaws = [k.yaw_enu_rad for k in knots]
        self._coef = hermite(np.array(times), table)
        self._flat: list[list[float]] = self._coef.reshape(len(times) - 1, 18).tolist()
        self._bounds: Bounds | None = None

    @property
    def times_s(self) -> Array:
        """Knot times (K,)."""
        return np.array(self._times)

    @property
    def coefficients(self) -> Array:
        """Power coefficients (K - 1, 6, 3) of each piece, in seconds since its first knot."""
        return self._coef

    def evaluate(self, t_s: float) -> tuple[Vec3, Vec3, Vec3]:
        """Position, velocity, acceleration at `t_s`; at rest before the start and after the end."""
        if t_s <= 0.0:
            first = self.knots[0]
            if t_s < 0.0:
                return first.position_enu_m, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
            return first.position_enu_m, first.velocity_enu_m_s, first.acceleration_enu_m_s2
        if t_s >= self.duration_s:
            return self.knots[-1].position_enu_m, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        piece = bisect_right(self._times, t_s) - 1
        u = t_s - self._times[piece]
        (x0, y0, z0, x1, y1, z1, x2, y2, z2, x3, y3, z3, x4, y4, z4, x5, y5, z5) = self._flat[piece]
        return (
            (
                x0 + u * (x1 + u * (x2 + u * (x3 + u * (x4 + u * x5)))),
                y0 + u * (y1 + u * (y2 + u * (y3 + u * (y4 + u * y5)))),
                z0 + u * (z1 + u * (z2 + u * (z3 + u * (z4 + u * z5)))),
            ),
            (
                x1 + u * (2 * x2 + u * (3 * x3 + u * (4 * x4 + u * 5 * x5))),
                y1 + u * (2 * y2 + u * (3 * y3 + u * (4 * y4 + u * 5 * y5))),
                z1 + u * (2 * z2 + u * (3 * z3 + u * (4 * z4 + u * 5 * z5))),
            ),
            (
                2 * x2 + u * (6 * x3 + u * (12 * x4 + u * 20 * x5)),
                2 * y2 + u * (6 * y3 + u * (12 * y4 + u * 20 * y5)),
                2 * z2 + u * (6 * z3 + u * (12 * z4 + u * 20 * z5)),
            ),
        )

    def yaw(self, t_s: float) -> float:
        """Yaw at `t_s` (rad, counter-clockwise from east), NaN where the path keeps the present yaw."""
        piece = min(max(bisect_right(self._times, t_s) - 1, 0), len(self._times) - 2)
        first, last = self._yaws[piece], self._yaws[piece + 1]
        if isnan(first) or isnan(last):
            return first
        share = (t_s - self._times[piece]) / (self._times[piece + 1] - self._times[piece])
        turn = (last - first + pi) % (2 * pi) - pi
        return first + turn * min(max(share, 0.0), 1.0)

    def sample(self, times_s: Array) -> Array:
        """Positions (T, 3) at the times (T,), clamped to the path's ends."""
        t = np.clip(times_s, 0.0, self.duration_s)
        piece = np.clip(np.searchsorted(self._times, t, side="right") - 1, 0, len(self._times) - 2)
        u = (t - np.asarray(self._times)[piece])[:, None]
        c = self._coef[piece]
        out: Array = c[:, 5]
        for k in range(4, -1, -1):
            out = out * u + c[:, k]
        return out

    def hull(self) -> Array:
        """Points (K, 3) whose convex hull contains the path."""
        return self._control(0).reshape(-1, 3)

    def bounds(self) -> Bounds:
        """Upper bounds, never below the true maxima (Bezier convex-hull property)."""
        if self._bounds is None:
            points = self.hull()
            velocity = self._control(1)
            self._bounds = Bounds(
                horizontal_speed_m_s=float(np.sqrt((velocity[..., :2] ** 2).sum(-1).max())),
                vertical_speed_m_s=float(np.abs(velocity[..., 2]).max()),
                acceleration_m_s2=float(np.sqrt((self._control(2) ** 2).sum(-1).max())),
                jerk_m_s3=float(np.sqrt((self._control(3) ** 2).sum(-1).max())),
                low_enu_m=_vec(points.min(0)),
                high_enu_m=_vec(points.max(0)),
            )
        return self._bounds

    def _control(self, derivative: int) -> Array:
        """Bezier points (pieces, splits * (degree + 1), 3) of a derivative."""
        return bezier_points(self._coef, np.diff(np.asarray(self._times)), derivative)


def _vec(row: Array) -> Vec3:
    return float(row[0]), float(row[1]), float(row[2])


def hermite(times: Array, table: Array) -> Array:
    """Power coefficients (..., pieces, 6, 3) from knot times (..., K) and rows of position, velocity,
    acceleration (..., K, 9).
    """
    h = np.diff(times, axis=-1)[..., None]
    p, v, a = table[..., 0:3], table[..., 3:6], table[..., 6:9]
    d = p[..., 1:, :] - p[..., :-1, :]
    v0, v1, a0, a1 = v[..., :-1, :], v[..., 1:, :], a[..., :-1, :], a[..., 1:, :]
    c3 = (20 * d - (8 * v1 + 12 * v0) * h - (3 * a0 - a1) * h**2) / (2 * h**3)
    c4 = (-30 * d + (14 * v1 + 16 * v0) * h + (3 * a0 - 2 * a1) * h**2) / (2 * h**4)
    c5 = (12 * d - 6 * (v1 + v0) * h - (a0 - a1) * h**2) / (2 * h**5)
    return np.stack([p[..., :-1, :], v0, a0 / 2, c3, c4, c5], axis=-2)


def bezier_points(coef: Array, widths_s: Array, derivative: int, splits: int = _SPLITS) -> Array:
    """Points (..., splits * (degree + 1), 3) whose convex hull contains a derivative of pieces (..., 6, 3) of
    widths (...).
    """
    for _ in range(derivative):
        coef = coef[..., 1:, :] * np.arange(1, coef.shape[-2])[:, None]
    degree = _DEGREE - derivative
    unit = coef * (widths_s[..., None] ** np.arange(degree + 1))[..., None]
    # one matrix product for all pieces
    lead = unit.shape[:-2]
    columns = unit.reshape(-1, degree + 1, 3).transpose(1, 0, 2).reshape(degree + 1, -1)
    points = (_bound_matrix(degree, splits) @ columns).reshape(splits * (degree + 1), -1, 3)
    return points.transpose(1, 0, 2).reshape(*lead, splits * (degree + 1), 3)


@dataclass(frozen=True, slots=True)
class TimeLaw:
    """Rest-to-rest travel of the unit distance: s(t) from 0 to 1, accelerate, cruise, decelerate.

    The speed rises as the cubic smooth step, so s is a quartic per phase (which a quintic Hermite piece
    represents exactly), the acceleration is continuous with peak 1.5 V/T and the jerk bounded by 6 V/T^2.
    """

    cruise: float  # peak ds/dt, 1/s
    ramp_s: float
    cruise_s: float

    @staticmethod
    def within(speed: float, acceleration: float, jerk: float) -> TimeLaw:
        """The fastest law whose ds/dt and its derivatives stay within limits (1/s, 1/s^2, 1/s^3)."""
        v = min(speed, sqrt(acceleration / 1.5), (jerk / 6.0) ** (1.0 / 3.0))
        ramp = max(1.5 * v / acceleration, sqrt(6.0 * v / jerk))
        return TimeLaw(v, ramp, max(0.0, 1.0 / v - ramp))

    @property
    def duration_s(self) -> float:
        return 2 * self.ramp_s + self.cruise_s

    def slower(self, factor: float) -> TimeLaw:
        """The same law taking `factor` times as long."""
        return TimeLaw(self.cruise / factor, self.ramp_s * factor, self.cruise_s * factor)

    def breaks(self) -> tuple[float, ...]:
        """The times at which the law changes phase, first 0, last its duration."""
        if self.cruise_s < 2e-3:
            return (0.0, self.ramp_s, self.duration_s)
        return (0.0, self.ramp_s, self.ramp_s + self.cruise_s, self.duration_s)

    def at(self, t_s: float) -> tuple[float, float, float]:
        """s, ds/dt and d2s/dt2 at `t_s`."""
        if t_s <= 0.0:
            return 0.0, 0.0, 0.0
        if t_s >= self.duration_s:
            return 1.0, 0.0, 0.0
        if t_s > self.duration_s - self.ramp_s:
            s, v, a = self.at(self.duration_s - t_s)
            return 1.0 - s, v, -a
        if t_s <= self.ramp_s:
            x = t_s / self.ramp_s
            s = self.cruise * self.ramp_s * (x**3 - 0.5 * x**4)
            return s, self.cruise * (3 * x**2 - 2 * x**3), self.cruise / self.ramp_s * 6 * x * (1 - x)
        return self.cruise * (t_s - 0.5 * self.ramp_s), self.cruise, 0.0


def law_for(steps: Array, limits: MotionLimits) -> TimeLaw | None:
    """The common time law of straight legs with displacements (N, 3); None if no drone moves."""
    horizontal = float(np.hypot(steps[:, 0], steps[:, 1]).max())
    up, down = float(steps[:, 2].max()), float(-steps[:, 2].min())
    longest = float(np.sqrt((steps**2).sum(1).max()))
    if longest < 1e-6:
        return None
    speeds = [
        limit / distance
        for limit, distance in (
            (limits.speed_m_s, horizontal),
            (limits.climb_m_s, up),
            (limits.descent_m_s, down),
        )
        if distance > 1e-9
    ]
    return TimeLaw.within(min(speeds), limits.acceleration_m_s2 / longest, limits.jerk_m_s3 / longest)


def straight_legs(starts: Array, goals: Array, limits: MotionLimits) -> list[list[TrajectoryKnot]]:
    """Synchronous rest-to-rest straight legs, one per row of starts and goals (N, 3).

    All share one path parameter s(t), so the distance between two drones is that between two points moving
    linearly in s (the condition of Turpin, Michael, Kumar: CAPT). Empty lists if no drone moves.
    """
    law = law_for(goals - starts, limits)
    if law is None:
        return [[] for _ in starts]
    rows = [(t, *law.at(t)) for t in law.breaks()]
    legs = []
    for start, goal in zip(starts, goals, strict=True):
        d = goal - start
        legs.append([TrajectoryKnot(t, _vec(start + s * d), _vec(v * d), _vec(a * d)) for t, s, v, a in rows])
    return legs


Curve = Callable[[Array], tuple[Array, Array, Array]]  # s (K,) -> p, dp/ds, d2p/ds2, each (K, N, 3)


def curved_legs(curve: Curve, limits: MotionLimits, knot_s: float = 0.6) -> list[list[TrajectoryKnot]]:
    """Synchronous rest-to-rest legs along smooth curves p_i(s), s from 0 to 1, within the limits."""
    grid = np.linspace(0.0, 1.0, 101)
    p, d1, d2 = curve(grid)
    d3 = np.gradient(d2, grid, axis=0)
    planar = max(float(np.linalg.norm(d1[..., :2], axis=-1).max()), 1e-6)
    rise = max(float(np.abs(d1[..., 2]).max()), 1e-6)
    length = max(float(np.linalg.norm(d1, axis=-1).max()), 1e-6)
    top = min(limits.speed_m_s / planar, min(limits.climb_m_s, limits.descent_m_s) / rise)
    law = TimeLaw.within(top, limits.acceleration_m_s2 / length, limits.jerk_m_s3 / length)
    # the curvature adds to what the law alone needs: stretch time until the bound of the real curve fits
    times = np.linspace(0.0, law.duration_s, 201)
    rows = np.array([law.at(t) for t in times])
    ramp_jerk = 6 * law.cruise / law.ramp_s**2
    pick = np.clip((rows[:, 0] * 100).round().astype(int), 0, 100)
    v1, a1 = rows[:, 1][:, None, None], rows[:, 2][:, None, None]
    acceleration = np.linalg.norm(d2[pick] * v1**2 + d1[pick] * a1, axis=-1).max()
    jerk = (
        np.linalg.norm(d3[pick] * v1**3 + 3 * d2[pick] * v1 * a1, axis=-1)
        + np.linalg.norm(d1[pick], axis=-1) * ramp_jerk
    ).max()
    stretch = max(
        1.0,
        sqrt(float(acceleration) / limits.acceleration_m_s2),
        (float(jerk) / limits.jerk_m_s3) ** (1.0 / 3.0),
    )
    law = law.slower(stretch * 1.03)
    inner = np.linspace(0.0, law.duration_s, max(5, min(400, int(law.duration_s / knot_s) + 2)))
    moments = sorted({0.0, law.duration_s, *(float(t) for t in inner), *law.breaks()})
    moments = [t for i, t in enumerate(moments) if i == 0 or t - moments[i - 1] > 5e-3]
    moments[-1] = law.duration_s
    state = np.array([law.at(t) for t in moments])
    p, d1, d2 = curve(state[:, 0])
    v, a = state[:, 1][:, None, None], state[:, 2][:, None, None]
    velocity, acc = d1 * v, d2 * v**2 + d1 * a
    return [
        [
            TrajectoryKnot(t, _vec(p[k, i]), _vec(velocity[k, i]), _vec(acc[k, i]))
            for k, t in enumerate(moments)
        ]
        for i in range(p.shape[1])
    ]


def rest_of(path: Path, t_s: float) -> tuple[TrajectoryKnot, ...]:
    """The remainder of a path from `t_s` on, as a path that begins there in motion."""
    position, velocity, acceleration = path.evaluate(t_s)
    first = TrajectoryKnot(0.0, position, velocity, acceleration, path.yaw(t_s))
    rest = [replace(knot, t_s=knot.t_s - t_s) for knot in path.knots if knot.t_s > t_s + 2e-3]
    return (first, *rest) if rest else (first, replace(first, t_s=1.0))


def joined(parts: Sequence[Sequence[TrajectoryKnot]]) -> tuple[TrajectoryKnot, ...]:
    """Consecutive rest-to-rest legs as one knot list."""
    out: list[TrajectoryKnot] = []
    start = 0.0
    for part in parts:
        if not part:
            continue
        for knot in part[1:] if out else part:
            out.append(replace(knot, t_s=knot.t_s + start))
        start = out[-1].t_s
    return tuple(out)
