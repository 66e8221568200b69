"""Swarm datum: the WGS-84 position that is the origin of the common frame `map`, and its bounds.

Latitude ends at 85 degrees. Autopilots, the embedded one as well, project latitude and longitude with a fixed
length of a degree of longitude; within 1 km of the datum this is then at most 1 m beside the tangent plane,
which is as much as the bridge tolerates before arming. Nearer to a pole it is more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_LATITUDE_DEG: Final = 85.0
MAX_LONGITUDE_DEG: Final = 180.0
MIN_ALTITUDE_AMSL_M: Final = -500.0
MAX_ALTITUDE_AMSL_M: Final = 9000.0


@dataclass(frozen=True, slots=True)
class Datum:
    """WGS-84 latitude and longitude in degrees, altitude above mean sea level in metres.

    Raises:
        ValueError: a value is out of bounds or no number; one sentence.
    """

    latitude_deg: float
    longitude_deg: float
    altitude_amsl_m: float

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("latitude", self.latitude_deg, -MAX_LATITUDE_DEG, MAX_LATITUDE_DEG),
            ("longitude", self.longitude_deg, -MAX_LONGITUDE_DEG, MAX_LONGITUDE_DEG),
            ("altitude", self.altitude_amsl_m, MIN_ALTITUDE_AMSL_M, MAX_ALTITUDE_AMSL_M),
        ):
            if not low <= value <= high:
                unit = "m above mean sea level" if name == "altitude" else "degrees"
                raise ValueError(
                    f"the datum's {name} is {value:g}, but must lie between {low:g} and {high:g} {unit}"
                )
