"""Swarm time: the active crypto node's wall clock, as offset from the local boot-time clock (NTP, RFC 5905).

A wall clock may be set in flight; an offset from the boot-time clock is not affected by that. Before the
first answer, and on the active crypto node, swarm time is the local wall clock.

The hosted members send requests in turn, each at least every two seconds, which also shows the crypto node
that they are live; all answers go into one filter, since the members of a process share a clock.
"""

from __future__ import annotations

import time
from typing import Final

from chimera_ros.crypto.member.clock_filter import ClockFilter
from chimera_ros.crypto.rate_limit import TokenBucket
from chimera_ros.srv import ClockSync

from . import names
from .context import SessionContext
from .endpoint_registry import EndpointRegistry
from .lifecycle import boot_time_ns
from .services import Reply, SecureClient, SecureService

PERIOD_S: Final = 1.8  # per member: the crypto node assumes a member live for 3 s
FIRST_PERIOD_S: Final = 0.2  # until the filter has a few samples
TIMEOUT_S: Final = 1.0
FIRST_SAMPLES: Final = 4
ANSWERS_PER_S: Final = 50.0  # limit, because each is signed; a client without an answer asks again


class ClockServer:
    """Time server of a crypto node: signed answers with swarm time, at most `ANSWERS_PER_S`.

    Its swarm time is its wall clock or, after it took over from another crypto node, that node's clock by the
    last measurement, so that swarm time has no step.
    """

    def __init__(self, context: SessionContext, endpoints: EndpointRegistry, member: str) -> None:
        self._context = context
        self._bucket = TokenBucket(ANSWERS_PER_S)
        self._service: SecureService = endpoints.service(
            ClockSync, names.CRYPTO_CLOCK, self._on_request, member
        )

    def _on_request(self, request: ClockSync.Request, _sender: str) -> ClockSync.Response | None:
        t2_ns = self._context.swarm_ns()
        if not self._bucket.take(self._context.now()):
            self._context.counts["clock_not_answered"] += 1
            return None
        return ClockSync.Response(t1_ns=request.t1_ns, t2_ns=t2_ns, t3_ns=self._context.swarm_ns())


class ClockClient:
    """Time client of all hosted members, which send requests in turn."""

    def __init__(
        self, context: SessionContext, endpoints: EndpointRegistry, members: tuple[str, ...]
    ) -> None:
        self.filter = ClockFilter()
        self._context = context
        self._clients: list[SecureClient] = [
            endpoints.client(ClockSync, names.CRYPTO_CLOCK, member) for member in members
        ]
        self._next_client = 0
        self._due = 0.0
        # Wall clock minus boot-time clock at the start: offsets are then relative to that wall clock.
        self._wall_minus_boot_ns = time.time_ns() - boot_time_ns()
        self._offset_ns = 0
        self._measured = False

    @property
    def _own_ns(self) -> int:
        """The wall clock at the start, continued by the boot-time clock."""
        return self._wall_minus_boot_ns + boot_time_ns()

    def swarm_ns(self) -> int:
        """Swarm time, ns since the Unix epoch."""
        return self._own_ns + self._offset_ns if self._measured else time.time_ns()

    def next_timer(self) -> float:
        """Time at which `tick` is due, boot-time seconds."""
        return self._due

    def tick(self, now: float) -> None:
        """Send a request if one is due."""
        if now < self._due:
            return
        first = self.filter.samples < FIRST_SAMPLES
        self._due = now + (FIRST_PERIOD_S if first else PERIOD_S / len(self._clients))
        client = self._clients[self._next_client % len(self._clients)]
        self._next_client += 1
        if self._context.active:
            return  # the server itself
        if not self._context.host.ready(client.member) or not client.service_is_ready():
            return
        request = ClockSync.Request(t1_ns=self._own_ns)
        client.call_async(request, TIMEOUT_S, lambda reply: self._on_reply(request.t1_ns, reply))

    def _on_reply(self, t1_ns: int, reply: Reply) -> None:
        response = reply.response
        if response is None or response.t1_ns != t1_ns:
            self._context.counts["clock_unanswered"] += 1
            return
        t4_ns = self._wall_minus_boot_ns + reply.received_ns
        if self.filter.add(t1_ns, response.t2_ns, response.t3_ns, t4_ns, self._context.now()):
            self._offset_ns = round(self.filter.offset_s * 1e9)
            self._measured = True

    def status(self) -> dict[str, float | bool | None]:
        """offset_s (crypto node minus local clock), error_s (None before the first answer), synchronised."""
        error_s = self.filter.error_s
        return {
            "offset_s": self.filter.offset_s,
            "error_s": error_s if error_s != float("inf") else None,
            "synchronised": self.filter.synchronised(now=self._context.now()),
        }
