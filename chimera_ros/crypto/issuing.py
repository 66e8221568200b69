"""Making an epoch: numbers, slots, and the signed announcement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from . import labels
from .admission import Candidate
from .epochs import (
    MAX_ROSTER,
    Announcement,
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
from .identity import MemberIdentity
from .schedule import derive_keys
from .suite import PublicKey, Suite, digest


def number_above(floor: int, rank: int) -> int:
    """The smallest epoch number above `floor` that is congruent to `rank` modulo 4."""
    return floor + 1 + (rank - floor - 1) % 4


def place(
    candidates: Sequence[Candidate], before: Sequence[RosterEntry], next_slot: int
) -> tuple[dict[int, Candidate], int]:
    """(candidate by slot, next unused slot): who goes on keeps its slot, a new incarnation gets a new one."""
    kept = {(entry.name, entry.incarnation): entry.slot for entry in before}
    taken = set(kept.values())
    places: dict[int, Candidate] = {}
    newcomers: list[Candidate] = []
    for item in candidates:
        slot = kept.get((item.name, item.incarnation))
        if slot is None:
            newcomers.append(item)
        else:
            places[slot] = item
    for item in sorted(newcomers, key=lambda found: found.name):
        while next_slot % MAX_ROSTER in taken:
            next_slot += 1
        slot = next_slot % MAX_ROSTER
        taken.add(slot)
        places[slot] = item
        next_slot += 1
    return places, next_slot


def roster_of(places: Mapping[int, Candidate]) -> tuple[RosterEntry, ...]:
    """The roster of a head, sorted by slot."""
    return tuple(
        RosterEntry(slot, item.name, item.role, item.fingerprint, item.incarnation, item.package_hash)
        for slot, item in sorted(places.items())
    )


def issue(
    head: Head,
    keys: Mapping[int, PublicKey],
    seed: bytes,
    issuer: MemberIdentity,
    suite: Suite,
    mapper: Callable[..., Iterable[Any]] = map,
) -> Announcement:
    """The announcement of `head`: the seed sealed to the key of each slot, all of it signed."""
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
