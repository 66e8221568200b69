"""Brute-force conflict detection at every millisecond, independent of the code that it checks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.ndimage import maximum_filter1d

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array

from .conflicts import Conflict


def brute_force(
    knots: Sequence[Sequence[TrajectoryKnot]], separation: Separation, step: float = 1e-3
) -> list[Conflict]:
    """Pairs in conflict at any multiple of `step` (s), each at its closest; all start at time 0."""
    count = len(knots)
    times = np.arange(0.0, max(mine[-1].t_s for mine in knots) + 2 * step, step)
    places = [positions(mine, times) for mine in knots]
    still = separation.tracking_error_m / min(separation.horizontal_m, separation.vertical_m)
    off = []
    for place in places:
        extra = np.full(len(times), still)
        if separation.clock_skew_s > 0.0:
            velocity = np.gradient(place, step, axis=0)
            size = 2 * int(separation.clock_skew_s / step) + 1
            flat = maximum_filter1d(np.hypot(velocity[:, 0], velocity[:, 1]), size, mode="nearest")
            rise = maximum_filter1d(np.abs(velocity[:, 2]), size, mode="nearest")
            extra += separation.clock_skew_s * np.hypot(
                flat / separation.horizontal_m, rise / separation.vertical_m
            )
        off.append(extra)
    out = []
    for i in range(count):
        for j in range(i + 1, count):
            x, y, z = (places[i] - places[j]).T
            flat = np.hypot(x, y)
            norm = np.hypot(flat / separation.horizontal_m, z / separation.vertical_m)
            ratio = norm / (1.0 + off[i] + off[j])
            k = int(ratio.argmin())
            if ratio[k] < 1.0:
                out.append(Conflict(i, j, float(times[k]), float(flat[k]), float(abs(z[k])), float(ratio[k])))
    return out


def positions(knots: Sequence[TrajectoryKnot], times: Array) -> Array:
    """Positions (T, 3) at times (T,), from the quintic Hermite basis of each interval."""
    out = np.empty((len(times), 3))
    out[times <= knots[0].t_s] = knots[0].position_enu_m
    out[times >= knots[-1].t_s] = knots[-1].position_enu_m
    for a, b in pairwise(knots):
        inside = (times >= a.t_s) & (times < b.t_s)
        h = b.t_s - a.t_s
        x = (times[inside] - a.t_s) / h
        basis = (
            (1 - 10 * x**3 + 15 * x**4 - 6 * x**5, a.position_enu_m, 1.0),
            (x - 6 * x**3 + 8 * x**4 - 3 * x**5, a.velocity_enu_m_s, h),
            (0.5 * x**2 - 1.5 * x**3 + 1.5 * x**4 - 0.5 * x**5, a.acceleration_enu_m_s2, h * h),
            (0.5 * x**3 - x**4 + 0.5 * x**5, b.acceleration_enu_m_s2, h * h),
            (-4 * x**3 + 7 * x**4 - 3 * x**5, b.velocity_enu_m_s, h),
            (10 * x**3 - 15 * x**4 + 6 * x**5, b.position_enu_m, 1.0),
        )
        out[inside] = sum(weight[:, None] * np.array(value) * unit for weight, value, unit in basis)
    return out
