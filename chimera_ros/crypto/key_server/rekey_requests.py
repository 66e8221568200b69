"""Rotations that members ask for: their volume, or another's numbers, are used up.

A crypto node does not hear the bulk channels, so it has to take a member's word: a genuine sender at 1 Gbit/s
has used up 100 MB within a second. What can be bounded is what it costs. A rotation takes some 1.2 ms of the
crypto node's time per member, so the gap between two that were asked for grows with the swarm, and asking
costs at most 2.5 % of a core. Who keeps asking is named.
"""

from __future__ import annotations

from typing import Final

from ..effects import SecurityAlarm
from ..rate_limit import TokenBucket

GAP_S: Final = 5.0
GAP_PER_MEMBER_S: Final = 0.05
PLENTY: Final = 12  # in a row, by one member, before it is named: a minute of asking without a pause


class RekeyRequestLimiter:
    """Times are monotonic seconds. Tables hold names with a certificate of the authority."""

    def __init__(self) -> None:
        self._next_at = float("-inf")
        self._asks: dict[str, TokenBucket] = {}
        self._told: dict[str, TokenBucket] = {}

    def take(self, name: str, members: int, rotate_s: float, now: float) -> list[SecurityAlarm] | None:
        """None: too early for another one. Otherwise it is granted, and told where `name` has had plenty.

        members: in the epoch. rotate_s: between rotations on time, one of which each member may ask for all
        the time.
        """
        if now < self._next_at:
            return None
        self._next_at = now + max(GAP_S, GAP_PER_MEMBER_S * members)
        if self._asks.setdefault(name, TokenBucket(1.0 / rotate_s, PLENTY)).take(now):
            return []
        if not self._told.setdefault(name, TokenBucket(1.0 / rotate_s, 1.0)).take(now):
            return []
        return [
            SecurityAlarm(
                "warning",
                f"{name} has asked for {PLENTY} new epochs in a row: it sends that much, somebody uses up "
                "numbers in another's name, or it lies",
            )
        ]
