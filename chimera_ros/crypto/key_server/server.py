"""The crypto node's core: admits members, announces epochs, rotates, switches, beats.

Phases of an epoch: decided -> (waiting for packages, at most `missing_wait_s`) -> announced -> switched. One
epoch is in work at a time; what is asked for meanwhile follows afterwards.

What follows from a decision is in rollout.py, orders to put somebody out in evictions.py.

A crypto node that stands by is a member only, until it takes over (failover.py, failover.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any, Final

from ..effects import Effect, SecurityAlarm, Send
from ..entropy.pool import OS_BYTES, draw_seed
from ..errors import NotReady, Rejected, RejectReason
from ..keystore.member_state import StateStore
from ..member.host import HostConfig, SecureHost
from ..messages.announcement import EpochReason, RosterEntry, parse_announcement
from ..messages.control import BEHIND_FLAG, LEAVE_FLAG, VOLUME_FLAG, Ready
from ..primitives.suite import digest
from ..trust.identity import CertifiedMember, MemberIdentity, Trust
from ..trust.policy import Limits
from ..trust.rank import rank_of
from ..trust.roles import Role
from ..trust.signed_documents import Document, TrustFiles
from ..wire import ControlKind, ControlMessage, check_size
from .admission import Admission
from .beacon import Beacon
from .current_epoch import CurrentEpoch
from .epoch_builder import EpochBuilder
from .evictions import EvictionHandler, EvictionVerdict
from .failover import Failover, FailoverState
from .incarnations import NEVER, OldChallenge
from .rekey_requests import RekeyRequestLimiter
from .rekey_scheduler import RECOVERY_WAIT_S, RekeyScheduler
from .rollout import Rollout

_ON_THEIR_WAY_S: Final = 0.5  # so long after a switch packages may still be coming in
_MAX_NAMING: Final = 5  # members that name an unproven epoch; each prolongs the wait for its announcement
_SHUT_OUT_S: Final = 1.0  # by then an announcement has been repeated three times
_REASONS: Final = {reason.name.lower(): reason for reason in EpochReason}


@dataclass(frozen=True, slots=True)
class KeyServerConfig:
    """rotate_s overrides the policy's rotation_s. draw: seeds from a pool (`EntropyPool.draw`); None draws
    from `random` alone.
    """

    rotate_s: float | None = None
    draw: Callable[[], bytes] | None = None


class KeyServer:
    """The issuing side, with a SecureHost of its own for the crypto member: use `host` to seal and open.

    Feed every control message to `handle` here; it passes on to `host` what concerns the member.
    """

    def __init__(
        self,
        identity: MemberIdentity,
        trust: Trust,
        store: StateStore,
        random: Callable[[int], bytes] = os.urandom,
        config: KeyServerConfig | None = None,
        host_config: HostConfig | None = None,
    ) -> None:
        if identity.role is not Role.CRYPTO:
            raise ValueError(f"{identity.name} has role {identity.role}; a key server needs role crypto")
        self.config = config or KeyServerConfig()
        self.rank = rank_of(identity.name)  # epoch numbers are congruent to it modulo 4
        self.identity = identity
        self.host = SecureHost([identity], trust, {identity.name: store}, random, host_config)
        self._lock = RLock()
        self._control = self.host.control
        self.trust = trust = self._control.trust
        self._control.trust_desk.on_change = self._on_trust
        self._control.on_other = self.handle  # packages that waited for a certificate
        self._member = self._control.members[identity.name]
        self._suite = self._control.suite
        self._desk = EvictionHandler(self._member, self._control.directory)
        self._admission = Admission(trust, self._control, self._member, self._desk)
        self._voice = Beacon(self._member, self._suite.name, self.limits, self._admission, random)
        self._announcer = EpochBuilder(
            self._member,
            self._control,
            self._admission,
            self.rank,
            self.config.draw or (lambda: draw_seed(random(OS_BYTES))),
            (host_config or HostConfig()).mapper,
        )
        self._duty = FailoverState(identity.name, self.rank, self.limits.takeover_s)
        self._handover = Failover(
            self._duty, self._member, self._admission, self.limits, self._own_epoch, self._stand_by
        )
        self._control.colleague = self._handover
        self._agenda = RekeyScheduler(self.limits, self.rotate_s)
        self._resent_at = float("-inf")
        self._asked = RekeyRequestLimiter()
        self._stopped = False
        self._rollout = Rollout(
            self.host, self._member, self._admission, self._announcer, self._agenda, self._voice
        )

    @property
    def limits(self) -> Limits:
        """Of the policy in force."""
        return self.trust.policy.limits

    @property
    def rotate_s(self) -> float:
        """Seconds between rotations on time."""
        return self.config.rotate_s if self.config.rotate_s is not None else self.limits.rotation_s

    # Entry points

    def start(self, now: float, wall_ns: int) -> list[Effect]:
        """Shows the certificate and, with rank 0, asks for packages."""
        with self._lock:
            self._voice.start(wall_ns)
            self._duty.start(now)
            effects = self.host.start(now, wall_ns)
            if self.in_charge:
                effects += self._request(now, wall_ns)
            return effects

    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """A control message from the network. Never raises on what it contains."""
        with self._lock:
            try:
                check_size(message)
                if message.kind is ControlKind.KEY_PACKAGE:
                    effects = self._on_package(message, now, wall_ns)
                    return self._handover.take_told() + effects
                if message.kind is ControlKind.READY:
                    return self._on_ready(message, now, wall_ns)
            except Rejected as refusal:
                self.host.counters.control[refusal.reason] += 1
                asked_elsewhere = refusal.reason is RejectReason.CHALLENGE  # or asked too early
                if asked_elsewhere and message.kind is ControlKind.KEY_PACKAGE and self.in_charge:
                    self._voice.hint(now, refusal.since if isinstance(refusal, OldChallenge) else NEVER)
                return []
            effects = []
            if message.kind is ControlKind.ANNOUNCEMENT and self.in_charge and self._admission.unproven:
                effects = self._on_shown(message, now, wall_ns)
            effects += self.host.handle(message, now, wall_ns)
            if (
                self.in_charge
                and message.kind is ControlKind.CERTIFICATE
                and digest(*message.parts) != self.identity.fingerprint
                and self._control.directory.get(digest(*message.parts)) is not None
            ):
                self._voice.hint(now)  # its owner may have just started, and lack our certificate as well
                self._control.show_certificate(self._member, now, 0.0)
            return effects

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        with self._lock:
            effects: list[Effect] = []
            if self._rollout.own_install is not None:
                effects += self._rollout.install_own(now, wall_ns)
            elif self._rollout.reserve_due:
                self._rollout.reserve()
            effects += self.host.tick(now, wall_ns)
            if not self.in_charge:
                self._admission.expire(now)
                due_at = self._handover.due_at()
                if due_at is None or now < due_at:
                    return effects
                effects += self._take_over(now, wall_ns)
            effects += self._advance(now, wall_ns)
            effects += [] if self._stopped else self._rollout.repeat(now)
            effects += self._admission.watch(self.host, now)
            voice = self._voice
            if self._stopped:
                return effects
            if voice.request_at is not None and voice.request_at <= now and not self._in_work:
                effects += self._request(now, wall_ns)
            if voice.beat_at is not None and voice.beat_at <= now and self._current and not self._in_work:
                effects += self._beat(self._current, now, wall_ns)
            return effects

    def next_timer(self) -> float | None:
        with self._lock:
            times = [self.host.next_timer(), self._handover.due_at()]
            if not self.in_charge:
                return min((time for time in times if time is not None), default=None)
            if self._rollout.own_install is not None or self._rollout.reserve_due:
                times.append(float("-inf"))
            current = self._current
            if self._stopped:
                return times[0]
            if current is not None and current.in_work:
                times.append(current.switch_by)
            else:
                times += (self._voice.request_at, self._voice.beat_at)
                times.append(self._agenda.next_timer(self._all_answered, self._recovery_s))
            if current is not None:
                times.append(current.repeat_at)
            return min((time for time in times if time is not None), default=None)

    def rotate(self, reason: str, now: float, wall_ns: int) -> list[Effect]:
        """Decides on a new epoch ("manual", "volume", "time"); it follows at once when all packages are here.

        Raises ValueError for another reason, NotReady where another crypto node is in charge.
        """
        with self._lock:
            if not self.in_charge:
                raise NotReady(f"{self.identity.name} stands by; {self._duty.chief} is in charge")
            if reason not in ("manual", "volume", "time"):
                raise ValueError(f"{reason!r} is no reason to rotate; use manual, volume or time")
            return self._decide(_REASONS[reason], now, wall_ns)

    def evict(self, name: str, operator: str, evidence: bytes, now: float, wall_ns: int) -> EvictionVerdict:
        """Puts a member out on the word of an operator, whose signature under `evidence` (BLAKE3 of the order
        in its envelope) has been verified. Stored first, then announced; see docs/protocol.md, "Eviction".
        """
        with self._lock:
            if not self.in_charge:
                return EvictionVerdict(
                    False, f"{self.identity.name} stands by; {self._duty.chief} is in charge"
                )
            verdict = self._desk.judge(name, self._entry_named(operator), evidence, wall_ns)
            effects = self._cut_off([name], operator, now, wall_ns) if verdict.acted else []
            return replace(verdict, epoch=self._current.epoch if self._current else 0, effects=effects)

    def update_trust(self, files: TrustFiles, now: float, wall_ns: int) -> list[Effect]:
        """Takes over a newer revocation list or policy from the keystore on disk, and hands it on to all."""
        with self._lock:
            effects, taken = self._control.trust_desk.take_files(files, now, wall_ns)
            if taken:
                effects += [Send(item) for item in self._control.trust_desk.messages()]
            return effects

    def _on_trust(self, kind: Document, now: float, wall_ns: int) -> list[Effect]:
        """A newer list or policy is in force here, from the disk or from the network."""
        self._voice.limits = self._agenda.limits = self.limits
        self._agenda.rotate_s = self.rotate_s
        if kind is Document.POLICY:
            return self._decide(EpochReason.MANUAL, now, wall_ns) if self._current is not None else []
        if self.identity.member.serial in self.trust.crl.serials:
            self._stopped = True  # nobody follows a revoked crypto node; going on would only confuse
            return [SecurityAlarm("error", f"{self.identity.name} is revoked and issues no more epochs")]
        return self._put_out_revoked(now, wall_ns)

    def _put_out_revoked(self, now: float, wall_ns: int) -> list[Effect]:
        effects, names = self._desk.put_out_revoked(self._rollout.roster(), self.trust, wall_ns)
        return effects + (self._cut_off(names, "the revocation list", now, wall_ns) if names else [])

    def _cut_off(self, names: list[str], by: str, now: float, wall_ns: int) -> list[Effect]:
        """The evicting epoch for what has just been stored."""
        effects: list[Effect] = [
            SecurityAlarm("warning", f"{name} is put out, ordered by {by}") for name in names
        ]
        for name in names:
            self._admission.drop(name)
        current = self._current
        if current is None:
            return effects  # the first epoch will carry it
        switched_at = current.switched_at if current.switched_at is not None else now
        self._agenda.want_eviction(now, now < switched_at + _ON_THEIR_WAY_S)
        if not current.in_work and not self._all_answered():
            effects += self._request(now, wall_ns)
        return effects + self._advance(now, wall_ns)

    def status(self) -> dict[str, Any]:
        """For people and reports: epoch, roster, rotations by reason, durations, whether packages are at
        hand.
        """
        with self._lock:
            current = self._current
            epoch, roster = self.host.epoch(self.identity.name) or 0, self.host.roster()
            if self.in_charge:
                epoch, roster = (current.epoch if current else 0), self._rollout.roster()
            return {
                "in_charge": self.in_charge,
                "rank": self.rank,
                "chief": self._handover.chief,
                "takeovers": self._handover.takeovers,
                "epoch": epoch,
                "switched": current is not None and not current.in_work,
                "members": [entry.name for entry in roster],
                "packages_ready": current is not None and not self._in_work and self._all_answered(),
                "rotations": sum(self._rollout.rotations.values()),
                "rotations_by_reason": dict(self._rollout.rotations),
                "rekeys": self._rollout.rekeys,
                "rekey_ms": [
                    round(value, 3) for value in self._rollout.durations_ms
                ],  # newest: decision to switch sent
                "evictions": len(self._member.state.evictions),
            }

    # Joining

    @property
    def _current(self) -> CurrentEpoch | None:
        return self._rollout.current

    @property
    def _in_work(self) -> bool:
        return self._current is not None and self._current.in_work

    def _request(self, now: float, wall_ns: int) -> list[Effect]:
        missing = not self._all_answered() or self._current is None
        request = self._voice.request(self._current, missing, now, wall_ns)
        if not self._admission.holds_own(now):
            self._admission.accept_own(self._member.own_package(request, now), self.identity.member, now)
        return [self._voice.send_request(request)]

    def _on_package(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        candidate, effects = self._admission.check(message, now, wall_ns, self.host)
        if not self.in_charge:
            return []
        effects += self._after_learning(now, wall_ns)
        current = self._current
        if current is not None:
            current.heard_at[candidate.name] = now
        entry = self._entry_named(candidate.name)
        overtaken = current is not None and current.epoch < self._admission.learned_epoch()
        if overtaken or entry is None or entry.incarnation != candidate.incarnation:
            self._agenda.want(EpochReason.JOIN, now)
        return effects + self._advance(now, wall_ns)

    def _on_shown(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """An announcement in place of a proof that no package can carry; it may be our former process's."""
        try:
            shown = parse_announcement(message, self._suite)
            self._admission.learn(shown.proof, shown.head, message.kind, now, wall_ns)
        except Rejected as refusal:
            self.host.counters.control[refusal.reason] += 1
            return []
        return self._handover.take_told() + self._after_learning(now, wall_ns) + self._advance(now, wall_ns)

    def _after_learning(self, now: float, wall_ns: int) -> list[Effect]:
        """Puts out whom a proven epoch puts out."""
        if not self.in_charge or not self._admission.take_learned_evictions():
            return []
        evictions = self._member.state.evictions
        names = [entry.name for entry in self._rollout.roster() if entry.fingerprint in evictions]
        return self._cut_off(names, "an epoch that a member has shown", now, wall_ns) if names else []

    def _entry_named(self, name: str) -> RosterEntry | None:
        return next((entry for entry in self._rollout.roster() if entry.name == name), None)

    @property
    def _recovery_s(self) -> float:
        """Restarted, nothing announced yet: how long to wait for whom it was shown, or for being shown."""
        if self._current is not None:
            return 0.0
        if self._admission.learned_roster():
            return max(RECOVERY_WAIT_S, self.limits.missing_wait_s)
        # One insider can name any epoch. What several members name exists, and they send it again and again.
        return self.limits.missing_wait_s * min(self._admission.unproven, _MAX_NAMING)

    def _all_answered(self) -> bool:
        """Do we hold an unused package of everybody in the last epoch who is expected to go on? Nobody waits
        for a crypto node.
        """
        roster = self._rollout.roster() or self._admission.learned_roster()
        return bool(roster) and all(
            entry.role is Role.CRYPTO
            or self._admission.holds(entry.name)
            or not self._rollout.is_expected(entry)
            for entry in roster
        )

    # Other crypto nodes

    @property
    def in_charge(self) -> bool:
        """Does this node issue the epochs, or does it stand by?"""
        return self._duty.in_charge

    def _own_epoch(self) -> tuple[int, bool]:
        current, installed = self._current, self._member.installed
        newest = max(installed.epoch if installed else 0, current.epoch if current else 0)
        return newest, current is not None and current.epoch == self._announcer.issued

    def _stand_by(self) -> None:
        self._rollout.current = self._rollout.own_install = None
        self._agenda.clear()
        self._admission.forget_own()
        self._voice.request_at = self._voice.beat_at = None

    def _take_over(self, now: float, wall_ns: int) -> list[Effect]:
        """The epoch in force goes on, under our beats, until we have announced our own."""
        effects: list[Effect] = [self._handover.take_over(now)]
        installed = self._member.installed
        if installed is not None and self._handover.holds_newest():
            self._rollout.current = current = CurrentEpoch.adopted(installed.announcement, now)
            self._announcer.slots_after(installed.roster)
            effects += self._beat(current, now, wall_ns)
        self._control.show_certificate(self._member, now, 0.0)  # somebody may have joined without seeing it
        self._agenda.want_succession(now)
        effects += self._put_out_revoked(now, wall_ns)
        return effects + self._request(now, wall_ns)

    def _beat(self, current: CurrentEpoch, now: float, wall_ns: int) -> list[Effect]:
        self._control.note_life(now)
        self._control.time.accept_own(wall_ns, now)
        return [self._voice.beat(current, now, wall_ns)]

    # Deciding

    def _decide(self, reason: EpochReason, now: float, wall_ns: int) -> list[Effect]:
        self._agenda.want(reason, now)
        effects: list[Effect] = []
        if not self._in_work and not self._all_answered():
            effects += self._request(now, wall_ns)
        return effects + self._advance(now, wall_ns)

    def _advance(self, now: float, wall_ns: int) -> list[Effect]:
        """Takes the next step that is due."""
        if self._stopped:
            return []
        self._admission.expire(now)
        current = self._current
        if current is not None and current.in_work:
            if not self._agenda.urgent:
                return self._rollout.push(current, now, wall_ns)
            effects = self._rollout.install_own(now, wall_ns) + self._rollout.switch(current, now, True)
            return effects + self._request(now, wall_ns)
        wanted = self._agenda.due(now, self._all_answered, self._recovery_s)
        if wanted is not None:
            return self._announce(*wanted, now, wall_ns)
        if self._agenda.time_is_up(now):
            return self._decide(EpochReason.TIME, now, wall_ns)
        return []

    def _announce(self, reason: EpochReason, decided_at: float, now: float, wall_ns: int) -> list[Effect]:
        self._agenda.taken()
        self._announcer.seen, self._announcer.crl_number = self._duty.seen_epoch, self._handover.crl_number
        if not self._admission.holds_own(now):
            self._request(now, wall_ns)  # makes our own package; members are asked after the switch
        return self._rollout.announce(reason, decided_at, now, wall_ns)

    # Answers of members

    def _on_ready(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        ready = Ready.parse(message.parts[0], self.trust.swarm)
        current = self._current
        if ready.fingerprint == self.identity.fingerprint:
            raise Rejected(RejectReason.OWN)
        if not self.in_charge:
            return []
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
        sender = self._control.directory.get_valid(ready.fingerprint, wall_ns)
        if sender.fingerprint in self._member.state.evictions:
            raise Rejected(RejectReason.EVICTED, sender.name)
        self._control.check_signature(sender, message, now)
        effects: list[Effect] = []
        if same:  # what names another epoch may be a recording: no sign of life
            current.heard_at[sender.name] = now
            current.note_ready(ready, sender.fingerprint, now)
        if leaves:
            effects += self._on_leave(current.spoken_for(ready, sender.fingerprint), now)
        if ready.flags & BEHIND_FLAG and now >= self._resent_at + self.limits.beat_s:
            self._resent_at = now
            effects.append(Send(current.announcement.message))
            effects += [Send(item) for item in self._control.trust_desk.messages()]
            self._voice.hint(now)  # it may not be named there at all, then it needs a new package
        if ready.flags & BEHIND_FLAG and self._is_shut_out(current, sender, now):
            granted = self._asked.take(sender.name, len(current.roster), self.rotate_s, now)
            if granted is not None:
                self._agenda.want(EpochReason.JOIN, now)
                effects += granted
        if ready.flags & VOLUME_FLAG and same:
            granted = self._asked.take(sender.name, len(current.roster), self.rotate_s, now)
            if granted is not None:
                effects += [*granted, *self._decide(EpochReason.VOLUME, now, wall_ns)]
        return effects + self._advance(now, wall_ns)

    def _is_shut_out(self, current: CurrentEpoch, sender: CertifiedMember, now: float) -> bool:
        """Does this epoch name a member of that process that cannot open it, though it was repeated? The
        package it was sealed to is lost; only another epoch takes the one in that it has offered since. The
        same for a sender that is not named at all.
        """
        if current.in_work or now < current.announced_at + _SHUT_OUT_S:
            return False
        unready = [e.name for e in current.answered_by(sender.fingerprint) if e.slot not in current.ready]
        unnamed = [] if self._entry_named(sender.name) else [sender.name]
        return any(self._admission.holds(name) for name in unready + unnamed)

    def _on_leave(self, entries: list[RosterEntry], now: float) -> list[Effect]:
        """These members have said farewell: an epoch without them follows."""
        effects: list[Effect] = []
        for entry in entries:
            if entry.name == self.identity.name or (entry.name, entry.incarnation) in self._rollout.left:
                continue
            self._rollout.left.add((entry.name, entry.incarnation))
            self._admission.drop(entry.name, entry.incarnation)
            self._agenda.want(EpochReason.LEAVE, now)
            effects.append(SecurityAlarm("info", f"{entry.name} leaves the swarm"))
        if self._current is not None:
            self._current.forget(frozenset(entry.slot for entry in entries))
        return effects
