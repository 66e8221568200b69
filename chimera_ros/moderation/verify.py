"""Independent verification of knots: shares nothing with the solvers but the knots.

Between two drones the relative position is one quintic per piece, contained in its Bezier points. If they all
lie beyond a plane outside the ellipsoid, the piece is clear; otherwise it is halved. A plan that passes is
conflict-free at every instant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array, MotionLimits, Path

from .conflicts import Conflict, inflation
from .tracks import Track, TrackTable, compiled

IntArray = NDArray[np.int64]

_SHORTEST_S = 2e-6  # an undecided piece of this length counts as a conflict
_CHUNK = 400  # pairs checked together
_JOIN_M, _JOIN_M_S, _JOIN_M_S2 = 0.01, 0.01, 0.05  # tolerances at start and goal
_TOLERANCE = 1 + 1e-6
_BEZIER = np.array([[comb(j, k) / comb(5, k) for k in range(6)] for j in range(6)])
_LEFT = np.array([[comb(j, k) / 2.0**j for k in range(6)] for j in range(6)])
_RIGHT = _LEFT[::-1, ::-1]


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """Conflicts between drones, and a sentence for each other fault; `ok` if there are none."""

    conflicts: tuple[Conflict, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.conflicts and not self.reasons


def verify(
    knots: Sequence[Sequence[TrajectoryKnot]],
    separation: Separation,
    planned: Sequence[Sequence[TrajectoryKnot]] | None = None,
    limits: Sequence[MotionLimits] | MotionLimits | None = None,
    fence: Fence | None = None,
) -> VerificationResult:
    """Verifies knots with a common start time.

    With `planned`, each trajectory must begin in the same state and end at the same goal; with `limits` and
    `fence` each must keep them (or, if the planned one exceeds them, not be worse). Raises ModerationError
    for invalid knots.
    """
    paths = [compiled(mine, f"drone {i}") for i, mine in enumerate(knots)]
    before = None
    if planned is not None:
        before = [compiled(mine, f"drone {i}'s planned trajectory") for i, mine in enumerate(planned)]
        if len(before) != len(paths):
            return VerificationResult(
                reasons=(f"{len(paths)} trajectories answer {len(before)} planned ones.",)
            )
    reasons: list[str] = []
    for i, path in enumerate(paths):
        plan = before[i] if before is not None else None
        mine = limits if limits is None or isinstance(limits, MotionLimits) else limits[i]
        reasons += [f"drone {i} {text}." for text in _faults(path, plan, mine, fence)]
    return VerificationResult(tuple(path_conflicts(paths, separation)), tuple(reasons))


def _faults(path: Path, plan: Path | None, limits: MotionLimits | None, fence: Fence | None) -> list[str]:
    out = []
    bounds = path.bounds()
    if plan is not None:
        for what, knot, planned_knot in (
            ("does not begin in its present state", path.knots[0], plan.knots[0]),
            ("does not end at its goal", path.knots[-1], plan.knots[-1]),
        ):
            if (
                _far(knot.position_enu_m, planned_knot.position_enu_m) > _JOIN_M
                or _far(knot.velocity_enu_m_s, planned_knot.velocity_enu_m_s) > _JOIN_M_S
                or _far(knot.acceleration_enu_m_s2, planned_knot.acceleration_enu_m_s2) > _JOIN_M_S2
            ):
                out.append(what)
    if limits is not None:
        own = plan.bounds() if plan is not None else None
        for field, limit in (
            ("horizontal_speed_m_s", limits.speed_m_s),
            ("vertical_speed_m_s", max(limits.climb_m_s, limits.descent_m_s)),
            ("acceleration_m_s2", limits.acceleration_m_s2),
            ("jerk_m_s3", limits.jerk_m_s3),
        ):
            value, already = getattr(bounds, field), getattr(own, field, 0.0)
            most = max(limit, already)
            if value > most * _TOLERANCE:
                out.append(f"has {field} {value:.2f}; {most:.2f} is allowed")
    if fence is not None:
        outside = -fence.worst(path.hull())
        floor = fence.min_height_m
        for point in (path.knots[0].position_enu_m, path.knots[-1].position_enu_m):
            floor = min(floor, point[2])
        over = max(outside, floor - bounds.low_enu_m[2], bounds.high_enu_m[2] - fence.max_height_m)
        if over > 1e-5:
            out.append(f"leaves the fence by {over:.2f} m")
    return out


def _far(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))


def path_conflicts(paths: Sequence[Path], separation: Separation) -> list[Conflict]:
    """Pairs of paths with a common start time that are not proven clear, each at its closest."""
    if len(paths) < 2:
        return []
    pieces = _Pieces(paths, separation)
    rows, columns = np.triu_indices(len(paths), 1)
    bad: list[int] = []
    for low in range(0, len(rows), _CHUNK):
        part = slice(low, low + _CHUNK)
        bad += (low + np.flatnonzero(pieces.conflicting(rows[part], columns[part]))).tolist()
    return [pieces.closest(int(rows[k]), int(columns[k])) for k in bad]


class _Pieces:
    """Pieces of all paths in space scaled so that the ellipsoid is the unit ball; the last is at rest."""

    def __init__(self, paths: Sequence[Path], separation: Separation) -> None:
        self.paths = paths
        self.separation = separation
        self.end_s = max(path.duration_s for path in paths) + 1.0
        size = max(len(path.knots) for path in paths) + 1
        self.times = np.full((len(paths), size), self.end_s)  # begin of each piece
        self.coef = np.zeros((len(paths), size, 6, 3))
        for i, path in enumerate(paths):
            n = len(path.knots)
            self.times[i, :n] = path.times_s
            self.coef[i, : n - 1] = path.coefficients / separation.scale
            self.coef[i, n - 1 :, 0] = np.array(path.knots[-1].position_enu_m) / separation.scale
        self.table: TrackTable | None = None
        if separation.clock_skew_s > 0.0:
            self.table = TrackTable([Track.of(path) for path in paths])
            self.extra = inflation(self.table, separation)

    def conflicting(self, rows: IntArray, columns: IntArray) -> NDArray[np.bool_]:
        """True for pairs (P,) that are not proven clear."""
        cuts = np.sort(np.concatenate([self.times[rows], self.times[columns]], axis=1), axis=1)
        low, high = cuts[:, :-1], cuts[:, 1:]
        pair, k = np.nonzero(high - low > 1e-12)
        low, high = low[pair, k], high[pair, k]
        points = self._bezier(rows[pair], low, high) - self._bezier(columns[pair], low, high)
        bad = np.zeros(len(rows), dtype=bool)
        while len(pair):
            need = self._needed(rows[pair], columns[pair], low, high)
            at_low = self._needed(rows[pair], columns[pair], low, low)
            at_high = self._needed(rows[pair], columns[pair], high, high)
            bad[pair[np.sqrt((points[:, 0] ** 2).sum(1)) < at_low]] = True
            bad[pair[np.sqrt((points[:, 5] ** 2).sum(1)) < at_high]] = True
            # the plane through the closest Bezier points, perpendicular to their mean
            normal = points.mean(1)
            normal /= np.maximum(np.sqrt((normal**2).sum(1)), 1e-12)[:, None]
            clear = np.einsum("px,pkx->pk", normal, points).min(1) >= need
            bad[pair[~clear & (high - low < _SHORTEST_S)]] = True
            on = ~clear & ~bad[pair]
            pair, low, high, points = pair[on], low[on], high[on], points[on]
            middle = (low + high) / 2.0
            points = np.concatenate([_LEFT @ points, _RIGHT @ points])
            low, high = np.concatenate([low, middle]), np.concatenate([middle, high])
            pair = np.concatenate([pair, pair])
        return bad

    def _needed(self, rows: IntArray, columns: IntArray, low: Array, high: Array) -> Array:
        """Required norm between two times: 1 plus the inflation of both drones."""
        if self.table is None:
            return np.full(len(rows), self.separation.required_norm())
        last = self.extra.shape[1] - 1
        first_k = np.clip((low / self.table.step_s - 1e-9).astype(int), 0, last)
        last_k = np.clip((high / self.table.step_s + 1e-9).astype(int), 0, last)
        flat = np.append(self.extra.reshape(-1), 0.0)
        out = np.ones(len(rows))
        for row in (rows, columns):
            begin, end = row * (last + 1) + first_k, row * (last + 1) + last_k + 1
            out += np.maximum.reduceat(flat, np.stack([begin, end], axis=1).reshape(-1))[::2]
        return out

    def _bezier(self, rows: IntArray, low: Array, high: Array) -> Array:
        """Bezier points (P, 6, 3) of a path on intervals within one of its pieces."""
        middle = (low + high) / 2.0
        piece = (self.times[rows] <= middle[:, None]).sum(1) - 1
        coef = self.coef[rows, piece].copy()
        shift = (low - self.times[rows, piece])[:, None]
        for k in range(5):  # Taylor shift to the interval's begin
            for m in range(4, k - 1, -1):
                coef[:, m] += shift * coef[:, m + 1]
        coef *= ((high - low)[:, None] ** np.arange(6))[..., None]
        out: Array = _BEZIER @ coef
        return out

    def closest(self, i: int, j: int) -> Conflict:
        """Closest approach of two paths, to a few milliseconds, by dense sampling."""
        low, high = 0.0, self.end_s
        for count in (2001, 101, 101):
            times = np.linspace(low, high, count)
            apart = self.paths[i].sample(times) - self.paths[j].sample(times)
            norm = np.sqrt(((apart / self.separation.scale) ** 2).sum(1))
            zero = np.zeros(len(times), dtype=np.int64)
            ratio = norm / self._needed(zero + i, zero + j, times, times)
            k = int(ratio.argmin())
            low, high = times[max(k - 1, 0)], times[min(k + 1, len(times) - 1)]
        flat = float(np.hypot(*apart[k, :2]))
        return Conflict(
            i, j, float(times[k]), flat, float(abs(apart[k, 2])), min(float(ratio[k]), 1.0 - 1e-12)
        )
