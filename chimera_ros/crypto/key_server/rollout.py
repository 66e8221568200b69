"""Rollout of an epoch: announced, retransmitted, installed here, switched to.

An evicting epoch has no second phase: members switch as they install it.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..effects import Effect, SecurityAlarm, Send
from ..errors import CryptoError, EntropyError, KeystoreError
from ..member.context import MemberContext
from ..member.epoch_installer import EpochInstaller
from ..member.member import Member
from ..messages.announcement import Announcement, EpochReason, RosterEntry
from ..messages.body import signed
from ..messages.control import Switch
from ..wire import ControlKind
from .admission import Admission
from .beacon import Beacon
from .current_epoch import CurrentEpoch
from .epoch_builder import EpochBuilder
from .rekey_scheduler import RekeyScheduler

_RETRANSMIT_S: Final = 0.1  # while a live member has not confirmed the announcement
_FIRST_SWITCH_S: Final = 1.0
_AFTER_SWITCH_S: Final = 0.02
_RETRY_S: Final = 1.0
_KEPT_DURATIONS: Final = 256
_MAX_RETRANSMITS: Final = 4


class Rollout:
    """`current` is the newest epoch announced here, or adopted from another crypto node."""

    def __init__(
        self,
        context: MemberContext,
        member: Member,
        installer: EpochInstaller,
        admission: Admission,
        builder: EpochBuilder,
        scheduler: RekeyScheduler,
        beacon: Beacon,
    ) -> None:
        self.current: CurrentEpoch | None = None
        self.own_install: Announcement | None = None
        self.reserve_due = False  # after the switch is sent
        self.rotations: dict[str, int] = {}  # by reason
        self.rekeys = 0
        self.durations_ms: deque[float] = deque(maxlen=_KEPT_DURATIONS)  # newest: decision to switch sent
        self.left: set[tuple[str, bytes]] = set()  # (name, incarnation) of members that sent a farewell
        self._context = context
        self._installer = installer
        self._member = member
        self._admission = admission
        self._builder = builder
        self._scheduler = scheduler
        self._beacon = beacon

    def announce(self, reason: EpochReason, decided_at: float, now: float, wall_ns: int) -> list[Effect]:
        """Announces an epoch of all candidates, decided at `decided_at`."""
        evicts = reason is EpochReason.EVICT
        candidates = self._builder.take(now, wall_ns)
        if len(candidates) < (1 if evicts else 2):
            self._scheduler.rotate_after(now if self.current is not None else None)
            self._admission.put_back(candidates)
            if self.current is not None and self.current.inherited:  # the members' packages are under way
                self._scheduler.want_takeover(now)
            return []
        try:
            number = self._builder.secure_number()
        except KeystoreError as error:
            self._admission.put_back(candidates)
            return self._postpone(evicts, error, now)
        before, last = self.roster(), self.current
        named = {item.name for item in candidates}
        gone = [entry for entry in before if entry.name not in named]
        missing = [entry.name for entry in gone if self.is_expected(entry)]
        if gone and reason is EpochReason.TIME:
            reason = EpochReason.LEAVE
        previous = last.announcement.transcript_hash if last else self._admission.learned_hash()
        try:
            current = self._builder.make(number, reason, self._beacon.challenge, candidates, before, previous)
        except EntropyError as error:
            self._admission.put_back(candidates)
            return self._postpone(evicts, error, now)
        if last is not None:
            current.carry_over(last.heard_at)
        current.decided_at, current.announced_at = decided_at, now
        # The first after a restart or takeover: the old epoch still works, and members are busy.
        first = last is None or last.inherited
        current.switch_by = now + max(self._context.limits.switch_s, _FIRST_SWITCH_S if first else 0.0)
        current.retransmit_at = now + _RETRANSMIT_S
        current.live = frozenset(
            entry.slot
            for entry in current.roster
            if evicts or self._is_live(entry, current.heard_at, now, wall_ns)
        )
        self.current = current
        self.own_install = current.announcement
        self.left.clear()
        self.rotations[reason.name.lower()] = self.rotations.get(reason.name.lower(), 0) + 1
        self._scheduler.rotate_after(now)
        effects: list[Effect] = [Send(current.announcement.message)]
        if missing:
            names = ", ".join(missing)
            text = f"epoch {number} goes on without {names}: no key package was received"
            effects.append(SecurityAlarm("warning", text))
        if evicts:
            self._complete_switch(current, now)
        return effects

    def _postpone(self, evicts: bool, error: CryptoError, now: float) -> list[Effect]:
        """No epoch now; an evicting one is retried soon."""
        self._scheduler.rotate_after(now if self.current is not None else None)
        if evicts:
            self._scheduler.retry_eviction(now + _RETRY_S)
        return [SecurityAlarm("error", f"no new epoch: {error}")]

    def roster(self) -> tuple[RosterEntry, ...]:
        """Of the newest epoch; empty before the first."""
        return self.current.roster if self.current else ()

    def entry_named(self, name: str) -> RosterEntry | None:
        """The member of this name in the newest epoch."""
        return next((entry for entry in self.roster() if entry.name == name), None)

    def is_expected(self, entry: RosterEntry) -> bool:
        """True unless the member has left or is evicted."""
        return (
            entry.fingerprint not in self._member.state.evictions
            and (entry.name, entry.incarnation) not in self.left
        )

    def _is_live(self, entry: RosterEntry, heard_at: dict[str, float], now: float, wall_ns: int) -> bool:
        """True if heard within `live_s`. Members never heard are assumed live."""
        if (
            entry.name == self._member.name
            or now - heard_at.get(entry.name, now) <= self._context.limits.live_s
        ):
            return True
        received_ns = self._context.received_ns(entry.name)
        return received_ns is None or wall_ns - received_ns <= self._context.limits.live_s * 1e9

    def install_own(self, now: float, wall_ns: int) -> list[Effect]:
        """Installs the epoch for the crypto node itself, after the announcement is sent."""
        announcement, self.own_install = self.own_install, None
        current = self.current
        if announcement is None or current is None or current.announcement is not announcement:
            return []
        try:
            effects = self._installer.install(announcement, now, wall_ns)
        except KeystoreError as error:  # the others go on without this member
            effects = [SecurityAlarm("error", str(error))]
        current.ready.add(self._member.installed_slot)
        if not current.in_work:  # an evicting epoch needs no switch
            self.reserve_due = True
            return effects
        body = Switch(
            self._context.trust.swarm,
            announcement.head.epoch,
            announcement.transcript_hash,
            self._member.identity.fingerprint,
        ).encode()
        current.switch = signed(ControlKind.SWITCH, body, self._member.identity)  # sent when it is due
        return effects

    # Switching

    def switch_if_due(self, current: CurrentEpoch, now: float, wall_ns: int) -> list[Effect]:
        """Switches when every live member is ready, or at the deadline."""
        late = now >= current.switch_by
        if current.all_ready or late:
            effects = self.install_own(now, wall_ns) if self.own_install is not None else []
            return effects + self.switch(current, now, late and not current.all_ready)
        return []

    def retransmit(self, now: float) -> list[Effect]:
        """The announcement again, while a live member is not ready."""
        current = self.current
        if current is None or current.retransmit_at is None or now < current.retransmit_at:
            return []
        current.retransmits += 1
        again = not current.all_ready and current.retransmits < _MAX_RETRANSMITS
        current.retransmit_at = now + self._context.limits.beat_s if again else None
        return [] if current.all_ready else [Send(current.announcement.message)]

    def _complete_switch(self, current: CurrentEpoch, now: float) -> None:
        """Senders use the epoch: packages for the next one are requested, beats go on."""
        current.switched_at = now
        self.rekeys += 1
        self.durations_ms.append((now - current.decided_at) * 1e3)
        self._beacon.request_at = now + _AFTER_SWITCH_S
        self._beacon.beat_at = now + self._context.limits.beat_s

    def switch(self, current: CurrentEpoch, now: float, late: bool) -> list[Effect]:
        """Sends the switch; `late`: not every live member is ready."""
        assert current.switch is not None
        self._complete_switch(current, now)
        session = self._context.sessions.open.get(current.epoch)
        effects: list[Effect] = [Send(current.switch)]
        if session is not None:
            effects += self._installer.switch(session, now)
        if late:
            names = current.names(current.live - current.ready)
            effects.append(
                SecurityAlarm(
                    "warning", f"switched to epoch {session and session.epoch} before {', '.join(names)}"
                )
            )
        self.reserve_due = True
        return effects

    def reserve(self) -> None:
        """Stores the next number ahead of time, while no rekey waits for the disk."""
        self.reserve_due = False
        self._builder.reserve()
