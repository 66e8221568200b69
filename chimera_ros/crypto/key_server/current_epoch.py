"""The newest epoch that a crypto node has announced: live members, ready members, state of the switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..messages.announcement import Announcement, RosterEntry
from ..messages.control import Ready
from ..wire import ControlMessage


@dataclass(slots=True)
class CurrentEpoch:
    """Times are monotonic seconds; `live` and `ready` are slots. `responders`: by slot, the fingerprint
    of the member that sends `ready` for it.
    """

    announcement: Announcement
    responders: dict[int, bytes]
    heard_at: dict[str, float]  # by name; control messages are signs of life
    decided_at: float = 0.0
    announced_at: float = 0.0
    switch_by: float = 0.0  # senders switch then, ready or not
    inherited: bool = False  # announced by another crypto node
    live: frozenset[int] = frozenset()
    ready: set[int] = field(default_factory=set)
    switch: ControlMessage | None = None
    switched_at: float | None = None
    retransmit_at: float | None = None
    retransmits: int = 0

    @classmethod
    def adopted(cls, announcement: Announcement, now: float) -> CurrentEpoch:
        """Another crypto node's epoch, in force already, which this one continues."""
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
        """True while announced and not switched to."""
        return self.switched_at is None

    @property
    def all_ready(self) -> bool:
        """True if every live member can receive under it."""
        return self.live <= self.ready

    def carry_over(self, heard_at: Mapping[str, float]) -> None:
        """Signs of life under the previous epoch count on."""
        for name, moment in heard_at.items():
            self.heard_at[name] = max(moment, self.heard_at.get(name, moment))

    def drop(self, slots: frozenset[int]) -> None:
        """These members have left: the switch does not wait for them."""
        self.live -= slots

    def names(self, slots: frozenset[int]) -> list[str]:
        """Names of the members in these slots."""
        return [entry.name for entry in self.roster if entry.slot in slots]

    def confirmed_by(self, ready: Ready, fingerprint: bytes) -> list[RosterEntry]:
        """The roster entries among `ready.slots` whose responder is the signer with this fingerprint."""
        slots = set(ready.slots)
        return [entry for entry in self.responder_of(fingerprint) if entry.slot in slots]

    def responder_of(self, fingerprint: bytes) -> list[RosterEntry]:
        """The roster entries whose responder is the member with this fingerprint."""
        return [
            entry
            for entry in self.roster
            if fingerprint in (entry.fingerprint, self.responders.get(entry.slot))
        ]

    def note_ready(self, ready: Ready, fingerprint: bytes, now: float) -> None:
        """A verified `ready` for this epoch."""
        for entry in self.confirmed_by(ready, fingerprint):
            self.ready.add(entry.slot)
            self.heard_at[entry.name] = now
