"""The epochs that are open in this process, and when each is wiped.

After a switch the previous epoch stays open for receiving for `grace_s`, and on until every sender and lane
heard in it has been heard five times in a newer one, but never longer than `grace_max_s`. An evicting epoch
wipes all earlier ones at once.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

from ..trust.policy import Limits
from .epoch_session import EpochSession

_MAX_OPEN: Final = 6
_PACKETS: Final = 5
_LOOK_S: Final = 0.25


class OpenEpochs:
    """Open sessions by epoch number."""

    def __init__(self, limits: Limits, lock: Lock) -> None:
        self.open: dict[int, EpochSession] = {}
        self.limits = limits
        self._lock = lock
        self._superseded_at: dict[int, float] = {}
        self._wiped_up_to = 0
        self._looked_at = float("-inf")

    def may_add(self, epoch: int) -> bool:
        """False for an epoch that this process has wiped, or wiped a later one than: its keys never come
        back.
        """
        return epoch > self._wiped_up_to

    def add(self, session: EpochSession) -> None:
        """Opens a session for receiving; the oldest gives way when there are too many."""
        self.open[session.epoch] = session
        while len(self.open) > _MAX_OPEN:
            self._wipe(min(self.open))

    def supersede_before(self, epoch: int, now: float) -> None:
        """Senders have left all epochs before `epoch`: their grace begins."""
        for number, session in self.open.items():
            if number < epoch and number not in self._superseded_at:
                self._superseded_at[number] = now
                session.retire()

    def wipe_before(self, epoch: int) -> None:
        """Wipes all earlier epochs at once (eviction)."""
        for number in [number for number in self.open if number < epoch]:
            self._wipe(number)

    def wipe_naming(self, evicted: frozenset[bytes], before: int) -> None:
        """Wipes every epoch earlier than `before` that an evicted member holds the keys of."""
        if not evicted:
            return
        for number, session in list(self.open.items()):
            if number < before and any(entry.fingerprint in evicted for entry in session.roster):
                self._wipe(number)

    def bar(self, fingerprints: frozenset[bytes]) -> None:
        """Opens nothing more from these senders, in any epoch that is open."""
        for session in self.open.values() if fingerprints else ():
            session.bar(fingerprints)

    def wipe_all(self) -> None:
        """Wipes every epoch, for good: none of them can be added again."""
        for number in list(self.open):
            self._wipe(number)

    def tick(self, now: float) -> None:
        """Wipes what is due."""
        self._looked_at = now
        for number, since in list(self._superseded_at.items()):
            # Added as in `next_timer`: a difference may be rounded to less, and then nothing would be due.
            last = now >= since + self.limits.grace_max_s
            if last or (now >= since + self.limits.grace_s and self._succeeded(number)):
                self._wipe(number)

    def next_timer(self) -> float | None:
        """When to look again, monotonic seconds."""
        if not self._superseded_at:
            return None
        first = min(self._superseded_at.values())
        return min(
            max(first + self.limits.grace_s, self._looked_at + _LOOK_S), first + self.limits.grace_max_s
        )

    def _succeeded(self, number: int) -> bool:
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
