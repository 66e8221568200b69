"""Certificates of hosted members out, those of others in.

A certificate is sent at the start, when another process may lack it, and at intervals, because links lose it.
"""

from __future__ import annotations

from typing import Final

from ..effects import Effect, Send
from ..errors import Rejected, RejectReason
from ..messages.announcement import NO_HASH
from ..messages.control import KeyRequest
from ..primitives.suite import digest
from ..wire import ControlKind, ControlMessage
from .context import MemberContext
from .member import Member

_GAP_S: Final = 1.0  # between two copies of one certificate
_REFRESH_S: Final = 60.0
_REFRESH_JOINING_S: Final = 10.0  # before joining, and in fallback: without it no message is accepted


class CertificateExchange:
    """`member.certificate_at` is when a member's certificate is due, monotonic seconds."""

    def __init__(self, context: MemberContext) -> None:
        self._context = context
        self._issuer_sent_at = float("-inf")

    def on_certificate(self, message: ControlMessage, now: float, wall_ns: int) -> list[ControlMessage]:
        """Keeps a certificate; returns the messages that waited for it. Raises Rejected."""
        certificates = self._context.certificates
        fingerprint = digest(message.parts[0])
        try:
            certificates.add(message.parts[0], now, wall_ns)
        except Rejected as refusal:
            if refusal.reason is RejectReason.DUPLICATE or certificates.get(fingerprint) is None:
                raise
            self._context.counters.control[refusal.reason] += 1  # expired or revoked: what waited is refused
        return certificates.take_deferred(fingerprint)

    def send(self, member: Member, now: float) -> Effect:
        """The member's certificate, and the next one at the refresh interval."""
        member.certificate_sent_at = now
        flying = member.installed is not None and not self._context.silent
        again_s = _REFRESH_S if flying else _REFRESH_JOINING_S
        member.certificate_at = now + again_s * (1 + self._context.random(1)[0] / 256)
        return Send(ControlMessage(ControlKind.CERTIFICATE, (member.identity.certificate_der,)))

    def send_soon(self, member: Member, now: float, delay_s: float) -> None:
        """Schedules the member's certificate, because another process may lack it."""
        soon = max(now + delay_s, member.certificate_sent_at + _GAP_S)
        member.certificate_at = soon if member.certificate_at is None else min(soon, member.certificate_at)

    def send_issuer(self, request: KeyRequest, now: float) -> list[Effect]:
        """The certificate of our epoch's issuer, for a crypto node that holds no epoch: it needs it to verify
        proofs, and the issuer may be dead.
        """
        held = [m.installed.announcement.head.issuer for m in self._context.members.values() if m.installed]
        if request.transcript_hash != NO_HASH or not held or request.issuer in held:
            return []
        issuer = self._context.certificates.get(held[0])
        if issuer is None or now < self._issuer_sent_at + _GAP_S:
            return []
        self._issuer_sent_at = now
        return [Send(ControlMessage(ControlKind.CERTIFICATE, (issuer.certificate_der,)))]
