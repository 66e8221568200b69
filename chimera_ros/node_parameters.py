"""Parameters of every node: name, default, description with unit, allowed values; declared here once.

Nodes declare them to ROS and read them, and a parameter file is checked against them before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from chimera_ros import swarm
from chimera_ros.autopilot.connect import ConnectError, expand
from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.crypto.entropy.source_names import DEFAULT_SOURCES, SOURCE_NAMES
from chimera_ros.flight.limits import (
    MAX_DISTANCE_M,
    MAX_HEIGHT_M,
    MAX_SPEED_M_S,
    OWN_MAX_DISTANCE_M,
    OWN_MAX_HEIGHT_M,
    OWN_MAX_SPEED_M_S,
)
from chimera_ros.quantum.sampler import check_backend
from chimera_ros.ros.parameters import parameter


def _autostart() -> Any:
    return parameter(True, "configure and activate at start", read_only=True)


def _expose_services() -> Any:
    return parameter(
        False,
        "for a bench only: offer lifecycle and parameter services, which anyone on the network can call",
        read_only=True,
    )


def _key_passphrase_file() -> Any:
    return parameter(
        "",
        "file whose first line decrypts the members' keys; empty: credential of systemd, if there is one",
        read_only=True,
    )


@dataclass(frozen=True)
class CryptoParameters:
    """Parameters of the crypto node."""

    keystore: str = parameter("", "folder of the keystore", required=True, kind="folder")
    key_passphrase_file: str = _key_passphrase_file()
    member: str = parameter(
        swarm.CRYPTO_MEMBER, "member name of this node; its last digit, 0 to 3, is the rank"
    )
    rotation_s: float = parameter(
        swarm.ROTATION_S.default,
        "seconds between rekeys",
        ge=swarm.ROTATION_S.low,
        le=swarm.ROTATION_S.high,
    )
    entropy: tuple[str, ...] = parameter(
        DEFAULT_SOURCES,
        "entropy sources mixed into seeds; the operating system is always one of them",
        choices=SOURCE_NAMES,
    )
    autostart: bool = _autostart()
    expose_services: bool = _expose_services()


@dataclass(frozen=True)
class FollowerParameters:
    """Parameters of the follower."""

    keystore: str = parameter("", "folder of the keystore", required=True, kind="folder")
    key_passphrase_file: str = _key_passphrase_file()
    drones: tuple[int, ...] = parameter(
        (1,), "numbers of the hosted drones", ge=swarm.DRONES.low, le=swarm.DRONES.high
    )
    swarm_size: int = parameter(1, "number of drones in the swarm", ge=swarm.DRONES.low, le=swarm.DRONES.high)
    mission: str = parameter("", "mission file: datum, geofence, limits and pads", required=True, kind="file")
    connect: str = parameter(
        "udpin://127.0.0.1:{14540+i}", "MAVSDK URL template; i is the drone's index from 0"
    )
    autopilot: str = parameter(
        AutopilotKind.PX4.value, "kind of autopilot", choices=tuple(kind.value for kind in AutopilotKind)
    )
    allow_arm: bool = parameter(False, "allow arming")
    allow_kill: bool = parameter(False, "allow an operator's kill to stop motors in flight")
    max_speed_m_s: float = parameter(
        OWN_MAX_SPEED_M_S, "own speed limit, regardless of the leader, m/s", ge=0.5, le=MAX_SPEED_M_S
    )
    max_height_m: float = parameter(
        OWN_MAX_HEIGHT_M, "own height limit above the datum, m", ge=2.0, le=MAX_HEIGHT_M
    )
    max_distance_m: float = parameter(
        OWN_MAX_DISTANCE_M, "own limit of the distance from the takeoff point, m", ge=5.0, le=MAX_DISTANCE_M
    )
    hang_limit_s: float = parameter(
        1.0, "end the process when its control cycle stalls for so long in flight, s", ge=0.3, le=5.0
    )
    control_hz: float = parameter(20.0, "setpoint rate, Hz", ge=5.0, le=50.0)
    telemetry_hz: float = parameter(10.0, "telemetry rate per drone, Hz", ge=1.0, le=50.0)
    verify_checkpoints: bool = parameter(
        False, "verify neighbours' telemetry by their checkpoints, as leader and logger always do"
    )
    autostart: bool = _autostart()
    expose_services: bool = _expose_services()

    def __post_init__(self) -> None:
        if not self.drones or len(set(self.drones)) != len(self.drones):
            raise ValueError(
                f"parameter drones is {list(self.drones)}; it names at least one drone, each once"
            )
        try:
            for number in self.drones:
                expand(self.connect, number - 1)
        except ConnectError as error:
            raise ValueError(f"parameter connect: {error}") from None


@dataclass(frozen=True)
class LeaderParameters:
    """Parameters of the leader."""

    keystore: str = parameter("", "folder of the keystore", required=True, kind="folder")
    key_passphrase_file: str = _key_passphrase_file()
    member: str = parameter(swarm.LEADER_MEMBER, "member name of this node")
    mission: str = parameter("", "mission file to fly", required=True, kind="file")
    drones: int = parameter(1, "number of drones in the swarm", ge=swarm.DRONES.low, le=swarm.DRONES.high)
    ready_timeout_s: float = parameter(
        swarm.READY_TIMEOUT_S.default,
        "time-out for all drones to be ready, s",
        ge=swarm.READY_TIMEOUT_S.low,
        le=swarm.READY_TIMEOUT_S.high,
    )
    qkd: bool = parameter(False, "take part in (simulated) quantum key distribution with the crypto node")
    qkd_eavesdropper: float = parameter(
        swarm.EAVESDROPPER.default,
        "fraction of the simulated photons that are intercepted",
        ge=swarm.EAVESDROPPER.low,
        le=swarm.EAVESDROPPER.high,
    )
    moderation: bool = parameter(True, "call path moderation before every move and at a predicted conflict")
    autostart: bool = _autostart()
    expose_services: bool = _expose_services()


@dataclass(frozen=True)
class ModerationParameters:
    """Parameters of the path-moderation service."""

    keystore: str = parameter("", "folder of the keystore", required=True, kind="folder")
    key_passphrase_file: str = _key_passphrase_file()
    member: str = parameter(swarm.MODERATOR_MEMBER, "member name of this node")
    backend: str = parameter(
        "aer", "simulator of quantum circuits; none runs without them (docs/moderation.md)"
    )
    autostart: bool = _autostart()
    expose_services: bool = _expose_services()

    def __post_init__(self) -> None:
        try:
            check_backend(self.backend)
        except ValueError as error:
            raise ValueError(f"parameter backend: {error}") from None


@dataclass(frozen=True)
class LoggerParameters:
    """Parameters of the telemetry logger."""

    keystore: str = parameter("", "folder of the keystore", required=True, kind="folder")
    key_passphrase_file: str = _key_passphrase_file()
    member: str = parameter(swarm.LOGGER_MEMBER, "member name of this node")
    swarm_size: int = parameter(1, "number of drones in the swarm", ge=swarm.DRONES.low, le=swarm.DRONES.high)
    record: str = parameter("", "folder of MCAP files; empty: no records")
    autostart: bool = _autostart()
    expose_services: bool = _expose_services()


BY_EXECUTABLE: Final[dict[str, type[Any]]] = {
    "crypto": CryptoParameters,
    "follower": FollowerParameters,
    "telemetry_logger": LoggerParameters,
    "path_moderation": ModerationParameters,
    "leader": LeaderParameters,
}
