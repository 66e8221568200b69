"""State and checks that the handlers of one process's members share.

Built first, from identities, trust and stores; each handler takes it, and the few handlers that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from ..counters import Counters
from ..errors import ClockTrouble, Rejected, RejectReason
from ..evidence.checkpoint_tracker import CheckpointTracker
from ..keystore.fallback_secret import FallbackSecret
from ..keystore.member_state import StateStore
from ..messages.announcement import NO_HASH, RosterEntry
from ..messages.body import CONTEXT_OF, signed
from ..messages.control import Ready
from ..primitives.suite import suite_named
from ..rate_limit import RateLimiter, TokenBucket
from ..session.epoch_session import EpochSession
from ..session.open_epochs import OpenEpochs
from ..trust.certificate_cache import CertificateCache
from ..trust.identity import CertifiedMember, MemberIdentity, Trust
from ..trust.policy import Limits, Policy
from ..wire import ControlKind, ControlMessage
from .clock_alarms import ClockAlarms
from .member import Member
from .message_clock import MessageClock
from .roster_tracker import RosterTracker
from .stored_trust import newest_trust

_STORE_ALARM_S: Final = 10.0  # between two alarms about a disk that refuses


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Configuration of a process; what the whole swarm must agree on is in the policy.

    mapper: how several seeds are opened, and epoch numbers stored, for several members; an executor's
        `map` does it in parallel (HPKE and waiting for the disk release the GIL).
    verify_checkpoints: compare opened packets with their senders' checkpoints.
    keep_evidence: keep what a record needs to open checkpoints' leaves (`checkpoints.evidence`).
    fallback: the swarm's pre-shared secret; None: without a crypto node nothing is sent.
    """

    mapper: Callable[..., Iterable[Any]] = map
    verify_checkpoints: bool = True
    keep_evidence: bool = False
    fallback: FallbackSecret | None = None


class MemberContext:
    """`lock` guards counters and replay windows; all other state changes under the host's control lock."""

    def __init__(
        self,
        identities: Sequence[MemberIdentity],
        trust: Trust,
        stores: Mapping[str, StateStore],
        random: Callable[[int], bytes],
        config: HostConfig,
    ) -> None:
        """Raises ValueError without identities, KeystoreError for an older policy or CRL than seen before."""
        if not identities:
            raise ValueError("a secure host needs at least one member identity")
        self.config = config
        self.random = random
        self.lock = Lock()
        self.counters = Counters()
        self.checkpoints = CheckpointTracker(
            trust.swarm,
            self.lock,
            config.verify_checkpoints,
            int(trust.policy.limits.clock_ahead_s * 1e9),
            config.keep_evidence,
        )
        self.trust = trust = newest_trust(trust, stores.values())
        self.suite = suite_named(trust.policy.suite)
        self.rate_limiter = RateLimiter(self.limits.checks_per_s, ControlKind)
        self.certificates = CertificateCache(trust, self.rate_limiter)
        self.sessions = OpenEpochs(self.limits, self.lock)
        self.members = {
            identity.name: Member(identity, trust, stores[identity.name], self.suite, random)
            for identity in identities
        }
        self.clock = MessageClock()
        self.wall_ns = 0  # the own wall clock at the last call
        self.last_beat: float | None = None  # of our epoch, or the start; monotonic seconds
        self.silent = False  # no beat for `silence_s`
        self.roster_tracker = RosterTracker()
        self.store_alarms = TokenBucket(1.0 / _STORE_ALARM_S, 1.0)
        self.clock_alarms = ClockAlarms(identities[0].name)
        self._responder = self.members[identities[0].name]  # signs `ready` for all
        self._own = {member.identity.fingerprint for member in self.members.values()}
        for member in self.members.values():
            member.responder = self._responder.identity.fingerprint
            self.certificates.put(member.identity.member)

    @property
    def policy(self) -> Policy:
        """In force now; an open epoch keeps the one it was announced under."""
        return self.trust.policy

    @property
    def limits(self) -> Limits:
        """Of the policy in force."""
        return self.trust.policy.limits

    # Members

    def is_own(self, fingerprint: bytes) -> bool:
        """True if this is a hosted member."""
        return fingerprint in self._own

    def is_evicted(self, fingerprint: bytes) -> bool:
        """True if a hosted member has stored this eviction."""
        return any(fingerprint in member.state.evictions for member in self.members.values())

    def is_trusted(self, fingerprint: bytes, wall_ns: int) -> bool:
        """True unless the certificate is known to be invalid, or is evicted."""
        known = self.certificates.get(fingerprint)
        return not self.is_evicted(fingerprint) and (
            known is None or self.certificates.is_valid(known, wall_ns)
        )

    def newest_installed(self) -> EpochSession | None:
        """Of the highest epoch that a hosted member has installed."""
        sessions = [member.installed for member in self.members.values() if member.installed]
        return max(sessions, key=lambda session: session.epoch, default=None)

    def roster(self, member: str | None = None) -> tuple[RosterEntry, ...]:
        """The roster the member (default: the first) sends under; empty before the first epoch."""
        sending = self.members[member or next(iter(self.members))].sending
        return sending[0].roster if sending else ()

    def received_ns(self, name: str) -> int | None:
        """Wall clock (ns) at which a packet of that member was last opened in an open epoch."""
        times = [
            session.received_ns[entry.slot]
            for session in list(self.sessions.open.values())
            for entry in session.roster
            if entry.name == name and entry.slot in session.received_ns
        ]
        return max(times, default=None)

    def ready_message(self, session: EpochSession | None, flags: int) -> ControlMessage:
        """A signed `ready` for all hosted members that have installed the session, or with flags."""
        slots = [m.installed_slot for m in self.members.values() if session and m.installed is session]
        body = Ready(
            self.trust.swarm,
            session.epoch if session else 0,
            session.transcript_hash if session else NO_HASH,
            self._responder.identity.fingerprint,
            flags,
            tuple(sorted(slots)),
        ).encode()
        return signed(ControlKind.READY, body, self._responder.identity)

    # Signatures

    def valid_signer(self, fingerprint: bytes, message: ControlMessage, wall_ns: int) -> CertifiedMember:
        """The signer of a message, if its certificate is valid now; a message without one waits for it.

        Raises Rejected(NO_CERTIFICATE, CERTIFICATE or REVOKED).
        """
        try:
            return self.certificates.get_valid(fingerprint, wall_ns)
        except Rejected as refusal:
            if refusal.reason is RejectReason.NO_CERTIFICATE:
                self.certificates.defer(fingerprint, message)
            raise

    def check_signature(self, signer: CertifiedMember, message: ControlMessage, now: float) -> None:
        """Raises Rejected(BUDGET or SIGNATURE) unless `signer` signed the message's body."""
        body, signature = message.parts
        if not self.rate_limiter.take(message.kind, now):
            raise Rejected(RejectReason.BUDGET, message.kind.value)
        if not signer.verify(signature, body, CONTEXT_OF[message.kind]):
            raise Rejected(RejectReason.SIGNATURE, message.kind.value)

    # Time

    def message_time_ns(self, now: float) -> int:
        """The time by which ages of messages are measured."""
        return self.clock.at(now, self.wall_ns, self.limits.silence_s)

    def confirmed_ns(self) -> int:
        """The floor for validity dates: the newest time that a crypto node's beat, or an accepted packet of
        another member, has confirmed. Not the own clock alone: one that is years ahead by mistake would end
        every certificate for good.
        """
        received_ns = [
            received_ns
            for session in self.sessions.open.values()
            for slot, received_ns in list(session.received_ns.items())
            if not self.is_own(session.by_slot[slot].fingerprint)
        ]
        return min(self.wall_ns, max(self.clock.proven_ns, *received_ns, 0))

    def attach_signer(
        self, trouble: ClockTrouble, signer: CertifiedMember, message: ControlMessage, now: float
    ) -> ClockTrouble:
        """`trouble` with the verified signer attached, where an alarm about such messages is due.

        Raises what `check_signature` raises.
        """
        if self.clock_alarms.wanted(message.kind, now):
            self.check_signature(signer, message, now)
            trouble.signer = signer.name
        return trouble
