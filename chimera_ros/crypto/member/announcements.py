"""Verification of announcements: once per process, before each member's own checks (member.py).

An epoch under another policy, or under a lower revocation list, makes the process send its documents; two
heads for one number are equivocation, and their issuer is not followed any more.
"""

from __future__ import annotations

from typing import Final

from ..effects import Effect, SecurityAlarm, Send
from ..errors import Rejected, RejectReason
from ..messages.announcement import Announcement, Head, parse_announcement
from ..primitives import labels
from ..primitives.suite import digest
from ..rate_limit import TokenBucket
from ..trust.identity import CertifiedMember
from ..trust.rank import fits_rank
from ..wire import ControlKind, ControlMessage
from .context import MemberContext
from .epoch_installer import EpochInstaller
from .issuer_checks import IssuerChecks
from .key_server_hooks import PeerObserver
from .resync import Resync
from .trust_updates import TrustUpdates

_DOCUMENTS_S: Final = 5.0  # between two times that a process sends its revocation list and policy


class AnnouncementHandler:
    """`peers`: the key server of this process, if any."""

    def __init__(
        self,
        context: MemberContext,
        issuers: IssuerChecks,
        installer: EpochInstaller,
        resync: Resync,
        trust_updates: TrustUpdates,
        peers: PeerObserver | None,
    ) -> None:
        self._context = context
        self._issuers = issuers
        self._installer = installer
        self._resync = resync
        self._trust_updates = trust_updates
        self._peers = peers
        self._documents_sent = TokenBucket(1.0 / _DOCUMENTS_S, 1.0)

    def on_announcement(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Raises Rejected."""
        context = self._context
        transcript_hash = digest(message.parts[0])
        session = next(
            (item for item in context.sessions.open.values() if item.transcript_hash == transcript_hash), None
        )
        outside = [m for m in context.members.values() if m.installed is None or m.installed is not session]
        if session is not None and not outside:
            self._resync.on_retransmission(session.epoch)
            raise Rejected(RejectReason.DUPLICATE)
        announcement = parse_announcement(message, context.suite)
        head = announcement.head
        self._check_head(head)
        issuer = self._issuers.issuer(head.issuer, message, wall_ns)
        if not fits_rank(issuer.name, head.epoch):
            raise Rejected(RejectReason.ISSUER, f"{issuer.name} may not announce epoch {head.epoch}")
        known = self._installer.known_hash(head.epoch)
        newest = max(member.state.highest_epoch for member in context.members.values())
        if session is None and (known == transcript_hash or (known is None and head.epoch <= newest)):
            raise Rejected(RejectReason.STALE, f"epoch {head.epoch}, a member has had {newest}")
        if session is None or session.announcement.proof != announcement.proof:
            self._check_signature(issuer, announcement, now)
        if head.policy_hash != context.policy.hash:  # one of us lacks the newest: both sides send theirs
            context.counters.control[RejectReason.POLICY] += 1
            return self._resync.request_resync(now) + self._documents(now)
        if known is not None and known != transcript_hash:
            self._issuers.ban(head.issuer)
            context.counters.control[RejectReason.EQUIVOCATION] += 1
            return [
                SecurityAlarm(
                    "error",
                    f"{issuer.name} equivocates: it announced two different epochs {head.epoch} and is "
                    "no longer followed",
                )
            ]
        effects = self._peers.on_head(head, issuer, now) if self._peers is not None else []
        if head.crl_number > context.trust.crl.number:
            effects += self._resync.request_resync(now)
        elif head.crl_number < context.trust.crl.number or self._took_over(head):
            effects += self._documents(now)
        return effects + self._installer.install(announcement, now, wall_ns)

    def _check_head(self, head: Head) -> None:
        trust = self._context.trust
        if head.swarm != trust.swarm:
            raise Rejected(RejectReason.SWARM)
        for entry in head.roster:
            certified = self._context.certificates.get(entry.fingerprint)
            if certified is not None and (certified.name != entry.name or certified.role is not entry.role):
                raise Rejected(RejectReason.ROSTER, f"{entry.name} is not what its certificate says")
            if certified is not None and certified.serial in trust.crl.serials:
                raise Rejected(RejectReason.REVOKED, f"epoch {head.epoch} names {entry.name}")

    def _check_signature(self, issuer: CertifiedMember, announcement: Announcement, now: float) -> None:
        if not self._context.rate_limiter.take(ControlKind.ANNOUNCEMENT, now):
            raise Rejected(RejectReason.BUDGET, "announcement")
        proof = announcement.proof
        if not issuer.verify(proof.signature, proof.signed_bytes(), labels.SIGN_ANNOUNCEMENT):
            raise Rejected(RejectReason.SIGNATURE, "announcement")

    def _took_over(self, head: Head) -> bool:
        """True if this is another crypto node than before, after documents came in flight. It may have missed
        them: its heads name the highest list number that it has seen, not the list that it has.
        """
        newest = self._context.newest_installed()
        before = newest.announcement.head.issuer if newest is not None else head.issuer
        return self._trust_updates.taken and before != head.issuer

    def _documents(self, now: float) -> list[Effect]:
        """The documents in force here, for a crypto node that may lack them."""
        if not self._documents_sent.take(now):
            return []
        return [Send(message) for message in self._trust_updates.messages()]
