"""Evictions: evicted certificates, the orders they result from, and exclusion of older ones.

An eviction is a certificate fingerprint; every announcement has all of them, and every member stores the
union. A crypto node also stores the order behind each one. The orders are the audit trail, and they exclude
more than the one certificate: an evicted member is readmitted only with another key and a certificate that is
not older.

Validity dates are compared among certificates of one authority only, so that no clock matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..primitives.suite import HASH_BYTES, digest
from ..trust.identity import CertifiedMember
from ..trust.roles import Role

MAX_EVICTIONS: Final = 1024
BY_CRL: Final = "crl"  # `by` of an order that results from the revocation list
BY_HEAD: Final = "announcement"  # and of one that results from another crypto node's announcement


@dataclass(frozen=True, slots=True)
class EvictionOrder:
    """One entry of the audit trail.

    `by` is the operator's name, BY_CRL or BY_HEAD; `evidence` is BLAKE3 of the signed request envelope
    (recorded in sealed.mcap), of the revocation list, or of the announcement's head. `key` is BLAKE3 of the
    public key.
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
        """JSON-ready, for the state file."""
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
    """The order that evicts this certificate."""
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


def is_excluded(
    member: CertifiedMember, evictions: frozenset[bytes], orders: Iterable[EvictionOrder]
) -> bool:
    """True if this certificate is evicted (fingerprint or key), or an older one of an evicted name."""
    if member.fingerprint in evictions:
        return True
    against = [order for order in orders if order.name == member.name]
    if any(member.not_before_ns < order.not_before_ns for order in against):
        return True
    return bool(against) and key_hash(member) in {order.key for order in against}
