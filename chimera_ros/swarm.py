"""Names of the members and limits of a swarm: how many drones, which ports."""

from __future__ import annotations

CRYPTO_MEMBER = "crypto_0"
MAX_STANDBYS = 3  # a crypto node's rank, 0 to 3, stands in its name
LEADER_MEMBER = "leader_0"
LOGGER_MEMBER = "logger_0"
MODERATOR_MEMBER = "moderator_0"
OPERATOR_MEMBER = "operator_0"

MAX_DRONES = 250  # MAVLink system ids end at 255, 245 is MAVSDK's own, some belong to ground stations
FIRST_PORT = 15540  # out of the way of PX4's own 14540-14550 and 14580 and up
GCS_PORT = 14550
DRONES_PER_SHARD = 5
MOST_SHARDS = 4  # every shard opens every telemetry message: more of them cost more than they bring


def drone_name(number: int) -> str:
    """Name of the drone with this number (from 1): drone_01, …, drone_100."""
    return f"drone_{number:02d}"


def crypto_name(rank: int) -> str:
    """Name of the crypto node of this rank: crypto_0, crypto_1, …"""
    return f"crypto_{rank}"
