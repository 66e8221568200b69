"""Configuration of a simulated swarm, and the faults that can be injected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from chimera_ros.flight.datum import Datum
from chimera_ros.flight.limits import VehicleLimits
from chimera_ros.flight.moderation_call import MAX_SEED
from chimera_ros.formats.numbers import integer, number
from chimera_ros.formats.text import excerpt

from .parameters import SPECS

Vec3 = tuple[float, float, float]

MAX_DRONES = 244  # system id 245 is MAVSDK's
MAX_SYSTEM_ID = 250  # ids are one byte, and the highest are customary for ground stations
DEFAULT_FIRST_PORT = 15540
DEFAULT_GCS_PORT = 14550
DEFAULT_DATUM = Datum(47.397742, 8.545594, 488.0)  # default home of PX4's SITL
HOVER_MINUTES = 18.0  # of a full battery
VEHICLE_LIMITS = VehicleLimits(
    climb_m_s=float(SPECS["MPC_Z_VEL_MAX_UP"].default),
    descent_m_s=float(SPECS["MPC_Z_VEL_MAX_DN"].default),
    endurance_s=60.0 * HOVER_MINUTES,
)
OWN_PORT_OFFSET = 1000  # a vehicle whose client listens on port P sends from port P + this


class SitlError(Exception):
    """A simulation that cannot be started; its text is one sentence for the user."""


class SitlMisuse(SitlError):
    """An option has a value that is not allowed."""


class FaultKind(Enum):
    """Faults of a vehicle, from the start or, where `is_timed`, from `at_s` on."""

    BAD_ORIGIN = "bad_origin"  # reports local positions that disagree with global ones by 2.5 m
    ORIGIN_JUMP = "origin_jump"  # its EKF origin moves by a few metres at at_s, with a reset of the estimator
    SILENT = "silent"  # neither sends nor receives
    FREEZE = "freeze"  # flies on but neither sends nor receives from at_s on
    NO_GPS = "no_gps"  # its estimator never becomes ready
    LOW_BATTERY = "low_battery"  # begins with 12 % of its battery

    @property
    def is_timed(self) -> bool:
        """True if the fault begins at a time of its own."""
        return self in (FaultKind.ORIGIN_JUMP, FaultKind.FREEZE)


FAULT_GRAMMAR: Final = "N:KIND[@SECONDS]"
FAULT_KINDS: Final = ", ".join(kind.value + ("[@SECONDS]" if kind.is_timed else "") for kind in FaultKind)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of one vehicle. `at_s` is simulation time."""

    vehicle: int  # index from 0
    kind: FaultKind
    at_s: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read `FAULT_GRAMMAR`, N counting from 1.

        Raises:
            SitlMisuse: if the text is anything else.
        """
        vehicle, _, rest = text.partition(":")
        word, at, seconds = rest.partition("@")
        try:
            kind = FaultKind(word)
            fault = cls(integer(vehicle) - 1, kind, number(seconds) if at else 0.0)
        except ValueError:
            raise SitlMisuse(
                f"--fault is '{excerpt(text)}'; write {FAULT_GRAMMAR} with KIND one of {FAULT_KINDS}."
            ) from None
        if at and not kind.is_timed:
            raise SitlMisuse(
                f"--fault is '{excerpt(text)}', but {word} lasts from the start: leave out @SECONDS."
            )
        if fault.vehicle < 0 or fault.at_s < 0.0:
            raise SitlMisuse(f"--fault is '{excerpt(text)}'; vehicles count from 1 and seconds from 0.")
        return fault


def check_faults(faults: Sequence[Fault], drones: int) -> None:
    """Raises SitlMisuse for a fault of a vehicle that is not there, or given twice."""
    for index, fault in enumerate(faults):
        if fault.vehicle >= drones:
            raise SitlMisuse(f"--fault names vehicle {fault.vehicle + 1}, but there are {drones} drones.")
        if any((fault.vehicle, fault.kind) == (other.vehicle, other.kind) for other in faults[:index]):
            raise SitlMisuse(f"--fault gives vehicle {fault.vehicle + 1} the fault {fault.kind.value} twice.")


def check_gcs_port(gcs_port: int, first_port: int, drones: int) -> None:
    """Raises SitlMisuse if the ground station's port is also one of the vehicles or their clients."""
    for first in (first_port, first_port + OWN_PORT_OFFSET):
        if gcs_port and first <= gcs_port < first + drones:
            raise SitlMisuse(f"--gcs-port {gcs_port} is also the port of a vehicle: choose another.")


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
    hover_minutes: float = HOVER_MINUTES
    parameters: Mapping[str, float] = field(
        default_factory=dict
    )  # PX4 parameters of every vehicle, set at start
    tracks: Path | None = None  # JSON lines file of true positions at 5 Hz

    def check(self) -> None:
        """Check ranges.

        Raises:
            SitlMisuse: with one sentence that names the value and what is allowed.
        """
        if self.personality == "arducopter":
            raise SitlMisuse(
                "--personality arducopter is not built yet: use px4, or connect a real ArduCopter SITL."
            )
        if self.personality != "px4":
            raise SitlMisuse(f"--personality is '{excerpt(self.personality)}'; only px4 is known.")
        last_port = 65535 - OWN_PORT_OFFSET - (self.drones - 1)
        for option, value, low, high in (
            ("--drones", self.drones, 1, MAX_DRONES),
            ("--first-system-id", self.first_system_id, 1, MAX_SYSTEM_ID - (self.drones - 1)),
            ("--first-port", self.first_port, 1024, last_port),
            ("--gcs-port", self.gcs_port, 0, 65535),
            ("--seed", self.seed, 0, MAX_SEED),
            ("--wind", self.wind_m_s, 0.0, 15.0),
            ("--speed", self.speed_factor, 0.05, 20.0),
            ("--spacing", self.spacing_m, 0.5, 100.0),
        ):
            if not low <= value <= high:
                for_drones = (
                    f" for {self.drones} drones" if option in ("--first-port", "--first-system-id") else ""
                )
                raise SitlMisuse(
                    f"{option} {value:.9g} is out of range: {low} to {high} are possible{for_drones}."
                )
        check_gcs_port(self.gcs_port, self.first_port, self.drones)
        if self.spawn_enu_m and len(self.spawn_enu_m) < self.drones:
            raise SitlMisuse(f"The spawn file has {len(self.spawn_enu_m)} places for {self.drones} drones.")
        check_faults(self.faults, self.drones)

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
