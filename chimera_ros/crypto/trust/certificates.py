"""Issuing of certificates and revocation lists: X.509 (RFC 5280) with ML-DSA-87 (RFC 9881)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa

from .identity import CrlView, datetime_ns, wall_datetime
from .roles import Role

_AUTHORITY: Final = " authority"  # after the swarm's name in the authority's common name
_BACKDATE: Final = timedelta(minutes=5)  # tolerance for members' clocks behind the authority's


def _moment(wall_ns: int) -> datetime:
    return wall_datetime(wall_ns).replace(microsecond=0)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def make_authority(
    swarm: str, key: mldsa.MLDSA87PrivateKey, wall_ns: int, days: float, serial: int | None = None
) -> x509.Certificate:
    """The self-signed certificate of a swarm's authority; the serial number is random unless given."""
    start = _moment(wall_ns)
    name = _name(swarm + _AUTHORITY)
    return _sign(
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(start - _BACKDATE)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True),
        key,
    )


def swarm_of(authority: x509.Certificate) -> str:
    """The swarm of an authority's certificate, empty if `make_authority` has not made it."""
    for attribute in authority.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME):
        if str(attribute.value).endswith(_AUTHORITY):
            return str(attribute.value).removesuffix(_AUTHORITY)
    return ""


def make_member(
    swarm: str,
    name: str,
    role: Role,
    public: mldsa.MLDSA87PublicKey,
    authority: x509.Certificate,
    authority_key: mldsa.MLDSA87PrivateKey,
    wall_ns: int,
    days: float,
    serial: int | None = None,
) -> x509.Certificate:
    """A member's certificate with the URI urn:chimera:<swarm>:<role>:<name>; `serial` as above."""
    start = _moment(wall_ns)
    uri = x509.UniformResourceIdentifier(f"urn:chimera:{swarm}:{role}:{name}")
    return _sign(
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(start - _BACKDATE)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False),
        authority_key,
    )


def _sign(builder: x509.CertificateBuilder, key: Any) -> x509.Certificate:
    return builder.sign(key, None)


def make_crl(
    authority: x509.Certificate,
    key: Any,
    number: int,
    serials: frozenset[int],
    wall_ns: int,
    days: float,
) -> x509.CertificateRevocationList:
    """A revocation list naming the serial numbers of revoked certificates."""
    start = _moment(wall_ns)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(start - _BACKDATE)
        .next_update(start + timedelta(days=days))
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial in sorted(serials):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(key, None)


def extend_crl(
    authority: x509.Certificate,
    key: Any,
    before: x509.CertificateRevocationList,
    serials: frozenset[int],
    reason: str,
    wall_ns: int,
    days: float,
) -> x509.CertificateRevocationList:
    """The next list: the entries of `before` and these serial numbers, with the CRL number increased by one.

    `reason` is a CRLReason of RFC 5280, 5.3.1 with hyphens, such as key-compromise.
    """
    start = _moment(wall_ns)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(start - _BACKDATE)
        .next_update(start + timedelta(days=days))
        .add_extension(x509.CRLNumber(read_crl(before).number + 1), critical=False)
    )
    for entry in before:
        builder = builder.add_revoked_certificate(entry)
    flag = x509.ReasonFlags[reason.replace("-", "_")]
    for serial in sorted(serials):
        made = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(start)
        if flag is not x509.ReasonFlags.unspecified:  # omitted by RFC 5280
            made = made.add_extension(x509.CRLReason(flag), critical=False)
        builder = builder.add_revoked_certificate(made.build())
    return builder.sign(key, None)


def read_crl(crl: x509.CertificateRevocationList) -> CrlView:
    """The fields of a verified revocation list."""
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    expires = crl.next_update_utc or datetime.max.replace(tzinfo=UTC)
    return CrlView(
        number=number,
        serials=frozenset(entry.serial_number for entry in crl),
        issued_ns=datetime_ns(crl.last_update_utc),
        expires_ns=datetime_ns(expires),
    )


def crl_der(crl: x509.CertificateRevocationList) -> bytes:
    """DER bytes of a revocation list."""
    return crl.public_bytes(serialization.Encoding.DER)
