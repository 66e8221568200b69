"""Roster changes: members that came, left or were evicted, from the heads of installed epochs."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from ..messages.announcement import EpochReason, Head
from .security_state import MAX_TEXT, EvictedMember, listed

MAX_EVENTS: Final = 32
MAX_EVICTED: Final = 64
MAX_NAMES: Final = 512


class RosterTracker:
    """Bounded tables; the newest entries are kept."""

    def __init__(self) -> None:
        self.events: deque[str] = deque(maxlen=MAX_EVENTS)
        self._names: dict[str, bytes] = {}  # of the newest epoch: fingerprint by name
        self._epoch = 0
        self._known: OrderedDict[bytes, str] = OrderedDict()  # name by fingerprint, also of members that left
        self._evicted: OrderedDict[str, EvictedMember] = OrderedDict()

    @property
    def evicted(self) -> tuple[EvictedMember, ...]:
        """Members that were evicted or left and are not back, oldest first."""
        return tuple(self._evicted.values())

    def note(self, text: str) -> None:
        """An event that is not in a head."""
        self.events.append(text[:MAX_TEXT])

    def installed(self, head: Head) -> None:
        """An epoch was installed; ignored unless it is the newest."""
        if head.epoch <= self._epoch:
            return
        names = {entry.name: entry.fingerprint for entry in head.roster}
        came = sorted(names.keys() - self._names.keys())
        gone = sorted(self._names.keys() - names.keys())
        self._epoch = head.epoch
        for entry in head.roster:
            self._known[entry.fingerprint] = entry.name
            self._known.move_to_end(entry.fingerprint)
        for name in names:
            self._evicted.pop(name, None)
        lost: list[EvictedMember] = []
        for name in gone:
            evicted = self._names[name] in head.evictions
            why = "evicted" if evicted else "left, or sent no fresh key package in time"
            lost.append(EvictedMember(name, f"{why} (epoch {head.epoch})", head.epoch))
        for fingerprint in head.evictions:  # evicted before it was in a roster here, or by a stored list
            known = self._known.get(fingerprint)
            if known is not None and known not in names and known not in self._evicted and known not in gone:
                self._remember(EvictedMember(known, f"evicted (epoch {head.epoch} or before)", head.epoch))
        for item in lost:  # last: only the newest are kept
            self._remember(item)
        self._names = names
        while len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)
        if came or gone or head.reason is EpochReason.EVICT:
            changes = [f"{listed(tuple(came))} came"] if came else []
            changes += [f"{item.name} is out: {item.why}" for item in lost[:8]]
            self.note(f"epoch {head.epoch} ({head.reason.name.lower()}): {'; '.join(changes) or 'no change'}")

    def _remember(self, item: EvictedMember) -> None:
        self._evicted[item.name] = item
        self._evicted.move_to_end(item.name)
        while len(self._evicted) > MAX_EVICTED:
            self._evicted.popitem(last=False)
