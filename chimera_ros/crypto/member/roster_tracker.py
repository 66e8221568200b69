"""Who came, left and was evicted, from the heads of installed epochs."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from ..messages.announcement import EpochReason, Head
from .security_state import MAX_TEXT, EvictedMember, listed

MAX_EVENTS: Final = 32
MAX_OUT: Final = 64
MAX_NAMES: Final = 512


class RosterTracker:
    """Who came, left and was put out, from the heads of the epochs that this process installs."""

    def __init__(self) -> None:
        self.events: deque[str] = deque(maxlen=MAX_EVENTS)
        self._names: dict[str, bytes] = {}  # of the newest epoch: name -> fingerprint
        self._epoch = 0
        self._known: OrderedDict[bytes, str] = OrderedDict()  # fingerprint -> name, also of those who left
        self._out: OrderedDict[str, EvictedMember] = OrderedDict()

    @property
    def put_out(self) -> tuple[EvictedMember, ...]:
        """Who is not in any more, oldest first."""
        return tuple(self._out.values())

    def note(self, text: str) -> None:
        """An authentication event that no head tells of."""
        self.events.append(text[:MAX_TEXT])

    def installed(self, head: Head) -> None:
        """An epoch was installed; one that is not the newest is no news."""
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
            self._out.pop(name, None)
        lost: list[EvictedMember] = []
        for name in gone:
            evicted = self._names[name] in head.evictions
            why = "evicted" if evicted else "left, or sent no fresh key package in time"
            lost.append(EvictedMember(name, f"{why} (epoch {head.epoch})", head.epoch))
        for fingerprint in head.evictions:  # put out before we saw it in, or by a list from the disk
            known = self._known.get(fingerprint)
            if known is not None and known not in names and known not in self._out and known not in gone:
                self._remember(EvictedMember(known, f"evicted (epoch {head.epoch} or before)", head.epoch))
        for item in lost:  # last, for only the newest are kept
            self._remember(item)
        self._names = names
        while len(self._known) > MAX_NAMES:
            self._known.popitem(last=False)
        if came or gone or head.reason is EpochReason.EVICT:
            changes = [f"{listed(tuple(came))} came"] if came else []
            changes += [f"{item.name} is out: {item.why}" for item in lost[:8]]
            self.note(f"epoch {head.epoch} ({head.reason.name.lower()}): {'; '.join(changes) or 'no change'}")

    def _remember(self, item: EvictedMember) -> None:
        self._out[item.name] = item
        self._out.move_to_end(item.name)
        while len(self._out) > MAX_OUT:
            self._out.popitem(last=False)
