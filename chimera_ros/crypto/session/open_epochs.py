"""Open epochs of one process, and the time at which each is wiped.

After a switch the previous epoch stays open for receiving for at least `grace_s`, until each (sender, lane)
received in it has sent five packets in a newer epoch, and for at most `grace_max_s`. An epoch that evicts
wipes all earlier ones at once.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

from ..trust.policy import Limits
from .epoch_session import EpochSession

_MAX_OPEN: Final = 6
_PACKETS: Final = 5  # in a newer epoch, by which a sender and lane have moved there
_CHECK_S: Final = 0.25  # between two checks of that


class OpenEpochs:
    """Open epoch sessions of a process, by epoch number. `now` is boot-time seconds."""

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
        """Wipes the superseded epochs whose grace period has ended."""
        self._checked_at = now
        for number, since in list(self._superseded_at.items()):
            # The sums of `next_timer`: the rounding of a difference could leave nothing due at that time.
            last = now >= since + self.limits.grace_max_s
            if last or (now >= since + self.limits.grace_s and self._traffic_moved(number)):
                self._wipe(number)

    def next_timer(self) -> float | None:
        """Time at which `tick` is due, boot-time seconds; None if no epoch is superseded."""
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
