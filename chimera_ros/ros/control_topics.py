"""Publishers and subscriptions of the plain, signed control topics of the key protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import Any, Final

from chimera_ros import msg
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage

from . import names, qos
from .cdr import CdrError, decode_parts, encode_parts, type_bounds
from .context import SessionContext
from .retrying_publisher import RetryingPublisher

TOPICS: Final[dict[ControlKind, tuple[str, type[Any]]]] = {
    ControlKind.KEY_REQUEST: (names.CRYPTO_KEY_REQUEST, msg.KeyRequest),
    ControlKind.KEY_PACKAGE: (names.CRYPTO_KEY_PACKAGES, msg.KeyPackage),
    ControlKind.ANNOUNCEMENT: (names.CRYPTO_EPOCH, msg.EpochAnnouncement),
    ControlKind.READY: (names.CRYPTO_READY, msg.EpochReady),
    ControlKind.SWITCH: (names.CRYPTO_SWITCH, msg.EpochSwitch),
    ControlKind.BEAT: (names.CRYPTO_BEAT, msg.Beat),
    ControlKind.CERTIFICATE: (names.CRYPTO_CERTIFICATES, msg.Certificate),
    ControlKind.TRUST: (names.CRYPTO_TRUST, msg.TrustUpdate),
    ControlKind.STOP: (names.OPERATOR_STOP, msg.OperatorStop),
    ControlKind.STOP_ACK: (names.OPERATOR_STOP_ACK, msg.StopAck),
    ControlKind.FALLBACK_HELLO: (names.CRYPTO_FALLBACK_HELLO, msg.FallbackHello),
}
"""Channel and message class of every kind of control message."""

_VOLATILE: Final = frozenset((ControlKind.KEY_PACKAGE, ControlKind.READY, ControlKind.STOP_ACK))


def bounds_of(kind: ControlKind) -> tuple[int, ...]:
    """Maximum length of each part of a control message, in field order."""
    return type_bounds[TOPICS[kind][1].__name__]


def encode_control(message: ControlMessage) -> bytes:
    """CDR of a control message. Raises CdrError if a part is over its bound."""
    return encode_parts(message.parts, bounds_of(message.kind))


def decode_control(kind: ControlKind, data: bytes) -> ControlMessage:
    """A control message from its CDR. Raises CdrError."""
    return ControlMessage(kind, decode_parts(data, bounds_of(kind)))


def subscribed_kinds(roles: Set[Role], *, fallback: bool) -> frozenset[ControlKind]:
    """Kinds of control messages that a process with members of these roles subscribes to."""
    kinds = {
        ControlKind.KEY_REQUEST,
        ControlKind.ANNOUNCEMENT,
        ControlKind.SWITCH,
        ControlKind.BEAT,
        ControlKind.CERTIFICATE,
        ControlKind.TRUST,
        ControlKind.READY,
    }
    if Role.CRYPTO in roles:
        kinds.add(ControlKind.KEY_PACKAGE)
    if Role.DRONE in roles:
        kinds.add(ControlKind.STOP)
    if Role.OPERATOR in roles:
        kinds.add(ControlKind.STOP_ACK)
    if fallback:
        kinds.add(ControlKind.FALLBACK_HELLO)
    return frozenset(kinds)


class ControlTopics:
    """Publishers and subscriptions of the control topics that a process needs."""

    def __init__(
        self,
        context: SessionContext,
        kinds: Iterable[ControlKind],
        on_message: Callable[[ControlMessage], None],
    ) -> None:
        self._context = context
        self._on_message = on_message
        self._kinds = frozenset(kinds)
        self._writers: dict[ControlKind, RetryingPublisher] = {}
        self._subscriptions: list[Any] = []

    def open(self) -> None:
        """Subscribe, and create the publishers that will be needed, so that DDS matches them early."""
        context = self._context
        for kind in self._kinds:
            channel, message_type = TOPICS[kind]
            self._subscriptions.append(
                context.node.create_subscription(
                    message_type,
                    names.topic(channel, context.namespace),
                    self._receiver(kind),
                    qos.for_control(channel, reader=True),
                    raw=True,
                )
            )
        needed = {ControlKind.CERTIFICATE, ControlKind.KEY_PACKAGE, ControlKind.READY}
        if context.key_server is not None:
            needed |= {
                ControlKind.KEY_REQUEST,
                ControlKind.ANNOUNCEMENT,
                ControlKind.SWITCH,
                ControlKind.BEAT,
            }
        if ControlKind.STOP in self._kinds:
            needed.add(ControlKind.STOP_ACK)
        if ControlKind.FALLBACK_HELLO in self._kinds:
            needed.add(ControlKind.FALLBACK_HELLO)
        if ControlKind.STOP_ACK in self._kinds:
            needed.add(ControlKind.STOP)
        for kind in needed:
            self._writer(kind)

    def _receiver(self, kind: ControlKind) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            try:
                message = decode_control(kind, data)
            except CdrError:
                self._context.counts["malformed_control"] += 1
                return
            self._on_message(message)

        return receive

    def _writer(self, kind: ControlKind) -> RetryingPublisher:
        writer = self._writers.get(kind)
        if writer is None:
            channel, message_type = TOPICS[kind]
            profile = qos.for_control(channel, reader=False)
            writer = self._writers[kind] = RetryingPublisher(self._context, message_type, channel, profile)
        return writer

    def send(self, message: ControlMessage) -> None:
        """Publish a control message."""
        writer, data = self._writer(message.kind), encode_control(message)
        if message.kind in _VOLATILE:
            writer.send_when_matched(data)
        else:
            writer.send(data)

    def close(self) -> None:
        """Destroy all publishers and subscriptions."""
        for subscription in self._subscriptions:
            self._context.node.destroy_subscription(subscription)
        for writer in self._writers.values():
            writer.destroy()
        self._subscriptions.clear()
        self._writers.clear()
