"""Path guidance of one drone: a smooth reference at rest, on a leg or on a plan.

A switch between references adds their difference as a quintic that decays to zero: position, velocity and
acceleration stay continuous. Braking slows path time, so that a stopping drone stays on its path. ENU metres,
seconds of the caller's monotonic clock; plans run on swarm time (ns). When swarm time is set, an active plan
continues by the monotonic clock, so that the reference does not jump along it.
"""

from __future__ import annotations

from math import isnan, sqrt

import numpy as np

from ..geometry import minus, norm, plus
from ..messages import TrajectoryKnot
from ..trajectory import MotionLimits, Path, straight_legs
from ..vehicle import Vec3

ZERO: Vec3 = (0.0, 0.0, 0.0)
_SET_NS = 300_000_000  # a step of swarm time against the monotonic clock beyond which it was set


class PathGuidance:
    """Reference position, velocity, acceleration and yaw of one drone."""

    def __init__(self, limits: MotionLimits) -> None:
        self._limits = limits
        self._point: Vec3 = ZERO  # the reference without a path
        self._yaw = 0.0
        self._path: Path | None = None
        self._start_s = 0.0  # of a leg
        self._start_ns: int | None = None  # of a plan
        self._last_clock: tuple[float, int] = (0.0, 0)  # at the last evaluation of a plan: now, swarm time
        self._brake: tuple[float, float, float] | None = None  # start (now), path time at the start, duration
        self._fade: Path | None = None
        self._fade_start_s = 0.0

    def engage(self, point_enu_m: Vec3, yaw_enu_rad: float) -> None:
        """Resets to rest at a point."""
        self._point, self._yaw = point_enu_m, yaw_enu_rad
        self._path = self._fade = self._brake = None

    @property
    def moving(self) -> bool:
        """True until the end of the path; blending does not count."""
        return self._path is not None

    @property
    def following(self) -> bool:
        """True on a plan and not braking."""
        return self._path is not None and self._start_ns is not None and self._brake is None

    @property
    def goal_enu_m(self) -> Vec3:
        """Position at the end of the present path."""
        return self._point if self._path is None else self._path.knots[-1].position_enu_m

    def on_plan(self, swarm_ns: int) -> tuple[Vec3, Vec3] | None:
        """Position and velocity of the active plan at a swarm time; None without a plan or while braking."""
        if not self.following or self._path is None or self._start_ns is None:
            return None
        position, velocity, _ = self._path.evaluate((swarm_ns - self._start_ns) * 1e-9)
        return position, velocity

    def leg(
        self,
        goal_enu_m: Vec3,
        now: float,
        swarm_ns: int,
        speed_m_s: float = 0.0,
        yaw_enu_rad: float = float("nan"),
    ) -> float:
        """Starts a straight leg that ends at rest at a goal; returns its duration, s."""
        p, v, a, _ = self.at(now, swarm_ns)
        limits = self._limits
        if speed_m_s > 0.0:
            limits = MotionLimits(
                min(speed_m_s, limits.speed_m_s), limits.climb_m_s, limits.descent_m_s,
                limits.acceleration_m_s2, limits.jerk_m_s3,
            )  # fmt: skip
        # a moving drone needs its stopping distance: the leg starts there, blending covers the rest
        pace = norm(v) / (2.0 * limits.acceleration_m_s2)
        stop = (p[0] + v[0] * pace, p[1] + v[1] * pace, p[2] + v[2] * pace)
        knots = straight_legs(np.array([stop]), np.array([goal_enu_m]), limits)[0]
        if not isnan(yaw_enu_rad):
            self._yaw = yaw_enu_rad
        self._brake = None
        if knots:
            self._path, self._start_s, self._start_ns = Path(knots), now, None
        else:
            self._path, self._point = None, goal_enu_m
        self._blend(p, v, a, now, swarm_ns)
        return self._path.duration_s if self._path is not None else 0.0

    def plan(self, path: Path, start_ns: int, now: float, swarm_ns: int) -> None:
        """Starts a plan: a path with t = 0 at `start_ns`."""
        p, v, a, _ = self.at(now, swarm_ns)
        self._path, self._start_ns, self._brake = path, start_ns, None
        self._last_clock = now, swarm_ns
        self._blend(p, v, a, now, swarm_ns)

    def brake(self, now: float, swarm_ns: int) -> None:
        """Stops along the path within the acceleration limit, then stays at rest."""
        if self._path is None or self._brake is not None:
            return
        t = self._path_time(now, swarm_ns)[0]
        if t >= self._path.duration_s:
            return
        if t <= 0.0:
            self._point, self._path = self._path.knots[0].position_enu_m, None
            return
        speed = norm(self._path.evaluate(t)[1])
        slow = max(
            0.5, 1.5 * speed / self._limits.acceleration_m_s2, sqrt(6.0 * speed / self._limits.jerk_m_s3)
        )
        self._brake = (now, t, slow)

    def at(self, now: float, swarm_ns: int) -> tuple[Vec3, Vec3, Vec3, float]:
        """Position, velocity, acceleration and yaw of the reference now."""
        if self._path is None:
            p, v, a = self._point, ZERO, ZERO
        else:
            t, rate, change = self._path_time(now, swarm_ns)
            p, v, a = self._path.evaluate(t)
            yaw = self._path.yaw(t)
            if not isnan(yaw):
                self._yaw = yaw
            if rate != 1.0:
                a = (
                    a[0] * rate * rate + v[0] * change,
                    a[1] * rate * rate + v[1] * change,
                    a[2] * rate * rate + v[2] * change,
                )
                v = (v[0] * rate, v[1] * rate, v[2] * rate)
            if t >= self._path.duration_s or (
                self._brake is not None and now - self._brake[0] >= self._brake[2]
            ):
                self._point, self._path, self._brake = p, None, None
        if self._fade is not None:
            t = now - self._fade_start_s
            if t >= self._fade.duration_s:
                self._fade = None
            else:
                dp, dv, da = self._fade.evaluate(t)
                p, v, a = plus(p, dp), plus(v, dv), plus(a, da)
        return p, v, a, self._yaw

    def _path_time(self, now: float, swarm_ns: int) -> tuple[float, float, float]:
        """Path time, its rate (1 is normal, 0 at rest) and the rate's derivative, 1/s."""
        if self._brake is not None:
            since, t, slow = self._brake
            x = min((now - since) / slow, 1.0)
            return (
                t + slow * (x - x**3 + 0.5 * x**4),
                1.0 - (3 * x * x - 2 * x**3),
                -6.0 * x * (1.0 - x) / slow,
            )
        if self._start_ns is not None:
            before_s, before_ns = self._last_clock
            set_ns = swarm_ns - before_ns - int((now - before_s) * 1e9)
            if abs(set_ns) > _SET_NS:
                self._start_ns += set_ns
            self._last_clock = now, swarm_ns
            return (swarm_ns - self._start_ns) * 1e-9, 1.0, 0.0
        return now - self._start_s, 1.0, 0.0

    def _blend(self, p: Vec3, v: Vec3, a: Vec3, now: float, swarm_ns: int) -> None:
        """Keeps the reference continuous: the step from the old to the new reference decays to zero."""
        self._fade = None
        q, w, b, _ = self.at(now, swarm_ns)
        dp, dv, da = minus(p, q), minus(v, w), minus(a, b)
        jump, push = norm(dp), norm(dv)
        if jump < 1e-3 and push < 1e-3 and norm(da) < 1e-2:
            return
        limit = self._limits.acceleration_m_s2
        time = max(0.5, 2.5 * push / limit, sqrt(7.0 * jump / limit), 2.2 * jump / self._limits.speed_m_s)
        self._fade = Path((TrajectoryKnot(0.0, dp, dv, da), TrajectoryKnot(time, ZERO, ZERO, ZERO)))
        self._fade_start_s = now
