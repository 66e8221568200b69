"""Bodies of the small signed messages: key request, key package, ready, switch, beat.

Each body begins with protocol version and swarm. Signatures are ML-DSA-87 over exactly the body's bytes under
the context string of the message's type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..encoding import malformed, text, u16, u32, u64, var
from ..primitives.suite import HASH_BYTES
from .announcement import INCARNATION_BYTES, MAX_ROSTER
from .body import opening, read_opening, read_suite

MAX_PROOF: Final = 12_288  # about 80 members; a larger epoch is shown by its announcement (resync.py)
MAX_HAVE: Final = MAX_ROSTER // 8  # bytes of bitmap
MAX_READY_SLOTS: Final = 256


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """The crypto node asks for key packages.

    `have` is a bitmap (slot n: bit n % 8 of byte n // 8) of the members of epoch `epoch` whose unused package
    the crypto node holds; whoever is not marked answers.
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
    """A member offers an ephemeral HPKE public key for the next epoch.

    `speaker` is the fingerprint of the member that answers `ready` for this one: itself, or another member of
    the same process, which saves a signature per member in a rotation. `epoch` and `transcript_hash` name the
    highest epoch it holds; `proof` (an encoded SignedHead) is empty when the request already named that
    epoch, and when it is too large.
    """

    swarm: str
    suite: str
    fingerprint: bytes
    incarnation: bytes
    public: bytes = field(repr=False)
    challenge: bytes
    speaker: bytes
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
                self.speaker,
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


VOLUME_FLAG: Final = 1  # the sender's volume is used up: please rotate
BEHIND_FLAG: Final = 2  # the sender has seen a higher epoch than it holds: please announce again
LEAVE_FLAG: Final = 4  # the members in `slots` leave the swarm for good


@dataclass(frozen=True, slots=True)
class Ready:
    """A member can receive under an epoch, and so can those it speaks for (`slots`)."""

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
    """The crypto node's timed sign of life. `switched`: senders use this epoch already (a lost switch heals
    so).
    """

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
