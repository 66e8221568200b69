"""Secure publishers, and one DDS subscription per channel and process for all secure subscriptions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from rclpy.serialization import deserialize_message, serialize_message

from chimera_ros.crypto.errors import NotReady, Rejected
from chimera_ros.crypto.member.host import Opened
from chimera_ros.crypto.wire import Envelope
from chimera_ros.msg import SecureEnvelope

from . import names, qos
from .cdr import CdrError, checked_payload, decode_envelope, encode_envelope
from .context import SessionContext
from .retrying_publisher import RetryingPublisher

RESEAL_INTERVAL_S: Final = 0.5

MessageCallback = Callable[[Any, str], None]
RawCallback = Callable[["RawMessage"], None]


@dataclass(frozen=True, slots=True)
class RawMessage:
    """An opened message with all that a recorder stores.

    `opened.payload` is the CDR of the plaintext message, `envelope_cdr` that of its SecureEnvelope.
    """

    channel: str
    type_name: str
    opened: Opened
    envelope_cdr: bytes


class SecurePublisher:
    """Publishes messages of one type on one channel in the name of one member, encrypted.

    Made by `SecureSession.create_publisher`.
    """

    def __init__(
        self,
        context: SessionContext,
        message_type: type[Any],
        channel: str,
        member: str,
        latched: bool,
        forget: Callable[[SecurePublisher], None],
    ) -> None:
        self._context = context
        self._seal = context.host.seal
        self._message_type = message_type
        self._type_name = names.type_name(message_type)
        self._latched = latched
        self._forget = forget
        self._last: bytes | None = None
        self._resealed_at = float("-inf")
        self._matched_readers = 0
        self.channel = channel
        self.member = member
        self._writer = RetryingPublisher(
            context, SecureEnvelope, channel, qos.for_publisher(channel, latched)
        )

    def publish(self, message: Any) -> bool:
        """Seal and send a message, or its CDR as bytes.

        Returns:
            True if DDS accepted it. False if the member has no epoch yet (see `SecureSession.on_ready`; a
            latched message is kept and sent then), or the writer is saturated (reliable channels retry for a
            second, others drop).

        Raises:
            TypeError: a message of another type.
            Rejected: the policy does not let this member publish here.
            ForkedProcess: called in a forked child.
        """
        if isinstance(message, bytes):
            payload = message
        elif isinstance(message, self._message_type):
            payload = serialize_message(message)
        else:
            raise TypeError(f"{self.channel} carries {self._type_name}, not {type(message).__name__}")
        if self._latched:
            self._last = payload
        return self._send(payload)

    def _send(self, payload: bytes) -> bool:
        context = self._context
        try:
            envelope = self._seal(self.channel, self._type_name, payload, context.swarm_ns(), self.member)
        except NotReady:
            context.counts["not_ready"] += 1
            return False
        return self._writer.send(encode_envelope(*envelope))

    @property
    def latched(self) -> bool:
        """True if late joiners receive the last message."""
        return self._latched

    def reseal(self) -> None:
        """Publish the last sample of a latched publisher again, under the present epoch and time."""
        if self._last is not None:
            self._resealed_at = time.monotonic()
            self._send(self._last)

    def serve_late_joiners(self) -> None:
        """Reseal for newly matched readers: the latched sample in DDS may be too old to be accepted."""
        readers = self._writer.publisher.get_subscription_count()
        if readers > self._matched_readers and time.monotonic() - self._resealed_at < RESEAL_INTERVAL_S:
            return  # at a later call
        if readers > self._matched_readers:
            self.reseal()
        self._matched_readers = readers

    def destroy(self) -> None:
        """Stop publishing."""
        self._last = None
        self._writer.destroy()
        self._forget(self)


class Channel:
    """The process's one DDS subscription to a channel: each packet is opened once for all receivers."""

    def __init__(self, context: SessionContext, channel: str, message_type: type[Any], latched: bool) -> None:
        self._context = context
        self._open = context.host.open
        self.channel = channel
        self.message_type = message_type
        self.type_name = names.type_name(message_type)
        self.latched = latched
        self.callbacks: list[MessageCallback] = []
        self.raw_callbacks: list[RawCallback] = []
        self._delivered: dict[str, bytes] = {}  # latched: last payload by sender
        self._subscription: Any = None
        self.subscribe(latched)

    def subscribe(self, latched: bool) -> None:
        """Create the DDS subscription, again if the durability changes."""
        node = self._context.node
        if self._subscription is not None:
            node.destroy_subscription(self._subscription)
        self.latched = latched
        self._subscription = node.create_subscription(
            SecureEnvelope,
            names.topic(self.channel, self._context.namespace),
            self.on_packet,
            qos.for_subscription(self.channel, latched),
            raw=True,
        )

    def on_packet(self, data: bytes) -> None:
        """One packet from DDS: decode, open, deliver."""
        context = self._context
        try:
            envelope = Envelope(*decode_envelope(data))
        except CdrError:
            context.counts["malformed_packet"] += 1
            return
        try:
            opened = self._open(self.channel, self.type_name, envelope, context.swarm_ns())
        except Rejected:
            return  # counted by reason in the host
        if self.latched:
            # A latched sample is resealed after every switch; the receiver has it already.
            if self._delivered.get(opened.sender) == opened.payload:
                context.counts["resealed_again"] += 1
                return
            self._delivered[opened.sender] = bytes(opened.payload)
        if self.callbacks:
            try:
                message = deserialize_message(checked_payload(opened.payload), self.message_type)
            except Exception:  # CdrError, and rmw implementations raise different classes
                context.counts["malformed_payload"] += 1
                return
            for callback in tuple(self.callbacks):
                context.guarded(self.channel, callback, message, opened.sender)
        if self.raw_callbacks:
            raw = RawMessage(self.channel, self.type_name, opened, data)
            for raw_callback in tuple(self.raw_callbacks):
                context.guarded(self.channel, raw_callback, raw)

    def destroy(self) -> None:
        """Destroy the subscription."""
        self.callbacks.clear()
        self.raw_callbacks.clear()
        if self._subscription is not None:
            self._context.node.destroy_subscription(self._subscription)
            self._subscription = None


class SecureSubscription:
    """One receiver of a channel; made by `SecureSession.create_subscription`."""

    def __init__(self, channel: Channel, callback: Any, raw: bool, forget: Callable[[Channel], None]) -> None:
        self._channel = channel
        self._forget = forget
        self._callback = callback
        self._raw = raw
        (channel.raw_callbacks if raw else channel.callbacks).append(callback)

    @property
    def channel(self) -> str:
        """Logical channel name."""
        return self._channel.channel

    def destroy(self) -> None:
        """Stop receiving."""
        receivers = self._channel.raw_callbacks if self._raw else self._channel.callbacks
        if self._callback in receivers:
            receivers.remove(self._callback)
        if not self._channel.callbacks and not self._channel.raw_callbacks:
            self._channel.destroy()
            self._forget(self._channel)
