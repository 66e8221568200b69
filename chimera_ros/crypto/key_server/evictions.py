"""Evictions by an operator's order or the revocation list: stored first, then announced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import KeystoreError, Rejected
from ..member.context import MemberContext
from ..member.member import Member
from ..messages.announcement import RosterEntry
from ..messages.eviction import BY_CRL, BY_HEAD, MAX_EVICTIONS, EvictionOrder, is_excluded, order_against
from ..primitives.suite import HASH_BYTES, digest
from ..trust.identity import CertifiedMember
from ..trust.roles import Role

_LEADERLESS: Final = "; followers hold, then return, as after any loss of their leader"


@dataclass(frozen=True, slots=True)
class EvictionVerdict:
    """Result of an order. reason: one sentence for the operator. acted: something was stored."""

    accepted: bool
    reason: str
    acted: bool = False
    epoch: int = 0
    effects: list[Effect] = field(default_factory=list)


class EvictionHandler:
    """Checks orders and stores them with `own`, the crypto node's member; the key server announces them."""

    def __init__(self, context: MemberContext, own: Member) -> None:
        self._own = own
        self._trust = context.trust
        self._certificates = context.certificates

    def is_excluded(self, member: CertifiedMember) -> bool:
        """True if the certificate is excluded (`messages/eviction`).

        An eviction without an order counts by the known certificates.
        """
        state = self._own.state
        ordered = {order.fingerprint for order in state.orders}
        others = [
            order_against(item, BY_HEAD, bytes(HASH_BYTES), bytes(HASH_BYTES), 0)
            for item in self._certificates.named(member.name)
            if item.fingerprint in state.evictions - ordered
        ]
        return is_excluded(member, state.evictions, (*state.orders, *others))

    def evict_named(
        self, name: str, operator: RosterEntry | None, evidence: bytes, wall_ns: int
    ) -> EvictionVerdict:
        """Checks an operator's order and stores it; the evicting epoch is for the key server."""
        if operator is None or operator.role is not Role.OPERATOR:
            return EvictionVerdict(False, "only an operator can evict a member")
        members = self._certificates_of(name)
        if not members and self._has_evicted(name):
            return EvictionVerdict(True, f"{name} is evicted already")
        objection = self._objection(name, wall_ns)
        if objection is not None:
            return EvictionVerdict(False, objection)
        try:
            self.evict(members, operator.name, operator.fingerprint, evidence, wall_ns)
        except KeystoreError as error:
            return EvictionVerdict(False, f"{name} was not evicted: {error}")
        leader = any(member.role is Role.LEADER for member in members)
        return EvictionVerdict(True, f"{name} is evicted{_LEADERLESS if leader else ''}", acted=True)

    def _certificates_of(self, name: str) -> list[CertifiedMember]:
        """All certificates of that name that are known and not evicted yet."""
        evictions = self._own.state.evictions
        return [item for item in self._certificates.named(name) if item.fingerprint not in evictions]

    def _has_evicted(self, name: str) -> bool:
        """True if a certificate of this name is evicted."""
        known = {item.fingerprint for item in self._certificates.named(name)}
        return any(order.name == name for order in self._own.state.orders) or bool(
            known & self._own.state.evictions
        )

    def _objection(self, name: str, wall_ns: int) -> str | None:
        """Why no certificate of this name can be evicted, one sentence; None: no objection."""
        known = self._certificates.named(name)
        if name == self._own.name:
            return f"{name} is this crypto node itself; revoke it instead (`chimera keys revoke`)"
        if not known:
            return f"no certificate of {name} has been seen; is the name right?"
        if any(item.role is Role.OPERATOR for item in known) and not any(
            other.role is Role.OPERATOR and other.name != name and not self.is_excluded(other)
            for other in self._certificates.valid_members(wall_ns)
        ):
            return f"{name} is the last operator known here; revoke it instead (`chimera keys revoke`)"
        return None

    def evict(
        self, members: Iterable[CertifiedMember], by: str, signer: bytes, evidence: bytes, wall_ns: int
    ) -> list[EvictionOrder]:
        """Stores orders against these certificates, all or none; those evicted already are left out.

        Raises KeystoreError if the list is full or the disk refuses; then nothing has changed.
        """
        state = self._own.state
        orders = [
            order_against(item, by, signer, evidence, wall_ns)
            for item in members
            if item.fingerprint not in state.evictions
        ]
        if not orders:
            return []
        try:
            self._own.save_evictions([order.fingerprint for order in orders], orders)
        except Rejected:
            raise KeystoreError(
                f"the list of evictions is full ({MAX_EVICTIONS}); no member was evicted. "
                "Make a new keystore for the swarm."
            ) from None
        return orders

    def evict_revoked(self, roster: Iterable[RosterEntry], wall_ns: int) -> tuple[list[Effect], list[str]]:
        """(alarms, names): evicts the members of the epoch that the revocation list names.

        Where that cannot be stored they are left out of the next epoch all the same: the list is stored.
        """
        trust = self._trust
        known = [self._certificates.get(entry.fingerprint) for entry in roster]
        revoked = [item for item in known if item is not None and item.serial in trust.crl.serials]
        try:
            self.evict(revoked, BY_CRL, bytes(HASH_BYTES), digest(trust.crl_der), wall_ns)
        except KeystoreError as error:
            return [SecurityAlarm("error", str(error))], [item.name for item in revoked]
        return [], [item.name for item in revoked]
