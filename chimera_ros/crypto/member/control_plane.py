"""The member side of the key protocol for all members of a process: control messages in, effects out.

What the crypto node signs is verified once and kept; every member then makes its own checks (member.py).

Not handled here: issuing epochs (key_server.py), checkpoints (checkpoint_tracker.py), fallback.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ..effects import Effect, Installed, SecurityAlarm, Send, Switched
from ..errors import ClockTrouble, KeystoreError, Rejected, RejectReason
from ..messages.announcement import NO_HASH, Announcement, EpochReason, Head, parse_announcement
from ..messages.control import LEAVE_FLAG, VOLUME_FLAG, Beat, KeyRequest, Switch
from ..primitives import labels
from ..primitives.suite import digest
from ..rate_limit import TokenBucket
from ..session.epoch_session import EpochSession
from ..trust.identity import CertifiedMember
from ..trust.rank import fits_rank
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage, check_size
from .context import MemberContext
from .evictions import obey
from .fallback import Fallback
from .key_server_hooks import KeyServerHooks
from .member import Member, open_seeds, store_numbers
from .rank_watch import RankWatch
from .resync import Resync
from .stop_handler import StopHandler
from .trust_updates import TrustUpdates

_MAX_KNOWN: Final = 256  # epochs whose transcript hash is remembered, to see equivocation
_ANSWER_GAP_S: Final = 0.004  # between two packages of one process, so that data is not held up
_ANSWER_DELAY_S: Final = 0.03  # a member that flies answers a little later than one that waits to join
_VOLUME_S: Final = 5.0
_FLUSH_S: Final = 0.5  # after an eviction
_CERTIFICATE_S: Final = 1.0  # a certificate is shown at most this often
_SHOW_AGAIN_S: Final = 2.0  # while a member is left behind
_CERTIFICATE_REFRESH_S: Final = 60.0  # and again so often, for links without delivery guarantees
_CERTIFICATE_JOINING_S: Final = 10.0  # before joining, and in fallback: without it nobody is heard
_DOCUMENTS_S: Final = 5.0  # between two times that a process sends its revocation list and policy
_RESEND_S: Final = 0.2
_TELL_S: Final = (
    30.0  # between two alarms about what one crypto node says: it may make up as much as it likes
)


class ControlPlane:
    """Events in, effects out; no clock of its own. `now` is monotonic seconds, `wall_ns` the wall clock."""

    def __init__(
        self,
        context: MemberContext,
        fallback: Fallback | None = None,
        key_server: KeyServerHooks | None = None,
    ) -> None:
        self._context = context
        self._fallback = fallback
        self._key_server = key_server
        self._peers = key_server.peers if key_server is not None else None
        self._documents_told = TokenBucket(1.0 / _DOCUMENTS_S, 1.0)
        self._ranks = RankWatch(context.stands)
        for member in context.members.values():
            if member.role is Role.CRYPTO:
                self._ranks.seen(member.name, member.identity.fingerprint, 0)
        self._known: OrderedDict[int, bytes] = OrderedDict()
        self._banned: set[bytes] = set()
        self._sequences: dict[tuple[bytes, ControlKind], int] = {}
        self._early_switch: ControlMessage | None = None
        self.resync = Resync(context, self.known)
        self._flush_at: float | None = None
        self._volume_after = float("-inf")
        self._split_told: dict[bytes, tuple[bytes, float]] = {}  # issuer -> transcript hash, when
        self._issuer_shown_at = float("-inf")
        self.trust_updates = TrustUpdates(context)
        self.stop_handler = StopHandler(context)
        self._handlers: dict[ControlKind, Callable[[ControlMessage, float, int], list[Effect]]] = {
            ControlKind.CERTIFICATE: self._on_certificate,
            ControlKind.KEY_REQUEST: self._on_request,
            ControlKind.ANNOUNCEMENT: self._on_announcement,
            ControlKind.SWITCH: self._on_switch,
            ControlKind.BEAT: self._on_beat,
            ControlKind.READY: self.resync.on_ready,
            ControlKind.TRUST: self._on_trust,
            ControlKind.STOP: self.stop_handler.on_stop,
            ControlKind.STOP_ACK: self.stop_handler.on_receipt,
            ControlKind.FALLBACK_HELLO: self._on_hello,
        }

    # Entry points

    def start(self, now: float, wall_ns: int) -> list[Effect]:
        """Shows the certificates of all hosted members."""
        self._context.last_beat = now
        self._context.wall_ns = wall_ns
        effects: list[Effect] = []
        for member in self._context.members.values():
            effects.append(self._certificate(member, now))
        return effects

    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Never raises on bytes from the network; refusals are counted by reason."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            if self._key_server is None or message.kind is not ControlKind.KEY_PACKAGE:
                return []
            return self._key_server.on_package(message, now, wall_ns)
        self._context.wall_ns = wall_ns
        try:
            check_size(message)
            return handler(message, now, self._context.message_time_ns(now))
        except ClockTrouble as trouble:
            self._context.counters.control[trouble.reason] += 1
            return self._context.clock_alarms.refused(message.kind, trouble, now)
        except Rejected as refusal:
            self._context.counters.control[refusal.reason] += 1
            return []
        except KeystoreError as error:  # the disk is full, say: what could not be remembered was not done
            self._context.counters.control[RejectReason.STORE] += 1
            return [SecurityAlarm("error", str(error))] if self._context.store_alarms.take(now) else []

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        self._context.wall_ns = wall_ns
        self._context.sessions.tick(now)
        for member in self._context.members.values():
            member.expire(now)
            if member.sending is not None and member.sending[0].closed:
                member.sending = None
            if member.certificate_at is not None and member.certificate_at <= now:
                effects.append(self._certificate(member, now))
        due = [m for m in self._context.members.values() if m.answer_at is not None and m.answer_at <= now]
        if due:  # one package a tick: making it takes a millisecond that data may need
            member = min(due, key=lambda m: m.answer_at or 0.0)
            member.answer_at = None
            if member.request is not None:
                effects.append(Send(member.answer(member.request, now)))
        if self._flush_at is not None and now >= self._flush_at:
            effects += self._flush()
        return effects + self.resync.tick(now) + self._watch(now, self._context.message_time_ns(now))

    def _flush(self) -> list[Effect]:
        """Forces evictions to the disk, now that nobody waits for us."""
        self._flush_at = None
        try:
            list(self._context.config.mapper(lambda member: member.flush(), self._context.members.values()))
        except KeystoreError as error:
            return [SecurityAlarm("error", str(error))]
        return []

    def next_timer(self) -> float | None:
        times = [self._context.sessions.next_timer(), self.resync.next_timer(), self._flush_at]
        for member in self._context.members.values():
            times += (member.answer_at, member.certificate_at)
        if self._context.last_beat is not None and not self._context.silent:
            times.append(self._context.last_beat + self._context.limits.silence_s)
        if self._context.silent and self._fallback is not None:
            times.append(self._fallback.next_timer())
        return min((time for time in times if time is not None), default=None)

    def known(self, epoch: int) -> bytes | None:
        """The transcript hash of an epoch number as it was announced here, if it is remembered."""
        return self._known.get(epoch)

    # Checks that all of the crypto node's messages share

    def _issuer(self, fingerprint: bytes, message: ControlMessage, wall_ns: int) -> CertifiedMember:
        if self._context.is_own(fingerprint):
            raise Rejected(RejectReason.OWN)
        if fingerprint in self._banned:
            raise Rejected(RejectReason.ISSUER, "this crypto node has contradicted itself")
        issuer = self._context.certified(fingerprint, message, wall_ns)
        if issuer.role is not Role.CRYPTO:
            raise Rejected(RejectReason.ROLE, f"{issuer.name} is no crypto node")
        if self._context.is_evicted(fingerprint):
            raise Rejected(RejectReason.EVICTED, issuer.name)
        return issuer

    def _sequence(self, issuer: bytes, kind: ControlKind, sequence: int) -> None:
        if sequence <= self._sequences.get((issuer, kind), -1):
            raise Rejected(RejectReason.STALE, f"{kind.value} {sequence}")

    def note_life(self, now: float) -> None:
        """The crypto node is there: our first epoch, or it is we who beat."""
        self._context.last_beat = now
        if self._context.silent:
            self._awake()

    def _awake(self) -> None:
        self._context.silent = False
        if self._fallback is not None:
            self._fallback.rest()

    # Certificates

    def _on_certificate(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        fingerprint = digest(message.parts[0])
        try:
            self._context.certificates.add(message.parts[0], now, wall_ns)
        except Rejected as refusal:
            if (
                refusal.reason is RejectReason.DUPLICATE
                or self._context.certificates.get(fingerprint) is None
            ):
                raise
            self._context.counters.control[refusal.reason] += (
                1  # no good any more: what waited for it is told so
            )
        effects: list[Effect] = []
        for waiting in self._context.certificates.take_waiting(fingerprint):
            effects += self.handle(waiting, now, self._context.wall_ns)
        return effects

    def _certificate(self, member: Member, now: float) -> Effect:
        member.certificate_sent_at = now
        flying = member.installed is not None and not self._context.silent
        again_s = _CERTIFICATE_REFRESH_S if flying else _CERTIFICATE_JOINING_S
        member.certificate_at = now + again_s * (1 + self._context.random(1)[0] / 256)
        return Send(ControlMessage(ControlKind.CERTIFICATE, (member.identity.certificate_der,)))

    def show_certificate(self, member: Member, now: float, delay_s: float) -> None:
        """Shows the member's certificate soon; somebody may lack it."""
        soon = max(now + delay_s, member.certificate_sent_at + _CERTIFICATE_S)
        member.certificate_at = soon if member.certificate_at is None else min(soon, member.certificate_at)

    # Joining

    def _on_request(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        request = KeyRequest.parse(message.parts[0], self._context.trust.swarm, self._context.suite.name)
        issuer = self._issuer(request.issuer, message, wall_ns)
        self._sequence(request.issuer, ControlKind.KEY_REQUEST, request.sequence)
        self._context.check_signature(issuer, message, now)
        self._sequences[(request.issuer, ControlKind.KEY_REQUEST)] = request.sequence
        alarms: list[Effect] = [*self._ranks.seen(issuer.name, issuer.fingerprint, wall_ns)]
        if self._peers is not None:
            self._peers.heard_request(request, issuer, now, wall_ns)
            if self._peers.in_charge:
                return alarms  # its packages are for the epochs that it makes itself
        for index, member in enumerate(self._context.members.values()):
            if not member.needs_answer(request):
                continue
            member.request = request
            if member.answer_at is None:
                flying = member.sending is not None
                start = max(now + (_ANSWER_DELAY_S if flying else 0.0), member.resent_at + _RESEND_S)
                member.answer_at = start + index * _ANSWER_GAP_S
                member.resent_at = member.answer_at
            held = member.installed.transcript_hash if member.installed is not None else None
            if not member.proof_fits:
                self.resync.show_newest(request.epoch, now)
            if held != request.transcript_hash:
                self.show_certificate(member, now, 0.0)  # one of us may be new here and lack certificates
        return alarms + self._show_issuer(request, now)

    def _show_issuer(self, request: KeyRequest, now: float) -> list[Effect]:
        """The certificate of whoever issued our epoch, for a crypto node that asks from scratch: it needs it
        to check what we prove, and its owner may be dead.
        """
        held = [m.installed.announcement.head.issuer for m in self._context.members.values() if m.installed]
        if request.transcript_hash != NO_HASH or not held or request.issuer in held:
            return []
        issuer = self._context.certificates.get(held[0])
        if issuer is None or now < self._issuer_shown_at + _CERTIFICATE_S:
            return []
        self._issuer_shown_at = now
        return [Send(ControlMessage(ControlKind.CERTIFICATE, (issuer.certificate_der,)))]

    # Epochs

    def _on_announcement(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        transcript_hash = digest(message.parts[0])
        session = next(
            (
                item
                for item in self._context.sessions.open.values()
                if item.transcript_hash == transcript_hash
            ),
            None,
        )
        outside = [
            m for m in self._context.members.values() if m.installed is None or m.installed is not session
        ]
        if session is not None and not outside:
            self.resync.heard_again(session.epoch)
            raise Rejected(RejectReason.DUPLICATE)
        announcement = parse_announcement(message, self._context.suite)
        head = announcement.head
        self._check_head(announcement)
        issuer = self._issuer(head.issuer, message, wall_ns)
        if not fits_rank(issuer.name, head.epoch):
            raise Rejected(RejectReason.ISSUER, f"{issuer.name} may not announce epoch {head.epoch}")
        known = self._known.get(head.epoch)
        newest = max(member.state.highest_epoch for member in self._context.members.values())
        if session is None and (known == transcript_hash or (known is None and head.epoch <= newest)):
            raise Rejected(RejectReason.STALE, f"epoch {head.epoch}, a member has had {newest}")
        if session is None or session.announcement.proof != announcement.proof:
            if not self._context.rate_limiter.take(ControlKind.ANNOUNCEMENT, now):
                raise Rejected(RejectReason.BUDGET, "announcement")
            proof = announcement.proof
            if not issuer.verify(proof.signature, proof.signed_bytes(), labels.SIGN_ANNOUNCEMENT):
                raise Rejected(RejectReason.SIGNATURE, "announcement")
        if head.policy_hash != self._context.policy.hash:
            self._context.counters.control[RejectReason.POLICY] += (
                1  # one of us lacks the newest: both sides send theirs
            )
            return self.resync.ask(now) + self._documents(now)
        if known is not None and known != transcript_hash:
            self._banned.add(head.issuer)
            self._context.counters.control[RejectReason.EQUIVOCATION] += 1
            return [
                SecurityAlarm(
                    "error",
                    f"{issuer.name} announced two different epochs {head.epoch}: it is broken or lies "
                    "and is no longer followed",
                )
            ]
        effects = self._peers.heard_head(head, issuer, now) if self._peers is not None else []
        if head.crl_number > self._context.trust.crl.number:
            effects += self.resync.ask(now)
        elif head.crl_number < self._context.trust.crl.number or self._took_over(head):
            effects += self._documents(now)
        return effects + self.install(announcement, now, wall_ns)

    def _took_over(self, head: Head) -> bool:
        """Is this another crypto node than before, after documents came in flight? It may have missed them:
        its heads name the highest list that it has heard of, not the one that it has.
        """
        newest = self._context.newest_installed()
        before = newest.announcement.head.issuer if newest is not None else head.issuer
        return self.trust_updates.taken and before != head.issuer

    def _documents(self, now: float) -> list[Effect]:
        """What is in force here, for a crypto node that may lack it."""
        if not self._documents_told.take(now):
            return []
        return [Send(message) for message in self.trust_updates.messages()]

    def _check_head(self, announcement: Announcement) -> None:
        head = announcement.head
        if head.swarm != self._context.trust.swarm:
            raise Rejected(RejectReason.SWARM)
        for entry in head.roster:
            certified = self._context.certificates.get(entry.fingerprint)
            if certified is not None and (certified.name != entry.name or certified.role is not entry.role):
                raise Rejected(RejectReason.ROSTER, f"{entry.name} is not what its certificate says")
            if certified is not None and certified.serial in self._context.trust.crl.serials:
                raise Rejected(RejectReason.REVOKED, f"epoch {head.epoch} names {entry.name}")

    def install(self, announcement: Announcement, now: float, wall_ns: int) -> list[Effect]:
        """Installs a verified announcement for every hosted member that passes its own checks."""
        head = announcement.head
        self._known[head.epoch] = announcement.transcript_hash
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        if not self._context.sessions.may_add(head.epoch):
            raise Rejected(RejectReason.STALE, f"epoch {head.epoch}")
        effects = obey(
            announcement,
            self._context.members.values(),
            self._context.certificates,
            self._context.sessions,
            wall_ns,
        )
        if head.evictions:
            self._flush_at = now + _FLUSH_S
        joining = self._context.newest_installed() is None
        waiting = [
            m for m in self._context.members.values() if m.installed is None or m.installed.epoch < head.epoch
        ]
        openings = open_seeds(
            announcement, waiting, self._context.config.mapper, self._context.counters.control
        )
        if not openings:
            return effects
        openings, troubles = store_numbers(
            announcement, openings, self._context.confirmed_ns(), self._context.config.mapper
        )
        if troubles:
            self._known.pop(head.epoch, None)  # the same announcement, repeated, may still be installed
            self._context.counters.control[RejectReason.STORE] += 1
            if self._context.store_alarms.take(now):
                effects.append(SecurityAlarm("error", str(troubles[0])))
        if not openings:
            return effects
        session = self._context.sessions.open.get(head.epoch)
        if session is None:
            session = EpochSession(
                announcement,
                openings[0].keys,
                self._context.policy,
                self._context.lock,
                self._context.checkpoints,
            )
            self._context.sessions.add(session)
            self._context.roster_tracker.installed(head)
        if joining:  # later ones are no sign of life: they may have been held back
            self.note_life(now)
        before = {
            entry.incarnation
            for s in self._context.sessions.open.values()
            if s is not session
            for entry in s.roster
        }
        newcomers = any(entry.incarnation not in before for entry in head.roster)
        for entry in head.roster:
            if entry.role is Role.CRYPTO:
                effects += self._ranks.seen(entry.name, entry.fingerprint, wall_ns)
        for opening in openings:
            opening.member.install(session, opening.slot)
            effects.append(Installed(opening.member.name, head.epoch, announcement.transcript_hash))
            if newcomers:
                self.show_certificate(opening.member, now, 0.2 + self._context.random(1)[0] / 256)
        if not self._context.is_own(head.issuer):  # the issuer needs not tell itself
            effects.insert(0, Send(self._context.ready_message(session, 0)))
        if head.reason is EpochReason.EVICT:
            self._context.sessions.wipe_before(head.epoch)
        if head.reason is EpochReason.EVICT or any(opening.member.cut_off for opening in openings):
            effects += self.switch(session, now)  # at once: what was sent under before is wiped
        if self._early_switch is not None:
            early, self._early_switch = self._early_switch, None
            effects += self.handle(early, now, self._context.wall_ns)
        return effects

    def leave(self) -> list[Effect]:
        """A farewell for all hosted members, so that an epoch without them follows soon."""
        session = self._context.newest_installed()
        return [Send(self._context.ready_message(session, LEAVE_FLAG))] if session is not None else []

    def _on_switch(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        order = Switch.parse(message.parts[0], self._context.trust.swarm)
        issuer = self._issuer(order.issuer, message, wall_ns)
        session = self._context.sessions.open.get(order.epoch)
        if session is None or session.transcript_hash != order.transcript_hash:
            newest = max((member.state.highest_epoch for member in self._context.members.values()), default=0)
            if order.epoch > newest:
                self._context.check_signature(issuer, message, now)
                self._early_switch = message  # it overtook its announcement
            raise Rejected(RejectReason.UNKNOWN_EPOCH, f"switch to epoch {order.epoch}")
        if session.announcement.head.issuer != order.issuer:
            raise Rejected(RejectReason.ISSUER)
        if not self._would_switch(session):
            raise Rejected(RejectReason.DUPLICATE)
        self._context.check_signature(issuer, message, now)
        return self.switch(session, now)  # no sign of life: it may have been held back

    def _would_switch(self, session: EpochSession) -> bool:
        return any(
            m.installed is session and (m.sending is None or m.sending[0] is not session)
            for m in self._context.members.values()
        )

    def switch(self, session: EpochSession, now: float) -> list[Effect]:
        """All members that installed the session send under it from now on."""
        effects: list[Effect] = [
            Switched(member.name, session.epoch, session.transcript_hash)
            for member in self._context.members.values()
            if member.switch(session)
        ]
        if effects:
            self._context.sessions.supersede_before(session.epoch, now)
        return effects

    def _on_hello(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        if self._fallback is None or not self._context.silent:
            raise Rejected(RejectReason.FALLBACK, "a crypto node is heard, or there is no secret")
        return self._fallback.on_hello(message, now, wall_ns)

    def _on_trust(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        effects, document = self.trust_updates.on_update(message, now, wall_ns)
        if self._key_server is not None:
            effects += self._key_server.on_trust(document, now, wall_ns)
        return effects

    # Beats and silence

    def _on_beat(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        beat = Beat.parse(message.parts[0], self._context.trust.swarm)
        issuer = self._issuer(beat.issuer, message, wall_ns)
        self._sequence(beat.issuer, ControlKind.BEAT, beat.sequence)
        try:
            self._context.clock.check_beat(
                beat.sent_ns, now, self._context.wall_ns, self._context.limits.clock_ahead_s
            )
        except ClockTrouble as trouble:
            raise self._context.attach_signer(trouble, issuer, message, now) from None
        self._context.check_signature(issuer, message, now)
        self._sequences[(beat.issuer, ControlKind.BEAT)] = beat.sequence
        self._context.clock.accept(beat.sent_ns, now, self._context.wall_ns)
        effects: list[Effect] = [*self._ranks.seen(issuer.name, issuer.fingerprint, wall_ns)]
        effects += self._context.clock_alarms.compared(self._context.clock.apart_s, issuer.name)
        session = self._context.sessions.open.get(beat.epoch)
        known = self._known.get(beat.epoch)
        if known is not None and known != beat.transcript_hash:
            told, told_at = self._split_told.get(beat.issuer, (NO_HASH, float("-inf")))
            if told != beat.transcript_hash and now >= told_at + _TELL_S:
                self._split_told[beat.issuer] = (beat.transcript_hash, now)
                effects.append(
                    SecurityAlarm(
                        "error", f"{issuer.name} beats another epoch {beat.epoch} than it announced here"
                    )
                )
            self._context.counters.control[RejectReason.EQUIVOCATION] += 1
            return effects
        effects += self.resync.on_beat(beat, issuer)
        newest = max((s.epoch for s in self._context.sessions.open.values()), default=0)
        if beat.epoch < newest:
            self._context.counters.control[RejectReason.STALE] += 1
            return effects
        if self._peers is not None:
            effects += self._peers.heard_beat(beat, issuer, now)
        ours = session is not None and session.transcript_hash == beat.transcript_hash
        # A beat of an epoch that never arrives here must not keep us sending under an earlier one: whoever
        # drops announcements and lets beats through would read on after it was put out.
        if ours or self._context.newest_installed() is None:
            self._context.last_beat = now
            if self._context.silent:
                self._awake()
                effects.append(SecurityAlarm("info", f"{issuer.name} is heard again"))
        if session is not None and ours and beat.switched:
            effects += self.switch(session, now)
        behind = [
            m for m in self._context.members.values() if m.installed is None or m.installed.epoch < beat.epoch
        ]
        if behind and beat.epoch > 0:
            asked = self.resync.ask(now)
            for member in behind if asked else ():
                # A crypto node that has started meanwhile may lack its certificate.
                self.show_certificate(member, now, _SHOW_AGAIN_S)
            effects += asked
        return effects

    def _rest(self, wall_ns: int) -> str:
        if self._fallback is None or not self._fallback.usable(wall_ns):
            return "this process stops sending"
        return "DEGRADED, only telemetry, hold, land and return go on, under the pre-shared secret"

    def _watch(self, now: float, wall_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        silent_at = (
            None
            if self._context.last_beat is None
            else self._context.last_beat + self._context.limits.silence_s
        )
        if silent_at is not None and not self._context.silent and now >= silent_at:
            if any(member.sending is not None for member in self._context.members.values()):
                effects.append(
                    SecurityAlarm(
                        "error",
                        f"no crypto node heard for {self._context.limits.silence_s:g} s: "
                        f"{self._rest(wall_ns)}",
                    )
                )
            self._context.silent = True
            for member in self._context.members.values():  # in fallback nobody is heard without
                self.show_certificate(member, now, self._context.random(1)[0] / 256)
        if self._context.silent and self._fallback is not None:
            effects += self._fallback.tick(now, wall_ns)
        full = any(
            session.volume_bytes(slot) >= self._context.limits.volume_bytes
            for member in self._context.members.values()
            if member.role is not Role.CRYPTO and member.sending is not None
            for session, slot in (member.sending,)
        )
        return effects + (self.ask_rotation(now) if full else [])

    def ask_rotation(self, now: float) -> list[Effect]:
        """Asks the crypto node for a new epoch, at most every five seconds: numbers or volume are used up."""
        if now < self._volume_after:
            return []
        for member in self._context.members.values():
            if member.sending is not None and member.role is not Role.CRYPTO:
                self._volume_after = now + _VOLUME_S
                return [Send(self._context.ready_message(member.sending[0], VOLUME_FLAG))]
        return []
