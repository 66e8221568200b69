"""The crypto node's core: admits members, announces epochs, rotates, switches, beats.

Phases of an epoch: decided -> (waiting for packages, at most `missing_wait_s`) -> announced -> switched. One
epoch is in work at a time; what is asked for meanwhile follows afterwards.

Not handled here: eviction orders (the fields exist and are sent empty), standbys (epoch numbers respect
`rank` already).
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final

from .admission import Admission
from .agenda import Agenda
from .current import Current
from .effects import Alarm, Effect, Send
from .entropy import OS_BYTES, draw_seed
from .epochs import MAX_ROSTER, Announcement, EpochReason, Head, RosterEntry
from .errors import EntropyError, KeystoreError, Rejected
from .host import HostConfig, SecureHost
from .identity import MemberIdentity, Trust
from .issuing import issue, number_above, place, roster_of
from .joining import BEHIND_FLAG, VOLUME_FLAG, Ready, Switch
from .reasons import Reason
from .roles import Role
from .stop import signed
from .store import StateStore
from .suite import digest
from .voice import Voice
from .wire import ControlKind, ControlMessage, check_size

_REPEAT_S: Final = 0.1  # an announcement that a live member has not answered is sent once more
_AFTER_SWITCH_S: Final = 0.02
_VOLUME_GAP_S: Final = 5.0
_KEPT_DURATIONS: Final = 4096
_REASONS: Final = {reason.name.lower(): reason for reason in EpochReason}


@dataclass(frozen=True, slots=True)
class KeyServerConfig:
    """rank: 0..3, epoch numbers are congruent to it modulo 4. rotate_s overrides the policy's rotation_s.
    draw: seeds from a pool (`EntropyPool.draw`); None draws from `random` alone.
    """

    rank: int = 0
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
        if not 0 <= self.config.rank <= 3:
            raise ValueError(f"rank {self.config.rank} is not from 0 to 3")
        self.identity = identity
        self.trust = trust
        self.limits = trust.policy.limits
        self.host = SecureHost([identity], trust, {identity.name: store}, random, host_config)
        self._draw = self.config.draw or (lambda: draw_seed(random(OS_BYTES)))
        self._mapper = (host_config or HostConfig()).mapper
        self._lock = RLock()
        self._control = self.host.control
        self._control.on_other = self.handle  # packages that waited for a certificate
        self._member = self._control.members[identity.name]
        self._suite = self._control.suite
        self._admission = Admission(trust, self._control, self._member)
        self._voice = Voice(identity, self._suite.name, self.limits, self._admission, random)
        self._current: Current | None = None
        self._issued = 0
        self._own_install: Announcement | None = None
        self._next_slot = 0
        self._agenda = Agenda(self.limits, self.rotate_s)
        self._resent_at = float("-inf")
        self._volume_at = float("-inf")
        self._rotations: dict[str, int] = {}
        self._durations_ms: deque[float] = deque(maxlen=_KEPT_DURATIONS)

    @property
    def rotate_s(self) -> float:
        """Seconds between rotations on time."""
        return self.config.rotate_s if self.config.rotate_s is not None else self.limits.rotation_s

    # Entry points

    def start(self, now: float, wall_ns: int) -> list[Effect]:
        """Shows the certificate and asks for packages."""
        with self._lock:
            wall_ns = self._control.floor(wall_ns)
            self._voice.start(wall_ns)
            effects = self.host.start(now, wall_ns)
            effects += self._request(now, wall_ns)
            return effects

    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """A control message from the network. Never raises on what it contains."""
        with self._lock:
            try:
                check_size(message)
                if message.kind is ControlKind.KEY_PACKAGE:
                    return self._on_package(message, now, self._control.floor(wall_ns))
                if message.kind is ControlKind.READY:
                    return self._on_ready(message, now, self._control.floor(wall_ns))
            except Rejected as refusal:
                self.host.counters.control[refusal.reason] += 1
                if refusal.reason is Reason.CHALLENGE and message.kind is ControlKind.KEY_PACKAGE:
                    self._voice.hint(now)
                return []
            effects = self.host.handle(message, now, wall_ns)
            if (
                message.kind is ControlKind.CERTIFICATE
                and digest(*message.parts) != self.identity.fingerprint
                and self._control.directory.get(digest(*message.parts)) is not None
            ):
                self._voice.hint(now)  # its owner may have just started, and lack our certificate as well
                self._control.show_certificate(self._member, now, 0.0)
            return effects

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        with self._lock:
            wall_ns = self._control.floor(wall_ns)
            effects: list[Effect] = []
            if self._own_install is not None:
                effects += self._install_own(now, wall_ns)
            effects += self.host.tick(now, wall_ns)
            effects += self._advance(now, wall_ns)
            effects += self._admission.watch(self.host, wall_ns)
            voice = self._voice
            if voice.request_at is not None and voice.request_at <= now and not self._in_work:
                effects += self._request(now, wall_ns)
            if voice.beat_at is not None and voice.beat_at <= now and self._current and not self._in_work:
                self._control.note_life(now)
                effects.append(voice.beat(self._current, now, wall_ns))
            return effects

    def next_timer(self) -> float | None:
        with self._lock:
            times = [self.host.next_timer()]
            if self._own_install is not None:
                times.append(float("-inf"))
            current = self._current
            if current is not None and current.in_work:
                times.append(current.announced_at + self.limits.switch_s)
                if not current.repeated:
                    times.append(current.announced_at + _REPEAT_S)
            else:
                times += (self._voice.request_at, self._voice.beat_at)
                times.append(self._agenda.next_timer(self._all_answered, self._recovering))
            return min((time for time in times if time is not None), default=None)

    def rotate(self, reason: str, now: float, wall_ns: int) -> list[Effect]:
        """Decides on a new epoch ("manual", "volume", "time"); it follows at once when all packages are here.

        Raises ValueError for another reason.
        """
        with self._lock:
            if reason not in ("manual", "volume", "time"):
                raise ValueError(f"{reason!r} is no reason to rotate; use manual, volume or time")
            wall_ns = self._control.floor(wall_ns)
            return self._decide(_REASONS[reason], now, wall_ns)

    def status(self) -> dict[str, Any]:
        """For people and reports: epoch, roster, rotations by reason, durations, whether packages are at
        hand.
        """
        with self._lock:
            current = self._current
            return {
                "epoch": current.epoch if current else 0,
                "switched": current is not None and not current.in_work,
                "members": [entry.name for entry in self._roster()],
                "packages_ready": current is not None and not self._in_work and self._all_answered(),
                "rotations": sum(self._rotations.values()),
                "rotations_by_reason": dict(self._rotations),
                "rekey_ms": [round(value, 3) for value in self._durations_ms],  # decision to switch sent
            }

    # Joining

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
        current = self._current
        if current is not None:
            current.heard_at[candidate.name] = now
        entry = self._entry_named(candidate.name)
        if entry is None or entry.incarnation != candidate.incarnation:
            self._agenda.want(EpochReason.JOIN, now)
        return effects + self._advance(now, wall_ns)

    def _entry_named(self, name: str) -> RosterEntry | None:
        return next((entry for entry in self._roster() if entry.name == name), None)

    @property
    def _recovering(self) -> bool:
        """Restarted, nothing announced yet, and it was shown whom to expect."""
        return self._current is None and bool(self._admission.learned_roster())

    def _all_answered(self) -> bool:
        """Do we hold an unused package of every member of the last epoch?"""
        roster = self._roster() or self._admission.learned_roster()
        return bool(roster) and all(
            entry.name == self.identity.name or self._admission.holds(entry.name) for entry in roster
        )

    # Deciding

    def _decide(self, reason: EpochReason, now: float, wall_ns: int) -> list[Effect]:
        self._agenda.want(reason, now)
        effects: list[Effect] = []
        if not self._in_work and not self._all_answered():
            effects += self._request(now, wall_ns)
        return effects + self._advance(now, wall_ns)

    def _advance(self, now: float, wall_ns: int) -> list[Effect]:
        """Takes the next step that is due."""
        self._admission.expire(now)
        current = self._current
        if current is not None and current.in_work:
            return self._push(current, now, wall_ns)
        wanted = self._agenda.due(now, self._all_answered, self._recovering)
        if wanted is not None:
            return self._announce(*wanted, now, wall_ns)
        if self._agenda.time_is_up(now):
            return self._decide(EpochReason.TIME, now, wall_ns)
        return []

    # Announcing

    def _announce(self, reason: EpochReason, decided_at: float, now: float, wall_ns: int) -> list[Effect]:
        self._agenda.taken()
        number = self._next_number()
        if number > self._member.state.reserved_epoch:  # usually done ahead, after the last switch
            try:
                self._member.remember(reserved_epoch=number)
            except KeystoreError as error:
                self._agenda.rotate_after(now if self._current is not None else None)
                return [Alarm("error", f"no new epoch: {error}")]
        if not self._admission.holds_own(now):
            self._request(now, wall_ns)  # makes our own package; members are asked after the switch
        candidates = self._admission.take_all(now, wall_ns)[:MAX_ROSTER]
        if len(candidates) < 2:
            self._agenda.rotate_after(now if self._current is not None else None)
            self._admission.put_back(candidates)
            return []
        try:
            seed = self._draw()
        except EntropyError as error:
            self._agenda.rotate_after(now if self._current is not None else None)
            self._admission.put_back(candidates)
            return [Alarm("error", f"no new epoch: {error}")]
        left = [entry for entry in self._roster() if entry.name not in {item.name for item in candidates}]
        if left and reason is EpochReason.TIME:
            reason = EpochReason.LEAVE
        jobs_of, self._next_slot = place(candidates, self._roster(), self._next_slot)
        roster = roster_of(jobs_of)
        previous = (
            self._current.announcement.transcript_hash if self._current else self._admission.learned_hash()
        )
        head = Head(
            swarm=self.trust.swarm,
            suite=self._suite.name,
            policy_hash=self.trust.policy.hash,
            epoch=number,
            issuer=self.identity.fingerprint,
            reason=reason,
            challenge=self._voice.challenge,
            previous=previous,
            evictions=tuple(sorted(self._member.state.evictions)),
            crl_number=self.trust.crl.number,
            roster=roster,
        )
        keys = {slot: item.public for slot, item in jobs_of.items()}
        announcement = issue(head, keys, seed, self.identity, self._suite, self._mapper)
        message = announcement.message
        heard_at = {item.name: item.received_at for item in candidates}
        if self._current is not None:
            for name, moment in self._current.heard_at.items():
                heard_at[name] = max(moment, heard_at.get(name, moment))
        self._issued = number
        self._current = Current(
            announcement=announcement,
            decided_at=decided_at,
            announced_at=now,
            live=frozenset(e.slot for e in roster if self._is_live(e, heard_at, now, wall_ns)),
            ready=set(),
            speakers={slot: item.speaker for slot, item in jobs_of.items()},
            heard_at=heard_at,
        )
        self._rotations[reason.name.lower()] = self._rotations.get(reason.name.lower(), 0) + 1
        self._agenda.rotate_after(now)
        self._own_install = announcement
        effects: list[Effect] = [Send(message)]
        if left:
            names = ", ".join(entry.name for entry in left)
            effects.append(Alarm("warning", f"epoch {number} goes on without {names}: no key package came"))
        return effects

    def _roster(self) -> tuple[RosterEntry, ...]:
        return self._current.roster if self._current else ()

    def _next_number(self) -> int:
        """The next number of our rank above everything issued, stored or shown to us."""
        floor = max(
            self._issued,
            self._member.state.highest_epoch,
            self._admission.learned_epoch(),
            0 if self._issued else self._member.state.reserved_epoch,
        )
        return number_above(floor, self.config.rank)

    def _is_live(self, entry: RosterEntry, heard_at: dict[str, float], now: float, wall_ns: int) -> bool:
        """Heard within `live_s`. Whoever's traffic never reaches this node at all is given the benefit."""
        if entry.name == self.identity.name or now - heard_at.get(entry.name, now) <= self.limits.live_s:
            return True
        heard_ns = self.host.heard(entry.name)
        return heard_ns is None or wall_ns - heard_ns <= self.limits.live_s * 1e9

    def _install_own(self, now: float, wall_ns: int) -> list[Effect]:
        announcement, self._own_install = self._own_install, None
        current = self._current
        if announcement is None or current is None or current.announcement is not announcement:
            return []
        try:
            effects = self._control.install(announcement, now, wall_ns)
        except KeystoreError as error:  # the others go on without us
            effects = [Alarm("error", str(error))]
        current.ready.add(self._member.installed_slot)
        body = Switch(
            self.trust.swarm, announcement.head.epoch, announcement.transcript_hash, self.identity.fingerprint
        ).encode()
        current.switch = signed(ControlKind.SWITCH, body, self.identity)  # signed now, sent when it is time
        return effects

    # Switching

    def _push(self, current: Current, now: float, wall_ns: int) -> list[Effect]:
        late = now >= current.announced_at + self.limits.switch_s
        if current.all_ready or late:
            effects = self._install_own(now, wall_ns) if self._own_install is not None else []
            return effects + self._switch(current, now, late and not current.all_ready)
        if not current.repeated and now >= current.announced_at + _REPEAT_S:
            current.repeated = True
            return [Send(current.announcement.message)]
        return []

    def _switch(self, current: Current, now: float, late: bool) -> list[Effect]:
        assert current.switch is not None
        current.switched_at = now
        self._durations_ms.append((now - current.decided_at) * 1e3)
        session = self._control.sessions.open.get(current.epoch)
        effects: list[Effect] = [Send(current.switch)]
        if session is not None:
            effects += self._control.switch(session, now)
        if late:
            names = current.names(current.live - current.ready)
            effects.append(
                Alarm("warning", f"switched to epoch {session and session.epoch} before {', '.join(names)}")
            )
        with contextlib.suppress(KeystoreError):  # tried again when it is needed
            self._member.remember(reserved_epoch=self._next_number())
        self._voice.request_at = now + _AFTER_SWITCH_S
        self._voice.beat_at = now + self.limits.beat_s
        return effects

    def _on_ready(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        ready = Ready.parse(message.parts[0], self.trust.swarm)
        current = self._current
        if ready.fingerprint == self.identity.fingerprint:
            raise Rejected(Reason.OWN)
        if current is None:
            raise Rejected(Reason.UNKNOWN_EPOCH)
        same = ready.transcript_hash == current.announcement.transcript_hash
        if same and not ready.flags and set(ready.slots) <= current.ready:
            raise Rejected(Reason.DUPLICATE)
        if not same and not ready.flags & BEHIND_FLAG:
            raise Rejected(Reason.STALE, f"ready for epoch {ready.epoch}")
        sender = self._control.directory.good(ready.fingerprint, wall_ns)
        if sender.fingerprint in self._member.state.evictions:
            raise Rejected(Reason.EVICTED, sender.name)
        self._control.check_signature(sender, message, now)
        effects: list[Effect] = []
        if same:  # what names another epoch may be a recording: no sign of life
            current.heard_at[sender.name] = now
            current.note_ready(ready, sender.fingerprint, now)
        if ready.flags & BEHIND_FLAG and now >= self._resent_at + self.limits.beat_s:
            self._resent_at = now
            effects.append(Send(current.announcement.message))
            self._voice.hint(now)  # it may not be named there at all, then it needs a new package
        if ready.flags & VOLUME_FLAG and same and now >= self._volume_at + _VOLUME_GAP_S:
            self._volume_at = now
            effects += self._decide(EpochReason.VOLUME, now, wall_ns)
        return effects + self._advance(now, wall_ns)
