"""Epoch announcements: encoding of heads, signed bytes, and sealing of seeds with HPKE (RFC 9180)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import Any, Final

from ..encoding import MAX_NAME, Reader, fields, malformed, text, u16, u32, u64, var
from ..errors import Rejected, RejectReason
from ..primitives import labels
from ..primitives.suite import HASH_BYTES, PublicKey, Suite, digest
from ..trust.roles import ROLE_NUMBERS, ROLES_BY_NUMBER, Role
from ..wire import MAX_HEAD, SIGNATURE_BYTES, ControlKind, ControlMessage
from .eviction import MAX_EVICTIONS

INCARNATION_BYTES: Final = 16
MAX_ROSTER: Final = 4096
MAX_JUMP: Final = 2**20  # an epoch number may be this far above the highest stored one
NO_HASH: Final = bytes(HASH_BYTES)


class EpochReason(IntEnum):
    """Reason of an epoch."""

    JOIN = 1
    LEAVE = 2
    EVICT = 3
    TIME = 4
    VOLUME = 5
    MANUAL = 6


@dataclass(frozen=True, slots=True)
class RosterEntry:
    """One member of an epoch."""

    slot: int
    name: str
    role: Role
    fingerprint: bytes
    incarnation: bytes
    package_hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """The public, signed part of an epoch."""

    swarm: str
    suite: str
    policy_hash: bytes
    epoch: int
    issuer: bytes  # fingerprint
    reason: EpochReason
    challenge: bytes
    previous: bytes  # transcript hash of the preceding epoch, zeros if unknown
    evictions: tuple[bytes, ...]  # fingerprints, sorted
    crl_number: int
    roster: tuple[RosterEntry, ...]  # sorted by slot

    def entry_of(self, fingerprint: bytes, incarnation: bytes) -> RosterEntry | None:
        """The roster entry of one member, or None."""
        for entry in self.roster:
            if entry.fingerprint == fingerprint and entry.incarnation == incarnation:
                return entry
        return None


def encode_head(head: Head) -> bytes:
    """Canonical bytes of a head; their BLAKE3 hash is the transcript hash."""
    parts = [
        bytes((labels.PROTOCOL_VERSION,)),
        text(head.swarm),
        text(head.suite),
        head.policy_hash,
        u32(head.epoch),
        head.issuer,
        bytes((head.reason,)),
        head.challenge,
        head.previous,
        u32(len(head.evictions)),
        *head.evictions,
        u64(head.crl_number),
        u32(len(head.roster)),
    ]
    for entry in head.roster:
        parts += (
            u16(entry.slot),
            text(entry.name),
            bytes((ROLE_NUMBERS[entry.role],)),
            entry.fingerprint,
            entry.incarnation,
            entry.package_hash,
        )
    return b"".join(parts)


def parse_head(data: bytes) -> Head:
    """A head from the network. Raises Rejected(MALFORMED or VERSION)."""
    if len(data) > MAX_HEAD:
        raise Rejected(RejectReason.SIZE, "head")
    reader = Reader(data)
    if reader.u8() != labels.PROTOCOL_VERSION:
        raise Rejected(RejectReason.VERSION)
    swarm = reader.name()
    suite = reader.var(MAX_NAME).decode("ascii", "replace")
    policy_hash = reader.raw(HASH_BYTES)
    epoch = reader.u32()
    issuer = reader.raw(HASH_BYTES)
    try:
        reason = EpochReason(reader.u8())
    except ValueError:
        raise malformed("unknown epoch reason") from None
    challenge = reader.raw(HASH_BYTES)
    previous = reader.raw(HASH_BYTES)
    evictions = tuple(reader.raw(HASH_BYTES) for _ in range(reader.count(MAX_EVICTIONS)))
    crl_number = reader.u64()
    roster = tuple(_entry(reader) for _ in range(reader.count(MAX_ROSTER)))
    reader.end()
    if epoch == 0:
        raise malformed("epoch 0 is reserved for fallback")
    if any(a >= b for a, b in pairwise(evictions)):
        raise malformed("evictions are not sorted")
    if any(a.slot >= b.slot for a, b in pairwise(roster)):
        raise malformed("roster is not sorted by slot")
    if len({entry.name for entry in roster}) != len(roster):
        raise malformed("a name is in the roster twice")
    return Head(
        swarm, suite, policy_hash, epoch, issuer, reason, challenge, previous, evictions, crl_number, roster
    )


def _entry(reader: Reader) -> RosterEntry:
    slot = reader.u16()
    name = reader.name()
    role = ROLES_BY_NUMBER.get(reader.u8())
    if role is None:
        raise malformed("unknown role in the roster")
    return RosterEntry(
        slot, name, role, reader.raw(HASH_BYTES), reader.raw(INCARNATION_BYTES), reader.raw(HASH_BYTES)
    )


def seed_info(transcript_hash: bytes, slot: int, package_hash: bytes) -> bytes:
    """HPKE `info` of a sealed seed, which binds it to transcript, slot and package."""
    return fields(labels.SEED_INFO, transcript_hash, u16(slot), package_hash)


def signed_bytes(transcript_hash: bytes, key_tag: bytes, seeds_hash: bytes) -> bytes:
    """The bytes of an announcement that its issuer signs."""
    return fields(transcript_hash, key_tag, seeds_hash)


@dataclass(frozen=True, slots=True)
class SealJob:
    """One seed to seal."""

    public: PublicKey
    seed: bytes = field(repr=False)
    info: bytes


def _seal(job: SealJob) -> bytes:
    return job.public.seal(job.seed, job.info)


def seal_seeds(jobs: Iterable[SealJob], mapper: Callable[..., Iterable[Any]] = map) -> bytes:
    """Seals seeds. `mapper` may be an executor's map: HPKE releases the GIL."""
    return b"".join([var(sealed) for sealed in mapper(_seal, jobs)])


def split_seeds(data: bytes, count: int, each: int) -> tuple[bytes, ...]:
    """The sealed seeds in slot order, exactly `count` of `each` bytes. Raises Rejected(MALFORMED)."""
    reader = Reader(data)
    seeds = tuple(reader.var(each) for _ in range(count))
    reader.end()
    return seeds


@dataclass(frozen=True, slots=True)
class SignedHead:
    """Proof of an announced epoch: the head and all that its signature covers."""

    head_bytes: bytes
    key_tag: bytes
    seeds_hash: bytes
    signature: bytes

    @property
    def transcript_hash(self) -> bytes:
        return digest(self.head_bytes)

    def signed_bytes(self) -> bytes:
        return signed_bytes(self.transcript_hash, self.key_tag, self.seeds_hash)

    def encode(self) -> bytes:
        return var(self.head_bytes) + self.key_tag + self.seeds_hash + var(self.signature)

    @classmethod
    def parse(cls, data: bytes) -> SignedHead:
        """Raises Rejected(MALFORMED)."""
        reader = Reader(data)
        found = cls(
            reader.var(MAX_HEAD), reader.raw(HASH_BYTES), reader.raw(HASH_BYTES), reader.var(SIGNATURE_BYTES)
        )
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class Announcement:
    """A parsed announcement; its signature is not verified yet."""

    head: Head
    proof: SignedHead
    transcript_hash: bytes
    seeds: Sequence[bytes]
    message: ControlMessage = field(repr=False)

    @property
    def key_tag(self) -> bytes:
        return self.proof.key_tag


def parse_announcement(message: ControlMessage, suite: Suite) -> Announcement:
    """Raises Rejected(MALFORMED, VERSION or SUITE)."""
    head_bytes, key_tag, seeds, signature = message.parts
    if len(key_tag) != HASH_BYTES or len(signature) != SIGNATURE_BYTES:
        raise malformed("key tag or signature has another length")
    head = parse_head(head_bytes)
    if head.suite != suite.name:
        raise Rejected(RejectReason.SUITE, head.suite)
    proof = SignedHead(bytes(head_bytes), bytes(key_tag), digest(seeds), bytes(signature))
    return Announcement(
        head,
        proof,
        proof.transcript_hash,
        split_seeds(seeds, len(head.roster), suite.sealed_seed_bytes),
        message,
    )


def announcement_message(head_bytes: bytes, key_tag: bytes, seeds: bytes, signature: bytes) -> ControlMessage:
    """The control message of an announcement."""
    return ControlMessage(ControlKind.ANNOUNCEMENT, (head_bytes, key_tag, seeds, signature))
