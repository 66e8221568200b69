"""Construction of epochs: slots for the candidates, the head, and the signed announcement.

An epoch number is written to disk before it is used, so that it is not used again after a restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import KeystoreError
from ..member.context import MemberContext
from ..member.member import Member
from ..messages.announcement import (
    MAX_ROSTER,
    Announcement,
    EpochReason,
    Head,
    RosterEntry,
    SealJob,
    announcement_message,
    encode_head,
    parse_announcement,
    seal_seeds,
    seed_info,
    signed_bytes,
)
from ..primitives import labels
from ..primitives.key_schedule import derive_keys
from ..primitives.suite import PublicKey, Suite, digest
from ..trust.identity import MemberIdentity
from .admission import Admission, AdmissionCandidate
from .current_epoch import CurrentEpoch


def number_above(floor: int, rank: int) -> int:
    """The smallest epoch number above `floor` that is congruent to `rank` modulo 4."""
    return floor + 1 + (rank - floor - 1) % 4


def assign_slots(
    candidates: Sequence[AdmissionCandidate], before: Sequence[RosterEntry], next_slot: int
) -> tuple[dict[int, AdmissionCandidate], int]:
    """(candidate by slot, next unused slot). A member with an unchanged incarnation keeps its slot."""
    kept = {(entry.name, entry.incarnation): entry.slot for entry in before}
    taken = set(kept.values())
    by_slot: dict[int, AdmissionCandidate] = {}
    newcomers: list[AdmissionCandidate] = []
    for item in candidates:
        slot = kept.get((item.name, item.incarnation))
        if slot is None:
            newcomers.append(item)
        else:
            by_slot[slot] = item
    for item in sorted(newcomers, key=lambda found: found.name):
        while next_slot % MAX_ROSTER in taken:
            next_slot += 1
        slot = next_slot % MAX_ROSTER
        taken.add(slot)
        by_slot[slot] = item
        next_slot += 1
    return by_slot, next_slot


def roster_of(by_slot: Mapping[int, AdmissionCandidate]) -> tuple[RosterEntry, ...]:
    """Roster of an epoch's head, sorted by slot."""
    return tuple(
        RosterEntry(slot, item.name, item.role, item.fingerprint, item.incarnation, item.package_hash)
        for slot, item in sorted(by_slot.items())
    )


def issue(
    head: Head,
    keys: Mapping[int, PublicKey],
    seed: bytes,
    issuer: MemberIdentity,
    suite: Suite,
    mapper: Callable[..., Iterable[Any]] = map,
) -> Announcement:
    """Announcement of `head`, signed by `issuer`: the seed is sealed to the public key of each slot."""
    head_bytes = encode_head(head)
    transcript_hash = digest(head_bytes)
    key_tag = derive_keys(transcript_hash, seed).key_tag
    seeds = seal_seeds(
        [
            SealJob(keys[entry.slot], seed, seed_info(transcript_hash, entry.slot, entry.package_hash))
            for entry in head.roster
        ],
        mapper,
    )
    signature = issuer.sign(signed_bytes(transcript_hash, key_tag, digest(seeds)), labels.SIGN_ANNOUNCEMENT)
    return parse_announcement(announcement_message(head_bytes, key_tag, seeds, signature), suite)


class EpochBuilder:
    """Builder of a crypto node's epochs, with numbers congruent to `rank` modulo 4.

    `draw` returns a new seed of 64 random bytes.
    """

    def __init__(
        self,
        context: MemberContext,
        member: Member,
        admission: Admission,
        rank: int,
        draw: Callable[[], bytes],
    ) -> None:
        self._member = member
        self._context = context
        self._admission = admission
        self._rank = rank
        self._draw = draw
        self.issued = 0  # highest number announced by this process
        self.seen = 0  # highest number announced by another crypto node
        self.crl_number = 0  # highest CRL number in one of its heads
        self._next_slot = 0

    def _next_number(self) -> int:
        """The next number of this rank above all that this process has issued, stored or seen proof of."""
        floor = max(
            self.issued,
            self._member.state.highest_epoch,
            self._admission.learned_epoch(),
            self.seen,
            0 if self.issued else self._member.state.reserved_epoch,
        )
        return number_above(floor, self._rank)

    def reserve(self) -> None:
        """Stores the next number ahead of time; a failure is ignored, for `secure_number` tries again."""
        with contextlib.suppress(KeystoreError):
            self._member.save(reserved_epoch=self._next_number())

    def secure_number(self) -> int:
        """The next number, stored. Raises KeystoreError."""
        number = self._next_number()
        if number > self._member.state.reserved_epoch:  # usually stored ahead, after the last switch
            self._member.save(reserved_epoch=number)
        return number

    def slots_after(self, roster: Sequence[RosterEntry]) -> None:
        """Lets newcomers get the slots after those of `roster`, from another crypto node's epoch."""
        self._next_slot = max((entry.slot for entry in roster), default=-1) + 1

    def take(self, now: float, wall_ns: int) -> list[AdmissionCandidate]:
        """Takes the candidates for an epoch; their key packages are used up unless they are put back."""
        return self._admission.take_all(now, wall_ns)[:MAX_ROSTER]

    def make(
        self,
        number: int,
        reason: EpochReason,
        challenge: bytes,
        candidates: Sequence[AdmissionCandidate],
        before: Sequence[RosterEntry],
        previous: bytes,
    ) -> CurrentEpoch:
        """A new epoch; the caller sets its times and live members. Raises EntropyError.

        `before` is the roster of the previous epoch, `previous` its transcript hash.
        """
        seed = self._draw()
        trust, suite = self._context.trust, self._context.suite
        by_slot, self._next_slot = assign_slots(candidates, before, self._next_slot)
        head = Head(
            swarm=trust.swarm,
            suite=suite.name,
            policy_hash=trust.policy.hash,
            epoch=number,
            issuer=self._member.identity.fingerprint,
            reason=reason,
            challenge=challenge,
            previous=previous,
            evictions=tuple(sorted(self._member.state.evictions)),
            crl_number=max(trust.crl.number, self.crl_number),
            roster=roster_of(by_slot),
        )
        keys = {slot: item.public for slot, item in by_slot.items()}
        announcement = issue(head, keys, seed, self._member.identity, suite, self._context.config.mapper)
        self.issued = number
        heard_at = {item.name: item.received_at for item in candidates}
        responders = {slot: item.responder for slot, item in by_slot.items()}
        return CurrentEpoch(announcement, responders, heard_at)
