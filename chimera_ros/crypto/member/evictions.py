"""Evictions announced by a crypto node, obeyed by the hosted members."""

from __future__ import annotations

from collections.abc import Iterable

from ..effects import Effect, SecurityAlarm
from ..messages.announcement import Announcement
from ..messages.eviction import BY_HEAD, EvictionOrder, order_against
from ..trust.certificate_cache import CertificateCache
from ..trust.roles import Role
from .context import MemberContext


def lines_of(
    fingerprints: Iterable[bytes], directory: CertificateCache, issuer: bytes, evidence: bytes, wall_ns: int
) -> tuple[EvictionOrder, ...]:
    """Lines for what another crypto node's head puts out, as far as the certificates are known."""
    known = [item for item in map(directory.get, sorted(fingerprints)) if item is not None]
    return tuple(order_against(item, BY_HEAD, issuer, evidence, wall_ns) for item in known)


def obey(context: MemberContext, announcement: Announcement, wall_ns: int) -> list[Effect]:
    """Remembers whom a verified announcement puts out, then wipes every earlier epoch that one of them is in.

    Also for members that the announcement does not name: what they sent would reach nobody but the evicted.

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
        lines: tuple[EvictionOrder, ...] = ()
        if member.role is Role.CRYPTO:
            lines = lines_of(new, context.certificates, head.issuer, announcement.transcript_hash, wall_ns)
        trouble = member.obey_evictions(new, lines)
        if trouble is not None:
            effects.append(
                SecurityAlarm("error", f"an eviction is obeyed, but not safe from a restart: {trouble}")
            )
        if member.identity.fingerprint in new:
            effects.append(
                SecurityAlarm(
                    "error", f"{member.name} was put out of the swarm; only a new key and certificate help"
                )
            )
    context.sessions.wipe_naming(frozenset(head.evictions), head.epoch)
    return effects
