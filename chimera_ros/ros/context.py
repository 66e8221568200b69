"""What the parts of one session share: node, members, secure layer, counters, clock and timer.

Topics, endpoints, services and clock take a `SessionContext`, so that none of them imports the session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node

from chimera_ros.crypto.effects import Effect
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.member.host import SecureHost

from .lifecycle import boot_time_s, raised_at
from .log import log

Retry = Callable[[], bool]
"""Sends what a saturated writer did not accept; True when nothing is left."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The shared part of a session.

    Args:
        namespace: of the swarm. members: names of the hosted members.
        key_server: crypto nodes only; its host is `host`.
        swarm_ns: swarm time, ns since the Unix epoch.
        rearm: sets the session's timer to the next thing due. From any thread.
        perform_later: performs effects in the node's executor. From any thread.
        retry_later: calls a `Retry` again until it returns True. From any thread.
        counts: events outside the host's own counters; part of the session's status.
    """

    node: Node
    namespace: str
    members: tuple[str, ...]
    host: SecureHost
    key_server: KeyServer | None
    swarm_ns: Callable[[], int]
    rearm: Callable[[], None]
    perform_later: Callable[[list[Effect]], None]
    retry_later: Callable[[Retry], None]
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def active(self) -> bool:
        """True if this is the crypto node that issues the epochs and answers the crypto services."""
        return self.key_server is not None and self.key_server.active

    @property
    def standby(self) -> bool:
        """True if this is a crypto node and another one is active."""
        return self.key_server is not None and not self.key_server.active

    @staticmethod
    def now() -> float:
        """Seconds of the boot-time clock, the `now` of the cores."""
        return boot_time_s()

    def guarded(self, what: str, callback: Callable[..., Any], *arguments: Any) -> Any:
        """Run a user's callback. An exception is counted and logged by type, never by text."""
        try:
            return callback(*arguments)
        except Exception as error:
            self.counts["callback_errors"] += 1
            text = f"{what}: {type(error).__name__} in a callback at {raised_at(error)}"
            log(self.node, "error", text)
            return None
