"""Control messages of the key protocol: key request, key package, ready, switch, beat.

Each body begins with protocol version and swarm. Signatures are ML-DSA-87 over exactly the body's bytes,
under the context string of the message's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..encoding import malformed, text, u16, u32, u64, var
from ..primitives.suite import HASH_BYTES
from .announcement import INCARNATION_BYTES, MAX_ROSTER
from .body import opening, read_opening, read_suite

MAX_PROOF: Final = 12_288  # about 80 members; a larger epoch is proven by its announcement (resync.py)
MAX_HAVE: Final = MAX_ROSTER // 8  # bytes of bitmap
MAX_READY_SLOTS: Final = 256


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """Request of the crypto node for key packages.

    `have` is a bitmap (slot n: bit n % 8 of byte n // 8) of the members of epoch `epoch` whose unused package
    the crypto node holds; the others answer.
    """

    swarm: str
    suite: str
    issuer: bytes
    sequence: int
    challenge: bytes
    epoch: int
    transcript_hash: bytes
    have: bytes

    def has(self, slot: int) -> bool:
        """True if the crypto node holds a package of the member in `slot`."""
        return slot // 8 < len(self.have) and bool(self.have[slot // 8] >> (slot % 8) & 1)

    def encode(self) -> bytes:
        return b"".join(
            (
                opening(self.swarm),
                text(self.suite),
                self.issuer,
                u64(self.sequence),
                self.challenge,
                u32(self.epoch),
                self.transcript_hash,
                var(self.have),
            )
        )

    @classmethod
    def parse(cls, data: bytes, swarm: str, suite: str) -> KeyRequest:
        reader = read_opening(data, swarm)
        read_suite(reader, suite)
        found = cls(
            swarm,
            suite,
            reader.raw(HASH_BYTES),
            reader.u64(),
            reader.raw(HASH_BYTES),
            reader.u32(),
            reader.raw(HASH_BYTES),
            reader.var(MAX_HAVE),
        )
        reader.end()
        return found


def bitmap(slots: set[int]) -> bytes:
    """The `have` field of a key request."""
    number = sum(1 << slot for slot in slots if slot < MAX_HAVE * 8)
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


@dataclass(frozen=True, slots=True)
class KeyPackage:
    """Ephemeral HPKE public key of a member for the next epoch (compare the KeyPackage of RFC 9420).

    `responder` is the fingerprint of the member that sends `ready` for this one: itself, or another member of
    the same process, which saves a signature per member and rekey. `epoch` and `transcript_hash` are the
    highest epoch it holds; `proof` (an encoded SignedHead) is empty if the request named that epoch, or if it
    is too large.
    """

    swarm: str
    suite: str
    fingerprint: bytes
    incarnation: bytes
    public: bytes = field(repr=False)
    challenge: bytes
    responder: bytes
    epoch: int
    transcript_hash: bytes
    proof: bytes = field(repr=False)

    def encode(self) -> bytes:
        return b"".join(
            (
                opening(self.swarm),
                text(self.suite),
                self.fingerprint,
                self.incarnation,
                var(self.public),
                self.challenge,
                self.responder,
                u32(self.epoch),
                self.transcript_hash,
                var(self.proof),
            )
        )

    @classmethod
    def parse(cls, data: bytes, swarm: str, suite: str, public_bytes: int) -> KeyPackage:
        reader = read_opening(data, swarm)
        read_suite(reader, suite)
        found = cls(
            swarm,
            suite,
            reader.raw(HASH_BYTES),
            reader.raw(INCARNATION_BYTES),
            reader.var(public_bytes),
            reader.raw(HASH_BYTES),
            reader.raw(HASH_BYTES),
            reader.u32(),
            reader.raw(HASH_BYTES),
            reader.var(MAX_PROOF),
        )
        reader.end()
        if len(found.public) != public_bytes:
            raise malformed("the public key has another length")
        return found


VOLUME_FLAG: Final = 1  # the sender's volume is exhausted: requests a rekey
BEHIND_FLAG: Final = 2  # the sender has seen a higher epoch than it holds: requests the announcement
LEAVE_FLAG: Final = 4  # the members in `slots` leave the swarm


@dataclass(frozen=True, slots=True)
class Ready:
    """The sender and the members in `slots`, whose responder it is, can receive under an epoch."""

    swarm: str
    epoch: int
    transcript_hash: bytes
    fingerprint: bytes
    flags: int
    slots: tuple[int, ...]

    def encode(self) -> bytes:
        return b"".join(
            (
                opening(self.swarm),
                u32(self.epoch),
                self.transcript_hash,
                self.fingerprint,
                bytes((self.flags,)),
                u32(len(self.slots)),
                *(u16(slot) for slot in self.slots),
            )
        )

    @classmethod
    def parse(cls, data: bytes, swarm: str) -> Ready:
        reader = read_opening(data, swarm)
        epoch = reader.u32()
        transcript_hash = reader.raw(HASH_BYTES)
        fingerprint = reader.raw(HASH_BYTES)
        flags = reader.u8()
        slots = tuple(reader.u16() for _ in range(reader.count(MAX_READY_SLOTS)))
        reader.end()
        return cls(swarm, epoch, transcript_hash, fingerprint, flags, slots)


@dataclass(frozen=True, slots=True)
class Switch:
    """Senders use this epoch from now on."""

    swarm: str
    epoch: int
    transcript_hash: bytes
    issuer: bytes

    def encode(self) -> bytes:
        return opening(self.swarm) + u32(self.epoch) + self.transcript_hash + self.issuer

    @classmethod
    def parse(cls, data: bytes, swarm: str) -> Switch:
        reader = read_opening(data, swarm)
        found = cls(swarm, reader.u32(), reader.raw(HASH_BYTES), reader.raw(HASH_BYTES))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class Beat:
    """Periodic heartbeat of the crypto node. `switched`: senders use this epoch (replaces a lost switch)."""

    swarm: str
    epoch: int
    transcript_hash: bytes
    issuer: bytes
    sequence: int
    sent_ns: int
    switched: bool

    def encode(self) -> bytes:
        return b"".join(
            (
                opening(self.swarm),
                u32(self.epoch),
                self.transcript_hash,
                self.issuer,
                u64(self.sequence),
                u64(self.sent_ns),
                bytes((self.switched,)),
            )
        )

    @classmethod
    def parse(cls, data: bytes, swarm: str) -> Beat:
        reader = read_opening(data, swarm)
        found = cls(
            swarm,
            reader.u32(),
            reader.raw(HASH_BYTES),
            reader.raw(HASH_BYTES),
            reader.u64(),
            reader.u64(),
            _flag(reader.u8()),
        )
        reader.end()
        return found


def _flag(value: int) -> bool:
    if value > 1:
        raise malformed("flag is neither 0 nor 1")
    return bool(value)
