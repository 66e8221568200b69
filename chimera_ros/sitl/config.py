"""Configuration of a simulated swarm, and the faults that can be injected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from chimera_ros.flight.datum import Datum

Vec3 = tuple[float, float, float]

MAX_DRONES = 250  # MAVLink system ids are one byte, and 245 up are customary for ground stations
DEFAULT_FIRST_PORT = 15540
DEFAULT_GCS_PORT = 14550
DEFAULT_DATUM = Datum(47.397742, 8.545594, 488.0)  # default home of PX4's SITL
OWN_PORT_OFFSET = 1000  # a vehicle whose client listens on port P sends from port P + this


class SitlError(Exception):
    """A simulation that cannot be started; its text is one sentence for the user."""


class FaultKind(Enum):
    """Faults of a vehicle, from the start or from `at_s` on."""

    BAD_ORIGIN = "bad_origin"  # reports local positions that disagree with global ones by 2.5 m
    ORIGIN_JUMP = "origin_jump"  # its EKF origin moves by a few metres at at_s, with a reset of the estimator
    SILENT = "silent"  # neither sends nor receives
    FREEZE = "freeze"  # flies on but neither sends nor receives from at_s on
    NO_GPS = "no_gps"  # its estimator never becomes ready
    LOW_BATTERY = "low_battery"  # begins with 12 % of its battery


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one vehicle. `at_s` is simulation time; only origin_jump and freeze use it."""

    vehicle: int  # index from 0
    kind: FaultKind
    at_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `ID:KIND` or `ID:KIND@SECONDS`, ID counting from 1.

        Raises:
            SitlError: if the text is anything else.
        """
        kinds = ", ".join(kind.value for kind in FaultKind)
        try:
            number, rest = text.split(":", 1)
            name, _, moment = rest.partition("@")
            fault = cls(int(number) - 1, FaultKind(name), float(moment) if moment else 0.0)
        except ValueError:
            raise SitlError(
                f"--fault {text}: write VEHICLE:KIND or VEHICLE:KIND@SECONDS with KIND one of {kinds}."
            ) from None
        if fault.vehicle < 0 or not math.isfinite(fault.at_s) or fault.at_s < 0.0:
            raise SitlError(f"--fault {text}: vehicles count from 1 and seconds from 0.")
        return fault


@dataclass(frozen=True, slots=True)
class SitlConfig:
    """All inputs of a simulation: equal values give equal flights in stepped time."""

    drones: int = 5
    first_port: int = DEFAULT_FIRST_PORT  # vehicle i (from 0) sends to 127.0.0.1:(first_port + i)
    gcs_port: int = DEFAULT_GCS_PORT  # all vehicles send to 127.0.0.1:gcs_port as well; 0 for none
    seed: int = 1
    wind_m_s: float = 0.0  # mean wind; gusts grow with it
    personality: str = "px4"
    datum: Datum = DEFAULT_DATUM
    spawn_enu_m: Sequence[Vec3] = ()  # empty: a grid with `spacing_m`
    spacing_m: float = 4.0
    first_system_id: int = 1
    faults: Sequence[Fault] = ()
    speed_factor: float = 1.0  # simulated seconds per wall second
    origin_spread_m: float = 3.0  # largest distance of an EKF origin from the spawn position, each axis
    altitude_bias_m: float = 0.15  # largest constant error of an altitude estimate
    drift_m: float = 0.03  # standard deviation of the slowly drifting position error, each axis
    ready_after_s: float = 2.0  # until the estimators allow arming
    hover_minutes: float = 18.0  # how long a full battery hovers
    parameters: Mapping[str, float] = field(
        default_factory=dict
    )  # PX4 parameters of every vehicle, set at start
    tracks: str | None = None  # JSON lines file of true positions at 5 Hz

    def check(self) -> None:
        """Check ranges.

        Raises:
            SitlError: with one sentence that names the value and what is allowed.
        """
        if self.personality == "arducopter":
            raise SitlError(
                "--personality arducopter is not built yet: use px4, or connect a real ArduCopter SITL."
            )
        if self.personality != "px4":
            raise SitlError(f"--personality {self.personality}: only px4 is known.")
        if not 1 <= self.drones <= MAX_DRONES:
            raise SitlError(f"--drones {self.drones}: from 1 to {MAX_DRONES} are possible.")
        if self.first_system_id < 1 or self.first_system_id + self.drones - 1 > 250:
            raise SitlError(
                "System ids must lie between 1 and 250: lower the first system id or the number of drones."
            )
        last = self.first_port + self.drones - 1 + OWN_PORT_OFFSET
        if self.first_port < 1024 or last > 65535:
            raise SitlError(
                f"--first-port {self.first_port}: ports up to {last} are used, 1024 to 65535 exist."
            )
        if self.drones > OWN_PORT_OFFSET:
            raise SitlError(f"--drones {self.drones}: at most {OWN_PORT_OFFSET}.")
        if self.gcs_port and self.first_port <= self.gcs_port < self.first_port + self.drones:
            raise SitlError(f"--gcs-port {self.gcs_port} is also the port of a vehicle: choose another.")
        if not 0.0 <= self.wind_m_s <= 15.0:
            raise SitlError(f"--wind {self.wind_m_s}: from 0 to 15 m/s are simulated.")
        if not 0.05 <= self.speed_factor <= 20.0:
            raise SitlError(f"--speed {self.speed_factor}: from 0.05 to 20 are possible.")
        if not 0.5 <= self.spacing_m <= 100.0:
            raise SitlError(f"--spacing {self.spacing_m}: from 0.5 to 100 m are possible.")
        if self.spawn_enu_m and len(self.spawn_enu_m) < self.drones:
            raise SitlError(f"The spawn file has {len(self.spawn_enu_m)} places for {self.drones} drones.")
        for fault in self.faults:
            if fault.vehicle >= self.drones:
                raise SitlError(
                    f"--fault names vehicle {fault.vehicle + 1}, but there are {self.drones} drones."
                )

    def spawn_places(self) -> list[Vec3]:
        """Spawn places, ENU metres: those given, or a square grid with its south-west corner at the datum."""
        if self.spawn_enu_m:
            return [(float(p[0]), float(p[1]), float(p[2])) for p in self.spawn_enu_m[: self.drones]]
        columns = math.ceil(math.sqrt(self.drones))
        return [
            (self.spacing_m * (i % columns), self.spacing_m * (i // columns), 0.0) for i in range(self.drones)
        ]

    def fault_of(self, vehicle: int, kind: FaultKind) -> Fault | None:
        """The fault of this kind that a vehicle (index from 0) has, if any."""
        for fault in self.faults:
            if fault.vehicle == vehicle and fault.kind is kind:
                return fault
        return None
