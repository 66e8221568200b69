"""Open epochs of one process, and the time at which each is wiped.

After a switch the previous epoch stays open for receiving for `grace_s`, and until every sender and lane
received in it has sent five packets in a newer one, but at most `grace_max_s`. An evicting epoch wipes all
earlier ones at once.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

from ..trust.policy import Limits
from .epoch_session import EpochSession

_MAX_OPEN: Final = 6
_PACKETS: Final = 5
_CHECK_S: Final = 0.25


class OpenEpochs:
    """Open sessions by epoch number."""

    def __init__(self, limits: Limits, lock: Lock) -> None:
        self.open: dict[int, EpochSession] = {}
        self.limits = limits
        self._lock = lock
        self._superseded_at: dict[int, float] = {}
        self._wiped_up_to = 0
        self._checked_at = float("-inf")

    def may_add(self, epoch: int) -> bool:
        """True if neither this epoch nor a later one was wiped: wiped keys are never installed again."""
        return epoch > self._wiped_up_to

    def add(self, session: EpochSession) -> None:
        """Opens a session for receiving; wipes the oldest ones above the limit."""
        self.open[session.epoch] = session
        while len(self.open) > _MAX_OPEN:
            self._wipe(min(self.open))

    def supersede_before(self, epoch: int, now: float) -> None:
        """Starts the grace period of all epochs before `epoch`, which are no longer sent under."""
        for number, session in self.open.items():
            if number < epoch and number not in self._superseded_at:
                self._superseded_at[number] = now
                session.retire()

    def wipe_before(self, epoch: int) -> None:
        """Wipes all earlier epochs at once (eviction)."""
        for number in [number for number in self.open if number < epoch]:
            self._wipe(number)

    def wipe_naming(self, evicted: frozenset[bytes], before: int) -> None:
        """Wipes every epoch earlier than `before` whose keys an evicted member holds."""
        if not evicted:
            return
        for number, session in list(self.open.items()):
            if number < before and any(entry.fingerprint in evicted for entry in session.roster):
                self._wipe(number)

    def revoke(self, fingerprints: frozenset[bytes]) -> None:
        """Rejects all further packets of these senders in every open epoch."""
        for session in self.open.values() if fingerprints else ():
            session.revoke(fingerprints)

    def wipe_all(self) -> None:
        """Wipes every epoch; none of them can be added again."""
        for number in list(self.open):
            self._wipe(number)

    def tick(self, now: float) -> None:
        """Wipes what is due."""
        self._checked_at = now
        for number, since in list(self._superseded_at.items()):
            # The same sums as in `next_timer`: a rounded difference could leave nothing due.
            last = now >= since + self.limits.grace_max_s
            if last or (now >= since + self.limits.grace_s and self._traffic_moved(number)):
                self._wipe(number)

    def next_timer(self) -> float | None:
        """When to call `tick` again, monotonic seconds."""
        if not self._superseded_at:
            return None
        first = min(self._superseded_at.values())
        return min(
            max(first + self.limits.grace_s, self._checked_at + _CHECK_S), first + self.limits.grace_max_s
        )

    def _traffic_moved(self, number: int) -> bool:
        newer: dict[tuple[str, int], int] = {}
        for epoch, session in self.open.items():
            if epoch > number:
                for source, packets in session.packets().items():
                    newer[source] = max(newer.get(source, 0), packets)
        return all(newer.get(source, 0) >= _PACKETS for source in self.open[number].packets())

    def _wipe(self, number: int) -> None:
        session = self.open.pop(number)
        self._superseded_at.pop(number, None)
        self._wiped_up_to = max(self._wiped_up_to, number)
        with self._lock:
            session.close()
