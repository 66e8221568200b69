"""KDF labels and ML-DSA context strings of the protocol, for domain separation.

Each is used for one purpose only; none is written out elsewhere.
"""

from __future__ import annotations

from typing import Final

PROTOCOL_VERSION: Final = 1

# Key schedule (HKDF-SHA3-512) and other domain separation.
SEED_DRAW: Final = b"CHIMERA-1 seed draw"
ENTROPY_BLOCK: Final = b"CHIMERA-1 entropy block"
QKD_TRANSCRIPT: Final = b"CHIMERA-1 qkd transcript"
QKD_SHUFFLE: Final = b"CHIMERA-1 qkd shuffle"
QKD_KEY_ID: Final = b"CHIMERA-1 qkd key id"
SEED_INFO: Final = b"CHIMERA-1 sealed seed"
KEY_TAG: Final = b"CHIMERA-1 key tag"
KEYSET: Final = b"CHIMERA-1 keyset"
SENDER_KEY: Final = b"CHIMERA-1 sender"
BLIND_KEY: Final = b"CHIMERA-1 blind"
FALLBACK_KEY: Final = b"CHIMERA-1 fallback key"
FALLBACK_AAD: Final = b"CHIMERA-1 fallback envelope"
ENVELOPE_AAD: Final = b"CHIMERA-1 envelope"

# ML-DSA context strings (FIPS 204, section 5.2): one per message type, never empty.
SIGN_KEY_REQUEST: Final = b"CHIMERA-1 key request"
SIGN_KEY_PACKAGE: Final = b"CHIMERA-1 key package"
SIGN_ANNOUNCEMENT: Final = b"CHIMERA-1 epoch announcement"
SIGN_READY: Final = b"CHIMERA-1 epoch ready"
SIGN_SWITCH: Final = b"CHIMERA-1 epoch switch"
SIGN_BEAT: Final = b"CHIMERA-1 beat"
SIGN_ENVELOPE: Final = b"CHIMERA-1 envelope"
SIGN_STOP: Final = b"CHIMERA-1 operator stop"
SIGN_STOP_ACK: Final = b"CHIMERA-1 stop ack"
SIGN_CHECKPOINT: Final = b"CHIMERA-1 checkpoint"
SIGN_TOTALS: Final = b"CHIMERA-1 flight totals"
SIGN_POLICY: Final = b"CHIMERA-1 policy"
SIGN_QKD: Final = b"CHIMERA-1 qkd session"
SIGN_SELF_TEST: Final = b"CHIMERA-1 self test"  # checks that a key matches its certificate
SIGN_FALLBACK_HELLO: Final = b"CHIMERA-1 fallback hello"
SIGN_FALLBACK: Final = b"CHIMERA-1 fallback envelope"

CONTEXTS: Final = (
    SIGN_KEY_REQUEST,
    SIGN_KEY_PACKAGE,
    SIGN_ANNOUNCEMENT,
    SIGN_READY,
    SIGN_SWITCH,
    SIGN_BEAT,
    SIGN_ENVELOPE,
    SIGN_STOP,
    SIGN_STOP_ACK,
    SIGN_POLICY,
    SIGN_QKD,
    SIGN_SELF_TEST,
    SIGN_CHECKPOINT,
    SIGN_TOTALS,
    SIGN_FALLBACK_HELLO,
    SIGN_FALLBACK,
)
