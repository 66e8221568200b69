"""Names of the members and limits of a swarm: how many drones, which ports.

The one place for both: the launcher checks what was asked for against the ranges, the command line shows them
and takes its defaults from them, nodes declare their parameters with them. No process is started or described
here (`launcher/spec`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from chimera_ros.crypto.trust.rank import RANKS
from chimera_ros.ros.names import DEFAULT_NAMESPACE

N = TypeVar("N", int, float)

CRYPTO_MEMBER = "crypto_0"
LEADER_MEMBER = "leader_0"
LOGGER_MEMBER = "logger_0"
MODERATOR_MEMBER = "moderator_0"
OPERATOR_MEMBER = "operator_0"
NAMESPACE: Final = DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Range(Generic[N]):
    """Allowed values of a setting, both ends included, and its default."""

    low: N
    high: N
    default: N
    unit: str = ""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high  # false for NaN

    def __str__(self) -> str:
        low, high = (f"{end:g}" if isinstance(end, float) else str(end) for end in (self.low, self.high))
        return f"{low} to {high} {self.unit}".rstrip()


DRONES: Final = Range(1, 244, 20)  # a drone's number is its MAVLink system id, and 245 is MAVSDK's
STANDBYS: Final = Range(0, RANKS - 1, 1)  # crypto nodes beside the first, each with a rank of its own
ROTATION_S: Final = Range(2.0, 3600.0, 60.0, "s")  # between key rotations
READY_TIMEOUT_S: Final = Range(5.0, 600.0, 60.0, "s")  # until every drone is ready
WIND_M_S: Final = Range(0.0, 15.0, 0.0, "m/s")  # mean wind that the embedded SITL simulates
SEED: Final = Range(0, 2**63 - 1, 1)
DURATION_S: Final = Range(0.1, 86400.0, 86400.0, "s")  # until the swarm is landed in any case
EAVESDROPPER: Final = Range(0.0, 1.0, 0.0)  # fraction of the simulated photons that are intercepted
# Out of the way of PX4's own 14540-14550 and 14580 and up. The highest is for a single drone: each further
# drone takes one port more, and the vehicles of the embedded SITL send from ports 1000 above.
FIRST_PORT: Final = Range(1024, 64535, 15540)
GCS_PORT: Final = Range(0, 65535, 14550)  # 0: no ground station

DRONES_PER_SHARD = 5
MAX_SHARDS = (
    4  # by default: every shard opens every telemetry message, more of them cost more than they bring
)


def drone_name(number: int) -> str:
    """Name of the drone with this number (from 1): drone_01, …, drone_100."""
    return f"drone_{number:02d}"


def crypto_name(rank: int) -> str:
    """Name of the crypto node of this rank: crypto_0, crypto_1, …"""
    return f"crypto_{rank}"
