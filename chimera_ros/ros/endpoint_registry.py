"""Registry of a session's secure publishers, subscriptions, services and clients.

Also times out calls, retries saturated writers and reseals latched samples.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

from . import names
from .context import Retry, SessionContext
from .endpoints import Channel, SecurePublisher, SecureSubscription
from .retrying_publisher import RETRY_S
from .services import ResponseChannel, SecureClient, SecureService


class EndpointRegistry:
    """Publishers, channels, services and clients of a session. Member names have been checked."""

    def __init__(self, context: SessionContext, check_permission: Callable[[str, str], None]) -> None:
        self._context = context
        self._check_permission = check_permission
        self._channels: dict[str, Channel] = {}
        self._publishers: list[SecurePublisher] = []
        self._services: dict[str, SecureService] = {}
        self._responses: dict[str, ResponseChannel] = {}
        self._clients: list[SecureClient] = []
        self._retries: list[Retry] = []
        self._retries_lock = Lock()  # messages are published from several threads

    # Creation

    def publisher(self, message_type: type[Any], channel: str, member: str, latched: bool) -> SecurePublisher:
        """A publisher in the name of `member`. Raises ValueError, PermissionError."""
        names.check_channel(channel)
        self._check_permission(channel, member)
        publisher = SecurePublisher(
            self._context, message_type, channel, member, latched, self._forget_publisher
        )
        self._publishers.append(publisher)
        return publisher

    def subscription(
        self, message_type: type[Any], channel: str, callback: Callable[..., None], latched: bool, raw: bool
    ) -> SecureSubscription:
        """A receiver of a channel. Raises ValueError."""
        names.check_channel(channel)
        found = self._channels.get(channel)
        if found is None:
            found = self._channels[channel] = Channel(self._context, channel, message_type, latched)
        elif found.message_type is not message_type:
            raise ValueError(
                f"channel {channel} is subscribed as {found.type_name}, not {names.type_name(message_type)}"
            )
        elif latched and not found.latched:
            found.subscribe(latched=True)
        return SecureSubscription(found, callback, raw, self._forget_channel)

    def service(
        self, service_type: type[Any], service: str, callback: Callable[[Any, str], Any], member: str
    ) -> SecureService:
        """The server of a service. Raises ValueError, PermissionError."""
        names.check_channel(service)
        if service in self._services:
            raise ValueError(f"service {service} is already served by this session")
        self._check_permission(names.response(service), member)
        server = SecureService(self._context, service_type, service, callback, member)
        self._services[service] = server
        return server

    def client(self, service_type: type[Any], service: str, member: str) -> SecureClient:
        """A caller of a service. Raises ValueError, PermissionError."""
        names.check_channel(service)
        self._check_permission(names.request(service), member)
        responses = self._responses.get(service)
        if responses is None:
            responses = self._responses[service] = ResponseChannel(self._context, service_type, service)
        responses.clients += 1
        client = SecureClient(self._context, service_type, responses, member, self._forget_client)
        self._clients.append(client)
        return client

    # Timer

    def next_timer(self, now: float) -> float:
        """When `tick` is due."""
        due = now + RETRY_S if self._retries else float("inf")
        for responses in self._responses.values():
            deadline = responses.next_deadline()
            if deadline is not None and deadline < due:
                due = deadline
        return due

    def tick(self, now: float) -> None:
        """Time out calls; send what a saturated writer did not accept."""
        for responses in tuple(self._responses.values()):
            responses.expire(now)
        with self._retries_lock:
            waiting, self._retries = self._retries, []
        for retry in waiting:
            if not retry():
                self.retry_later(retry)

    def reseal(self, member: str) -> None:
        """Publish latched samples of `member` again after it switched to another epoch."""
        for publisher in tuple(self._publishers):
            if publisher.latched and publisher.member == member:
                publisher.reseal()

    def serve_late_joiners(self) -> None:
        """Publish latched samples again for readers that were matched since; once a second."""
        for publisher in self._publishers:
            if publisher.latched:
                publisher.serve_late_joiners()

    def retry_later(self, retry: Retry) -> None:
        """Call `retry` at every tick until it returns True. May be called from any thread."""
        with self._retries_lock:
            if retry not in self._retries:
                self._retries.append(retry)

    # Removal

    def _forget_publisher(self, publisher: SecurePublisher) -> None:
        if publisher in self._publishers:
            self._publishers.remove(publisher)

    def _forget_client(self, client: SecureClient, responses: ResponseChannel) -> None:
        if client in self._clients:
            self._clients.remove(client)
            responses.clients -= 1
            if responses.clients == 0 and self._responses.pop(responses.service, None) is not None:
                responses.destroy()

    def _forget_channel(self, channel: Channel) -> None:
        self._channels.pop(channel.channel, None)

    def close(self) -> None:
        """Destroy all endpoints."""
        for client in tuple(self._clients):
            client.destroy()
        for publisher in tuple(self._publishers):
            publisher.destroy()
        for channel in self._channels.values():
            channel.destroy()
        for service in self._services.values():
            service.destroy()
        self._channels.clear()
        self._services.clear()
