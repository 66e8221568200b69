"""The two steps of an installation that several members of a process take together: seeds, then the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .epochs import Announcement
from .errors import KeystoreError, Rejected
from .member import Member, Opening
from .reasons import Reason

Mapper = Callable[..., Iterable[Any]]


def open_seeds(
    announcement: Announcement, members: Iterable[Member], mapper: Mapper, refused: Counter[Reason]
) -> list[Opening]:
    """Of every member that passes its own checks; the others are counted by reason."""

    def attempt(member: Member) -> Opening | Rejected:
        try:
            return member.open_seed(announcement)
        except Rejected as refusal:
            return refusal

    openings: list[Opening] = []
    for outcome in mapper(attempt, members):
        if isinstance(outcome, Rejected):
            refused[outcome.reason] += 1
        else:
            openings.append(outcome)
    return openings


def store_numbers(
    announcement: Announcement, openings: Sequence[Opening], proven_ns: int, mapper: Mapper
) -> tuple[list[Opening], list[KeystoreError]]:
    """Those whose disk has the number now, and the others' troubles: who cannot remember it does not use it.

    Together, because a write may wait for the disk.
    """

    def store(opening: Opening) -> KeystoreError | None:
        try:
            opening.member.store_epoch(announcement, proven_ns)
        except KeystoreError as error:
            return error
        return None

    outcomes = list(zip(openings, mapper(store, openings), strict=True))
    kept = [opening for opening, error in outcomes if error is None]
    return kept, [error for _, error in outcomes if error is not None]
