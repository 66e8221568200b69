"""EKF origin tracking of one vehicle, so that all vehicles share the frame `map`.

An autopilot reports its origin (GPS_GLOBAL_ORIGIN). Comparing its global with its local position verifies it,
and estimates it where it is not reported. The origin may change in flight (a restarted estimator), and
positions may jump without it (a reset after a GPS glitch); both look alike in local coordinates and are
distinguished by the global position, which only jumps in the second case.

Pure: every event carries its time. Local coordinates here are ENU metres from the vehicle's own origin.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

from chimera_ros.autopilot.frames import EkfOrigin, LocalFrame, Projection, TangentPlane, Vec3

AGREE_WITHIN_M = 1.0
_PAIRS = 5  # compared pairs that are kept
_ENOUGH_PAIRS = 3  # fewer do not decide
_PAIR_AGE_S = 0.5  # a local position older than this is not compared with a global one
_GLOBAL_SILENT_S = 3.0
_JUMP_M = 0.75  # a step of the local position that its velocity does not explain
_JUMP_GAP_S = 0.5  # longer gaps are not judged


def _minus(a: Vec3, b: Vec3) -> Vec3:
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def _length(a: Vec3) -> float:
    return math.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])


class OriginTracker:
    """Origin of one vehicle's local frame in `map`, and whether global and local positions confirm it."""

    def __init__(self, plane: TangentPlane, projection: Projection, limit_m: float = AGREE_WITHIN_M) -> None:
        self._plane = plane
        self._projection = projection
        self._limit_m = limit_m
        self._frame: LocalFrame | None = None
        self._from_pairs = False  # the frame was estimated from positions, not reported
        self._unreported = False  # the autopilot does not report its origin
        self._candidate: LocalFrame | None = None
        self._candidate_misses = 0
        self._residuals_m: deque[float] = deque(maxlen=_PAIRS)
        self._offsets: deque[Vec3] = deque(maxlen=_PAIRS)
        self._local: tuple[float, Vec3, Vec3] | None = None
        self._global_s = float("-inf")
        self._jump_s = float("-inf")
        self._jump_m: float | None = None
        self._request_due = True
        self.origin_changes = 0
        self.position_resets = 0

    @property
    def frame(self) -> LocalFrame | None:
        """Conversion between local coordinates and `map`; None while the origin is not known."""
        return self._frame

    @property
    def disagreement_m(self) -> float | None:
        """Distance between global and local position, in `map`; None until enough pairs were compared."""
        return median(self._residuals_m) if len(self._residuals_m) >= _ENOUGH_PAIRS else None

    @property
    def agrees(self) -> bool:
        """True if enough pairs were compared, and global and local position agree."""
        distance = self.disagreement_m
        return distance is not None and distance <= self._limit_m

    @property
    def settling(self) -> bool:
        """True if the local position has just jumped and the cause is not known yet."""
        return self._jump_m is not None

    def request_soon(self) -> bool:
        """True if the origin should be requested soon, not at the slow rate."""
        return self._request_due or not self.agrees or self._from_pairs

    def on_origin(self, origin: EkfOrigin) -> None:
        """The autopilot has reported its origin."""
        self._request_due = False
        self._unreported = False
        reported = LocalFrame(self._plane, origin, self._projection)
        if self._frame is not None and self._frame.origin == origin and not self._from_pairs:
            self._candidate = None
            return
        if self._frame is None or not (self.agrees or self.settling or self._from_pairs):
            self._adopt(reported, from_pairs=False)
            return
        # The frame in use agrees with the positions. The next pairs decide: the report may precede them.
        if self._candidate is None or self._candidate.origin != origin:
            self._candidate, self._candidate_misses = reported, 0

    def on_origin_unreported(self) -> None:
        """The autopilot did not answer a request for its origin."""
        self._request_due = False
        self._unreported = True

    def on_local(self, local_enu_m: Vec3, velocity_enu_m_s: Vec3, now: float) -> None:
        """A local position and velocity that arrived at `now`."""
        before = self._local
        self._local = (now, local_enu_m, velocity_enu_m_s)
        if before is None:
            return
        gap = now - before[0]
        if not 0.0 <= gap <= _JUMP_GAP_S:
            return
        step = _minus(local_enu_m, before[1])
        a, b = before[2], velocity_enu_m_s
        explained = (0.5 * gap * (a[0] + b[0]), 0.5 * gap * (a[1] + b[1]), 0.5 * gap * (a[2] + b[2]))
        jump = _length(_minus(step, explained))
        # Samples may have been delayed: what a moving vehicle covers in a tenth of a second is no jump.
        if jump > _JUMP_M + 0.1 * max(_length(a), _length(b)):
            self._jump_s, self._jump_m = now, jump
            self._request_due = True
            self._offsets.clear()

    def on_global(
        self, latitude_deg: float, longitude_deg: float, altitude_amsl_m: float, now: float
    ) -> None:
        """A global position that arrived at `now`: compare it with the newest local one."""
        self._global_s = now
        # The local position may be the newer one, and always is where both come in step and it comes second.
        if self._local is None or abs(now - self._local[0]) > _PAIR_AGE_S:
            return
        if self._jump_m is not None and now - self._jump_s < 0.02:
            return  # the two messages may stem from either side of the jump
        stamp, local, velocity = self._local
        age = now - stamp
        local = (local[0] + age * velocity[0], local[1] + age * velocity[1], local[2] + age * velocity[2])
        measured = self._plane.to_enu(latitude_deg, longitude_deg, altitude_amsl_m)
        if self._frame is None:
            self._estimate(measured, local)
            return
        residual = _minus(measured, self._frame.to_map(local))
        if self._jump_m is not None:
            residual = self._explain_jump(residual, self._jump_m)
        self._residuals_m.append(_length(residual))
        if self._candidate is not None:
            self._compare_candidate(
                self._candidate, _length(_minus(measured, self._candidate.to_map(local))), _length(residual)
            )

    def blockers(self, drone: str, now: float) -> tuple[str, ...]:
        """Reasons not to arm, one sentence each."""
        if self._frame is None:
            return (f"{drone} has not reported its EKF origin (no GPS_GLOBAL_ORIGIN)",)
        if now - self._global_s > _GLOBAL_SILENT_S:
            return (f"{drone} sends no global position, so its local position cannot be checked",)
        distance = self.disagreement_m
        if distance is None:
            return (f"{drone}: global and local position are still being compared",)
        if distance > self._limit_m:
            apart = f"global and local position disagree by {distance:.1f} m (at most {self._limit_m:g} m)"
            return (f"{drone}: {apart}: its EKF origin is wrong",)
        return ()

    def _adopt(self, frame: LocalFrame, *, from_pairs: bool) -> None:
        if self._frame is not None:
            self.origin_changes += 1
        self._frame, self._from_pairs = frame, from_pairs
        if not from_pairs:
            self._candidate, self._request_due = None, False
        self._residuals_m.clear()

    def _estimate(self, measured: Vec3, local: Vec3) -> None:
        """Estimate the origin from pairs; only for an autopilot that does not report it."""
        self._offsets.append(_minus(measured, local))
        if not self._unreported or len(self._offsets) < _PAIRS:
            return
        middle = tuple(median(offset[axis] for offset in self._offsets) for axis in range(3))
        centre = (middle[0], middle[1], middle[2])
        if max(_length(_minus(offset, centre)) for offset in self._offsets) > self._limit_m:
            return
        # Rotation and scale need the origin only roughly; the shift makes it exact.
        latitude, longitude, altitude = self._plane.to_geodetic(centre)
        frame = LocalFrame(self._plane, EkfOrigin(latitude, longitude, altitude), self._projection)
        self._adopt(frame.shifted(_minus(measured, frame.to_map(local))), from_pairs=True)

    def _explain_jump(self, residual: Vec3, jump_m: float) -> Vec3:
        """Classify a jump: positions were reset (nothing to do), or the origin moved (follow it)."""
        assert self._frame is not None
        self._jump_m = None
        if _length(residual) < 0.5 * jump_m:
            self.position_resets += 1
            return residual
        if not self.agrees:
            return residual  # the frame was wrong before
        self._adopt(self._frame.shifted(residual), from_pairs=True)
        return 0.0, 0.0, 0.0

    def _compare_candidate(self, candidate: LocalFrame, candidate_m: float, current_m: float) -> None:
        """Compare a newly reported origin with the one in use; adopt it as soon as positions fit it."""
        if candidate_m <= min(self._limit_m, current_m + 0.2):
            self._adopt(candidate, from_pairs=False)
            self._residuals_m.append(candidate_m)
            return
        self._candidate_misses += 1
        if self._candidate_misses >= _PAIRS and not self._from_pairs and current_m > self._limit_m:
            self._adopt(candidate, from_pairs=False)
