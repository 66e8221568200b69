"""Flight envelope of a drone: geofence and limits that hold for every command, whoever signed it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import hypot, inf, isfinite
from typing import Final

import numpy as np

from .trajectory import Array, Path
from .vehicle import Vec3

MAX_CORNERS: Final = 64  # of a fence
MIN_HEIGHT_M, MAX_HEIGHT_M = -100.0, 2000.0  # above the datum
MAX_DISTANCE_M: Final = 20_000.0  # from the datum, and from where a drone took off
MAX_SPEED_M_S: Final = 50.0  # of any drone; each has a limit of its own below
_MAX_CLIMB_M_S, _MAX_ACCELERATION_M_S2, _MAX_JERK_M_S3 = 5.0, 8.0, 40.0
# Of a follower that is not configured otherwise:
OWN_MAX_SPEED_M_S, OWN_MAX_HEIGHT_M, OWN_MAX_DISTANCE_M = 12.0, 120.0, 2000.0
MOTION_RANGES: Final = {  # of `MotionLimits`; beyond these no drone flies a trajectory
    "speed_m_s": (0.05, MAX_SPEED_M_S),
    "climb_m_s": (0.05, _MAX_CLIMB_M_S),
    "descent_m_s": (0.05, _MAX_CLIMB_M_S),
    "acceleration_m_s2": (0.05, _MAX_ACCELERATION_M_S2),
    "jerk_m_s3": (0.05, _MAX_JERK_M_S3),
}


@dataclass(frozen=True, slots=True)
class Fence:
    """Geofence: a convex polygon (ENU metres, either winding) with a lowest and a highest height.

    The lowest height applies between take-off and landing only. Raises ValueError for a polygon that is not
    convex or has fewer than 3 or more than 64 corners, and for heights that do not rise.
    """

    polygon_m: tuple[tuple[float, float], ...]
    min_height_m: float
    max_height_m: float
    _edges: tuple[tuple[float, float, float], ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        corners = self.polygon_m
        if not 3 <= len(corners) <= MAX_CORNERS:
            raise ValueError(f"a fence has 3 to {MAX_CORNERS} corners, this one has {len(corners)}")
        if not all(isfinite(c) for corner in corners for c in corner):
            raise ValueError("a fence's corners must be finite numbers")
        if not (
            isfinite(self.min_height_m)
            and isfinite(self.max_height_m)
            and self.min_height_m < self.max_height_m
        ):
            raise ValueError("a fence's lowest height must be below its highest")
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
        ordered = corners if area > 0 else corners[::-1]
        edges = []
        for a, b in zip(ordered, ordered[1:] + ordered[:1], strict=True):
            length = hypot(b[0] - a[0], b[1] - a[1])
            if length < 1e-6:
                raise ValueError("two corners of the fence are the same point")
            nx, ny = -(b[1] - a[1]) / length, (b[0] - a[0]) / length  # inward normal
            edges.append((nx, ny, -(nx * a[0] + ny * a[1])))
        if any(nx * x + ny * y + c < -1e-6 for nx, ny, c in edges for x, y in corners):
            raise ValueError("a fence must be convex: each corner must turn the same way")
        object.__setattr__(self, "_edges", tuple(edges))

    @staticmethod
    def box(
        east_m: tuple[float, float], north_m: tuple[float, float], height_m: tuple[float, float]
    ) -> Fence:
        """An axis-parallel geofence."""
        (w, e), (s, n) = east_m, north_m
        if not (w < e and s < n):
            raise ValueError("a fence's ranges must rise")
        return Fence(((w, s), (e, s), (e, n), (w, n)), height_m[0], height_m[1])

    def inside_m(self, point_enu_m: Vec3) -> float:
        """Horizontal distance to the nearest edge (m), negative outside."""
        x, y, _ = point_enu_m
        return min(nx * x + ny * y + c for nx, ny, c in self._edges)

    def worst(self, points: Array) -> float:
        """The smallest `inside_m` of points (K, 3)."""
        return float(self.depths(points).min())

    def depths(self, points: Array) -> Array:
        """`inside_m` (...) of points (..., 3)."""
        edges = np.asarray(self._edges)
        out: Array = (points[..., :2] @ edges[:, :2].T + edges[:, 2]).min(-1)
        return out

    def clamp(self, point_enu_m: Vec3) -> Vec3:
        """The point moved inside the geofence and its heights."""
        x, y, z = point_enu_m
        for _ in range(4):
            moved = False
            for nx, ny, c in self._edges:
                d = nx * x + ny * y + c
                if d < 0.0:
                    x, y, moved = x - d * nx, y - d * ny, True
            if not moved:
                break
        return x, y, min(max(z, self.min_height_m), self.max_height_m)

    def contain(
        self, point_enu_m: Vec3, velocity_enu_m_s: Vec3, acceleration_enu_m_s2: Vec3
    ) -> tuple[Vec3, Vec3, Vec3]:
        """The point as `clamp` moves it; for a point outside, without outward velocity and acceleration."""
        inside = self.clamp(point_enu_m)
        if inside == point_enu_m:
            return point_enu_m, velocity_enu_m_s, acceleration_enu_m_s2
        x, y, z = point_enu_m
        kept = []
        for u, v, w in (velocity_enu_m_s, acceleration_enu_m_s2):
            for nx, ny, c in self._edges:
                outward = nx * u + ny * v
                if nx * x + ny * y + c < 0.0 and outward < 0.0:
                    u, v = u - outward * nx, v - outward * ny
            if (z > self.max_height_m and w > 0.0) or (z < self.min_height_m and w < 0.0):
                w = 0.0
            kept.append((u, v, w))
        return inside, kept[0], kept[1]


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """Limits that a follower keeps whatever mission and leader allow: parameters of its node."""

    max_speed_m_s: float = OWN_MAX_SPEED_M_S
    max_height_m: float = OWN_MAX_HEIGHT_M  # above the datum
    max_distance_m: float = OWN_MAX_DISTANCE_M  # from the home position


@dataclass(frozen=True, slots=True)
class FlightEnvelope:
    """Limits of one drone: ENU metres, m/s, m/s^2, m/s^3, battery as a fraction."""

    fence: Fence = field(
        default_factory=lambda: Fence.box((-500.0, 500.0), (-500.0, 500.0), (0.0, OWN_MAX_HEIGHT_M))
    )
    max_speed_m_s: float = OWN_MAX_SPEED_M_S
    max_climb_m_s: float = _MAX_CLIMB_M_S
    max_acceleration_m_s2: float = _MAX_ACCELERATION_M_S2
    max_jerk_m_s3: float = _MAX_JERK_M_S3
    max_distance_m: float = OWN_MAX_DISTANCE_M  # from the home position
    max_duration_s: float = 3600.0  # of one trajectory
    min_battery_fraction: float = 0.2  # below: return and land
    critical_battery_fraction: float = 0.1  # below: land in place

    @staticmethod
    def of_mission(fence: Fence, own: OwnLimits) -> FlightEnvelope:
        """The envelope of a follower: the mission's geofence within the drone's own limits.

        Raises ValueError if they leave no height to fly at.
        """
        highest_m = own.max_height_m
        if fence.min_height_m >= highest_m:
            raise ValueError(
                f"the fence's lowest height is {fence.min_height_m:g} m, a drone's highest {highest_m:g} m"
            )
        return FlightEnvelope(
            replace(fence, max_height_m=min(fence.max_height_m, highest_m)),
            max_speed_m_s=own.max_speed_m_s,
            max_distance_m=own.max_distance_m,
        )

    def refuses_point(self, point_enu_m: Vec3, home_enu_m: Vec3 | None) -> str:
        """Why a point is refused as a target; empty if it is not."""
        if not all(map(isfinite, point_enu_m)):
            return "the target is not a finite point"
        outside = -self.fence.inside_m(point_enu_m)
        if outside > 0.0:
            return f"the target lies {outside:.1f} m outside the geofence"
        return self._refuses_range(point_enu_m, point_enu_m, home_enu_m, "the target")

    def refuses_path(self, path: Path, home_enu_m: Vec3 | None) -> str:
        """Why a path is refused; empty if it is not. Conservative: upper bounds, no samples."""
        if path.duration_s > self.max_duration_s:
            return f"the trajectory takes {path.duration_s:.0f} s, the limit is {self.max_duration_s:.0f} s"
        bounds = path.bounds()
        for name, value, limit, unit in (
            ("speed", bounds.horizontal_speed_m_s, self.max_speed_m_s, "m/s"),
            ("climb or descent", bounds.vertical_speed_m_s, self.max_climb_m_s, "m/s"),
            ("acceleration", bounds.acceleration_m_s2, self.max_acceleration_m_s2, "m/s^2"),
            ("jerk", bounds.jerk_m_s3, self.max_jerk_m_s3, "m/s^3"),
        ):
            if value > limit * (1 + 1e-6):
                return f"the trajectory's {name} reaches {value:.2f} {unit}, the limit is {limit:.2f} {unit}"
        outside = -self.fence.worst(path.hull())
        if outside > 1e-6:
            return f"the trajectory leaves the geofence by {outside:.1f} m"
        return self._refuses_range(bounds.low_enu_m, bounds.high_enu_m, home_enu_m, "the trajectory")

    def _refuses_range(self, low: Vec3, high: Vec3, home: Vec3 | None, what: str) -> str:
        if low[2] < self.fence.min_height_m - 1e-6:
            return f"{what} goes down to {low[2]:.1f} m, the lowest height is {self.fence.min_height_m:.1f} m"
        if high[2] > self.fence.max_height_m + 1e-6:
            return f"{what} goes up to {high[2]:.1f} m, the highest height is {self.fence.max_height_m:.1f} m"
        if home is not None:
            far = hypot(max(home[0] - low[0], high[0] - home[0]), max(home[1] - low[1], high[1] - home[1]))
            if far > self.max_distance_m:
                return f"{what} goes {far:.0f} m from home, the limit is {self.max_distance_m:.0f} m"
        return ""


@dataclass(frozen=True, slots=True)
class VehicleLimits:
    """What vehicles of a known kind can do, however their followers are configured."""

    climb_m_s: float = inf
    descent_m_s: float = inf
    endurance_s: float = inf  # of a full battery in hover flight


USUAL: Final = OwnLimits()
UNLIMITED: Final = VehicleLimits()
