"""Tracks: trajectories on a common clock as piecewise quintics, and a table of samples with error bounds.

ENU metres, seconds of the common clock. A drone is at its first point before its start and at its last point
after its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.trajectory import MAX_DURATION_S, Array, NotFiniteError, Path

from .errors import ModerationError, ModerationReason

IntArray = NDArray[np.int64]

STEP_S = 0.5
WINDOW = 8  # intervals per time window; fewer for dense traffic
MAX_TRACKS = 100_000
_MAX_SAMPLES = 20_000_000  # of one table
_OFFSET_S = 2.0e5  # above any time: separates the times of tracks in one sorted array


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """A trajectory flown from `start_s` of the common clock.

    Knot times (K,) from 0, states (K, 9) of position, velocity and acceleration, yaws (K,) with NaN where the
    drone keeps its own, and power coefficients (K - 1, 6, 3).
    """

    times_s: Array
    states: Array
    yaws_rad: Array
    coefficients: Array
    start_s: float = 0.0

    @staticmethod
    def of(path: Path, start_s: float = 0.0) -> Track:
        """The track of a compiled path."""
        if not abs(start_s) <= MAX_DURATION_S:
            raise ModerationError(
                ModerationReason.NOT_FINITE, f"a start time of {start_s} s is not within a day"
            )
        states = np.array(
            [k.position_enu_m + k.velocity_enu_m_s + k.acceleration_enu_m_s2 for k in path.knots], dtype=float
        )
        yaws = np.array([k.yaw_enu_rad for k in path.knots])
        return Track(path.times_s, states, yaws, path.coefficients, start_s)

    @staticmethod
    def of_knots(knots: Sequence[TrajectoryKnot], start_s: float = 0.0, who: str = "a trajectory") -> Track:
        """The track of knots. Raises ModerationError for invalid knots."""
        return Track.of(compiled(knots, who), start_s)

    @property
    def duration_s(self) -> float:
        return float(self.times_s[-1])

    @property
    def end_s(self) -> float:
        return self.start_s + self.duration_s

    def knots(self) -> tuple[TrajectoryKnot, ...]:
        """The knots to fly."""
        return tuple(
            TrajectoryKnot(t, tuple(x[0:3]), tuple(x[3:6]), tuple(x[6:9]), yaw)
            for t, x, yaw in zip(
                self.times_s.tolist(), self.states.tolist(), self.yaws_rad.tolist(), strict=True
            )
        )


def compiled(knots: Sequence[TrajectoryKnot], who: str = "a trajectory") -> Path:
    """The path of knots; `who` names it in an error. Raises ModerationError."""
    try:
        return Path(knots)
    except (ValueError, TypeError, OverflowError) as error:
        finite = not isinstance(error, NotFiniteError)
        reason = ModerationReason.BAD_KNOTS if finite else ModerationReason.NOT_FINITE
        raise ModerationError(reason, f"{who} cannot be flown: {error}") from error


class TrackTable:
    """Samples of N tracks at common times, with bounds of the deviation from the chord between them.

    `points` (N, T + 1, 3) metres; `sag` (N, T, 2) metres: largest horizontal and vertical distance of the
    path from its chord; `speed` (N, T, 2) m/s: upper bounds of the horizontal and vertical speed.
    `blocks` (W * N, 3, window + 1) are the same points by time window, `centre` and `extent` (W, N, 3) their
    boxes.
    """

    __slots__ = (
        "_accelerations",
        "_coef",
        "_end",
        "_jumps",
        "_keys",
        "_offsets",
        "_start",
        "blocks",
        "centre",
        "extent",
        "points",
        "sag",
        "speed",
        "start_s",
        "step_s",
        "window",
    )

    def __init__(self, tracks: Sequence[Track], step_s: float = STEP_S, window: int = WINDOW) -> None:
        if not tracks:
            raise ModerationError(ModerationReason.NO_DRONES, "there is no trajectory")
        if len(tracks) > MAX_TRACKS:
            raise ModerationError(
                ModerationReason.TOO_MANY,
                f"{len(tracks)} trajectories are more than {MAX_TRACKS}",
            )
        self.window = window
        self._collect(tracks)
        self.start_s = float(self._start.min())
        length = max(float(self._end.max()) - self.start_s, 1e-3)
        # the number of samples is bounded: long tracks are sampled more coarsely, which stays conservative
        windows = max(1, int(np.ceil(length / (step_s * window) - 1e-9)))
        windows = min(windows, max(1, _MAX_SAMPLES // (len(tracks) * window)))
        self.step_s = max(step_s, length / (windows * window))
        self._sample(self.start_s + self.step_s * np.arange(windows * window + 1, dtype=float))
        cut = np.lib.stride_tricks.sliding_window_view(self.points, window + 1, axis=1)[:, ::window]
        self.blocks = np.ascontiguousarray(cut.transpose(1, 0, 2, 3)).reshape(-1, 3, window + 1)
        low, high = self.blocks.min(-1), self.blocks.max(-1)
        shape = (windows, len(tracks), 3)
        self.centre, self.extent = ((low + high) / 2).reshape(shape), ((high - low) / 2).reshape(shape)

    def __len__(self) -> int:
        return len(self.points)

    def at(self, rows: IntArray, times_s: Array) -> Array:
        """Positions (..., 3) of tracks `rows` (...) at clock times (...)."""
        local = self._local(rows, times_s)
        return self._evaluate(self._piece(rows, local), rows, local)

    def curvature(self, rows: IntArray, low_s: Array, high_s: Array) -> tuple[Array, Array]:
        """Bounds (..., 2) of the deviation of position and velocity from the chord between clock times."""
        first = self._piece(rows, self._local(rows, low_s))
        last = self._piece(rows, self._local(rows, high_s))
        return self._curvature(rows, first, last, low_s, high_s)

    def _local(self, rows: IntArray, times_s: Array) -> Array:
        local: Array = np.clip(times_s, self._start[rows], self._end[rows]) - self._start[rows]
        return local

    def _collect(self, tracks: Sequence[Track]) -> None:
        sizes = np.array([len(t.coefficients) for t in tracks])
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._start = np.array([t.start_s for t in tracks])
        self._end = np.array([t.end_s for t in tracks])
        self._coef = c = np.concatenate([t.coefficients for t in tracks])
        begin = np.concatenate([t.times_s[:-1] for t in tracks])
        h = np.concatenate([np.diff(t.times_s) for t in tracks])[:, None]
        self._keys = begin + np.repeat(np.arange(len(tracks)), sizes) * _OFFSET_S
        # the second derivative is a cubic on each piece: its Bezier points contain it
        b0, b1 = 2 * c[:, 2], 6 * c[:, 3] * h
        b2, b3 = 12 * c[:, 4] * h**2, 20 * c[:, 5] * h**3
        bezier = np.stack([b0, b0 + b1 / 3, b0 + b1 * 2 / 3 + b2 / 3, b0 + b1 + b2 + b3], axis=1)
        # one more row, for the end of the last piece in reduceat
        self._accelerations = np.vstack([_flat_and_rise(bezier).max(1), np.zeros((1, 2))])
        # velocity jumps (2, N, 2) where a track begins or ends in motion
        last = self._offsets[1:] - 1
        powers = np.arange(1, 6) * h[last] ** np.arange(5)
        ends = np.einsum("nk,nkx->nx", powers, c[last, 1:])
        self._jumps = _flat_and_rise(np.stack([c[self._offsets[:-1], 1], ends]))
        self._jumps[self._jumps < 1e-9] = 0.0

    def _piece(self, rows: IntArray, local: Array) -> IntArray:
        found = np.searchsorted(self._keys, local + rows * _OFFSET_S, side="right") - 1
        piece: IntArray = np.clip(found, self._offsets[rows], self._offsets[rows + 1] - 1)
        return piece

    def _evaluate(self, piece: IntArray, rows: IntArray, local: Array) -> Array:
        u = (local - (self._keys[piece] - rows * _OFFSET_S))[..., None]
        c = self._coef[piece]
        out: Array = c[..., 5, :]
        for k in range(4, -1, -1):
            out = out * u + c[..., k, :]
        return out

    def _curvature(
        self, rows: IntArray, first: IntArray, last: IntArray, low_s: Array, high_s: Array
    ) -> tuple[Array, Array]:
        pairs = np.stack([first, last + 1], axis=-1).reshape(-1)
        worst = np.maximum.reduceat(self._accelerations, pairs, axis=0)[::2].reshape((*first.shape, 2))
        start, end = self._start[rows], self._end[rows]
        worst[(high_s <= start) | (low_s >= end)] = 0.0
        h = (high_s - low_s)[..., None]
        sag, off = worst * h**2 / 8.0, worst * h
        for jump, at in zip(self._jumps, (start, end), strict=True):
            if jump.any():
                inside = ((low_s < at) & (at < high_s))[..., None] * jump[rows]
                sag, off = sag + inside * h / 4.0, off + inside
        return sag, off

    def _sample(self, times: Array) -> None:
        rows = np.broadcast_to(np.arange(len(self._start))[:, None], (len(self._start), len(times)))
        local = self._local(rows, times)
        piece = self._piece(rows, local)
        self.points = self._evaluate(piece, rows, local)
        low, high = (
            np.broadcast_to(times[:-1], rows[:, 1:].shape),
            np.broadcast_to(times[1:], rows[:, 1:].shape),
        )
        self.sag, off = self._curvature(rows[:, 1:], piece[:, :-1], piece[:, 1:], low, high)
        self.speed = _flat_and_rise(np.diff(self.points, axis=1)) / self.step_s + off


def _flat_and_rise(vectors: Array) -> Array:
    """Horizontal and vertical lengths (..., 2) of vectors (..., 3)."""
    return np.stack([np.hypot(vectors[..., 0], vectors[..., 1]), np.abs(vectors[..., 2])], axis=-1)
