"""Names of all topics, services and channels.

A *channel* is the logical name that the protocol binds into every envelope: relative to the swarm namespace,
for example ``drone_07/telemetry``. Its *topic* is the ROS name: the namespace and the channel.
"""

from __future__ import annotations

import re
from typing import Any, Final

DEFAULT_NAMESPACE: Final = "/chimera"

# Secure channels: SecureEnvelope.
LEADER_COMMAND: Final = "leader/command"
LEADER_ELECTION: Final = "leader/election"
LEADER_TRAJECTORY: Final = "leader/trajectory"
LEADER_NEURAL_UPDATE: Final = "leader/neural_update"
LEADER_HEARTBEAT: Final = "leader/heartbeat"
# The classical channel of quantum key distribution and, simulated, its quantum channel.
LEADER_QKD: Final = "leader/qkd"
CRYPTO_QKD: Final = "crypto/qkd"

# Secure services.
LEADER_STEPS: Final = "leader/steps"
CRYPTO_CLOCK: Final = "crypto/clock"
CRYPTO_ROTATE: Final = "crypto/rotate"
CRYPTO_EVICT: Final = "crypto/evict"
PATH_MODERATION: Final = "path_moderation/moderate"

# Plain, signed control topics of the key protocol.
CRYPTO_EPOCH: Final = "crypto/epoch"
CRYPTO_SWITCH: Final = "crypto/switch"
CRYPTO_BEAT: Final = "crypto/beat"
CRYPTO_KEY_REQUEST: Final = "crypto/key_request"
CRYPTO_CERTIFICATES: Final = "crypto/certificates"
CRYPTO_KEY_PACKAGES: Final = "crypto/key_packages"
CRYPTO_READY: Final = "crypto/ready"
CRYPTO_FALLBACK_HELLO: Final = "crypto/fallback_hello"
CRYPTO_TRUST: Final = "crypto/trust"
OPERATOR_STOP: Final = "operator/stop"
OPERATOR_STOP_ACK: Final = "operator/stop_ack"

DIAGNOSTICS: Final = "/diagnostics"

_SEGMENT = re.compile(r"[a-z0-9_]{1,48}")
_MAX_SEGMENTS = 4


def telemetry(drone: str) -> str:
    """Channel of a drone's state (DroneTelemetry)."""
    return check_channel(f"{drone}/telemetry")


def ack(drone: str) -> str:
    """Channel of a drone's acknowledgements (CommandAcks)."""
    return check_channel(f"{drone}/ack")


def checkpoint(member: str) -> str:
    """Topic of a member's signed checkpoints (Checkpoint)."""
    return check_channel(f"{member}/checkpoint")


def request(service: str) -> str:
    """Request channel of a secure service."""
    return check_channel(f"{service}/request")


def response(service: str) -> str:
    """Response channel of a secure service."""
    return check_channel(f"{service}/response")


def check_channel(channel: str) -> str:
    """Return `channel` if it is a valid logical name.

    Raises:
        ValueError: a part does not match ``[a-z0-9_]{1,48}`` or there are more than four parts.
    """
    parts = channel.split("/")
    if len(parts) > _MAX_SEGMENTS or not all(_SEGMENT.fullmatch(part) for part in parts):
        raise ValueError(
            f"channel {channel!r}: allowed are up to {_MAX_SEGMENTS} parts joined by '/', "
            "each of 1 to 48 letters a-z, digits and _"
        )
    return channel


def topic(channel: str, namespace: str = DEFAULT_NAMESPACE) -> str:
    """Absolute ROS topic of a channel in a swarm namespace.

    Parts that begin with a digit are not valid in ROS names; rclpy rejects them when the topic is created.
    """
    return f"{namespace.rstrip('/')}/{channel}"


def type_name(message_type: type[Any]) -> str:
    """Full name of a generated message class, for example ``geometry_msgs/msg/Point``.

    The two halves of a service are ``pkg/srv/Name_Request`` and ``pkg/srv/Name_Response``.

    Raises:
        TypeError: not a class that rosidl generated.
    """
    parts = message_type.__module__.split(".")
    if len(parts) < 3 or parts[-2] not in ("msg", "srv", "action"):
        raise TypeError(f"{message_type!r} is not a ROS message type")
    return f"{parts[0]}/{parts[-2]}/{message_type.__name__}"
