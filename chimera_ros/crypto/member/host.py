"""Secure layer of one process: one or several members, one shared receive side that opens each packet once.

Control messages and time in, effects out; seal and open are called directly. All methods are thread-safe. The
control methods (start, handle, tick) share one lock; seal and open hold another one only while a counter or
replay window moves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import RLock
from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import NotReady, Rejected, RejectReason
from ..keystore.member_state import StateStore
from ..messages.announcement import Announcement, RosterEntry
from ..messages.checkpoint import Checkpoint
from ..primitives.suite import digest
from ..rate_limit import TokenBucket
from ..session.epoch_session import Opened, check_shape, response_binding
from ..trust.identity import CertificateError, CertifiedMember, MemberIdentity, Trust
from ..trust.policy import Policy
from ..wire import ControlMessage, Envelope
from .context import HostConfig, MemberContext
from .control_plane import ControlPlane
from .fallback import Fallback
from .key_server_hooks import KeyServerHooks

__all__ = ["HostConfig", "Opened", "PendingRequest", "SecureHost"]

_MAX_PENDING: Final = 256
_SET_BACK_ALARM_S: Final = 10.0


@dataclass(slots=True)
class PendingRequest:
    """A service request that is not answered yet; it takes one response."""

    envelope: Envelope
    binding: bytes = field(repr=False)
    answered: bool = False

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the request envelope: a key for tables of pending requests."""
        return digest(self.envelope.canonical())

    @classmethod
    def observed(cls, envelope: Envelope) -> PendingRequest:
        """Another member's request, for a logger that opens the responses as well."""
        return cls(envelope, response_binding(envelope))


class SecureHost:
    """See the module's docstring. `stores` holds one StateStore per member name."""

    def __init__(
        self,
        identities: Sequence[MemberIdentity],
        trust: Trust,
        stores: Mapping[str, StateStore],
        random: Callable[[int], bytes] = os.urandom,
        config: HostConfig | None = None,
        *,
        context: MemberContext | None = None,
        key_server: KeyServerHooks | None = None,
    ) -> None:
        """`context` and `key_server`: of a key server whose member this is (key_server/server.py).

        Raises ValueError without identities, KeystoreError for an older policy or CRL than seen before.
        """
        if context is None:
            context = MemberContext(identities, trust, stores, random, config or HostConfig())
        self.context = context
        self.counters = context.counters
        self.checkpoints = context.checkpoints
        self.swarm = context.trust.swarm
        self._control_lock = RLock()
        self._wall_ns = 0
        self._set_back_alarms = TokenBucket(1.0 / _SET_BACK_ALARM_S, 1.0)
        secret = context.config.fallback
        self.fallback = Fallback(secret, context) if secret is not None else None
        self.control = ControlPlane(context, self.fallback, key_server)
        self._members = context.members
        self._sessions = context.sessions.open

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the hosted members."""
        return tuple(self._members)

    @property
    def policy(self) -> Policy:
        """The policy in force; a newer one may be taken over in flight."""
        return self.context.trust.policy

    # Control

    def start(self, now: float, wall_ns: int) -> list[Effect]:
        """Call once, when control messages can be sent and received."""
        with self._control_lock:
            self._wall_ns = wall_ns
            return self.control.start(now, wall_ns)

    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """A control message from the network. Never raises on what it contains."""
        with self._control_lock:
            self._wall_ns = wall_ns
            return self.control.handle(message, now, wall_ns)

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        """Call when `next_timer` has come; earlier or later is harmless."""
        with self._control_lock:
            self._wall_ns = wall_ns
            return self.control.tick(now, wall_ns)

    def next_timer(self) -> float | None:
        """Monotonic seconds at which `tick` is due; may be in the past."""
        with self._control_lock:
            return self.control.next_timer()

    def sign_stop(self, operator: str, level: str, targets: Sequence[str], wall_ns: int) -> ControlMessage:
        """A signed stop of a hosted operator for `targets` (none: every drone). Repeat it until acknowledged.

        Raises ValueError for an unknown level, Rejected(ROLE) when the member is no operator.
        """
        with self._control_lock:
            return self.control.stop_handler.sign(operator, level, targets, wall_ns)

    def leave(self) -> list[Effect]:
        """A farewell of all hosted members; perform it before `close`."""
        with self._control_lock:
            return self.control.leave()

    def close(self) -> None:
        """Wipes the keys of every epoch and of every offered package (best effort in Python)."""
        with self._control_lock:
            self.context.sessions.wipe_all()
            for member in self._members.values():
                member.wipe()

    # State

    def ready(self, member: str) -> bool:
        """True if the member can seal now."""
        return self._members[member].sending is not None and not self.context.silent

    def degraded(self, wall_ns: int) -> bool:
        """True while no crypto node is heard and messages go out under the fallback secret."""
        fallback = self.fallback
        return self.context.silent and fallback is not None and fallback.usable(wall_ns)

    def excluded_members(self, wall_ns: int) -> tuple[str, ...]:
        """Hosted members that the others refuse, each with the reason."""
        found = []
        for name, member in self._members.items():
            if member.identity.fingerprint in member.state.evictions:
                found.append(f"{name} was evicted from the swarm")
                continue
            try:
                self.context.trust.check_member(member.identity.member, wall_ns)
            except CertificateError as error:
                found.append(f"the certificate of {name} {error.fault.value}")
        return tuple(found)

    def beat_age_s(self, now: float) -> float | None:
        """Seconds since a crypto node's last beat of our epoch, or since the start; None before that."""
        last_beat = self.context.last_beat
        return None if last_beat is None else max(0.0, now - last_beat)

    def epoch(self, member: str) -> int | None:
        """The epoch the member sends under."""
        sending = self._members[member].sending
        return sending[0].epoch if sending else None

    def transcript_hash(self, member: str) -> bytes | None:
        """Of the epoch the member sends under."""
        sending = self._members[member].sending
        return sending[0].transcript_hash if sending else None

    def roster(self, member: str | None = None) -> tuple[RosterEntry, ...]:
        """The roster the member (default: the first) sends under; empty before the first epoch."""
        return self.context.roster(member)

    def certificate(self, fingerprint: bytes) -> CertifiedMember | None:
        """A member's certificate, if it is known (receipts and records need it)."""
        return self.context.certificates.get(fingerprint)

    def announcement(self, epoch: int) -> Announcement | None:
        """The announcement of an open epoch (public bytes only)."""
        session = self._sessions.get(epoch)
        return session.announcement if session else None

    # Data

    def seal(self, channel: str, type_name: str, payload: bytes, sent_ns: int, member: str) -> Envelope:
        """`payload` (CDR) sealed for the swarm, signed where the channel's lane says so.

        `sent_ns` is the wall clock. Raises NotReady, Rejected(NOT_PERMITTED or SIZE), ForkedProcess.
        """
        return self._seal(channel, type_name, payload, sent_ns, member, b"")

    def _seal(
        self, channel: str, type_name: str, payload: bytes, sent_ns: int, member: str, binding: bytes
    ) -> Envelope:
        state = self._members[member]
        sending = state.sending
        if self.context.silent and self.fallback is not None and not binding:
            envelope = self.fallback.seal(channel, type_name, payload, sent_ns, member)
            self._count_sealed(envelope)
            return envelope
        if sending is None or self.context.silent:
            why = "the crypto node is silent" if sending else "it has not joined an epoch yet"
            raise NotReady(f"{member} cannot send: {why}")
        session, slot = sending
        envelope = session.seal(slot, state.identity, channel, type_name, payload, sent_ns, binding)
        self._count_sealed(envelope)
        return envelope

    def _count_sealed(self, envelope: Envelope) -> None:
        counters = self.counters
        counters.sealed += 1
        counters.bytes_sealed += len(envelope.sealed)
        if envelope.signature:
            counters.signed += 1

    def open(self, channel: str, type_name: str, envelope: Envelope, wall_ns: int) -> Opened:
        """The message in an envelope that came in on `channel`. Raises Rejected; then nothing has changed."""
        return self._open(channel, type_name, envelope, wall_ns)[0]

    def _open(
        self,
        channel: str,
        type_name: str,
        envelope: Envelope,
        wall_ns: int,
        bindings: tuple[bytes, ...] = (b"",),
        veto: Callable[[int], None] | None = None,
    ) -> tuple[Opened, int]:
        counters = self.counters
        fallback = self.fallback
        try:
            if envelope.epoch == 0 and fallback is not None and self.context.silent:
                opened = fallback.open(channel, type_name, envelope, wall_ns)
                found = opened, 0
            else:
                check_shape(envelope)
                session = self._sessions.get(envelope.epoch)
                if session is None:
                    self.control.resync.note_higher(envelope.epoch)
                    raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {envelope.epoch}")
                self._wall_ns = wall_ns
                found = session.open(channel, type_name, envelope, wall_ns, self._good, bindings, veto)
        except Rejected as refusal:
            counters.rejected[refusal.reason] += 1
            raise
        counters.opened += 1
        counters.bytes_opened += len(envelope.sealed)
        if found[0].signed:
            counters.verified += 1
        return found

    def _good(self, fingerprint: bytes) -> CertifiedMember | None:
        try:
            return self.context.certificates.get_valid(fingerprint, self._wall_ns)
        except Rejected:
            return None

    # Checkpoints: for a thread apart from the data path

    def make_checkpoints(self, now: float, wall_ns: int) -> Iterator[tuple[str, Checkpoint]]:
        """The checkpoints that are due, each with its sender's name; signed one by one as they are iterated.

        Call it every `checkpoints.POLL_S`. `wall_ns` is the clock that `seal` is given.
        """
        for draft in self.checkpoints.drafts(now, wall_ns):
            name = draft.entry.name
            yield name, self.checkpoints.sign(draft, self._members[name].identity)

    def take_checkpoint(
        self, name: str, checkpoint: Checkpoint, now: float, wall_ns: int
    ) -> list[Effect] | None:
        """A checkpoint from `name`'s topic: alarms where it contradicts what was opened here; None: refused.

        Never raises on what it contains; refusals are counted by reason.
        """
        known = self.control.installer.known_hash(checkpoint.epoch)
        fingerprint = next((entry.fingerprint for entry in self.roster() if entry.name == name), None)
        try:
            effects = self.checkpoints.take(name, checkpoint, fingerprint, known, self._good, now, wall_ns)
            return effects + self._check_counters(now)
        except Rejected as refusal:
            self.counters.checkpoints[refusal.reason] += 1
            return None

    def tick_checkpoints(self, now: float) -> list[Effect]:
        """Call about once a second: counts packets that no checkpoint confirmed."""
        return self.checkpoints.tick(now) + self._check_counters(now)

    def _check_counters(self, now: float) -> list[Effect]:
        """Requests a rekey if a sender's counters were used far ahead by another one, or our clock went back:
        only in a new epoch are its packets accepted again.
        """
        effects: list[Effect] = []
        back_s = self.checkpoints.take_clock_set_back()
        if back_s and self._set_back_alarms.take(now):
            effects.append(
                SecurityAlarm(
                    "warning",
                    f"the clock of {', '.join(self.members)} went back by {back_s:.1f} s: telemetry waits "
                    "for a new epoch",
                )
            )
        if not self.checkpoints.take_window_jump() and not back_s:
            return effects
        with self._control_lock:
            return effects + self.control.request_rekey(now)

    # Services

    def seal_request(
        self, service: str, type_name: str, payload: bytes, sent_ns: int, member: str
    ) -> PendingRequest:
        """A request for `<service>/request`; keep the result to open the response with."""
        envelope = self.seal(f"{service}/request", type_name, payload, sent_ns, member)
        return PendingRequest(envelope, response_binding(envelope))

    def seal_response(
        self, service: str, type_name: str, payload: bytes, sent_ns: int, member: str, request: Envelope
    ) -> Envelope:
        """A response for `<service>/response`, bound to the request envelope and the requester's slot."""
        return self._seal(
            f"{service}/response", type_name, payload, sent_ns, member, response_binding(request)
        )

    def open_response(
        self,
        service: str,
        type_name: str,
        envelope: Envelope,
        wall_ns: int,
        pending: Iterable[PendingRequest],
    ) -> tuple[PendingRequest, Opened]:
        """(the request that a response answers, the opened response).

        Raises Rejected(UNMATCHED_RESPONSE) when it answers none of `pending` (at most 256), ALREADY_ANSWERED
        when that one has its response.
        """
        requests = tuple(pending)[:_MAX_PENDING]
        if not requests:
            self.counters.rejected[RejectReason.UNMATCHED_RESPONSE] += 1
            raise Rejected(RejectReason.UNMATCHED_RESPONSE, service)

        def answer(index: int) -> None:
            if requests[index].answered:
                raise Rejected(RejectReason.ALREADY_ANSWERED, service)
            requests[index].answered = True

        bindings = tuple(item.binding for item in requests)
        opened, index = self._open(f"{service}/response", type_name, envelope, wall_ns, bindings, answer)
        return requests[index], opened
