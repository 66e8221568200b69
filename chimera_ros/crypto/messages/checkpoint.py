"""Checkpoint (Checkpoint.msg): signed commitment to a range of a sender's unsigned packets on one lane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..encoding import malformed, u16, u32, u64
from ..errors import Rejected, RejectReason
from ..primitives import labels, merkle
from ..primitives.suite import HASH_BYTES
from ..trust.identity import CertifiedMember, MemberIdentity
from ..wire import LANE_SIGNED, MAX_COUNTER, SIGNATURE_BYTES
from .body import opening

MAX_LEAVES: Final = 256


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """As `msg/Checkpoint.msg`; `made_ns` is the sender's swarm time at which the range was closed: counters
    above `last` were issued later.
    """

    transcript_hash: bytes
    epoch: int
    slot: int
    lane: int
    first: int
    last: int
    made_ns: int
    root: bytes
    leaves: tuple[bytes, ...] = field(repr=False)
    signature: bytes = field(repr=False, default=b"")

    def signed_bytes(self, swarm: str) -> bytes:
        """The signed bytes: the root but not the leaves, so that the signature is verifiable without them."""
        return b"".join(
            (
                opening(swarm),
                self.transcript_hash,
                u32(self.epoch),
                u16(self.slot),
                bytes((self.lane,)),
                u64(self.first),
                u64(self.last),
                u64(self.made_ns),
                self.root,
            )
        )

    def covers(self, counter: int) -> bool:
        """True if a packet with this counter is in the range."""
        return self.first <= counter <= self.last

    def overlaps(self, other: Checkpoint) -> bool:
        """True if the two ranges overlap."""
        return self.first <= other.last and other.first <= self.last

    def signed_by(self, member: CertifiedMember, swarm: str) -> bool:
        """True if the signature is the member's."""
        return member.verify(self.signature, self.signed_bytes(swarm), labels.SIGN_CHECKPOINT)

    def root_fits(self) -> bool:
        """True if the leaves hash to the root."""
        return merkle.root(self.leaves) == self.root


def make_checkpoint(
    identity: MemberIdentity,
    transcript_hash: bytes,
    epoch: int,
    slot: int,
    lane: int,
    first: int,
    made_ns: int,
    leaves: tuple[bytes, ...],
) -> Checkpoint:
    """A signed checkpoint over one leaf or more, the first for counter `first`."""
    last = first + len(leaves) - 1
    root = merkle.root(leaves)
    unsigned = Checkpoint(transcript_hash, epoch, slot, lane, first, last, made_ns, root, leaves)
    signature = identity.sign(unsigned.signed_bytes(identity.swarm), labels.SIGN_CHECKPOINT)
    return Checkpoint(transcript_hash, epoch, slot, lane, first, last, made_ns, root, leaves, signature)


def parse_checkpoint(
    transcript_hash: bytes,
    epoch: int,
    slot: int,
    lane: int,
    first: int,
    last: int,
    made_ns: int,
    root: bytes,
    leaves: bytes,
    signature: bytes,
) -> Checkpoint:
    """A checkpoint from the network; its signature is not verified yet.

    Raises Rejected(SIZE, LANE or MALFORMED).
    """
    if len(transcript_hash) != HASH_BYTES or len(root) != HASH_BYTES or len(signature) != SIGNATURE_BYTES:
        raise Rejected(RejectReason.SIZE, "checkpoint")
    count, rest = divmod(len(leaves), HASH_BYTES)
    if rest or not 1 <= count <= MAX_LEAVES:
        raise Rejected(RejectReason.SIZE, f"{len(leaves)} bytes of leaves")
    if lane >= len(LANE_SIGNED) or LANE_SIGNED[lane]:
        raise Rejected(RejectReason.LANE, f"checkpoint of lane {lane}")
    if not 1 <= first <= MAX_COUNTER or last != first + count - 1 or epoch == 0:
        raise malformed(f"range {first} to {last} with {count} leaves in epoch {epoch}")
    parts = tuple(leaves[at : at + HASH_BYTES] for at in range(0, len(leaves), HASH_BYTES))
    return Checkpoint(transcript_hash, epoch, slot, lane, first, last, made_ns, root, parts, signature)
