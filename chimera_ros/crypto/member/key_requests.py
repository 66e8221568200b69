"""Answers to key requests: a fresh key package of every hosted member that the request does not mark."""

from __future__ import annotations

from typing import Final

from ..effects import Effect, Send
from ..messages.control import KeyRequest
from ..wire import ControlKind, ControlMessage
from .certificate_exchange import CertificateExchange
from .context import MemberContext
from .issuer_checks import IssuerChecks
from .key_server_hooks import PeerObserver
from .resync import Resync

_GAP_S: Final = 0.004  # between two packages of one process, so that data is not held up
_FLYING_DELAY_S: Final = 0.03  # a member that flies answers a little later than one that waits to join
_RESEND_S: Final = 0.2


class KeyRequestHandler:
    """`peers`: the key server of this process, if any; while it is active it answers no other one."""

    def __init__(
        self,
        context: MemberContext,
        issuers: IssuerChecks,
        exchange: CertificateExchange,
        resync: Resync,
        peers: PeerObserver | None,
    ) -> None:
        self._context = context
        self._issuers = issuers
        self._exchange = exchange
        self._resync = resync
        self._peers = peers

    def on_request(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Schedules the answers. Raises Rejected."""
        context = self._context
        request = KeyRequest.parse(message.parts[0], context.trust.swarm, context.suite.name)
        issuer = self._issuers.issuer(request.issuer, message, wall_ns)
        self._issuers.check_sequence(request.issuer, ControlKind.KEY_REQUEST, request.sequence)
        context.check_signature(issuer, message, now)
        self._issuers.accept_sequence(request.issuer, ControlKind.KEY_REQUEST, request.sequence)
        alarms: list[Effect] = [*self._issuers.note_rank(issuer.name, issuer.fingerprint, wall_ns)]
        if self._peers is not None:
            self._peers.on_request(request, issuer, now, wall_ns)
            if self._peers.active:
                return alarms  # the active node offers packages only to itself
        for index, member in enumerate(context.members.values()):
            if not member.needs_answer(request):
                continue
            member.request = request
            if member.answer_at is None:
                flying = member.sending is not None
                start = max(now + (_FLYING_DELAY_S if flying else 0.0), member.resent_at + _RESEND_S)
                member.answer_at = start + index * _GAP_S
                member.resent_at = member.answer_at
            held = member.installed.transcript_hash if member.installed is not None else None
            if not member.proof_fits:
                self._resync.send_newest(request.epoch, now)
            if held != request.transcript_hash:
                self._exchange.send_soon(member, now, 0.0)  # one of us may be new and lack certificates
        return alarms + self._exchange.send_issuer(request, now)

    def tick(self, now: float) -> list[Effect]:
        """One package at most: making it takes a millisecond that data may need."""
        due = [m for m in self._context.members.values() if m.answer_at is not None and m.answer_at <= now]
        if not due:
            return []
        member = min(due, key=lambda m: m.answer_at or 0.0)
        member.answer_at = None
        return [Send(member.answer(member.request, now))] if member.request is not None else []

    def next_timer(self) -> float | None:
        """When the next answer is due, monotonic seconds."""
        times = (member.answer_at for member in self._context.members.values())
        return min((time for time in times if time is not None), default=None)
