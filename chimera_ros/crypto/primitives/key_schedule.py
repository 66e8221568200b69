"""Key schedule: from an epoch's seed to the keys of each lane and sender.

    epoch_secret = HKDF-Extract(salt = transcript hash, seed)
    keyset       = HKDF-Expand(epoch_secret, "keyset", 256)      four lanes of 64 bytes
    sender key   = HKDF-Expand(lane, "sender" || slot || incarnation, 36)

HKDF is over SHA3-512 throughout; the labels are in labels.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..encoding import fields, u16
from ..wire import LANE_NAMES, NONCE_BYTES
from . import labels
from .suite import AESGCM, expand, extract

LANES: Final = len(LANE_NAMES)
LANE_KEY_BYTES: Final = 64
KEY_TAG_BYTES: Final = 32
SALT_BYTES: Final = NONCE_BYTES - 8  # a nonce is the salt and a 64-bit counter


@dataclass(frozen=True, slots=True, repr=False)
class EpochKeys:
    """Keys derived from an epoch's seed. Secret, except for `key_tag`."""

    key_tag: bytes
    lanes: tuple[bytes, ...]

    def __repr__(self) -> str:
        return "EpochKeys()"


def derive_keys(transcript_hash: bytes, seed: bytes) -> EpochKeys:
    """The keys of the epoch with this transcript hash (32 bytes) and seed (64 bytes)."""
    secret = extract(transcript_hash, seed)
    keyset = expand(secret, labels.KEYSET, LANES * LANE_KEY_BYTES)
    return EpochKeys(
        key_tag=expand(secret, labels.KEY_TAG, KEY_TAG_BYTES),
        lanes=tuple(keyset[i * LANE_KEY_BYTES : (i + 1) * LANE_KEY_BYTES] for i in range(LANES)),
    )


def sender_key(lane_key: bytes, slot: int, incarnation: bytes) -> tuple[AESGCM, bytes]:
    """(AES-256-GCM under the sender's key, 4-byte salt) of one sender on one lane."""
    block = expand(lane_key, fields(labels.SENDER_KEY, u16(slot), incarnation), 32 + SALT_BYTES)
    return AESGCM(block[:32]), block[32:]


def blind_key(lane_key: bytes, slot: int, incarnation: bytes) -> bytes:
    """The 32-byte key that blinds the leaves of a sender's checkpoints."""
    return expand(lane_key, fields(labels.BLIND_KEY, u16(slot), incarnation), 32)
