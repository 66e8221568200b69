"""Frames: geodetic coordinates, the common frame `map`, and the local frames of autopilots.

`map` is the tangent plane (east, north, up) at the swarm datum on the WGS-84 ellipsoid (REP 103, REP 105). An
autopilot reports its position in metres from its own EKF origin, and projects latitude and longitude on a
*sphere*, not on the ellipsoid: PX4 with a radius of 6 371 000 m, ArduPilot with 6 378 100 m.
East-west this is off by up to 0.5 %, half a metre at 100 m; `LocalFrame` undoes it. Heights above mean sea
level are used as ellipsoidal heights: their difference, the geoid undulation, is the same for a whole swarm.

Plain floats: these functions run per vehicle and message, where numpy is slower.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from chimera_ros.flight.datum import Datum

Vec3 = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Matrix3 = tuple[Vec3, Vec3, Vec3]

WGS84_A_M = 6378137.0
WGS84_F = 1.0 / 298.257223563
_E2 = WGS84_F * (2.0 - WGS84_F)
_B_M = WGS84_A_M * (1.0 - WGS84_F)
_HALF = math.sqrt(0.5)


class Projection(Enum):
    """How an autopilot projects latitude and longitude to metres; the value is its sphere's radius, m."""

    WGS84 = 0.0  # a true tangent plane on the ellipsoid
    PX4 = 6_371_000.0  # azimuthal equidistant, lib/geo/geo.h CONSTANTS_RADIUS_OF_EARTH
    ARDUPILOT = 6_378_100.0  # equirectangular, AP_Common/Location.h LOCATION_SCALING_FACTOR


@dataclass(frozen=True, slots=True)
class EkfOrigin:
    """An estimator's origin, as GPS_GLOBAL_ORIGIN reports it: WGS-84 degrees, metres above mean sea level.

    It may lie anywhere on earth, unlike the swarm's datum. Raises ValueError if latitude is not within ±90,
    longitude not within ±180, or altitude not within -1000 … 20000.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_amsl_m: float

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("latitude_deg", self.latitude_deg, -90.0, 90.0),
            ("longitude_deg", self.longitude_deg, -180.0, 180.0),
            ("altitude_amsl_m", self.altitude_amsl_m, -1000.0, 20000.0),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, but must be between {low:g} and {high:g}")


def geodetic_to_ecef(latitude_deg: float, longitude_deg: float, altitude_m: float) -> Vec3:
    """Earth-centred, earth-fixed coordinates in metres of a WGS-84 point."""
    lat, lon = math.radians(latitude_deg), math.radians(longitude_deg)
    sin_lat, cos_lat = math.sin(lat), math.cos(lat)
    normal = WGS84_A_M / math.sqrt(1.0 - _E2 * sin_lat * sin_lat)
    horizontal = (normal + altitude_m) * cos_lat
    z = (normal * (1.0 - _E2) + altitude_m) * sin_lat
    return horizontal * math.cos(lon), horizontal * math.sin(lon), z


def ecef_to_geodetic(ecef_m: Vec3) -> Vec3:
    """Latitude (deg), longitude (deg), altitude (m) of an ECEF point; better than a millimetre below 20 km.

    Bowring's formula with one repetition (B. R. Bowring, Survey Review 23, 1976).
    """
    x, y, z = ecef_m
    p = math.hypot(x, y)
    ep2 = _E2 / (1.0 - _E2)
    beta = math.atan2(z * WGS84_A_M, p * _B_M)
    lat = 0.0
    for _ in range(2):
        lat = math.atan2(z + ep2 * _B_M * math.sin(beta) ** 3, p - _E2 * WGS84_A_M * math.cos(beta) ** 3)
        beta = math.atan2((1.0 - WGS84_F) * math.sin(lat), math.cos(lat))
    sin_lat, cos_lat = math.sin(lat), math.cos(lat)
    normal = WGS84_A_M / math.sqrt(1.0 - _E2 * sin_lat * sin_lat)
    altitude = p * cos_lat + z * sin_lat - normal * (1.0 - _E2 * sin_lat * sin_lat)
    return math.degrees(lat), math.degrees(math.atan2(y, x)), altitude


def _enu_axes(latitude_deg: float, longitude_deg: float) -> Matrix3:
    """Rows: east, north and up at a place, as unit vectors in ECEF."""
    lat, lon = math.radians(latitude_deg), math.radians(longitude_deg)
    sl, cl, so, co = math.sin(lat), math.cos(lat), math.sin(lon), math.cos(lon)
    return (-so, co, 0.0), (-sl * co, -sl * so, cl), (cl * co, cl * so, sl)


def _times(m: Matrix3, v: Vec3) -> Vec3:
    a, b, c = m
    x, y, z = v
    return (
        a[0] * x + a[1] * y + a[2] * z,
        b[0] * x + b[1] * y + b[2] * z,
        c[0] * x + c[1] * y + c[2] * z,
    )


def _transposed_times(m: Matrix3, v: Vec3) -> Vec3:
    a, b, c = m
    x, y, z = v
    return (
        a[0] * x + b[0] * y + c[0] * z,
        a[1] * x + b[1] * y + c[1] * z,
        a[2] * x + b[2] * y + c[2] * z,
    )


class TangentPlane:
    """The frame `map`: east, north, up in metres from a datum."""

    __slots__ = ("_axes", "_ecef", "datum")

    def __init__(self, datum: Datum) -> None:
        self.datum = datum
        self._axes = _enu_axes(datum.latitude_deg, datum.longitude_deg)
        self._ecef = geodetic_to_ecef(datum.latitude_deg, datum.longitude_deg, datum.altitude_amsl_m)

    def to_enu(self, latitude_deg: float, longitude_deg: float, altitude_amsl_m: float) -> Vec3:
        """ENU metres of a geodetic point."""
        x, y, z = geodetic_to_ecef(latitude_deg, longitude_deg, altitude_amsl_m)
        ox, oy, oz = self._ecef
        return _times(self._axes, (x - ox, y - oy, z - oz))

    def to_geodetic(self, enu_m: Vec3) -> Vec3:
        """Latitude (deg), longitude (deg), altitude (m) of an ENU point."""
        x, y, z = _transposed_times(self._axes, enu_m)
        ox, oy, oz = self._ecef
        return ecef_to_geodetic((x + ox, y + oy, z + oz))

    def axes(self) -> Matrix3:
        """East, north, up as unit vectors in ECEF."""
        return self._axes


class LocalFrame:
    """Local frame of one autopilot, with the EKF origin as zero, against `map`.

    Affine: `map = R · (scale * local) + t`, where `R` rotates the tangent plane at the origin into that at
    the datum and `scale` undoes the autopilot's sphere. Within 1 km exact to a centimetre for PX4;
    ArduPilot's equirectangular projection leaves 0.1 m at 47 degrees of latitude and 0.9 m at 85.
    """

    __slots__ = ("_rotation", "_scale", "offset_enu_m", "origin")

    def __init__(self, plane: TangentPlane, origin: EkfOrigin, projection: Projection) -> None:
        self.origin = origin
        self.offset_enu_m = plane.to_enu(origin.latitude_deg, origin.longitude_deg, origin.altitude_amsl_m)
        here = _enu_axes(origin.latitude_deg, origin.longitude_deg)
        rows = tuple(_times(here, axis) for axis in plane.axes())
        self._rotation: Matrix3 = (rows[0], rows[1], rows[2])
        if projection is Projection.WGS84:
            self._scale: Vec3 = (1.0, 1.0, 1.0)
            return
        w = 1.0 - _E2 * math.sin(math.radians(origin.latitude_deg)) ** 2
        east = WGS84_A_M / math.sqrt(w) + origin.altitude_amsl_m
        north = WGS84_A_M * (1.0 - _E2) / (w * math.sqrt(w)) + origin.altitude_amsl_m
        self._scale = (east / projection.value, north / projection.value, 1.0)

    def to_map(self, local_enu_m: Vec3) -> Vec3:
        """Position in `map` of a local ENU position."""
        s, t = self._scale, self.offset_enu_m
        x, y, z = _times(
            self._rotation, (s[0] * local_enu_m[0], s[1] * local_enu_m[1], s[2] * local_enu_m[2])
        )
        return x + t[0], y + t[1], z + t[2]

    def to_local(self, map_enu_m: Vec3) -> Vec3:
        """Local ENU position of a position in `map`."""
        s, t = self._scale, self.offset_enu_m
        x, y, z = _transposed_times(
            self._rotation, (map_enu_m[0] - t[0], map_enu_m[1] - t[1], map_enu_m[2] - t[2])
        )
        return x / s[0], y / s[1], z / s[2]

    def vector_to_map(self, local_enu: Vec3) -> Vec3:
        """A velocity or acceleration in `map`: rotated, not scaled, since it is measured in true metres."""
        return _times(self._rotation, local_enu)

    def vector_to_local(self, map_enu: Vec3) -> Vec3:
        """A velocity or acceleration from `map` in the autopilot's frame."""
        return _transposed_times(self._rotation, map_enu)

    def shifted(self, by_enu_m: Vec3) -> LocalFrame:
        """The same frame with its origin moved by so many metres in `map`."""
        other = object.__new__(LocalFrame)
        other.origin = self.origin
        other._rotation = self._rotation
        other._scale = self._scale
        t = self.offset_enu_m
        other.offset_enu_m = (t[0] + by_enu_m[0], t[1] + by_enu_m[1], t[2] + by_enu_m[2])
        return other


def enu_from_ned(ned: Vec3) -> Vec3:
    """East, north, up from north, east, down."""
    return ned[1], ned[0], -ned[2]


def ned_from_enu(enu: Vec3) -> Vec3:
    """North, east, down from east, north, up."""
    return enu[1], enu[0], -enu[2]


def wrap_pi(angle_rad: float) -> float:
    """The same angle within [-π, π)."""
    return (angle_rad + math.pi) % (2.0 * math.pi) - math.pi


def yaw_enu_from_ned(yaw_ned_rad: float) -> float:
    """Counter-clockwise from east, from clockwise from north; radians."""
    return wrap_pi(0.5 * math.pi - yaw_ned_rad)


def yaw_ned_from_enu(yaw_enu_rad: float) -> float:
    """Clockwise from north, from counter-clockwise from east; radians."""
    return wrap_pi(0.5 * math.pi - yaw_enu_rad)


def flu_in_enu_from_frd_in_ned(w: float, x: float, y: float, z: float) -> Quaternion:
    """Attitude of body FLU in ENU as (x, y, z, w), from attitude of body FRD in NED as w, x, y, z.

    `q_enu_ned ⊗ q_ned_frd ⊗ q_frd_flu` with `q_enu_ned` = (0, √½, √½, 0) and `q_frd_flu` = (0, 1, 0, 0), both
    w first, multiplied out; the sign is chosen so that w ≥ 0.
    """
    qw, qx, qy, qz = _HALF * (w + z), _HALF * (x + y), _HALF * (x - y), _HALF * (w - z)
    if qw < 0.0:
        return -qx, -qy, -qz, -qw
    return qx, qy, qz, qw


def yaw_of(orientation_xyzw: Quaternion) -> float:
    """Rotation about the third axis, radians, of an attitude given as (x, y, z, w)."""
    x, y, z, w = orientation_xyzw
    return math.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
