"""Identities and certificate validation: members, their certificates, and the trust anchor.

`cryptography` checks a certificate's issuer and signature; validity period, key usage, URI, swarm and
revocation are checked here. Roles are read from certificates only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa

from ..encoding import NAME_PATTERN
from ..errors import Rejected, RejectReason
from ..primitives.providers import provider
from ..primitives.suite import SigningKey, VerifyKey, digest
from .policy import Policy
from .roles import Role

__all__ = ["CertifiedMember", "CrlView", "MemberIdentity", "Role", "Trust", "read_member_certificate"]

_URI: Final = re.compile(
    rf"urn:chimera:({NAME_PATTERN.pattern}):({NAME_PATTERN.pattern}):({NAME_PATTERN.pattern})"
)


class CertificateFault(Enum):
    """Fault of a certificate; the value completes a sentence."""

    UNREADABLE = "is not an X.509 certificate with an ML-DSA-87 key"
    ISSUER = "was not issued by this keystore's authority"
    URI = "has no single URI urn:chimera:<swarm>:<role>:<name> that agrees with its common name"
    USAGE = "may not sign (key usage) or is an authority's"
    SWARM = "belongs to another swarm"
    EARLY = "is not valid yet; check this machine's clock"
    EXPIRED = "has expired; renew it with `chimera keys renew`"
    REVOKED = "has been revoked"


class CertificateError(Exception):
    """A certificate is invalid; `fault` says why."""

    def __init__(self, fault: CertificateFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


def wall_datetime(wall_ns: int) -> datetime:
    """UTC date and time of nanoseconds since the Unix epoch."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC)


def datetime_ns(moment: datetime) -> int:
    """Nanoseconds since the Unix epoch of an aware date and time."""
    return int(moment.timestamp()) * 1_000_000_000


@dataclass(frozen=True, slots=True)
class CertifiedMember:
    """Content of a member's certificate, and its public key."""

    name: str
    role: Role
    swarm: str
    fingerprint: bytes  # BLAKE3-256 of the certificate's DER
    serial: int
    not_before_ns: int
    not_after_ns: int
    certificate_der: bytes = field(repr=False)
    key: VerifyKey = field(repr=False, compare=False)

    def verify(self, signature: bytes, message: bytes, context: bytes) -> bool:
        """True if this member has signed `message` under `context`."""
        return self.key.verify(signature, message, context)


@dataclass(frozen=True, slots=True)
class MemberIdentity:
    """A member's own certificate and private key, which `repr` omits."""

    member: CertifiedMember
    key: SigningKey = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.member.name

    @property
    def role(self) -> Role:
        return self.member.role

    @property
    def swarm(self) -> str:
        return self.member.swarm

    @property
    def fingerprint(self) -> bytes:
        return self.member.fingerprint

    @property
    def certificate_der(self) -> bytes:
        return self.member.certificate_der

    def sign(self, message: bytes, context: bytes) -> bytes:
        """An ML-DSA-87 signature under a context of labels.py."""
        return self.key.sign(message, context)


@dataclass(frozen=True, slots=True)
class CrlView:
    """The authority's revocation list: number, revoked serial numbers, validity."""

    number: int = 0
    serials: frozenset[int] = frozenset()
    issued_ns: int = 0
    expires_ns: int = 0


def read_member_certificate(der: bytes) -> CertifiedMember:
    """Parses a member certificate without checking its issuer. Raises CertificateError."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        public = certificate.public_key()
        extensions = certificate.extensions
        common_names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        serial = certificate.serial_number
    except Exception:  # the parser raises many types on malformed input
        raise CertificateError(CertificateFault.UNREADABLE) from None
    if not isinstance(public, mldsa.MLDSA87PublicKey):
        raise CertificateError(CertificateFault.UNREADABLE)
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise CertificateError(CertificateFault.URI) from None
    uris = list(names)
    if len(uris) != 1 or not isinstance(uris[0], x509.UniformResourceIdentifier) or len(common_names) != 1:
        raise CertificateError(CertificateFault.URI)
    match = _URI.fullmatch(uris[0].value)
    if match is None or match[3] != common_names[0].value or match[2] not in set(Role):
        raise CertificateError(CertificateFault.URI)
    if not usage.digital_signature or usage.key_cert_sign or usage.crl_sign or constraints.ca:
        raise CertificateError(CertificateFault.USAGE)
    return CertifiedMember(
        name=match[3],
        role=Role(match[2]),
        swarm=match[1],
        fingerprint=digest(der),
        serial=serial,
        not_before_ns=datetime_ns(not_before),
        not_after_ns=datetime_ns(not_after),
        certificate_der=bytes(der),
        key=provider().verify_key(public.public_bytes_raw()),
    )


@dataclass(slots=True)
class Trust:
    """Trust anchor of a member: the authority's certificate, policy and revocation list.

    Policy and list are replaced in flight by newer ones (trust_updates.py); every process has its own copy.
    The bytes of both are kept so that a crypto node can distribute them, else empty.
    """

    authority: x509.Certificate = field(repr=False)
    policy: Policy
    crl: CrlView
    crl_der: bytes = field(default=b"", repr=False)
    policy_text: bytes = field(default=b"", repr=False)
    policy_signature: bytes = field(default=b"", repr=False)
    stored_floor_ns: int = 0  # newest time in the persistent state of a hosted member

    @property
    def swarm(self) -> str:
        return self.policy.swarm

    @property
    def wall_floor_ns(self) -> int:
        """Lower bound of the time used for validity: a clock below it is wrong."""
        return max(self.policy.issued_ns, self.crl.issued_ns, self.stored_floor_ns)

    def raise_floor(self, floor_ns: int) -> None:
        """Raises the floor to a hosted member's persistent time."""
        self.stored_floor_ns = max(self.stored_floor_ns, floor_ns)

    def check_member(self, member: CertifiedMember, wall_ns: int) -> None:
        """Checks swarm, validity period and revocation. Raises CertificateError."""
        if member.swarm != self.swarm:
            raise CertificateError(CertificateFault.SWARM)
        now_ns = max(wall_ns, self.wall_floor_ns)
        if now_ns < member.not_before_ns:
            raise CertificateError(CertificateFault.EARLY)
        if now_ns > member.not_after_ns:
            raise CertificateError(CertificateFault.EXPIRED)
        if member.serial in self.crl.serials:
            raise CertificateError(CertificateFault.REVOKED)

    def certify(self, der: bytes, wall_ns: int) -> CertifiedMember:
        """The member of a certificate from the network, validated. Raises CertificateError."""
        member = read_member_certificate(der)
        check_issuer(der, self.authority)
        self.check_member(member, wall_ns)
        return member

    def check_valid(self, member: CertifiedMember, wall_ns: int) -> None:
        """As `check_member`, for a cached certificate. Raises Rejected(REVOKED or CERTIFICATE)."""
        try:
            self.check_member(member, wall_ns)
        except CertificateError as error:
            revoked = error.fault is CertificateFault.REVOKED
            raise Rejected(
                RejectReason.REVOKED if revoked else RejectReason.CERTIFICATE, error.fault.value
            ) from None


def check_issuer(der: bytes, authority: x509.Certificate) -> None:
    """Raises CertificateError(ISSUER) unless `authority` signed the certificate."""
    try:
        x509.load_der_x509_certificate(der).verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise CertificateError(CertificateFault.ISSUER) from None


def pem_to_der(pem: bytes) -> bytes:
    """DER bytes of the one certificate in `pem`. Raises CertificateError(UNREADABLE)."""
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except ValueError:
        raise CertificateError(CertificateFault.UNREADABLE) from None
