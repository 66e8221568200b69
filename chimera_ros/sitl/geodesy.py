"""Geodetic coordinates (WGS-84) from and to metres near a datum, with a fixed length of a degree.

Against the tangent plane this is 0.1 m off at 1 km from a datum at 47 degrees of latitude, 1 m at 85 degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from chimera_ros.flight.datum import Datum

_A_M = 6378137.0  # WGS-84 semi-major axis
_E2 = 6.69437999014e-3  # first eccentricity squared


@dataclass(frozen=True, slots=True)
class LocalEarth:
    """Metres per degree at a datum; NED here means north, east, down from the datum."""

    datum: Datum
    north_m_per_deg: float
    east_m_per_deg: float

    @classmethod
    def at(cls, datum: Datum) -> LocalEarth:
        """Radii of curvature (meridian and prime vertical) at the datum's latitude and height."""
        lat = math.radians(datum.latitude_deg)
        w2 = 1.0 - _E2 * math.sin(lat) ** 2
        prime_m = _A_M / math.sqrt(w2)
        meridian_m = prime_m * (1.0 - _E2) / w2
        height = datum.altitude_amsl_m
        per_deg = math.pi / 180.0
        return cls(datum, (meridian_m + height) * per_deg, (prime_m + height) * math.cos(lat) * per_deg)

    def to_geodetic(self, north_m: float, east_m: float, down_m: float) -> tuple[float, float, float]:
        """Latitude and longitude in degrees, altitude AMSL in metres."""
        return (
            self.datum.latitude_deg + north_m / self.north_m_per_deg,
            _wrap_180(self.datum.longitude_deg + east_m / self.east_m_per_deg),
            self.datum.altitude_amsl_m - down_m,
        )

    def to_ned(
        self, latitude_deg: float, longitude_deg: float, altitude_amsl_m: float
    ) -> tuple[float, float, float]:
        """North, east, down in metres from the datum."""
        return (
            (latitude_deg - self.datum.latitude_deg) * self.north_m_per_deg,
            _wrap_180(longitude_deg - self.datum.longitude_deg) * self.east_m_per_deg,
            self.datum.altitude_amsl_m - altitude_amsl_m,
        )


def _wrap_180(degrees: float) -> float:
    """The same longitude, or difference of two, within ±180 degrees."""
    return degrees if abs(degrees) <= 180.0 else degrees - math.copysign(360.0, degrees)
