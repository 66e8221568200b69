"""Checks common to all messages of crypto nodes: certificate, role, eviction, equivocation, sequence."""

from __future__ import annotations

from ..effects import SecurityAlarm
from ..errors import Rejected, RejectReason
from ..trust.identity import CertifiedMember
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage
from .context import MemberContext
from .rank_watch import RankWatch


class IssuerChecks:
    """Tables hold fingerprints with a certificate of the authority, which bounds them."""

    def __init__(self, context: MemberContext) -> None:
        self._context = context
        self._banned: set[bytes] = set()  # have equivocated
        self._sequences: dict[tuple[bytes, ControlKind], int] = {}
        self._ranks = RankWatch(context.is_trusted)
        for member in context.members.values():
            if member.role is Role.CRYPTO:
                self._ranks.seen(member.name, member.identity.fingerprint, 0)

    def issuer(self, fingerprint: bytes, message: ControlMessage, wall_ns: int) -> CertifiedMember:
        """The crypto node that claims to have signed `message`; its signature is not checked here.

        Raises Rejected(OWN, ISSUER, NO_CERTIFICATE, CERTIFICATE, REVOKED, ROLE or EVICTED).
        """
        if self._context.is_own(fingerprint):
            raise Rejected(RejectReason.OWN)
        if fingerprint in self._banned:
            raise Rejected(RejectReason.ISSUER, "this crypto node has equivocated")
        issuer = self._context.valid_signer(fingerprint, message, wall_ns)
        if issuer.role is not Role.CRYPTO:
            raise Rejected(RejectReason.ROLE, f"{issuer.name} is no crypto node")
        if self._context.is_evicted(fingerprint):
            raise Rejected(RejectReason.EVICTED, issuer.name)
        return issuer

    def ban(self, fingerprint: bytes) -> None:
        """Refuses everything of this crypto node until the process ends: it has equivocated."""
        self._banned.add(fingerprint)

    def check_sequence(self, issuer: bytes, kind: ControlKind, sequence: int) -> None:
        """Raises Rejected(STALE) unless `sequence` is above every accepted one of that kind."""
        if sequence <= self._sequences.get((issuer, kind), -1):
            raise Rejected(RejectReason.STALE, f"{kind.value} {sequence}")

    def accept_sequence(self, issuer: bytes, kind: ControlKind, sequence: int) -> None:
        """The message with this sequence has passed every check."""
        self._sequences[(issuer, kind)] = sequence

    def note_rank(self, name: str, fingerprint: bytes, wall_ns: int) -> list[SecurityAlarm]:
        """An alarm if another crypto node holds the rank of this verified one."""
        return self._ranks.seen(name, fingerprint, wall_ns)
