"""Security state of a process on `/diagnostics`, once a second.

The topic is not encrypted: no position, command or key is published.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.member.security_state import EvictedMember, SecurityState, short_hash
from chimera_ros.crypto.primitives.providers import current
from chimera_ros.crypto.trust.identity import Trust
from chimera_ros.crypto.trust.roles import Role

from . import names, qos
from .context import SessionContext
from .lifecycle import boot_time_s

DEGRADED: Final = (
    "no beats from any crypto node; telemetry, hold, land and return under the pre-shared secret"
)


def security_state(
    context: SessionContext,
    *,
    entropy: Mapping[str, str],
    alarms: Iterable[str],
    clock_offset_s: float,
    clock_error_s: float,
) -> SecurityState:
    """The present security state of a session's process."""
    host, members = context.host, context.host.context
    first, wall_ns = context.members[0], time.time_ns()
    epoch = host.epoch(first)
    announcement = host.announcement(epoch) if epoch is not None else None
    issuer = host.certificate(announcement.head.issuer) if announcement is not None else None
    snapshot = host.counters.snapshot()
    states = [member.state for member in members.members.values()]
    server = context.key_server
    roster = host.roster()
    return SecurityState(
        members=context.members,
        suite=host.policy.suite,
        provider=current().name,
        ready=all(host.ready(name) for name in context.members),
        epoch=epoch,
        transcript=short_hash(host.transcript_hash(first)),
        roster=tuple(entry.name for entry in roster),
        evicted=_evicted_members(host),
        evictions=len(frozenset().union(*(state.evictions for state in states))),
        policy_version=host.policy.version,
        crl_number=max(state.crl_number for state in states),
        crypto_node=issuer.name if issuer is not None else "",
        crypto_rank=server.rank if server is not None else None,
        crypto_active=context.active if server is not None else None,
        standbys=tuple(
            entry.name
            for entry in roster
            if entry.role is Role.CRYPTO and (issuer is None or entry.name != issuer.name)
        ),
        barred=host.excluded_members(wall_ns),
        cautions=_cautions(members.trust, wall_ns),
        beat_age_s=host.beat_age_s(boot_time_s()),
        silent=members.silent,
        degraded=DEGRADED if host.degraded(wall_ns) else "",
        entropy=entropy,
        checkpoints=host.checkpoints.counts,
        checkpoints_on=host.checkpoints.verify,
        sealed=host.counters.sealed,
        opened=host.counters.opened,
        rejected=_counts(snapshot["rejected"]),
        control_rejected=_counts(snapshot["control"]),
        clock_offset_s=clock_offset_s,
        clock_error_s=clock_error_s if math.isfinite(clock_error_s) else None,
        events=tuple(members.roster_tracker.events),
        alarms=tuple(alarms),
    )


def _evicted_members(host: SecureHost) -> tuple[EvictedMember, ...]:
    """Members that are evicted or left, with the reason.

    A crypto node also knows by whose order (the `crl`, or an operator), and evictions before its start.
    """
    members = host.context
    found = {item.name: item for item in members.roster_tracker.evicted}
    present = {entry.name for entry in host.roster()}
    for member in members.members.values():
        for order in member.state.orders:
            if order.name not in present:
                epoch = found[order.name].epoch if order.name in found else 0
                found[order.name] = EvictedMember(order.name, f"evicted, ordered by {order.by}", epoch)
    return tuple(found.values())


def _cautions(trust: Trust, wall_ns: int) -> tuple[str, ...]:
    found = []
    if max(wall_ns, trust.wall_floor_ns) > trust.crl.expires_ns:
        found.append("the revocation list has expired: no member can join")
    if max(wall_ns, trust.wall_floor_ns) > trust.policy.expires_ns:
        found.append("the policy has expired: no process can start with it")
    return tuple(found)


def _counts(value: Any) -> dict[str, int]:
    """Rejections without responses to other members' calls, which every member receives."""
    return {name: count for name, count in value.items() if name != "unmatched_response"}


class Diagnostics:
    """Publisher of a process's security state on `/diagnostics`."""

    def __init__(self, node: Node, swarm: str, snapshot: Callable[[], SecurityState]) -> None:
        self._node = node
        self._swarm = swarm
        self._snapshot = snapshot
        self._publisher = node.create_publisher(DiagnosticArray, names.DIAGNOSTICS, qos.for_diagnostics())

    def publish(self) -> None:
        """Publish the present state."""
        state = self._snapshot()
        level, text = state.verdict()
        status = DiagnosticStatus(
            level=bytes((level,)),
            name=f"{self._node.get_fully_qualified_name()}: security",
            message=text,
            hardware_id=self._swarm,
            values=[KeyValue(key=key, value=value) for key, value in state.key_values()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def destroy(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)
