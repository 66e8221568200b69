"""Evictions that a crypto node decides on: an operator's order or a revocation, stored and then announced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import KeystoreError, Rejected
from ..member.context import MemberContext
from ..member.member import Member
from ..messages.announcement import RosterEntry
from ..messages.eviction import BY_CRL, BY_HEAD, MAX_EVICTIONS, EvictionOrder, barred, order_against
from ..primitives.suite import HASH_BYTES, digest
from ..trust.identity import CertifiedMember
from ..trust.roles import Role

_LEADERLESS: Final = "; followers hold, then return, as after any loss of their leader"


@dataclass(frozen=True, slots=True)
class EvictionVerdict:
    """What became of an order. reason: one sentence for whoever gave it. acted: something was stored."""

    accepted: bool
    reason: str
    acted: bool = False
    epoch: int = 0
    effects: list[Effect] = field(default_factory=list)


class EvictionHandler:
    """Orders on a crypto node: checked, then stored, then (by the key server) announced."""

    def __init__(self, context: MemberContext, own: Member) -> None:
        self._own = own
        self._trust = context.trust
        self._certificates = context.certificates

    def bars(self, member: CertifiedMember) -> bool:
        """See `barred`. Evictions that came without an order count by the certificates that are known."""
        state = self._own.state
        ordered = {order.fingerprint for order in state.orders}
        others = [
            order_against(item, BY_HEAD, bytes(HASH_BYTES), bytes(HASH_BYTES), 0)
            for item in self._certificates.named(member.name)
            if item.fingerprint in state.evictions - ordered
        ]
        return barred(member, state.evictions, (*state.orders, *others))

    def certificates_of(self, name: str) -> list[CertifiedMember]:
        """All certificates of that name that are known and not put out yet."""
        return [
            item
            for item in self._certificates.named(name)
            if item.fingerprint not in self._own.state.evictions
        ]

    def is_out(self, name: str) -> bool:
        """Has somebody of this name been put out?"""
        known = {item.fingerprint for item in self._certificates.named(name)}
        return any(order.name == name for order in self._own.state.orders) or bool(
            known & self._own.state.evictions
        )

    def judge(
        self, name: str, operator: RosterEntry | None, evidence: bytes, wall_ns: int
    ) -> EvictionVerdict:
        """Decides on an operator's order and stores it; the evicting epoch is for the key server."""
        if operator is None or operator.role is not Role.OPERATOR:
            return EvictionVerdict(False, "only an operator can put a member out")
        members = self.certificates_of(name)
        if not members and self.is_out(name):
            return EvictionVerdict(True, f"{name} is out already")
        objection = self._objection(name, wall_ns)
        if objection is not None:
            return EvictionVerdict(False, objection)
        try:
            self.put_out(members, operator.name, operator.fingerprint, evidence, wall_ns)
        except KeystoreError as error:
            return EvictionVerdict(False, f"{name} was not put out: {error}")
        leader = any(member.role is Role.LEADER for member in members)
        return EvictionVerdict(True, f"{name} is put out{_LEADERLESS if leader else ''}", acted=True)

    def _objection(self, name: str, wall_ns: int) -> str | None:
        """Why nobody of this name can be put out, one sentence; None: go on."""
        known = self._certificates.named(name)
        if name == self._own.name:
            return f"{name} is this crypto node itself; revoke it instead (`chimera keys revoke`)"
        if not known:
            return f"no certificate of {name} has been seen; is the name right?"
        if any(item.role is Role.OPERATOR for item in known) and not any(
            other.role is Role.OPERATOR and other.name != name and not self.bars(other)
            for other in self._certificates.standing(wall_ns)
        ):
            return f"{name} is the last operator known here; revoke it instead (`chimera keys revoke`)"
        return None

    def put_out(
        self, members: Iterable[CertifiedMember], by: str, signer: bytes, evidence: bytes, wall_ns: int
    ) -> list[EvictionOrder]:
        """Stores orders against these certificates, all or none; what is out already is left alone.

        Raises KeystoreError when the list is full or the disk refuses; then nothing has changed.
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
            self._own.remember_evictions([order.fingerprint for order in orders], orders)
        except Rejected:
            raise KeystoreError(
                f"the list of evictions is full ({MAX_EVICTIONS}); nobody was put out. "
                "Make a new keystore for the swarm."
            ) from None
        return orders

    def put_out_revoked(self, roster: Iterable[RosterEntry], wall_ns: int) -> tuple[list[Effect], list[str]]:
        """(alarms, names): members of the epoch that the revocation list names are put out by its order.

        Where that cannot be stored they are left out of the next epoch all the same: the list is stored.
        """
        known = [self._certificates.get(entry.fingerprint) for entry in roster]
        revoked = [item for item in known if item is not None and item.serial in self._trust.crl.serials]
        try:
            self.put_out(revoked, BY_CRL, bytes(HASH_BYTES), digest(self._trust.crl_der), wall_ns)
        except KeystoreError as error:
            return [SecurityAlarm("error", str(error))], [item.name for item in revoked]
        return [], [item.name for item in revoked]
