"""`ready` messages on the crypto node: confirmations, farewells, members that are behind, rekey requests."""

from __future__ import annotations

from typing import Final

from ..effects import Effect, SecurityAlarm, Send
from ..errors import Rejected, RejectReason
from ..member.context import MemberContext
from ..member.member import Member
from ..member.trust_updates import TrustUpdates
from ..messages.announcement import EpochReason, RosterEntry
from ..messages.control import BEHIND_FLAG, LEAVE_FLAG, VOLUME_FLAG, Ready
from ..trust.identity import CertifiedMember
from ..wire import ControlMessage
from .admission import Admission
from .beacon import Beacon
from .current_epoch import CurrentEpoch
from .rekey_requests import RekeyRequestLimiter
from .rekey_scheduler import RekeyScheduler
from .rollout import Rollout

_NEW_EPOCH_AFTER_S: Final = 1.0  # by then an announcement has been sent four times


class ReadyHandler:
    """For the active crypto node only. Times are monotonic seconds."""

    def __init__(
        self,
        context: MemberContext,
        member: Member,
        rollout: Rollout,
        admission: Admission,
        beacon: Beacon,
        scheduler: RekeyScheduler,
        trust_updates: TrustUpdates,
    ) -> None:
        self._context = context
        self._member = member
        self._rollout = rollout
        self._admission = admission
        self._beacon = beacon
        self._scheduler = scheduler
        self._trust_updates = trust_updates
        self._rekey_limiter = RekeyRequestLimiter()
        self._retransmitted_at = float("-inf")

    def on_ready(
        self, ready: Ready, message: ControlMessage, now: float, wall_ns: int
    ) -> tuple[list[Effect], bool]:
        """(effects, whether a rekey for volume was requested and granted). Raises Rejected."""
        context, current = self._context, self._rollout.current
        if current is None:
            raise Rejected(RejectReason.UNKNOWN_EPOCH)
        same = ready.transcript_hash == current.announcement.transcript_hash
        if same and not ready.flags and set(ready.slots) <= current.ready:
            raise Rejected(RejectReason.DUPLICATE)
        # Slots are kept from epoch to epoch, so a farewell still counts when an announcement overtook it.
        leaves = ready.flags & LEAVE_FLAG and (
            same or ready.transcript_hash == current.announcement.head.previous
        )
        if not same and not leaves and not ready.flags & BEHIND_FLAG:
            raise Rejected(RejectReason.STALE, f"ready for epoch {ready.epoch}")
        sender = context.certificates.get_valid(ready.fingerprint, wall_ns)
        if sender.fingerprint in self._member.state.evictions:
            raise Rejected(RejectReason.EVICTED, sender.name)
        context.check_signature(sender, message, now)
        effects: list[Effect] = []
        if same:  # a `ready` for another epoch may be a recording: no sign of life
            current.heard_at[sender.name] = now
            current.note_ready(ready, sender.fingerprint, now)
        if leaves:
            effects += self._on_leave(current, current.confirmed_by(ready, sender.fingerprint), now)
        if ready.flags & BEHIND_FLAG:
            effects += self._on_behind(current, sender, now)
        if not ready.flags & VOLUME_FLAG or not same:
            return effects, False
        granted = self._grant_rekey(current, sender, now)
        return effects + (granted or []), granted is not None

    def _on_leave(self, current: CurrentEpoch, entries: list[RosterEntry], now: float) -> list[Effect]:
        """A farewell of these members: an epoch without them follows."""
        effects: list[Effect] = []
        for entry in entries:
            if entry.name == self._member.name or (entry.name, entry.incarnation) in self._rollout.left:
                continue
            self._rollout.left.add((entry.name, entry.incarnation))
            self._admission.drop(entry.name, entry.incarnation)
            self._scheduler.want(EpochReason.LEAVE, now)
            effects.append(SecurityAlarm("info", f"{entry.name} leaves the swarm"))
        current.drop(frozenset(entry.slot for entry in entries))
        return effects

    def _on_behind(self, current: CurrentEpoch, sender: CertifiedMember, now: float) -> list[Effect]:
        """Retransmits the announcement, and schedules an epoch where that cannot help."""
        effects: list[Effect] = []
        if now >= self._retransmitted_at + self._context.limits.beat_s:
            self._retransmitted_at = now
            effects.append(Send(current.announcement.message))
            effects += [Send(item) for item in self._trust_updates.messages()]
            self._beacon.request_soon(now)  # a member that is not in the roster needs a new package
        if self._needs_new_epoch(current, sender, now):
            granted = self._grant_rekey(current, sender, now)
            if granted is not None:
                self._scheduler.want(EpochReason.JOIN, now)
                effects += granted
        return effects

    def _needs_new_epoch(self, current: CurrentEpoch, sender: CertifiedMember, now: float) -> bool:
        """True if this epoch names a member of that process that cannot open it, though it was retransmitted:
        the package it was sealed to is lost, and only another epoch uses the one offered since. The same for
        a sender that is not named at all.
        """
        if current.in_work or now < current.announced_at + _NEW_EPOCH_AFTER_S:
            return False
        unready = [e.name for e in current.responder_of(sender.fingerprint) if e.slot not in current.ready]
        unnamed = [] if self._rollout.entry_named(sender.name) else [sender.name]
        return any(self._admission.holds(name) for name in unready + unnamed)

    def _grant_rekey(
        self, current: CurrentEpoch, sender: CertifiedMember, now: float
    ) -> list[SecurityAlarm] | None:
        rotate_s = self._scheduler.rotate_s
        return self._rekey_limiter.grant(sender.name, len(current.roster), rotate_s, now)
