"""Beats of crypto nodes: the sign of life that sending depends on, with the issuer's time and epoch.

A beat confirms the switch, lets members detect that they are behind, and anchors the message clock.
"""

from __future__ import annotations

from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import ClockTrouble, RejectReason
from ..messages.announcement import NO_HASH
from ..messages.control import Beat
from ..trust.identity import CertifiedMember
from ..wire import ControlKind, ControlMessage
from .beat_watchdog import BeatWatchdog
from .certificate_exchange import CertificateExchange
from .context import MemberContext
from .epoch_installer import EpochInstaller
from .issuer_checks import IssuerChecks
from .key_server_hooks import PeerObserver
from .resync import Resync

_ALARM_S: Final = (
    30.0  # between two split-view alarms about one issuer, which can make up any number of hashes
)
_SEND_CERTIFICATE_S: Final = 2.0  # while a member is behind


class BeatHandler:
    """`peers`: the key server of this process, if any."""

    def __init__(
        self,
        context: MemberContext,
        issuers: IssuerChecks,
        installer: EpochInstaller,
        exchange: CertificateExchange,
        resync: Resync,
        watchdog: BeatWatchdog,
        peers: PeerObserver | None,
    ) -> None:
        self._context = context
        self._issuers = issuers
        self._installer = installer
        self._exchange = exchange
        self._resync = resync
        self._watchdog = watchdog
        self._peers = peers
        self._split_reported: dict[bytes, tuple[bytes, float]] = {}  # issuer -> transcript hash, when

    def on_beat(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Raises Rejected."""
        context = self._context
        beat = Beat.parse(message.parts[0], context.trust.swarm)
        issuer = self._issuers.issuer(beat.issuer, message, wall_ns)
        self._issuers.check_sequence(beat.issuer, ControlKind.BEAT, beat.sequence)
        try:
            context.clock.check_beat(beat.sent_ns, now, context.wall_ns, context.limits.clock_ahead_s)
        except ClockTrouble as trouble:
            raise context.attach_signer(trouble, issuer, message, now) from None
        context.check_signature(issuer, message, now)
        self._issuers.accept_sequence(beat.issuer, ControlKind.BEAT, beat.sequence)
        context.clock.accept(beat.sent_ns, now, context.wall_ns)
        effects: list[Effect] = [*self._issuers.note_rank(issuer.name, issuer.fingerprint, wall_ns)]
        effects += context.clock_alarms.compared(context.clock.apart_s, issuer.name)
        if self._installer.known_hash(beat.epoch) not in (None, beat.transcript_hash):
            context.counters.control[RejectReason.EQUIVOCATION] += 1
            return effects + self._split_view(beat, issuer, now)
        effects += self._resync.on_beat(beat, issuer)
        newest = max((s.epoch for s in context.sessions.open.values()), default=0)
        if beat.epoch < newest:
            context.counters.control[RejectReason.STALE] += 1
            return effects
        if self._peers is not None:
            effects += self._peers.on_beat(beat, issuer, now)
        session = context.sessions.open.get(beat.epoch)
        ours = session is not None and session.transcript_hash == beat.transcript_hash
        # A beat of an epoch that is not installed here is no sign of life: an evicted member that drops
        # announcements and lets beats through would read on under an earlier epoch.
        if (ours or context.newest_installed() is None) and self._watchdog.reset(now):
            effects.append(SecurityAlarm("info", f"{issuer.name} is heard again"))
        if session is not None and ours and beat.switched:
            effects += self._installer.switch(session, now)
        return effects + self._resync_if_behind(beat, now)

    def _split_view(self, beat: Beat, issuer: CertifiedMember, now: float) -> list[Effect]:
        reported, reported_at = self._split_reported.get(beat.issuer, (NO_HASH, float("-inf")))
        if reported == beat.transcript_hash or now < reported_at + _ALARM_S:
            return []
        self._split_reported[beat.issuer] = (beat.transcript_hash, now)
        text = f"{issuer.name} beats another epoch {beat.epoch} than it announced here"
        return [SecurityAlarm("error", text)]

    def _resync_if_behind(self, beat: Beat, now: float) -> list[Effect]:
        members = self._context.members.values()
        behind = [m for m in members if m.installed is None or m.installed.epoch < beat.epoch]
        if not behind or beat.epoch == 0:
            return []
        requests = self._resync.request_resync(now)
        for member in behind if requests else ():
            # A crypto node that has started meanwhile may lack its certificate.
            self._exchange.send_soon(member, now, _SEND_CERTIFICATE_S)
        return requests
