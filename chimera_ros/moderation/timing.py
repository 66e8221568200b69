"""Time laws on a planned path: waiting, slower, faster, losing a given time in flight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.trajectory import Array, MotionLimits

from .tracks import Track

_MOVING = 1e-6  # m/s, m/s^2: below, a drone is at rest
_INNER = 4  # intervals of a change of rate
_LEAST_RATE = 0.3  # lowest rate of a drone that loses time in flight


@dataclass(frozen=True, slots=True, eq=False)
class Warp:
    """M time laws of one track: planned time s(t) at the new time t.

    In phases (M, P) of `lengths` the rate ds/dt changes from `first` to `last` by the cubic smooth step, so
    that accelerations are continuous. `excursion_start_s` (M,) is when the rate is constant for a drone that
    starts in flight, and the end of the wait for one that starts at rest.
    """

    lengths: Array
    first: Array
    last: Array
    begin_t: Array
    begin_s: Array
    duration_s: Array
    excursion_start_s: Array
    possible: NDArray[np.bool_]

    @staticmethod
    def plan(track: Track, factor: Array, delay_s: Array, ramp_s: Array, limits: MotionLimits) -> Warp:
        """Time laws for speed factors (M,), delays (M,) and durations (M,) of an excursion's ramps."""
        starts_moving = not at_rest(track)
        ends_moving = bool(np.abs(track.states[-1, 3:]).max() > _MOVING)
        planned = track.duration_s
        zero = np.zeros(len(factor))
        one = np.ones(len(factor))
        # a path that is too short for both ramps of an excursion is flown slower
        rate = np.minimum(factor, planned / np.maximum(2.0 * ramp_s, 1e-9))
        speed = max(float(np.abs(track.states[:, 3:6]).max()), 0.1)
        end = one if ends_moving else rate
        back = _change_s(np.abs(end - rate), speed, limits)
        if not starts_moving:
            wait = delay_s
            lengths = [wait, zero, zero, zero, back]
            first, last = [zero, rate, rate, rate, rate], [zero, rate, rate, rate, end]
            cruise = (planned - back * (rate + end) / 2.0) / rate
            lengths[3] = cruise
            excursion = wait
        else:
            # at rate `low` until the delay is lost, then at `rate`
            low = np.where(delay_s > 0.0, np.minimum(0.5 * one, rate), rate)
            low = np.maximum(low, _LEAST_RATE)
            down, up = (
                _change_s(np.abs(1.0 - low), speed, limits),
                _change_s(np.abs(rate - low), speed, limits),
            )
            lost = (down + up) * (1.0 - low) / 2.0
            dwell = np.where(delay_s > 0.0, np.maximum(0.0, (delay_s - lost) / (1.0 - low + 1e-9)), 0.0)
            used = (
                down * (1.0 + low) / 2.0 + dwell * low + up * (low + rate) / 2.0 + back * (rate + end) / 2.0
            )
            cruise = (planned - used) / rate
            lengths = [down, dwell, up, cruise, back]
            first, last = [one, low, low, rate, rate], [low, low, rate, rate, end]
            excursion = down + dwell + up
        table = np.stack(lengths, axis=1)
        a, b = np.stack(first, axis=1), np.stack(last, axis=1)
        possible = (table >= 0.0).all(1) & (rate > 0.0)
        table = np.maximum(table, 0.0)
        begin_t = np.concatenate([zero[:, None], np.cumsum(table, axis=1)], axis=1)
        begin_s = np.concatenate([zero[:, None], np.cumsum(table * (a + b) / 2.0, axis=1)], axis=1)
        possible &= (begin_t[:, -1] - excursion >= 2.0 * ramp_s - 1e-9) & (begin_t[:, -1] >= 2e-2)
        return Warp(table, a, b, begin_t, begin_s, begin_t[:, -1], excursion, possible)

    def breaks(self, track: Track) -> Array:
        """Times (M, B) of knots under the new law: phases, changes of rate and planned knots."""
        parts = [self.begin_t]
        changes = np.flatnonzero((np.abs(self.first - self.last) > 1e-9).any(0))
        for k in changes:
            inner = self.begin_t[:, k, None] + self.lengths[:, k, None] * np.arange(1, _INNER) / _INNER
            parts.append(inner)
        parts.append(self._inverse(track.times_s))
        return np.concatenate(parts, axis=1)

    def at(self, t: Array) -> tuple[Array, Array, Array]:
        """Planned time, its rate and its second derivative at times (M, K)."""
        phase = (t[:, :, None] >= self.begin_t[:, None, 1:-1]).sum(-1)
        take = lambda x: np.take_along_axis(x, phase, axis=1)  # noqa: E731 - one word for one table
        length, a, b = take(self.lengths), take(self.first), take(self.last)
        x = np.clip((t - take(self.begin_t)) / np.maximum(length, 1e-12), 0.0, 1.0)
        rise = b - a
        s = take(self.begin_s) + length * (a * x + rise * (x**3 - 0.5 * x**4))
        rate = a + rise * (3.0 * x**2 - 2.0 * x**3)
        return s, rate, rise * 6.0 * x * (1.0 - x) / np.maximum(length, 1e-12)

    def follow(self, track: Track, t: Array) -> tuple[Array, Array]:
        """States (M, K, 9) and yaws (M, K) of the planned path under the new law."""
        return follow(track, *self.at(t))

    def _inverse(self, s: Array) -> Array:
        """Times (M, S) at which planned times (S,) are reached: by bisection where the rate changes."""
        low = np.zeros((len(self.duration_s), len(s)))
        wanted = np.broadcast_to(s, low.shape)
        phase = np.clip(
            (wanted[:, :, None] >= self.begin_s[:, None, 1:-1] - 1e-12).sum(-1), 0, self.lengths.shape[1] - 1
        )
        take = lambda x: np.take_along_axis(x, phase, axis=1)  # noqa: E731 - one word for one table
        begin, length, a, b = take(self.begin_t), take(self.lengths), take(self.first), take(self.last)
        steady = begin + (wanted - take(self.begin_s)) / np.maximum(a, 1e-9)
        if not (np.abs(self.first - self.last) > 1e-9).any():
            return np.clip(steady, 0.0, self.duration_s[:, None])
        low, high = begin, begin + length
        for _ in range(40):
            middle = (low + high) / 2.0
            below = self.at(middle)[0] < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.clip(np.where(np.abs(a - b) > 1e-9, low, steady), 0.0, self.duration_s[:, None])


def at_rest(track: Track) -> bool:
    """True if a track starts at rest."""
    return bool(np.abs(track.states[0, 3:]).max() <= _MOVING)


def follow(track: Track, s: Array, rate: Array, change: Array) -> tuple[Array, Array]:
    """States (..., 9) and yaws (...) of the planned path at planned times `s` (...) with ds/dt = `rate` and
    its derivative `change`.
    """
    s = np.clip(s, 0.0, track.duration_s)
    piece = np.clip(np.searchsorted(track.times_s, s, side="right") - 1, 0, len(track.times_s) - 2)
    u = (s - track.times_s[piece])[..., None]
    c = track.coefficients[piece]
    p, v, a = c[..., 5, :], 5.0 * c[..., 5, :], 20.0 * c[..., 5, :]
    for k in range(4, -1, -1):
        p = p * u + c[..., k, :]
        if k >= 1:
            v = v * u + k * c[..., k, :]
        if k >= 2:
            a = a * u + k * (k - 1) * c[..., k, :]
    rate, change = rate[..., None], change[..., None]
    return np.concatenate([p, v * rate, a * rate**2 + v * change], axis=-1), _yaws(track, s, piece)


def _change_s(change: Array, speed: float, limits: MotionLimits) -> Array:
    """Seconds (M,) for a change of rate at a speed, within half the limits."""
    acceleration = 1.5 * change * speed / (0.5 * limits.acceleration_m_s2)
    out: Array = np.maximum(acceleration, np.sqrt(6.0 * change * speed / (0.5 * limits.jerk_m_s3)))
    return out


def _yaws(track: Track, s: Array, piece: NDArray[np.int64]) -> Array:
    first, last = track.yaws_rad[piece], track.yaws_rad[piece + 1]
    share = (s - track.times_s[piece]) / (track.times_s[piece + 1] - track.times_s[piece])
    turn = (last - first + np.pi) % (2.0 * np.pi) - np.pi
    out: Array = np.where(np.isnan(turn), first, first + turn * np.clip(share, 0.0, 1.0))
    return out
