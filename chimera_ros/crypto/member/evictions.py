"""Evictions announced by a crypto node, obeyed by the hosted members."""

from __future__ import annotations

from collections.abc import Iterable

from ..effects import Effect, SecurityAlarm
from ..messages.announcement import Announcement
from ..messages.eviction import BY_HEAD, EvictionOrder, order_against
from ..trust.certificate_cache import CertificateCache
from ..trust.roles import Role
from .context import MemberContext


def orders_for(
    fingerprints: Iterable[bytes],
    certificates: CertificateCache,
    issuer: bytes,
    evidence: bytes,
    wall_ns: int,
) -> tuple[EvictionOrder, ...]:
    """Orders for the evictions of another crypto node's head, as far as the certificates are known."""
    known = [item for item in map(certificates.get, sorted(fingerprints)) if item is not None]
    return tuple(order_against(item, BY_HEAD, issuer, evidence, wall_ns) for item in known)


def obey(context: MemberContext, announcement: Announcement, wall_ns: int) -> list[Effect]:
    """Stores the evictions of a verified announcement, then wipes every earlier epoch that names one of them.

    Also for members that the announcement does not name: only the evicted would still open what they send.

    Raises Rejected(SIZE); then nothing was wiped.
    """
    head = announcement.head
    if not head.evictions:
        return []
    effects: list[Effect] = []
    for member in context.members.values():
        new = set(head.evictions) - member.state.evictions
        if not new:
            continue
        orders: tuple[EvictionOrder, ...] = ()
        if member.role is Role.CRYPTO:
            orders = orders_for(new, context.certificates, head.issuer, announcement.transcript_hash, wall_ns)
        trouble = member.obey_evictions(new, orders)
        if trouble is not None:
            text = f"an eviction is obeyed, but does not survive a restart: {trouble}"
            effects.append(SecurityAlarm("error", text))
        if member.identity.fingerprint in new:
            text = f"{member.name} was evicted from the swarm; only a new key and certificate readmit it"
            effects.append(SecurityAlarm("error", text))
    context.sessions.wipe_naming(frozenset(head.evictions), head.epoch)
    return effects
