"""Member side of the key protocol, for all members of a process: from control messages to effects.

Each kind of message has a handler. The signatures of crypto nodes are verified once per process
(announcements.py, beats.py, key_requests.py), then each member makes its own checks (member.py).

Not handled here: issuing epochs (key_server/), checkpoints (evidence/), sealing and opening (host.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..effects import Effect, SecurityAlarm, Send
from ..errors import ClockTrouble, KeystoreError, Rejected, RejectReason
from ..messages.control import LEAVE_FLAG, VOLUME_FLAG
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage, check_size
from .announcements import AnnouncementHandler
from .beat_watchdog import BeatWatchdog
from .beats import BeatHandler
from .certificate_exchange import CertificateExchange
from .context import MemberContext
from .epoch_installer import EpochInstaller
from .fallback import Fallback
from .issuer_checks import IssuerChecks
from .key_requests import KeyRequestHandler
from .key_server_hooks import KeyServerHooks
from .resync import Resync
from .stop_handler import StopHandler
from .trust_updates import TrustUpdates

_REKEY_REQUEST_S: Final = 5.0  # between two requests for a new epoch


class ControlPlane:
    """Dispatcher of control messages and timers. `now` is boot-time s, `wall_ns` ns since the Unix epoch."""

    def __init__(
        self,
        context: MemberContext,
        fallback: Fallback | None = None,
        key_server: KeyServerHooks | None = None,
    ) -> None:
        self._context = context
        self._fallback = fallback
        self._key_server = key_server
        peers = key_server.peers if key_server is not None else None
        issuers = IssuerChecks(context)
        self.exchange = CertificateExchange(context)
        self.watchdog = BeatWatchdog(context, self.exchange, fallback)
        self.installer = EpochInstaller(context, issuers, self.exchange, self.watchdog)
        self.resync = Resync(context, self.installer)
        self.trust_updates = TrustUpdates(context)
        self.stop_handler = StopHandler(context)
        self._requests = KeyRequestHandler(context, issuers, self.exchange, self.resync, peers)
        announcements = AnnouncementHandler(
            context, issuers, self.installer, self.resync, self.trust_updates, peers
        )
        self._beats = BeatHandler(
            context, issuers, self.installer, self.exchange, self.resync, self.watchdog, peers
        )
        self._rekey_request_after = float("-inf")
        self._handlers: dict[ControlKind, Callable[[ControlMessage, float, int], list[Effect]]] = {
            ControlKind.CERTIFICATE: self._on_certificate,
            ControlKind.KEY_REQUEST: self._requests.on_request,
            ControlKind.ANNOUNCEMENT: announcements.on_announcement,
            ControlKind.SWITCH: self.installer.on_switch,
            ControlKind.BEAT: self._beats.on_beat,
            ControlKind.READY: self.resync.on_ready,
            ControlKind.TRUST: self._on_trust,
            ControlKind.STOP: self.stop_handler.on_stop,
            ControlKind.STOP_ACK: self.stop_handler.on_receipt,
            ControlKind.FALLBACK_HELLO: self._on_hello,
        }

    # Entry points

    def start(self, now: float, wall_ns: int) -> list[Effect]:
        """Sends the certificates of all hosted members."""
        self._context.last_beat = now
        self._context.wall_ns = wall_ns
        return [self.exchange.send(member, now) for member in self._context.members.values()]

    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Handles a control message from the network. Never raises; rejections are counted by reason."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            if self._key_server is None or message.kind is not ControlKind.KEY_PACKAGE:
                return []
            return self._key_server.on_package(message, now, wall_ns)
        context = self._context
        context.wall_ns = wall_ns
        try:
            check_size(message)
            return handler(message, now, context.message_time_ns(now))
        except ClockTrouble as trouble:
            context.counters.control[trouble.reason] += 1
            return context.clock_alarms.refused(message.kind, trouble, now)
        except Rejected as refusal:
            context.counters.control[refusal.reason] += 1
            return []
        except KeystoreError as error:  # such as a full disk: state is stored before it changes
            context.counters.control[RejectReason.STORE] += 1
            return [SecurityAlarm("error", str(error))] if context.store_alarms.take(now) else []

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        """Runs whatever is due; call at `next_timer`."""
        context = self._context
        context.wall_ns = wall_ns
        context.sessions.tick(now)
        effects: list[Effect] = []
        for member in context.members.values():
            member.expire(now)
            if member.sending is not None and member.sending[0].closed:
                member.sending = None
            if member.certificate_at is not None and member.certificate_at <= now:
                effects.append(self.exchange.send(member, now))
        effects += self._requests.tick(now)
        effects += self.installer.tick(now)
        effects += self.resync.tick(now)
        effects += self.watchdog.tick(now, context.message_time_ns(now))
        return effects + (self.request_rekey(now) if self._volume_used_up() else [])

    def next_timer(self) -> float | None:
        """Time at which `tick` is due, boot-time seconds; None if no timer is set."""
        times = [
            self._context.sessions.next_timer(),
            self._requests.next_timer(),
            self.installer.next_timer(),
            self.resync.next_timer(),
            self.watchdog.next_timer(),
            *(member.certificate_at for member in self._context.members.values()),
        ]
        return min((time for time in times if time is not None), default=None)

    def leave(self) -> list[Effect]:
        """Sends a ready message with the leave flag, so that an epoch without the hosted members follows."""
        session = self._context.newest_installed()
        return [Send(self._context.ready_message(session, LEAVE_FLAG))] if session is not None else []

    # Requests for a new epoch

    def _volume_used_up(self) -> bool:
        limit = self._context.limits.volume_bytes
        return any(
            session.volume_bytes(slot) >= limit
            for member in self._context.members.values()
            if member.role is not Role.CRYPTO and member.sending is not None
            for session, slot in (member.sending,)
        )

    def request_rekey(self, now: float) -> list[Effect]:
        """Asks for a new epoch because volume or counters are used up, at most every `_REKEY_REQUEST_S`."""
        if now < self._rekey_request_after:
            return []
        for member in self._context.members.values():
            if member.sending is not None and member.role is not Role.CRYPTO:
                self._rekey_request_after = now + _REKEY_REQUEST_S
                return [Send(self._context.ready_message(member.sending[0], VOLUME_FLAG))]
        return []

    # Messages that need more than one handler

    def _on_certificate(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        effects: list[Effect] = []
        for waiting in self.exchange.on_certificate(message, now, wall_ns):
            effects += self.handle(waiting, now, self._context.wall_ns)
        return effects

    def _on_trust(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        effects, document = self.trust_updates.on_update(message, now, wall_ns)
        if self._key_server is not None:
            effects += self._key_server.on_trust(document, now, wall_ns)
        return effects

    def _on_hello(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        if self._fallback is None or not self._context.silent:
            raise Rejected(RejectReason.FALLBACK, "a crypto node is heard, or there is no secret")
        return self._fallback.on_hello(message, now, wall_ns)
