"""Security on `/diagnostics`, once a second and process: in the clear, so no position, command or key."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from chimera_ros.crypto.member.security_state import EvictedMember, SecurityState, short_hash
from chimera_ros.crypto.primitives.providers import current
from chimera_ros.crypto.trust.identity import Trust
from chimera_ros.crypto.trust.roles import Role

from . import names, qos
from .lifecycle import boot_time_s

if TYPE_CHECKING:
    from .session import SecureSession

DEGRADED: Final = "no crypto node is heard; telemetry, hold, land and return under the pre-shared secret"


def security_state(session: SecureSession) -> SecurityState:
    """The security of a session's process at this moment."""
    host, context = session.host, session.host.context
    first, wall_ns = session.members[0], time.time_ns()
    epoch = host.epoch(first)
    announcement = host.announcement(epoch) if epoch is not None else None
    issuer = host.certificate(announcement.head.issuer) if announcement is not None else None
    snapshot = host.counters.snapshot()
    error_s = session.clock_error_s
    states = [member.state for member in context.members.values()]
    server = session.key_server
    roster = host.roster()
    return SecurityState(
        members=session.members,
        suite=session.policy.suite,
        provider=current().name,
        ready=session.ready,
        epoch=epoch,
        transcript=short_hash(host.transcript_hash(first)),
        roster=tuple(entry.name for entry in roster),
        evicted=_put_out(session),
        evictions=len(frozenset().union(*(state.evictions for state in states))),
        policy_version=session.policy.version,
        crl_number=max(state.crl_number for state in states),
        crypto_node=issuer.name if issuer is not None else "",
        crypto_rank=server.rank if server is not None else None,
        crypto_active=server.active if server is not None else None,
        standbys=tuple(
            entry.name
            for entry in roster
            if entry.role is Role.CRYPTO and (issuer is None or entry.name != issuer.name)
        ),
        barred=host.barred(wall_ns),
        cautions=_cautions(context.trust, wall_ns),
        beat_age_s=host.beat_age_s(boot_time_s()),
        silent=context.silent,
        degraded=DEGRADED if session.degraded else "",
        entropy=session.entropy,
        checkpoints=host.checkpoints.counts,
        checkpoints_on=host.checkpoints.verify,
        sealed=host.counters.sealed,
        opened=host.counters.opened,
        rejected=_counts(snapshot["rejected"]),
        control_rejected=_counts(snapshot["control"]),
        clock_offset_s=session.clock_offset_s,
        clock_error_s=error_s if math.isfinite(error_s) else None,
        events=tuple(context.roster_tracker.events),
        alarms=tuple(text for _, text in session.alarms),
    )


def _put_out(session: SecureSession) -> tuple[EvictedMember, ...]:
    """Who is out; a crypto node also knows who ordered it (the `crl` did, or an operator), and of evictions
    before its start.
    """
    context = session.host.context
    found = {item.name: item for item in context.roster_tracker.evicted}
    present = {entry.name for entry in session.host.roster()}
    for member in context.members.values():
        for order in member.state.orders:
            if order.name not in present:
                epoch = found[order.name].epoch if order.name in found else 0
                found[order.name] = EvictedMember(order.name, f"evicted, ordered by {order.by}", epoch)
    return tuple(found.values())


def _cautions(trust: Trust, wall_ns: int) -> tuple[str, ...]:
    found = []
    if max(wall_ns, trust.wall_floor_ns) > trust.crl.expires_ns:
        found.append("the revocation list has expired: nobody can join")
    if max(wall_ns, trust.wall_floor_ns) > trust.policy.expires_ns:
        found.append("the policy has expired: no process starts with it")
    return tuple(found)


def _counts(value: Any) -> dict[str, int]:
    """Refusals without what is no refusal: everybody hears the answers to everybody's calls."""
    return {name: count for name, count in value.items() if name != "unmatched_response"}


class Diagnostics:
    """Publisher of a process's security on `/diagnostics`."""

    def __init__(self, session: SecureSession) -> None:
        self._session = session
        self._publisher = session.node.create_publisher(
            DiagnosticArray, names.DIAGNOSTICS, qos.for_diagnostics()
        )

    def publish(self) -> None:
        """Say how security stands."""
        session = self._session
        state = security_state(session)
        level, text = state.verdict()
        status = DiagnosticStatus(
            level=bytes((level,)),
            name=f"{session.node.get_name()}: security",
            message=text,
            hardware_id=session.host.swarm,
            values=[KeyValue(key=key, value=value) for key, value in state.key_values()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = session.node.get_clock().now().to_msg()
        self._publisher.publish(array)

    def destroy(self) -> None:
        """Take the publisher out of its node."""
        self._session.node.destroy_publisher(self._publisher)
