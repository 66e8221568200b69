"""The newest epoch that a crypto node has announced: who lives, who is ready, whether it was switched to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..messages.announcement import Announcement, RosterEntry
from ..messages.control import Ready
from ..wire import ControlMessage


@dataclass(slots=True)
class CurrentEpoch:
    """Times are monotonic seconds; `live` and `ready` are slots; `speakers` are fingerprints by slot."""

    announcement: Announcement
    speakers: dict[int, bytes]
    heard_at: dict[str, float]  # by name: control messages count as signs of life too
    decided_at: float = 0.0
    announced_at: float = 0.0
    switch_by: float = 0.0  # senders switch then even if a live member is not ready
    inherited: bool = False  # announced by another crypto node
    live: frozenset[int] = frozenset()
    ready: set[int] = field(default_factory=set)
    switch: ControlMessage | None = None
    switched_at: float | None = None
    repeat_at: float | None = None
    repeats: int = 0

    @classmethod
    def adopted(cls, announcement: Announcement, now: float) -> CurrentEpoch:
        """Another crypto node's epoch, in force already, which this one looks after from now on."""
        slots = frozenset(entry.slot for entry in announcement.head.roster)
        return cls(announcement, {}, {}, now, now, now, True, slots, set(slots), switched_at=now)

    @property
    def epoch(self) -> int:
        return self.announcement.head.epoch

    @property
    def roster(self) -> tuple[RosterEntry, ...]:
        return self.announcement.head.roster

    @property
    def in_work(self) -> bool:
        """Announced, and senders have not been told to switch yet."""
        return self.switched_at is None

    @property
    def all_ready(self) -> bool:
        """Can every live member receive under it?"""
        return self.live <= self.ready

    def heard_before(self, heard_at: Mapping[str, float]) -> None:
        """Signs of life under the epoch before count on."""
        for name, moment in heard_at.items():
            self.heard_at[name] = max(moment, self.heard_at.get(name, moment))

    def forget(self, slots: frozenset[int]) -> None:
        """These members have left: nobody waits for them."""
        self.live -= slots

    def names(self, slots: frozenset[int]) -> list[str]:
        """Names of the members in these slots."""
        return [entry.name for entry in self.roster if entry.slot in slots]

    def spoken_for(self, ready: Ready, fingerprint: bytes) -> list[RosterEntry]:
        """The roster lines among `ready.slots` that the signer with this fingerprint may answer for."""
        slots = set(ready.slots)
        return [entry for entry in self.answered_by(fingerprint) if entry.slot in slots]

    def answered_by(self, fingerprint: bytes) -> list[RosterEntry]:
        """The roster lines that the member with this fingerprint answers for."""
        return [
            entry
            for entry in self.roster
            if fingerprint in (entry.fingerprint, self.speakers.get(entry.slot))
        ]

    def note_ready(self, ready: Ready, fingerprint: bytes, now: float) -> None:
        """A verified `ready` for this epoch."""
        for entry in self.spoken_for(ready, fingerprint):
            self.ready.add(entry.slot)
            self.heard_at[entry.name] = now
