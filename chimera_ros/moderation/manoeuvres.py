"""Manoeuvres: alternatives to a drone's planned trajectory, as knots within its limits and fence.

A manoeuvre is an excursion (vertical or lateral) that leaves the planned path smoothly after the start and
returns to it before the goal, and a time law on that path (slower, faster, later). A drone at rest is delayed
by waiting, one in flight by slowing down. Start (position, velocity, acceleration) and goal are unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import MAX_KNOTS, TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array, MotionLimits, bezier_points, hermite

from .errors import ModerationError, ModerationReason
from .timing import Warp
from .tracks import IntArray, Track

BoolArray = NDArray[np.bool_]

MAX_CANDIDATES = 64  # of a drone
DELAY_M_PER_S = 5.0  # cost of a second of delay, in metres of extra path
_MIN_KNOT_S = 5e-3
_MIN_SPEED_FACTOR = 0.3  # of the planned speed
_ROUNDS = 6  # attempts to make a manoeuvre feasible by flying it slower
_TOLERANCE = 1e-6
_SPLITS = 4  # of a piece when bounding: half those of the flight envelope, so never less strict
# smooth step 10 x^3 - 15 x^4 + 6 x^5: peaks of its derivatives
_PEAK_1, _PEAK_2, _PEAK_3 = 1.875, 5.7735, 60.0


@dataclass(frozen=True, slots=True)
class Manoeuvre:
    """A deviation from the plan: metres up, metres to the left, factor of the planned speed, delay."""

    layer_m: float = 0.0
    lateral_m: float = 0.0
    speed_factor: float = 1.0
    delay_s: float = 0.0


PLANNED = Manoeuvre()


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A feasible trajectory of one drone; `cost` in metres: extra path plus the delay `late_s` as metres."""

    manoeuvre: Manoeuvre
    track: Track
    cost: float
    extra_m: float = 0.0
    late_s: float = 0.0

    @property
    def knots(self) -> tuple[TrajectoryKnot, ...]:
        """The knots to fly."""
        return self.track.knots()


def menu_steps(track: Track, separation: Separation) -> tuple[float, float, float]:
    """Steps that clear a neighbour: metres up, metres aside, seconds of waiting; errors included."""
    grow = 1.2 * separation.required_norm()
    length = float(np.hypot(*(track.states[-1, :2] - track.states[0, :2])))
    speed = max(length / track.duration_s, 1.0)
    wait = 1.6 * separation.horizontal_m / speed + 2.0 * separation.clock_skew_s
    return grow * separation.vertical_m, grow * separation.horizontal_m, wait


def menu(track: Track, separation: Separation) -> list[Manoeuvre]:
    """Manoeuvres in order of preference, the planned trajectory first."""
    up, side, wait = menu_steps(track, separation)
    rows = [
        (0.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 1.0, 0.0),
        (-1.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 1.5),
        (0.0, 1.0, 1.0, 0.0),
        (0.0, -1.0, 1.0, 0.0),
        (2.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 3.0),
        (-2.0, 0.0, 1.0, 0.0),
        (1.0, 0.0, 1.0, 2.0),
        (-1.0, 0.0, 1.0, 2.0),
        (0.0, 0.0, 0.8, 0.0),
        (1.0, 1.0, 1.0, 0.0),
        (-1.0, -1.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 4.5),
        (2.0, 0.0, 1.0, 2.0),
        (-2.0, 0.0, 1.0, 2.0),
        (0.0, 2.0, 1.0, 0.0),
        (0.0, -2.0, 1.0, 0.0),
        (0.0, 0.0, 1.0, 6.0),
        (3.0, 0.0, 1.0, 0.0),
        (-3.0, 0.0, 1.0, 0.0),
        (0.0, 0.0, 0.65, 0.0),
        (0.0, 0.0, 1.2, 0.0),
        (0.0, 1.0, 1.0, 3.0),
        (0.0, -1.0, 1.0, 3.0),
    ]
    return [Manoeuvre(a * up, b * side, f, d * wait) for a, b, f, d in rows]


def candidates(
    track: Track,
    limits: MotionLimits,
    fence: Fence | None,
    separation: Separation,
    count: int = 8,
    who: str = "a drone",
) -> list[Candidate]:
    """At most `count` candidates of one drone, the planned trajectory first; `who` names it in an error.

    If the planned trajectory exceeds a limit, its own peak is the limit. Raises ModerationError if it leaves
    the fence.
    """
    if not 1 <= count <= MAX_CANDIDATES:
        raise ModerationError(
            ModerationReason.TOO_MANY, f"{count} candidates were requested; 1 to {MAX_CANDIDATES} are allowed"
        )
    rest = menu(track, separation)[1:]
    out = [planned_candidate(track, fence, who)]
    while rest and len(out) < count:  # most are feasible: more are tried only if some are not
        size = count - len(out) + 1
        out += [c for c in apply_manoeuvres(track, rest[:size], limits, fence) if c is not None]
        rest = rest[size:]
    return out[:count]


def planned_candidate(track: Track, fence: Fence | None, who: str = "a drone") -> Candidate:
    """The planned trajectory as a candidate. Raises ModerationError if it leaves the fence."""
    if fence is not None:
        points = bezier_points(track.coefficients, np.diff(track.times_s), 0).reshape(-1, 3)
        outside = -fence.worst(points)
        low = _floor(track, fence) - float(points[:, 2].min())
        high = float(points[:, 2].max()) - fence.max_height_m
        for over, wall in ((outside, "a side"), (low, "the lowest height"), (high, "the highest height")):
            if over > _TOLERANCE:
                raise ModerationError(
                    ModerationReason.OUTSIDE_FENCE,
                    f"{who}'s planned trajectory leaves the fence by {over:.1f} m at {wall}",
                )
    return Candidate(PLANNED, track, 0.0)


def apply_manoeuvres(
    track: Track, manoeuvres: Sequence[Manoeuvre], limits: MotionLimits, fence: Fence | None
) -> list[Candidate | None]:
    """The candidate of each manoeuvre, None if it is infeasible within limits and fence.

    A manoeuvre that exceeds the limits is flown slower until it fits.
    """
    if not manoeuvres:
        return []
    bounds = MotionBounds.of(track, limits)
    wanted = np.array([[m.layer_m, m.lateral_m, m.speed_factor, m.delay_s] for m in manoeuvres])
    offsets = wanted[:, 0:1] * np.array([0.0, 0.0, 1.0]) + wanted[:, 1:2] * _left_normal(track)
    ramp = _ramps(wanted, limits)
    factor = wanted[:, 2].copy()
    out: list[Candidate | None] = [None] * len(manoeuvres)
    pending = np.arange(len(manoeuvres))
    planned_m = _lengths(track.coefficients[None], np.diff(track.times_s)[None])[0]
    for _ in range(_ROUNDS):
        warp = Warp.plan(track, factor[pending], wanted[pending, 3], ramp[pending], limits)
        batch = _Batch(track, warp, offsets[pending], ramp[pending])
        excess = bounds.excess(batch.coef, batch.widths)
        rows = np.flatnonzero((excess <= 1.0 + _TOLERANCE) & warp.possible & batch.fits)
        rows = rows[batch.inside(rows, track, fence)]
        longer = np.maximum(0.0, _lengths(batch.coef[rows], batch.widths[rows]) - planned_m).tolist()
        for row, extra in zip(rows.tolist(), longer, strict=True):
            late = float(warp.duration_s[row]) - track.duration_s
            index = int(pending[row])
            cost = extra + DELAY_M_PER_S * max(0.0, late)
            out[index] = Candidate(manoeuvres[index], batch.track(row), cost, extra, late)
        again = ((excess > 1.0 + _TOLERANCE) | ~warp.possible) & (wanted[pending, 2] <= 1.0)
        stretch = np.where(warp.possible, np.maximum(excess, 1.0) * 1.004, 1.0)
        ramp[pending] *= stretch
        factor[pending] /= np.where(warp.possible, stretch, 1.3)  # too short: more time
        pending = pending[again & (factor[pending] >= _MIN_SPEED_FACTOR)]
        if not len(pending):
            break
    return out


@dataclass(frozen=True, slots=True)
class MotionBounds:
    """Upper bounds of a candidate's motion: m/s, m/s, m/s, m/s^2, m/s^3."""

    speed: float
    climb: float
    descent: float
    acceleration: float
    jerk: float

    @staticmethod
    def of(track: Track, limits: MotionLimits) -> MotionBounds:
        """The limits, or the planned trajectory's own peak where that is higher."""
        own = _peaks(track.coefficients[None], np.diff(track.times_s)[None])
        speed, climb, descent, acceleration, jerk = (float(x[0]) for x in own)
        return MotionBounds(
            max(limits.speed_m_s, speed),
            max(limits.climb_m_s, climb),
            max(limits.descent_m_s, descent),
            max(limits.acceleration_m_s2, acceleration),
            max(limits.jerk_m_s3, jerk),
        )

    def excess(self, coef: Array, widths: Array) -> Array:
        """Factor (M,) by which time must stretch for pieces (M, P, 6, 3) to keep these bounds."""
        speed, climb, descent, acceleration, jerk = _peaks(coef, widths)
        return np.maximum.reduce(
            [
                speed / self.speed,
                climb / self.climb,
                descent / self.descent,
                np.sqrt(acceleration / self.acceleration),
                np.cbrt(jerk / self.jerk),
            ]
        )


def _peaks(coef: Array, widths: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Upper bounds (M,) of horizontal speed, climb, descent, acceleration, jerk of pieces (M, P, 6, 3)."""
    count = len(coef)
    velocity = bezier_points(coef, widths, 1, _SPLITS).reshape(count, -1, 3)
    acceleration = bezier_points(coef, widths, 2, _SPLITS).reshape(count, -1, 3)
    jerk = bezier_points(coef, widths, 3, _SPLITS).reshape(count, -1, 3)
    return (
        np.sqrt((velocity[..., :2] ** 2).sum(-1).max(1)),
        velocity[..., 2].max(1),
        -velocity[..., 2].min(1),
        np.sqrt((acceleration**2).sum(-1).max(1)),
        np.sqrt((jerk**2).sum(-1).max(1)),
    )


def _lengths(coef: Array, widths: Array) -> Array:
    """Lengths (M,) of pieces (M, P, 6, 3): horizontal path plus climb plus descent, metres."""
    u = widths[..., None] * np.linspace(0.0, 1.0, 9)
    points = (u[..., None] ** np.arange(6)) @ coef
    step = np.diff(points, axis=-2)
    out: Array = (np.hypot(step[..., 0], step[..., 1]) + np.abs(step[..., 2])).sum((-2, -1))
    return out


def _left_normal(track: Track) -> Array:
    """The horizontal unit vector (3,) to the left of the line from start to goal."""
    east, north = track.states[-1, :2] - track.states[0, :2]
    length = float(np.hypot(east, north))
    return np.array([0.0, 1.0, 0.0]) if length < 1e-3 else np.array([-north, east, 0.0]) / length


def _ramps(wanted: Array, limits: MotionLimits) -> Array:
    """Seconds (M,) in which an excursion is reached, within a part of the limits."""
    up, side = np.abs(wanted[:, 0]), np.abs(wanted[:, 1])
    far = np.hypot(up, side)
    out: Array = np.maximum.reduce(
        [
            _PEAK_1 * up / (0.8 * min(limits.climb_m_s, limits.descent_m_s)),
            _PEAK_1 * side / (0.4 * limits.speed_m_s),
            np.sqrt(_PEAK_2 * far / (0.35 * limits.acceleration_m_s2)),
            np.cbrt(_PEAK_3 * far / (0.35 * limits.jerk_m_s3)),
        ]
    )
    return out


def _floor(track: Track, fence: Fence) -> float:
    """The lowest height allowed: the fence's, or that of start or goal if lower."""
    return min(fence.min_height_m, float(track.states[0, 2]), float(track.states[-1, 2]))


class _Batch:
    """Knots of M manoeuvres of one drone, padded to a common number: times (M, K), states (M, K, 9)."""

    __slots__ = ("coef", "counts", "fits", "states", "times", "valid", "widths", "yaws")

    def __init__(self, track: Track, warp: Warp, offsets: Array, ramp: Array) -> None:
        begin, end = warp.excursion_start_s, warp.duration_s
        moved = np.abs(offsets).sum(1) > 0.0
        length = np.where(moved, ramp, 0.0)
        corners = np.stack([begin, begin + length, end - length, end], axis=1)
        times = np.concatenate([warp.breaks(track), np.where(moved[:, None], corners, 0.0)], axis=1)
        times = np.clip(np.sort(times, axis=1), 0.0, end[:, None])
        # of knots that nearly coincide the first is kept, except that the last one always is
        near = np.diff(times, axis=1) < _MIN_KNOT_S
        drop = np.concatenate([np.zeros((len(times), 1), dtype=bool), near], axis=1)
        drop |= (times > end[:, None] - _MIN_KNOT_S) & (times > 0.0)
        times = np.sort(np.concatenate([np.where(drop, np.inf, times), end[:, None]], axis=1), axis=1)
        self.counts = np.isfinite(times).sum(1)
        times = times[:, : int(self.counts.max())]
        self.fits = (self.counts <= MAX_KNOTS) & (self.counts >= 2)
        self.valid = np.isfinite(times)
        at = np.where(self.valid, times, end[:, None])
        base, self.yaws = warp.follow(track, at)
        rise = np.zeros((3, *at.shape))
        for sign, start in ((1.0, begin), (-1.0, end - length)):
            for order, values in enumerate(
                _smooth_step(at - start[:, None], np.maximum(length, 1e-9)[:, None])
            ):
                rise[order] += sign * values
        rise[0][~moved], rise[1][~moved], rise[2][~moved] = 0.0, 0.0, 0.0
        self.states = base + np.concatenate([r[..., None] * offsets[:, None, :] for r in rise], axis=-1)
        # start and goal exactly as planned
        self.states[:, 0] = track.states[0]
        self.states[np.arange(len(at)), self.counts - 1] = track.states[-1]
        self.times = np.where(self.valid, times, end[:, None] + np.arange(1, at.shape[1] + 1))
        self.widths = np.diff(self.times, axis=1)
        self.coef = hermite(self.times, self.states) * self.valid[:, 1:, None, None]

    def inside(self, rows: IntArray, track: Track, fence: Fence | None) -> BoolArray:
        """True for rows (R,) that stay inside the fence and its heights."""
        if fence is None or not len(rows):
            return np.ones(len(rows), dtype=bool)
        points = bezier_points(self.coef[rows], self.widths[rows], 0, _SPLITS)
        points = np.where(self.valid[rows, 1:, None, None], points, track.states[0, :3])
        points = points.reshape(len(rows), -1, 3)
        out: BoolArray = (
            (fence.depths(points).min(1) >= -_TOLERANCE)
            & (points[..., 2].max(1) <= fence.max_height_m + _TOLERANCE)
            & (points[..., 2].min(1) >= _floor(track, fence) - _TOLERANCE)
        )
        return out

    def track(self, row: int) -> Track:
        """The track of one manoeuvre."""
        n = int(self.counts[row])
        return Track(self.times[row, :n], self.states[row, :n], self.yaws[row, :n], self.coef[row, : n - 1])


def _smooth_step(t: Array, length: Array) -> tuple[Array, Array, Array]:
    """0 to 1 over `length` seconds from t = 0, and its first two derivatives."""
    x = np.clip(t / length, 0.0, 1.0)
    return (
        x**3 * (10.0 - 15.0 * x + 6.0 * x**2),
        30.0 * x**2 * (1.0 - x) ** 2 / length,
        60.0 * x * (1.0 - x) * (1.0 - 2.0 * x) / length**2,
    )
