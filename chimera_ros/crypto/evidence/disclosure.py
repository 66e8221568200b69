"""Disclosure: proof of one packet of a flight for a third party, without other packets and without keys.

A disclosure has the packet's plaintext and associated data, its blind, its Merkle audit path and the signed
checkpoint with the path's root. Given the authority's certificate it proves that the named member has signed
exactly this message, on this channel, within this range of counters. It reveals nothing about other packets:
their leaves are blinded.

Not handled here: revocation of the certificate (the caller has the list), and the truth of the message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509

from ..encoding import is_name
from ..errors import CryptoError
from ..messages.associated_data import associated_data
from ..messages.checkpoint import MAX_LEAVES, Checkpoint
from ..primitives import merkle
from ..primitives.suite import HASH_BYTES, digest
from ..trust.identity import CertificateError, CertifiedMember, check_issuer, read_member_certificate
from ..wire import (
    LANE_NAMES,
    LANE_SIGNED,
    MAX_CERTIFICATE,
    MAX_COUNTER,
    MAX_SEALED,
    SIGNATURE_BYTES,
    STAMP_BYTES,
)

FORMAT: Final = "chimera-disclosure-1"
MAX_PATH: Final = (MAX_LEAVES - 1).bit_length()
MAX_TEXT: Final = 255


class DisclosureError(CryptoError):
    """A disclosure is malformed or does not verify; one sentence says why."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """Content of a disclosure, all of it public."""

    swarm: str
    channel: str
    type_name: str
    checkpoint: Checkpoint  # without leaves
    counter: int
    blind: bytes
    plaintext: bytes = field(repr=False)
    path: tuple[bytes, ...] = field(repr=False)
    certificate_der: bytes = field(repr=False)

    @property
    def sent_ns(self) -> int:
        """The sender's time stamp, ns since the Unix epoch."""
        return int.from_bytes(self.plaintext[:STAMP_BYTES])

    @property
    def payload(self) -> bytes:
        """The message, CDR."""
        return self.plaintext[STAMP_BYTES:]

    def check(self, authority: x509.Certificate) -> CertifiedMember:
        """Verifies the disclosure: the member that has signed it. Raises DisclosureError."""
        try:
            member = read_member_certificate(self.certificate_der)
            check_issuer(self.certificate_der, authority)
        except CertificateError as error:
            raise DisclosureError(f"the member's certificate {error.fault.value}") from None
        if member.swarm != self.swarm:
            raise DisclosureError(f"the certificate is of swarm {member.swarm}, not {self.swarm}")
        if not member.not_before_ns <= self.sent_ns <= member.not_after_ns:
            raise DisclosureError("the message was sent outside of the certificate's validity")
        checkpoint = self.checkpoint
        aad = associated_data(
            self.swarm,
            checkpoint.transcript_hash,
            checkpoint.lane,
            checkpoint.slot,
            checkpoint.epoch,
            self.channel,
            self.type_name,
        )
        leaf = merkle.leaf(self.counter, self.blind, digest(aad), self.plaintext)
        size = checkpoint.last - checkpoint.first + 1
        if merkle.root_of_path(leaf, self.counter - checkpoint.first, size, self.path) != checkpoint.root:
            raise DisclosureError("the message is not the one that the checkpoint's root commits to")
        if not checkpoint.signed_by(member, self.swarm):
            raise DisclosureError(f"the checkpoint is not signed by {member.name}")
        return member

    def to_json(self) -> dict[str, Any]:
        """A JSON object: bytes in base64, hashes in hexadecimal."""
        checkpoint = self.checkpoint
        return {
            "format": FORMAT,
            "swarm": self.swarm,
            "channel": self.channel,
            "type": self.type_name,
            "epoch": checkpoint.epoch,
            "transcript_hash": checkpoint.transcript_hash.hex(),
            "slot": checkpoint.slot,
            "lane": LANE_NAMES[checkpoint.lane],
            "counter": self.counter,
            "first": checkpoint.first,
            "last": checkpoint.last,
            "made_ns": checkpoint.made_ns,
            "root": checkpoint.root.hex(),
            "path": [item.hex() for item in self.path],
            "blind": self.blind.hex(),
            "plaintext": _base64(self.plaintext),
            "signature": _base64(checkpoint.signature),
            "certificate": _base64(self.certificate_der),
        }


def disclose(
    swarm: str,
    channel: str,
    type_name: str,
    checkpoint: Checkpoint,
    counter: int,
    blind_key: bytes,
    plaintext: bytes,
    certificate_der: bytes,
) -> Disclosure:
    """The disclosure of one packet of a checkpoint with leaves. Raises DisclosureError on a mismatch."""
    if not checkpoint.covers(counter):
        raise DisclosureError(f"packet {counter} is not in the range of this checkpoint")
    aad = associated_data(
        swarm,
        checkpoint.transcript_hash,
        checkpoint.lane,
        checkpoint.slot,
        checkpoint.epoch,
        channel,
        type_name,
    )
    blind = merkle.blind(blind_key, counter)
    index = counter - checkpoint.first
    if merkle.leaf(counter, blind, digest(aad), plaintext) != checkpoint.leaves[index]:
        raise DisclosureError(f"packet {counter} contradicts its sender's checkpoint")
    path = merkle.path(checkpoint.leaves, index)
    return Disclosure(swarm, channel, type_name, checkpoint, counter, blind, plaintext, path, certificate_der)


def read_disclosure(value: object) -> Disclosure:
    """A disclosure from parsed JSON. Raises DisclosureError naming the field."""
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        raise DisclosureError(f"this is no disclosure: `format` must be {FORMAT}")
    reader = _DisclosureFields(value)
    swarm = reader.text("swarm")
    if not is_name(swarm):
        raise DisclosureError("`swarm` is no name")
    lane = reader.text("lane")
    if lane not in LANE_NAMES or LANE_SIGNED[LANE_NAMES.index(lane)]:
        raise DisclosureError("`lane` must be telemetry or bulk: other lanes have no checkpoints")
    first, last = reader.number("first", MAX_COUNTER), reader.number("last", MAX_COUNTER)
    counter = reader.number("counter", MAX_COUNTER)
    if not 1 <= first <= counter <= last < first + MAX_LEAVES:
        raise DisclosureError(f"`counter` must lie from `first` to `last`, at most {MAX_LEAVES} apart")
    path = value.get("path")
    if not isinstance(path, list) or len(path) > MAX_PATH:
        raise DisclosureError(f"`path` must be a list of at most {MAX_PATH} hashes")
    plaintext = reader.base64("plaintext", MAX_SEALED)
    if len(plaintext) < STAMP_BYTES:
        raise DisclosureError("`plaintext` is truncated")
    checkpoint = Checkpoint(
        reader.hex("transcript_hash"),
        reader.number("epoch", 2**32 - 1),
        reader.number("slot", 2**16 - 1),
        LANE_NAMES.index(lane),
        first,
        last,
        reader.number("made_ns", 2**64 - 1),
        reader.hex("root"),
        (),
        reader.base64("signature", SIGNATURE_BYTES),
    )
    return Disclosure(
        swarm,
        reader.text("channel"),
        reader.text("type"),
        checkpoint,
        counter,
        reader.hex("blind"),
        plaintext,
        tuple(hash_of(item, "path") for item in path),
        reader.base64("certificate", MAX_CERTIFICATE),
    )


def hash_of(value: object, name: str) -> bytes:
    """32 bytes from hexadecimal text. Raises DisclosureError naming the field."""
    try:
        found = bytes.fromhex(value) if isinstance(value, str) and len(value) <= 2 * HASH_BYTES else b""
    except ValueError:
        found = b""
    if len(found) != HASH_BYTES:
        raise DisclosureError(f"`{name}` must be {HASH_BYTES} bytes in hexadecimal")
    return found


class _DisclosureFields:
    """Typed, bounded access to an untrusted JSON object."""

    def __init__(self, value: Mapping[str, object]) -> None:
        self._value = value

    def text(self, name: str) -> str:
        found = self._value.get(name)
        if (
            not isinstance(found, str)
            or not 0 < len(found) <= MAX_TEXT
            or not (found.isascii() and found.isprintable())
        ):
            raise DisclosureError(f"`{name}` must be text of at most {MAX_TEXT} printable ASCII characters")
        return found

    def number(self, name: str, limit: int) -> int:
        found = self._value.get(name)
        if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found <= limit:
            raise DisclosureError(f"`{name}` must be a whole number from 0 to {limit}")
        return found

    def hex(self, name: str) -> bytes:
        return hash_of(self._value.get(name), name)

    def base64(self, name: str, limit: int) -> bytes:
        return bytes_of(self._value.get(name), name, limit)


def bytes_of(value: object, name: str, limit: int) -> bytes:
    """At most `limit` bytes from base64 text. Raises DisclosureError naming the field."""
    if not isinstance(value, str) or len(value) > 4 * (limit // 3 + 1):
        raise DisclosureError(f"`{name}` must be base64 text of at most {limit} bytes")
    try:
        found = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise DisclosureError(f"`{name}` is no base64 text") from None
    if len(found) > limit:
        raise DisclosureError(f"`{name}` has {len(found)} bytes, at most {limit}")
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
