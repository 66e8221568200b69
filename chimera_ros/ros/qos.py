"""QoS profiles of all topics.

DDS lifespan is never used: the protocol rejects old messages by their authenticated send time, and a reader
with a DDS lifespan whose clock is one second off receives nothing. Latched (transient local) readers keep at
least 16 samples, so that forged samples do not displace the genuine one.
"""

from __future__ import annotations

from typing import Final

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from . import names

COMMAND_DEPTH: Final = 64
STATE_DEPTH: Final = 16
LATCHED_READER_DEPTH: Final = 16
# Every member's certificate or package may arrive in one burst: readers keep as many as a large swarm has
# members.
JOIN_READER_DEPTH: Final = 256
JOIN_WRITER_DEPTH: Final = 64
CHECKPOINT_DEPTH: Final = 4


def _profile(depth: int, *, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def is_best_effort(channel: str) -> bool:
    """True if each message replaces the one before: telemetry and heartbeats."""
    return channel == names.LEADER_HEARTBEAT or channel.endswith("/telemetry")


def for_publisher(channel: str, latched: bool = False) -> QoSProfile:
    """Writer profile of a secure channel; a latched one offers its last sample to late joiners."""
    if latched:
        return _profile(1, latched=True)
    if is_best_effort(channel):
        return _profile(STATE_DEPTH, reliable=False)
    return _profile(COMMAND_DEPTH)


def for_subscription(channel: str, latched: bool = False) -> QoSProfile:
    """Reader profile of a secure channel."""
    if latched:
        return _profile(LATCHED_READER_DEPTH, latched=True)
    if is_best_effort(channel):
        return _profile(STATE_DEPTH * 4, reliable=False)
    return _profile(COMMAND_DEPTH * 2)


_LATCHED_CONTROL: Final = {
    # channel: (writer depth, reader depth)
    names.CRYPTO_EPOCH: (1, LATCHED_READER_DEPTH),
    names.CRYPTO_SWITCH: (1, LATCHED_READER_DEPTH),
    names.CRYPTO_BEAT: (1, LATCHED_READER_DEPTH),
    names.CRYPTO_KEY_REQUEST: (1, LATCHED_READER_DEPTH),
    names.CRYPTO_TRUST: (2, LATCHED_READER_DEPTH),  # revocation list and policy
    names.CRYPTO_CERTIFICATES: (JOIN_READER_DEPTH, JOIN_READER_DEPTH),  # one writer for all hosted members
}
_VOLATILE_CONTROL: Final = {
    names.CRYPTO_KEY_PACKAGES: (JOIN_WRITER_DEPTH, JOIN_READER_DEPTH),
    names.CRYPTO_READY: (JOIN_WRITER_DEPTH, JOIN_READER_DEPTH),
    names.CRYPTO_FALLBACK_HELLO: (JOIN_WRITER_DEPTH, JOIN_READER_DEPTH),
    names.OPERATOR_STOP: (STATE_DEPTH, STATE_DEPTH),  # large messages, which are repeated
    names.OPERATOR_STOP_ACK: (JOIN_WRITER_DEPTH, JOIN_READER_DEPTH),
}


def for_checkpoints(*, reader: bool) -> QoSProfile:
    """Profile of `<member>/checkpoint`: late joiners also receive the last few."""
    return _profile(CHECKPOINT_DEPTH * 2 if reader else CHECKPOINT_DEPTH, latched=True)


def best_effort() -> QoSProfile:
    """Reader profile for the newest samples at once, of any writer."""
    return _profile(STATE_DEPTH, reliable=False)


def for_diagnostics() -> QoSProfile:
    """Profile of `/diagnostics`, as diagnostic tools expect it."""
    return _profile(10)


def is_latched_control(channel: str) -> bool:
    """True if a control topic offers its last samples to late joiners."""
    return channel in _LATCHED_CONTROL


def for_control(channel: str, *, reader: bool) -> QoSProfile:
    """Profile of a plain, signed control topic.

    Raises:
        KeyError: not a control topic.
    """
    latched = is_latched_control(channel)
    depths = _LATCHED_CONTROL[channel] if latched else _VOLATILE_CONTROL[channel]
    return _profile(depths[1] if reader else depths[0], latched=latched)
