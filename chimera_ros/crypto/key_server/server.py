"""Key server of a crypto node: admits members, issues epochs, rotates, evicts, sends beats.

An epoch is decided, waits for missing key packages (at most `missing_wait_s`), is announced, then switched
to. One epoch is in work at a time; what is wanted meanwhile follows afterwards.

| step                                             | module             |
| ------------------------------------------------ | ------------------ |
| key packages: which are valid, which are unused  | admission.py       |
| why and when the next epoch is due               | rekey_scheduler.py |
| number, slots, head, sealed seeds                | epoch_builder.py   |
| announcement, retransmission, switch             | rollout.py         |
| `ready` of members                               | ready_handler.py   |
| key requests and beats                           | beacon.py          |
| evictions by order or revocation                 | evictions.py       |
| which of several crypto nodes is the active one  | failover.py        |

A standby is a member only, until it takes over.
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
from ..member.context import HostConfig, MemberContext
from ..member.host import SecureHost
from ..member.key_server_hooks import KeyServerHooks
from ..messages.announcement import EpochReason, parse_announcement
from ..messages.control import Ready
from ..primitives.suite import digest
from ..trust.identity import MemberIdentity, Trust
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
from .ready_handler import ReadyHandler
from .rekey_scheduler import RECOVERY_WAIT_S, RekeyScheduler
from .rollout import Rollout

_MAX_NAMING: Final = 5  # members that name an unproven epoch; each prolongs the wait for its announcement
_PACKAGES_EXPECTED_S: Final = 0.5  # after a switch, while members send their next packages
_REASONS: Final = {reason.name.lower(): reason for reason in EpochReason}


@dataclass(frozen=True, slots=True)
class KeyServerConfig:
    """rotate_s overrides the policy's rotation_s. draw: seeds from a pool (`EntropyPool.draw`); None draws
    from `random` alone.
    """

    rotate_s: float | None = None
    draw: Callable[[], bytes] | None = None


class KeyServer:
    """Issuer of epochs, with a SecureHost for its own member: use `host` to seal and open.

    Pass every control message to `handle` here; it passes on to `host` what concerns the member.
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
        stores = {identity.name: store}
        self._context = context = MemberContext(
            [identity], trust, stores, random, host_config or HostConfig()
        )
        self._lock = RLock()
        self.trust = context.trust
        self._member = context.members[identity.name]
        self._evictions = EvictionHandler(context, self._member)
        self._admission = Admission(context, self._member, self._evictions)
        self._beacon = Beacon(context, self._member, self._admission)
        self._builder = EpochBuilder(
            context,
            self._member,
            self._admission,
            self.rank,
            self.config.draw or (lambda: draw_seed(random(OS_BYTES))),
        )
        self._failover_state = FailoverState(identity.name, self.rank, self.limits.takeover_s)
        self._failover = Failover(
            self._failover_state,
            context,
            self._member,
            self._admission,
            self._own_epoch,
            self._become_standby,
        )
        self._scheduler = RekeyScheduler(self.limits, self.rotate_s)
        self._revoked = False
        self.host = SecureHost(
            [identity],
            trust,
            stores,
            random,
            host_config,
            context=context,
            key_server=KeyServerHooks(self._failover, self.handle, self._on_trust),
        )
        self._control = self.host.control
        self._rollout = Rollout(
            context,
            self._member,
            self._control.installer,
            self._admission,
            self._builder,
            self._scheduler,
            self._beacon,
        )
        self._ready_handler = ReadyHandler(
            context,
            self._member,
            self._rollout,
            self._admission,
            self._beacon,
            self._scheduler,
            self._control.trust_updates,
        )

    @property
    def limits(self) -> Limits:
        """Of the policy in force."""
        return self.trust.policy.limits

    @property
    def rotate_s(self) -> float:
        """Seconds between timed rotations."""
        return self.config.rotate_s if self.config.rotate_s is not None else self.limits.rotation_s

    @property
    def active(self) -> bool:
        """True if this node issues the epochs, False while it is standby."""
        return self._failover_state.active

    @property
    def _standby_text(self) -> str:
        return f"{self.identity.name} is standby; {self._failover_state.active_node} is active"

    @property
    def _current(self) -> CurrentEpoch | None:
        return self._rollout.current

    @property
    def _in_work(self) -> bool:
        return self._current is not None and self._current.in_work

    # Entry points

    def start(self, now: float, wall_ns: int) -> list[Effect]:
        """Sends the certificate and, with rank 0, a key request."""
        with self._lock:
            self._beacon.start(wall_ns)
            self._failover_state.start(now)
            effects = self.host.start(now, wall_ns)
            if self.active:
                effects += self._request(now, wall_ns)
            return effects

    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """A control message from the network. Never raises on what it contains."""
        with self._lock:
            try:
                check_size(message)
                if message.kind is ControlKind.KEY_PACKAGE:
                    return self._on_package(message, now, wall_ns)
                if message.kind is ControlKind.READY:
                    return self._on_ready(message, now, wall_ns)
            except Rejected as refusal:
                self.host.counters.control[refusal.reason] += 1
                old_challenge = refusal.reason is RejectReason.CHALLENGE  # or another node's
                if old_challenge and message.kind is ControlKind.KEY_PACKAGE and self.active:
                    after = refusal.since if isinstance(refusal, OldChallenge) else NEVER
                    self._beacon.request_soon(now, after)
                return []
            effects = []
            if message.kind is ControlKind.ANNOUNCEMENT and self.active and self._admission.unproven:
                effects = self._on_proof_announcement(message, now, wall_ns)
            effects += self.host.handle(message, now, wall_ns)
            if (
                self.active
                and message.kind is ControlKind.CERTIFICATE
                and digest(*message.parts) != self.identity.fingerprint
                and self._context.certificates.get(digest(*message.parts)) is not None
            ):
                # Its owner may have just started, and lack our certificate as well.
                self._beacon.request_soon(now)
                self._control.exchange.send_soon(self._member, now, 0.0)
            return effects

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        """Call when `next_timer` has come."""
        with self._lock:
            effects: list[Effect] = []
            if self._rollout.own_install is not None:
                effects += self._rollout.install_own(now, wall_ns)
            elif self._rollout.reserve_due:
                self._rollout.reserve()
            effects += self.host.tick(now, wall_ns)
            if not self.active:
                self._admission.expire(now)
                due_at = self._failover.due_at()
                if due_at is None or now < due_at:
                    return effects
                effects += self._take_over(now, wall_ns)
            effects += self._advance(now, wall_ns)
            effects += [] if self._revoked else self._rollout.retransmit(now)
            effects += self._admission.check_former(now)
            beacon = self._beacon
            if self._revoked:
                return effects
            if beacon.request_at is not None and beacon.request_at <= now and not self._in_work:
                effects += self._request(now, wall_ns)
            if beacon.beat_at is not None and beacon.beat_at <= now and self._current and not self._in_work:
                effects += self._beat(self._current, now, wall_ns)
            return effects

    def next_timer(self) -> float | None:
        """Monotonic seconds at which `tick` is due; None: never."""
        with self._lock:
            times = [self.host.next_timer(), self._failover.due_at()]
            if not self.active:
                return min((time for time in times if time is not None), default=None)
            if self._rollout.own_install is not None or self._rollout.reserve_due:
                times.append(float("-inf"))
            current = self._current
            if self._revoked:
                return times[0]
            if current is not None and current.in_work:
                times.append(current.switch_by)
            else:
                times += (self._beacon.request_at, self._beacon.beat_at)
                times.append(self._scheduler.next_timer(self._packages_complete, self._recovery_s))
            if current is not None:
                times.append(current.retransmit_at)
            return min((time for time in times if time is not None), default=None)

    def rotate(self, reason: str, now: float, wall_ns: int) -> list[Effect]:
        """Decides on a new epoch ("manual", "volume", "time"), announced at once if all packages are here.

        Raises ValueError for another reason, NotReady on a standby.
        """
        with self._lock:
            if not self.active:
                raise NotReady(self._standby_text)
            if reason not in ("manual", "volume", "time"):
                raise ValueError(f"{reason!r} is no reason to rotate; use manual, volume or time")
            return self._decide(_REASONS[reason], now, wall_ns)

    def evict(self, name: str, operator: str, evidence: bytes, now: float, wall_ns: int) -> EvictionVerdict:
        """Evicts a member by order of an operator, whose signature under `evidence` (BLAKE3 of the order in
        its envelope) has been verified. Stored first, then announced; see docs/protocol.md, "Eviction".
        """
        with self._lock:
            if not self.active:
                return EvictionVerdict(False, self._standby_text)
            entry = self._rollout.entry_named(operator)
            verdict = self._evictions.evict_named(name, entry, evidence, wall_ns)
            effects = self._announce_evictions([name], operator, now, wall_ns) if verdict.acted else []
            return replace(verdict, epoch=self._current.epoch if self._current else 0, effects=effects)

    def update_trust(self, files: TrustFiles, now: float, wall_ns: int) -> list[Effect]:
        """Takes over a newer revocation list or policy from the keystore on disk, and sends it to all."""
        with self._lock:
            updates = self._control.trust_updates
            effects: list[Effect] = []
            any_taken = False
            for document in (Document.CRL, Document.POLICY):
                alarms, taken = updates.take_file(document, files, wall_ns)
                effects += alarms
                if taken:
                    effects += self._on_trust(document, now, wall_ns)
                    any_taken = True
            if any_taken:
                effects += [Send(item) for item in updates.messages()]
            return effects

    def _on_trust(self, document: Document, now: float, wall_ns: int) -> list[Effect]:
        """A newer revocation list or policy is in force here, from the disk or from the network."""
        self._scheduler.limits = self.limits
        self._scheduler.rotate_s = self.rotate_s
        if document is Document.POLICY:
            return self._decide(EpochReason.MANUAL, now, wall_ns) if self._current is not None else []
        if self.identity.member.serial in self.trust.crl.serials:
            self._revoked = True  # no member follows a revoked crypto node
            return [SecurityAlarm("error", f"{self.identity.name} is revoked and issues no more epochs")]
        return self._evict_revoked(now, wall_ns)

    def _evict_revoked(self, now: float, wall_ns: int) -> list[Effect]:
        effects, names = self._evictions.evict_revoked(self._rollout.roster(), wall_ns)
        if names:
            effects += self._announce_evictions(names, "the revocation list", now, wall_ns)
        return effects

    def _announce_evictions(self, names: list[str], by: str, now: float, wall_ns: int) -> list[Effect]:
        """Schedules the evicting epoch for evictions that have just been stored."""
        effects: list[Effect] = [
            SecurityAlarm("warning", f"{name} is evicted, ordered by {by}") for name in names
        ]
        for name in names:
            self._admission.drop(name)
        current = self._current
        if current is None:
            return effects  # the first epoch has them
        switched_at = current.switched_at if current.switched_at is not None else now
        self._scheduler.want_eviction(now, now < switched_at + _PACKAGES_EXPECTED_S)
        if not current.in_work and not self._packages_complete():
            effects += self._request(now, wall_ns)
        return effects + self._advance(now, wall_ns)

    def status(self) -> dict[str, Any]:
        """For status lines and reports: epoch, roster, rotations by reason, durations."""
        with self._lock:
            current = self._current
            epoch, roster = self.host.epoch(self.identity.name) or 0, self.host.roster()
            if self.active:
                epoch, roster = (current.epoch if current else 0), self._rollout.roster()
            return {
                "in_charge": self.active,
                "rank": self.rank,
                "chief": self._failover.active_node,
                "takeovers": self._failover.takeovers,
                "epoch": epoch,
                "switched": current is not None and not current.in_work,
                "members": [entry.name for entry in roster],
                "packages_ready": current is not None and not self._in_work and self._packages_complete(),
                "rotations": sum(self._rollout.rotations.values()),
                "rotations_by_reason": dict(self._rollout.rotations),
                "rekeys": self._rollout.rekeys,
                # the newest ones, from the decision to the switch
                "rekey_ms": [round(value, 3) for value in self._rollout.durations_ms],
                "evictions": len(self._member.state.evictions),
            }

    # Messages of members

    def _on_package(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        candidate, effects, proven = self._admission.check(message, now, wall_ns)
        reported = self._failover.on_proof(proven, now) if proven is not None else []
        if not self.active:
            return reported
        effects += self._evict_learned(now, wall_ns)
        current = self._current
        if current is not None:
            current.heard_at[candidate.name] = now
        entry = self._rollout.entry_named(candidate.name)
        overtaken = current is not None and current.epoch < self._admission.learned_epoch()
        if overtaken or entry is None or entry.incarnation != candidate.incarnation:
            self._scheduler.want(EpochReason.JOIN, now)
        return reported + effects + self._advance(now, wall_ns)

    def _on_proof_announcement(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """An announcement instead of a proof too large for a package; it may be one of our own."""
        try:
            announcement = parse_announcement(message, self._context.suite)
            proven = self._admission.learn(announcement.proof, announcement.head, message.kind, now, wall_ns)
        except Rejected as refusal:
            self.host.counters.control[refusal.reason] += 1
            return []
        reported = self._failover.on_proof(proven, now) if proven is not None else []
        return reported + self._evict_learned(now, wall_ns) + self._advance(now, wall_ns)

    def _evict_learned(self, now: float, wall_ns: int) -> list[Effect]:
        """Announces the evictions of a proven epoch."""
        if not self.active or not self._admission.take_learned_evictions():
            return []
        evictions = self._member.state.evictions
        names = [entry.name for entry in self._rollout.roster() if entry.fingerprint in evictions]
        if not names:
            return []
        return self._announce_evictions(names, "an epoch that a member has proven", now, wall_ns)

    def _on_ready(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        ready = Ready.parse(message.parts[0], self.trust.swarm)
        if ready.fingerprint == self.identity.fingerprint:
            raise Rejected(RejectReason.OWN)
        if not self.active:
            return []
        effects, volume = self._ready_handler.on_ready(ready, message, now, wall_ns)
        if volume:
            effects += self._decide(EpochReason.VOLUME, now, wall_ns)
        return effects + self._advance(now, wall_ns)

    # Epochs

    def _decide(self, reason: EpochReason, now: float, wall_ns: int) -> list[Effect]:
        self._scheduler.want(reason, now)
        effects: list[Effect] = []
        if not self._in_work and not self._packages_complete():
            effects += self._request(now, wall_ns)
        return effects + self._advance(now, wall_ns)

    def _advance(self, now: float, wall_ns: int) -> list[Effect]:
        """The next step that is due: switch, announcement, or nothing."""
        if self._revoked:
            return []
        self._admission.expire(now)
        current = self._current
        if current is not None and current.in_work:
            if not self._scheduler.eviction_wanted:
                return self._rollout.switch_if_due(current, now, wall_ns)
            effects = self._rollout.install_own(now, wall_ns) + self._rollout.switch(current, now, True)
            return effects + self._request(now, wall_ns)
        wanted = self._scheduler.due(now, self._packages_complete, self._recovery_s)
        if wanted is not None:
            return self._announce(*wanted, now, wall_ns)
        if self._scheduler.rotation_due(now):
            return self._decide(EpochReason.TIME, now, wall_ns)
        return []

    def _announce(self, reason: EpochReason, decided_at: float, now: float, wall_ns: int) -> list[Effect]:
        self._scheduler.serve()
        self._builder.seen = self._failover_state.seen_epoch
        self._builder.crl_number = self._failover.crl_number
        if not self._admission.holds_own(now):
            self._request(now, wall_ns)  # makes our own package; members get a request after the switch
        return self._rollout.announce(reason, decided_at, now, wall_ns)

    def _request(self, now: float, wall_ns: int) -> list[Effect]:
        missing = not self._packages_complete() or self._current is None
        request = self._beacon.request(self._current, missing, now, wall_ns)
        if not self._admission.holds_own(now):
            self._admission.accept_own(self._member.own_package(request, now), self.identity.member, now)
        return [self._beacon.send_request(request)]

    @property
    def _recovery_s(self) -> float:
        """How long the first announcement waits for members of the proven epoch, or for a proof."""
        if self._current is not None:
            return 0.0
        if self._admission.learned_roster():
            return max(RECOVERY_WAIT_S, self.limits.missing_wait_s)
        # One insider can name any epoch. An epoch that several members name exists; they retransmit it.
        return self.limits.missing_wait_s * min(self._admission.unproven, _MAX_NAMING)

    def _packages_complete(self) -> bool:
        """True if an unused package is here of every member of the last epoch that is expected to go on;
        crypto nodes are not waited for.
        """
        roster = self._rollout.roster() or self._admission.learned_roster()
        return bool(roster) and all(
            entry.role is Role.CRYPTO
            or self._admission.holds(entry.name)
            or not self._rollout.is_expected(entry)
            for entry in roster
        )

    # Other crypto nodes

    def _own_epoch(self) -> tuple[int, bool]:
        current, installed = self._current, self._member.installed
        newest = max(installed.epoch if installed else 0, current.epoch if current else 0)
        return newest, current is not None and current.epoch == self._builder.issued

    def _become_standby(self) -> None:
        self._rollout.current = self._rollout.own_install = None
        self._scheduler.clear()
        self._admission.forget_own()
        self._beacon.request_at = self._beacon.beat_at = None

    def _take_over(self, now: float, wall_ns: int) -> list[Effect]:
        """The epoch in force goes on, under our beats, until we have announced our own."""
        effects: list[Effect] = [self._failover.take_over(now)]
        installed = self._member.installed
        if installed is not None and self._failover.holds_newest():
            self._rollout.current = current = CurrentEpoch.adopted(installed.announcement, now)
            self._builder.slots_after(installed.roster)
            effects += self._beat(current, now, wall_ns)
        self._control.exchange.send_soon(self._member, now, 0.0)  # a member may have joined without it
        self._scheduler.want_takeover(now)
        effects += self._evict_revoked(now, wall_ns)
        return effects + self._request(now, wall_ns)

    def _beat(self, current: CurrentEpoch, now: float, wall_ns: int) -> list[Effect]:
        self._control.watchdog.reset(now)
        self._context.clock.accept_own(wall_ns, now)
        return [self._beacon.beat(current, now, wall_ns)]
