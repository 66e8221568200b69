"""Wire format of control messages and envelopes, field by field as in `msg/`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from .encoding import u16, u32, var
from .errors import Rejected, RejectReason

ENVELOPE_VERSION: Final = 1
MAX_SEALED: Final = 1_114_112
MAX_HEAD: Final = 1_048_576
MAX_CERTIFICATE: Final = 16384
MAX_COUNTER: Final = 2**48  # of one sender key: far below AES-GCM's limits; volume rotation comes earlier
SIGNATURE_BYTES: Final = 4627  # ML-DSA-87 (FIPS 204)
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
STAMP_BYTES: Final = 8


class Lane:
    """Lane numbers of an envelope (SecureEnvelope.LANE_*)."""

    COMMAND: Final = 0
    TELEMETRY: Final = 1
    PLAN: Final = 2
    BULK: Final = 3


LANE_NAMES: Final = ("command", "telemetry", "plan", "bulk")
LANE_SIGNED: Final = (True, False, True, False)  # signature mode `always`; otherwise `checkpoint`


class ControlKind(Enum):
    """Kinds of control message, which are signed and not encrypted; the value is the topic's name."""

    KEY_REQUEST = "key_request"
    KEY_PACKAGE = "key_packages"
    ANNOUNCEMENT = "epoch"
    READY = "ready"
    SWITCH = "switch"
    BEAT = "beat"
    CERTIFICATE = "certificates"
    TRUST = "trust"
    STOP = "stop"
    STOP_ACK = "stop_ack"
    FALLBACK_HELLO = "fallback_hello"


CONTROL_LIMITS: Final[dict[ControlKind, tuple[int, ...]]] = {
    ControlKind.KEY_REQUEST: (1024, SIGNATURE_BYTES),
    ControlKind.KEY_PACKAGE: (16384, SIGNATURE_BYTES),
    ControlKind.ANNOUNCEMENT: (MAX_HEAD, 32, 4_194_304, SIGNATURE_BYTES),
    ControlKind.READY: (1024, SIGNATURE_BYTES),
    ControlKind.SWITCH: (1024, SIGNATURE_BYTES),
    ControlKind.BEAT: (1024, SIGNATURE_BYTES),
    ControlKind.CERTIFICATE: (MAX_CERTIFICATE,),
    ControlKind.TRUST: (262_400, SIGNATURE_BYTES),
    ControlKind.STOP: (65536, SIGNATURE_BYTES),
    ControlKind.STOP_ACK: (1024, SIGNATURE_BYTES),
    ControlKind.FALLBACK_HELLO: (1024, SIGNATURE_BYTES),
}


@dataclass(frozen=True, slots=True)
class ControlMessage:
    """A control message: (body, signature); EpochAnnouncement: (head, key_tag, seeds, signature);
    Certificate: (der,); TrustUpdate: (body, signature), empty for a revocation list.
    """

    kind: ControlKind
    parts: tuple[bytes, ...]


class Envelope(NamedTuple):
    """SecureEnvelope.msg; a named tuple for speed, as one is made for every message."""

    version: int
    lane: int
    sender: int
    epoch: int
    sealed: bytes
    signature: bytes = b""

    def canonical(self) -> bytes:
        """Canonical bytes, hashed in the associated data of a response."""
        return b"".join(
            (
                bytes((self.version & 0xFF, self.lane & 0xFF)),
                u16(self.sender),
                u32(self.epoch),
                var(bytes(self.sealed)),
                var(bytes(self.signature)),
            )
        )


def check_size(message: ControlMessage) -> None:
    """Raises Rejected(SIZE) unless every part is within the bounds of its .msg field."""
    limits = CONTROL_LIMITS[message.kind]
    if len(message.parts) != len(limits):
        raise Rejected(
            RejectReason.SIZE, f"{message.kind.value} has {len(message.parts)} parts, not {len(limits)}"
        )
    for part, limit in zip(message.parts, limits, strict=True):
        if len(part) > limit:
            raise Rejected(
                RejectReason.SIZE, f"{message.kind.value} part of {len(part)} bytes, at most {limit}"
            )
