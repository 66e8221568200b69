"""Rate limit for rekeys that members request: their volume is used up, or their counters were.

A crypto node does not receive the bulk channels, so it cannot check a request: a genuine sender at 1 Gbit/s
uses up 100 MB within a second. The cost is bounded instead. A rekey takes some 1.2 ms of the crypto node's
time per member, so the gap between two requested ones grows with the swarm, and requests cost at most 2.5 %
of a core. A member that goes on requesting is named in an alarm.
"""

from __future__ import annotations

from typing import Final

from ..effects import SecurityAlarm
from ..rate_limit import TokenBucket

GAP_S: Final = 5.0
GAP_PER_MEMBER_S: Final = 0.05
MAX_IN_A_ROW: Final = 12  # by one member, before an alarm: a minute of requests without a pause


class RekeyRequestLimiter:
    """Times are monotonic seconds. Tables hold names with a certificate of the authority."""

    def __init__(self) -> None:
        self._next_at = float("-inf")
        self._requests: dict[str, TokenBucket] = {}
        self._alarms: dict[str, TokenBucket] = {}

    def grant(self, name: str, members: int, rotate_s: float, now: float) -> list[SecurityAlarm] | None:
        """None: too early for another rekey. Otherwise granted, with an alarm if `name` requests too many.

        members: in the epoch. rotate_s: between timed rotations; each member may request one rekey per
        rotation for any length of time.
        """
        if now < self._next_at:
            return None
        self._next_at = now + max(GAP_S, GAP_PER_MEMBER_S * members)
        if self._requests.setdefault(name, TokenBucket(1.0 / rotate_s, MAX_IN_A_ROW)).take(now):
            return []
        if not self._alarms.setdefault(name, TokenBucket(1.0 / rotate_s, 1.0)).take(now):
            return []
        return [
            SecurityAlarm(
                "warning",
                f"{name} has requested {MAX_IN_A_ROW} new epochs in a row: it sends that much, "
                "its counters are used up by another sender, or its requests are false",
            )
        ]
