"""Secure services: request and response over two channels, `<service>/request` and `<service>/response`.

A response is bound to the request envelope and to the requester, so that it cannot be substituted for the
response to another request; a caller accepts one response.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

from rclpy.serialization import deserialize_message, serialize_message

from chimera_ros.crypto.errors import NotReady, Rejected
from chimera_ros.crypto.member.host import PendingRequest
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.wire import Envelope
from chimera_ros.msg import SecureEnvelope

from . import names, qos
from .cdr import CdrError, checked_payload, decode_envelope, encode_envelope
from .context import SessionContext
from .lifecycle import boot_time_ns
from .retrying_publisher import RetryingPublisher

MAX_PENDING: Final = 64


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of a call: `response` and its sender, or `failure`, one sentence."""

    response: Any | None
    sender: str = ""
    failure: str | None = None
    received_ns: int = 0  # boot-time clock when the response arrived


class Deferred:
    """Returned by a service's callback that responds later, with `answer`, from any thread.

    Without a response the call times out; of several, the first counts.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._send: Callable[[Any], None] | None = None
        self._answers: list[Any] = []
        self._answered = False

    def answer(self, response: Any) -> None:
        """Send the response."""
        with self._lock:
            if self._answered:
                return
            self._answered = True
            send = self._send
            if send is None:
                self._answers.append(response)
        if send is not None:
            send(response)

    def bind(self, send: Callable[[Any], None]) -> None:
        """Set the function that sends the response; called once, by the service."""
        with self._lock:
            self._send = send
            ready = self._answers
        for response in ready:
            send(response)


ServiceCallback = Callable[[Any, str], Any]
DoneCallback = Callable[[Reply], None]


class SecureService:
    """Server of a secure service in the name of one member; made by `SecureSession.create_service`."""

    def __init__(
        self,
        context: SessionContext,
        service_type: type[Any],
        service: str,
        callback: ServiceCallback,
        member: str,
    ) -> None:
        self._context = context
        self._callback = callback
        self._request_type = service_type.Request
        self._response_type = service_type.Response
        self._request_name = names.type_name(self._request_type)
        self._response_name = names.type_name(self._response_type)
        self.service = service
        self.member = member
        self.evidence = b""  # BLAKE3 of the request envelope in the present callback, and ...
        self.sent_ns = 0  # ... the swarm time at which it was sealed
        channel = names.response(service)
        self._writer = RetryingPublisher(context, SecureEnvelope, channel, qos.for_publisher(channel))
        channel = names.request(service)
        self._subscription = context.node.create_subscription(
            SecureEnvelope,
            names.topic(channel, context.namespace),
            self._on_packet,
            qos.for_subscription(channel),
            raw=True,
        )

    def _on_packet(self, data: bytes) -> None:
        context = self._context
        if context.standby:
            return  # the active crypto node responds
        try:
            envelope = Envelope(*decode_envelope(data))
        except CdrError:
            context.counts["malformed_packet"] += 1
            return
        try:
            opened = context.host.open(
                names.request(self.service), self._request_name, envelope, context.swarm_ns()
            )
        except Rejected:
            return
        try:
            request = deserialize_message(checked_payload(opened.payload), self._request_type)
        except Exception:  # CdrError, and rmw implementations raise different classes
            context.counts["malformed_payload"] += 1
            return
        self.evidence = digest(envelope.canonical())
        self.sent_ns = opened.sent_ns
        answer = context.guarded(self.service, self._callback, request, opened.sender)
        if isinstance(answer, Deferred):
            answer.bind(lambda response: self._answer(envelope, response))
        elif answer is not None:  # else the callback failed, and the call times out
            self._answer(envelope, answer)

    def _answer(self, envelope: Envelope, answer: Any) -> None:
        context = self._context
        try:
            sealed = context.host.seal_response(
                self.service,
                self._response_name,
                serialize_message(answer),
                context.swarm_ns(),
                self.member,
                envelope,
            )
        except (NotReady, Rejected):
            context.counts["unanswered"] += 1
            return
        self._writer.send(encode_envelope(*sealed))

    def destroy(self) -> None:
        """Stop serving."""
        self._context.node.destroy_subscription(self._subscription)
        self._writer.destroy()


@dataclass(slots=True)
class _Call:
    pending: PendingRequest
    deadline: float
    on_done: DoneCallback
    response_type: type[Any]


class ResponseChannel:
    """The process's one subscription to a service's responses, for the clients of all hosted members."""

    def __init__(self, context: SessionContext, service_type: type[Any], service: str) -> None:
        self._context = context
        self._response_type = service_type.Response
        self._response_name = names.type_name(self._response_type)
        self.service = service
        self.clients = 0
        self._calls: list[_Call] = []
        channel = names.response(service)
        self._subscription = context.node.create_subscription(
            SecureEnvelope,
            names.topic(channel, context.namespace),
            self._on_packet,
            qos.for_subscription(channel),
            raw=True,
        )

    @property
    def publishers(self) -> int:
        """Number of servers that DDS has matched."""
        return int(self._subscription.get_publisher_count())

    def add(self, pending: PendingRequest, deadline: float, on_done: DoneCallback) -> bool:
        """Wait for the response to a request; False if `MAX_PENDING` calls are open."""
        if len(self._calls) >= MAX_PENDING:
            return False
        self._calls.append(_Call(pending, deadline, on_done, self._response_type))
        return True

    def _on_packet(self, data: bytes) -> None:
        received_ns = boot_time_ns()
        if not self._calls:
            return  # a response to another process
        context = self._context
        try:
            envelope = Envelope(*decode_envelope(data))
        except CdrError:
            context.counts["malformed_packet"] += 1
            return
        try:
            pending, opened = context.host.open_response(
                self.service,
                self._response_name,
                envelope,
                context.swarm_ns(),
                [call.pending for call in self._calls],
            )
        except Rejected:
            return
        call = next(call for call in self._calls if call.pending is pending)
        self._calls.remove(call)
        try:
            response = deserialize_message(checked_payload(opened.payload), self._response_type)
        except Exception:  # CdrError, and rmw implementations raise different classes
            context.counts["malformed_payload"] += 1
            reply = Reply(
                None, opened.sender, f"{opened.sender} answered {self.service} with an invalid message"
            )
        else:
            reply = Reply(response, opened.sender, None, received_ns)
        context.guarded(self.service, call.on_done, reply)

    def next_deadline(self) -> float | None:
        """When the next call times out, s of the session's clock."""
        return min((call.deadline for call in self._calls), default=None)

    def expire(self, now: float) -> None:
        """Report a failure to the callers whose time-out has passed."""
        over = [call for call in self._calls if call.deadline <= now]
        if not over:
            return
        self._calls = [call for call in self._calls if call.deadline > now]
        for call in over:
            reply = Reply(None, failure=f"no answer from {self.service} in time")
            self._context.guarded(self.service, call.on_done, reply)

    def destroy(self) -> None:
        """Destroy the subscription; open calls are dropped."""
        self._calls.clear()
        self._context.node.destroy_subscription(self._subscription)


class SecureClient:
    """Client of a secure service in the name of one member; made by `SecureSession.create_client`."""

    def __init__(
        self,
        context: SessionContext,
        service_type: type[Any],
        responses: ResponseChannel,
        member: str,
        forget: Callable[[SecureClient, ResponseChannel], None],
    ) -> None:
        self._context = context
        self._request_type = service_type.Request
        self._request_name = names.type_name(service_type.Request)
        self._responses = responses
        self._forget = forget
        self.service = responses.service
        self.member = member
        channel = names.request(self.service)
        self._writer = RetryingPublisher(context, SecureEnvelope, channel, qos.for_publisher(channel))

    def service_is_ready(self) -> bool:
        """True if DDS has matched a server in both directions; the server is not authenticated by that."""
        return self._writer.publisher.get_subscription_count() > 0 and self._responses.publishers > 0

    def call_async(self, request: Any, timeout_s: float, on_done: DoneCallback) -> bool:
        """Send a request; `on_done(reply)` is called exactly once, with the response or a failure.

        Returns:
            True if the request was sent. False if not (no epoch yet, too many open calls): `on_done` has been
            called already, with the failure.

        Raises:
            TypeError: a request of another type.
            Rejected: the policy does not let this member call the service.
        """
        if not isinstance(request, self._request_type):
            raise TypeError(f"{self.service} takes {self._request_name}, not {type(request).__name__}")
        context = self._context
        try:
            pending = context.host.seal_request(
                self.service, self._request_name, serialize_message(request), context.swarm_ns(), self.member
            )
        except NotReady:
            context.counts["not_ready"] += 1
            on_done(Reply(None, failure=f"{self.member} has not joined the swarm yet"))
            return False
        if not self._responses.add(pending, context.now() + timeout_s, on_done):
            on_done(Reply(None, failure=f"{MAX_PENDING} calls of {self.service} are still open"))
            return False
        self._writer.send(encode_envelope(*pending.envelope))
        context.rearm()
        return True

    def destroy(self) -> None:
        """Destroy the publisher of requests."""
        self._writer.destroy()
        self._forget(self, self._responses)
