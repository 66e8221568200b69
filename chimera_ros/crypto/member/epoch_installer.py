"""Installation of verified epochs for the hosted members, and the switch to them.

Packets of an installed epoch are opened at once; members seal under it after the issuer's switch message, or
a beat that reports the switch. They do not wait for it if the epoch evicts a member, or if the epoch that
they sent under was wiped.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..effects import Effect, Installed, SecurityAlarm, Send, Switched
from ..errors import KeystoreError, Rejected, RejectReason
from ..messages.announcement import Announcement, EpochReason
from ..messages.control import Switch
from ..session.epoch_session import EpochSession
from ..trust.roles import Role
from ..wire import ControlMessage
from .beat_watchdog import BeatWatchdog
from .certificate_exchange import CertificateExchange
from .context import MemberContext
from .evictions import obey
from .issuer_checks import IssuerChecks
from .member import Opening, open_seeds, store_numbers

_MAX_HASHES: Final = 256  # epochs whose transcript hash is kept, to detect equivocation
_FLUSH_S: Final = 0.5  # from an eviction to its flush to disk
_NEWCOMER_S: Final = 0.2  # least delay of a certificate for newcomers


class EpochInstaller:
    """Installer of epochs in a process. `now` and timers are boot-time seconds."""

    def __init__(
        self,
        context: MemberContext,
        issuers: IssuerChecks,
        exchange: CertificateExchange,
        watchdog: BeatWatchdog,
    ) -> None:
        self._context = context
        self._issuers = issuers
        self._exchange = exchange
        self._watchdog = watchdog
        self._hashes: OrderedDict[int, bytes] = OrderedDict()
        self._early_switch: ControlMessage | None = None
        self._flush_at: float | None = None

    def known_hash(self, epoch: int) -> bytes | None:
        """Transcript hash of the epoch announced under this number; None if unknown or no longer kept."""
        return self._hashes.get(epoch)

    def install(self, announcement: Announcement, now: float, wall_ns: int) -> list[Effect]:
        """Installs a verified announcement for every hosted member that passes its own checks."""
        context, head = self._context, announcement.head
        self._hashes[head.epoch] = announcement.transcript_hash
        while len(self._hashes) > _MAX_HASHES:
            self._hashes.popitem(last=False)
        if not context.sessions.may_add(head.epoch):
            raise Rejected(RejectReason.STALE, f"epoch {head.epoch}")
        effects = obey(context, announcement, wall_ns)
        if head.evictions:
            self._flush_at = now + _FLUSH_S
        joining = context.newest_installed() is None
        openings, alarms = self._open(announcement, now)
        effects += alarms
        if not openings:
            return effects
        session = context.sessions.open.get(head.epoch)
        if session is None:
            session = EpochSession(
                announcement, openings[0].keys, context.policy, context.lock, context.checkpoints
            )
            context.sessions.add(session)
            context.roster_tracker.installed(head)
        if joining:  # a later one does not show that its issuer is live: an attacker can delay it
            self._watchdog.reset(now)
        before = {
            entry.incarnation
            for other in context.sessions.open.values()
            if other is not session
            for entry in other.roster
        }
        newcomers = any(entry.incarnation not in before for entry in head.roster)
        for entry in head.roster:
            if entry.role is Role.CRYPTO:
                effects += self._issuers.note_rank(entry.name, entry.fingerprint, wall_ns)
        for opening in openings:
            opening.member.install(session, opening.slot)
            effects.append(Installed(opening.member.name, head.epoch, announcement.transcript_hash))
            if newcomers:
                delay_s = _NEWCOMER_S + context.random(1)[0] / 256
                self._exchange.send_soon(opening.member, now, delay_s)
        if not context.is_own(head.issuer):  # the issuer itself needs no `ready`
            effects.insert(0, Send(context.ready_message(session, 0)))
        if head.reason is EpochReason.EVICT:
            context.sessions.wipe_before(head.epoch)
        if head.reason is EpochReason.EVICT or any(opening.member.sending_wiped for opening in openings):
            effects += self.switch(session, now)  # at once: the epoch sent under before is wiped
        return effects + self._retry_early_switch(now)

    def _open(self, announcement: Announcement, now: float) -> tuple[list[Opening], list[Effect]]:
        """(openings, alarms). The openings are of members that lack the epoch and have stored its number."""
        context, epoch = self._context, announcement.head.epoch
        waiting = [m for m in context.members.values() if m.installed is None or m.installed.epoch < epoch]
        mapper = context.config.mapper
        openings = open_seeds(announcement, waiting, mapper, context.counters.control)
        if not openings:
            return [], []
        openings, troubles = store_numbers(announcement, openings, context.confirmed_ns(), mapper)
        if not troubles:
            return openings, []
        self._hashes.pop(epoch, None)  # the same announcement, repeated, may still be installed
        context.counters.control[RejectReason.STORE] += 1
        alarm = context.store_alarms.take(now)
        return openings, [SecurityAlarm("error", str(troubles[0]))] if alarm else []

    # Switching

    def on_switch(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Handles the issuer's switch; one that overtook its announcement is kept until that is installed.

        Raises Rejected.
        """
        context = self._context
        order = Switch.parse(message.parts[0], context.trust.swarm)
        issuer = self._issuers.issuer(order.issuer, message, wall_ns)
        session = context.sessions.open.get(order.epoch)
        if session is None or session.transcript_hash != order.transcript_hash:
            newest = max((member.state.highest_epoch for member in context.members.values()), default=0)
            if order.epoch > newest:
                context.check_signature(issuer, message, now)
                self._early_switch = message
            raise Rejected(RejectReason.UNKNOWN_EPOCH, f"switch to epoch {order.epoch}")
        if session.announcement.head.issuer != order.issuer:
            raise Rejected(RejectReason.ISSUER)
        if not any(
            m.installed is session and (m.sending is None or m.sending[0] is not session)
            for m in context.members.values()
        ):
            raise Rejected(RejectReason.DUPLICATE)
        context.check_signature(issuer, message, now)
        return self.switch(session, now)  # does not reset the watchdog: an attacker can delay it

    def _retry_early_switch(self, now: float) -> list[Effect]:
        early, self._early_switch = self._early_switch, None
        if early is None:
            return []
        try:
            return self.on_switch(early, now, self._context.message_time_ns(now))
        except Rejected as refusal:
            self._context.counters.control[refusal.reason] += 1
            return []

    def switch(self, session: EpochSession, now: float) -> list[Effect]:
        """Lets all members that have installed the session send under it from now on."""
        effects: list[Effect] = [
            Switched(member.name, session.epoch, session.transcript_hash)
            for member in self._context.members.values()
            if member.switch(session)
        ]
        if effects:
            self._context.sessions.supersede_before(session.epoch, now)
        return effects

    # Time

    def tick(self, now: float) -> list[Effect]:
        """Flushes evictions to disk if due: after they took effect, so that no message waits for it."""
        if self._flush_at is None or now < self._flush_at:
            return []
        self._flush_at = None
        try:
            list(self._context.config.mapper(lambda member: member.flush(), self._context.members.values()))
        except KeystoreError as error:
            return [SecurityAlarm("error", str(error))]
        return []

    def next_timer(self) -> float | None:
        """Time at which `tick` is due, boot-time seconds; None if no flush is pending."""
        return self._flush_at
