"""Who has been put out, by whom, and whom that keeps from coming back.

An entry is a certificate fingerprint; every announcement carries all of them and every member keeps the
union on its disk. A crypto node keeps beside each entry the order it came from. It is the audit trail, and it
bars more than the one certificate: whoever was put out comes back only with another key and a certificate
that is not older.

Dates are compared among certificates of one authority only, so no clock matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from .effects import Alarm, Effect
from .errors import KeystoreError, Rejected
from .identity import CertifiedMember, Trust
from .roles import Role
from .suite import HASH_BYTES, digest

if TYPE_CHECKING:
    from .directory import Directory
    from .epochs import Announcement, RosterEntry
    from .member import Member
    from .sessions import Sessions

MAX_EVICTIONS: Final = 1024
BY_CRL: Final = "crl"  # `by` of an order that the authority's revocation list gave
_LEADERLESS: Final = "; followers hold, then return, as after any loss of their leader"
BY_HEAD: Final = "announcement"  # and of one that another crypto node announced


@dataclass(frozen=True, slots=True)
class EvictionOrder:
    """One line of the audit trail.

    `by` is the operator's name, or BY_CRL or BY_HEAD; `evidence` is BLAKE3 of the signed request envelope
    (which stands in sealed.mcap), of the revocation list, or of the announcement's head. `key` is BLAKE3 of
    the public key.
    """

    fingerprint: bytes
    name: str
    role: str
    key: bytes
    not_before_ns: int
    by: str
    signer: bytes  # fingerprint of the operator or crypto node; zeros for the authority
    evidence: bytes
    at_ns: int  # wall clock, ns since the Unix epoch

    def to_plain(self) -> dict[str, Any]:
        """For the state file."""
        return {
            "fingerprint": self.fingerprint.hex(),
            "name": self.name,
            "role": self.role,
            "key": self.key.hex(),
            "not_before_ns": self.not_before_ns,
            "by": self.by,
            "signer": self.signer.hex(),
            "evidence": self.evidence.hex(),
            "at_ns": self.at_ns,
        }

    @classmethod
    def from_plain(cls, plain: Any) -> EvictionOrder:
        """Raises KeyError, TypeError or ValueError."""
        hashes = {name: bytes.fromhex(plain[name]) for name in ("fingerprint", "key", "signer", "evidence")}
        if any(len(value) != HASH_BYTES for value in hashes.values()):
            raise ValueError("a hash of an eviction has another length")
        return cls(
            name=str(plain["name"]),
            role=str(Role(plain["role"])),
            not_before_ns=int(plain["not_before_ns"]),
            by=str(plain["by"]),
            at_ns=int(plain["at_ns"]),
            **hashes,
        )


def key_hash(member: CertifiedMember) -> bytes:
    """BLAKE3 of the member's public key (DER SubjectPublicKeyInfo)."""
    public = x509.load_der_x509_certificate(member.certificate_der).public_key()
    return digest(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def order_against(
    member: CertifiedMember, by: str, signer: bytes, evidence: bytes, wall_ns: int
) -> EvictionOrder:
    """The line that puts this certificate out."""
    return EvictionOrder(
        member.fingerprint,
        member.name,
        member.role.value,
        key_hash(member),
        member.not_before_ns,
        by,
        signer,
        evidence,
        wall_ns,
    )


def barred(member: CertifiedMember, evictions: frozenset[bytes], orders: Iterable[EvictionOrder]) -> bool:
    """Must this certificate stay out? By its fingerprint, its key, or as an older one of a name put out."""
    if member.fingerprint in evictions:
        return True
    against = [order for order in orders if order.name == member.name]
    if any(member.not_before_ns < order.not_before_ns for order in against):
        return True
    return bool(against) and key_hash(member) in {order.key for order in against}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of an order. reason: one sentence for whoever gave it. acted: something was stored."""

    accepted: bool
    reason: str
    acted: bool = False
    epoch: int = 0
    effects: list[Effect] = field(default_factory=list)


class EvictionDesk:
    """Orders on a crypto node: checked, then stored, then (by the key server) announced."""

    def __init__(self, own: Member, directory: Directory) -> None:
        self._own = own
        self._directory = directory

    def bars(self, member: CertifiedMember) -> bool:
        """See `barred`. Evictions that came without an order count by the certificates that are known."""
        state = self._own.state
        ordered = {order.fingerprint for order in state.orders}
        others = [
            order_against(item, BY_HEAD, bytes(HASH_BYTES), bytes(HASH_BYTES), 0)
            for item in self._directory.named(member.name)
            if item.fingerprint in state.evictions - ordered
        ]
        return barred(member, state.evictions, (*state.orders, *others))

    def certificates_of(self, name: str) -> list[CertifiedMember]:
        """All certificates of that name that are known and not put out yet."""
        return [
            item for item in self._directory.named(name) if item.fingerprint not in self._own.state.evictions
        ]

    def is_out(self, name: str) -> bool:
        """Has somebody of this name been put out?"""
        known = {item.fingerprint for item in self._directory.named(name)}
        return any(order.name == name for order in self._own.state.orders) or bool(
            known & self._own.state.evictions
        )

    def judge(self, name: str, operator: RosterEntry | None, evidence: bytes, wall_ns: int) -> Verdict:
        """Decides on an operator's order and stores it; the evicting epoch is for the key server."""
        if operator is None or operator.role is not Role.OPERATOR:
            return Verdict(False, "only an operator can put a member out")
        members = self.certificates_of(name)
        if not members and self.is_out(name):
            return Verdict(True, f"{name} is out already")
        objection = self._objection(name, wall_ns)
        if objection is not None:
            return Verdict(False, objection)
        try:
            self.put_out(members, operator.name, operator.fingerprint, evidence, wall_ns)
        except KeystoreError as error:
            return Verdict(False, f"{name} was not put out: {error}")
        leader = any(member.role is Role.LEADER for member in members)
        return Verdict(True, f"{name} is put out{_LEADERLESS if leader else ''}", acted=True)

    def _objection(self, name: str, wall_ns: int) -> str | None:
        """Why nobody of this name can be put out, one sentence; None: go on."""
        known = self._directory.named(name)
        if name == self._own.name:
            return f"{name} is this crypto node itself; revoke it instead (`chimera keys revoke`)"
        if not known:
            return f"no certificate of {name} has been seen; is the name right?"
        if any(item.role is Role.OPERATOR for item in known) and not any(
            other.role is Role.OPERATOR and other.name != name and not self.bars(other)
            for other in self._directory.standing(wall_ns)
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

    def put_out_revoked(
        self, roster: Iterable[RosterEntry], trust: Trust, wall_ns: int
    ) -> tuple[list[Effect], list[str]]:
        """(alarms, names): members of the epoch that the revocation list names are put out by its order.

        Where that cannot be stored they are left out of the next epoch all the same: the list is stored.
        """
        known = [self._directory.get(entry.fingerprint) for entry in roster]
        revoked = [item for item in known if item is not None and item.serial in trust.crl.serials]
        try:
            self.put_out(revoked, BY_CRL, bytes(HASH_BYTES), digest(trust.crl_der), wall_ns)
        except KeystoreError as error:
            return [Alarm("error", str(error))], [item.name for item in revoked]
        return [], [item.name for item in revoked]


def lines_of(
    fingerprints: Iterable[bytes], directory: Directory, issuer: bytes, evidence: bytes, wall_ns: int
) -> tuple[EvictionOrder, ...]:
    """Lines for what another crypto node's head puts out, as far as the certificates are known."""
    known = [item for item in map(directory.get, sorted(fingerprints)) if item is not None]
    return tuple(order_against(item, BY_HEAD, issuer, evidence, wall_ns) for item in known)


def obey(
    announcement: Announcement,
    members: Iterable[Member],
    directory: Directory,
    sessions: Sessions,
    wall_ns: int,
) -> list[Effect]:
    """Remembers whom a verified announcement puts out, then wipes every earlier epoch that one of them is in.

    Also for members that the announcement does not name: what they sent would reach nobody but the evicted.

    Raises Rejected(SIZE); then nothing was wiped.
    """
    head = announcement.head
    if not head.evictions:
        return []
    effects: list[Effect] = []
    for member in members:
        new = set(head.evictions) - member.state.evictions
        if not new:
            continue
        lines: tuple[EvictionOrder, ...] = ()
        if member.role is Role.CRYPTO:
            lines = lines_of(new, directory, head.issuer, announcement.transcript_hash, wall_ns)
        trouble = member.obey_evictions(new, lines)
        if trouble is not None:
            effects.append(Alarm("error", f"an eviction is obeyed, but not safe from a restart: {trouble}"))
        if member.identity.fingerprint in new:
            effects.append(
                Alarm("error", f"{member.name} was put out of the swarm; only a new key and certificate help")
            )
    sessions.wipe_naming(frozenset(head.evictions), head.epoch)
    return effects
