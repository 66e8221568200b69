"""Configuration of the bridge: one vehicle per drone, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

from chimera_ros.autopilot.connect import VehicleUrl, parse_url
from chimera_ros.autopilot.frames import Projection
from chimera_ros.autopilot.kinds import AutopilotKind

PROJECTIONS = {
    AutopilotKind.EMBEDDED: Projection.WGS84,
    AutopilotKind.PX4: Projection.PX4,
    AutopilotKind.ARDUPILOT: Projection.ARDUPILOT,
}


@dataclass(frozen=True, slots=True)
class VehicleConfig:
    """A drone and the autopilot pinned to it. Raises ValueError or ConnectError with one sentence.

    `uid` is the autopilot's hardware id in hexadecimal, as `Bridge.uid()` reports it; None leaves it
    unchecked. Motors start only with `allow_arm`, and stop in the air only with `allow_kill`.
    """

    drone: str
    url: str
    system_id: int
    uid: str | None = None
    kind: AutopilotKind = AutopilotKind.PX4
    allow_arm: bool = False
    allow_kill: bool = False

    def __post_init__(self) -> None:
        if not self.drone:
            raise ValueError("a vehicle needs the name of its drone")
        if not 1 <= self.system_id <= 254:
            raise ValueError(
                f"{self.drone}: the MAVLink system id is {self.system_id}, but must be from 1 to 254"
            )
        if self.kind not in PROJECTIONS:
            known = ", ".join(AutopilotKind)
            raise ValueError(f"{self.drone}: the autopilot is {self.kind!r}, but must be one of {known}")
        parse_url(self.url)

    @property
    def is_embedded_sitl(self) -> bool:
        """True for this package's simulation, which is on this machine only."""
        url = self.parsed_url
        return self.kind is AutopilotKind.EMBEDDED and url.scheme == "udpin" and url.loopback_only

    @property
    def parsed_url(self) -> VehicleUrl:
        """The URL in parts."""
        return parse_url(self.url)


def check_fleet(vehicles: tuple[VehicleConfig, ...], own_system_id: int) -> None:
    """Raise ValueError where two vehicles share a name, URL or system id, or one takes the bridge's own."""
    seen: dict[tuple[str, str], str] = {}
    for vehicle in vehicles:
        if vehicle.system_id == own_system_id:
            raise ValueError(
                f"{vehicle.drone}: system id {own_system_id} is the bridge's own, give it another"
            )
        for what, value in (
            ("name", vehicle.drone),
            ("connection", vehicle.url),
            ("MAVLink system id", str(vehicle.system_id)),
        ):
            if (what, value) in seen:
                other = seen[what, value]
                raise ValueError(
                    f"{other} and {vehicle.drone} have the same {what} {value}: each vehicle needs its own"
                )
            seen[what, value] = vehicle.drone
