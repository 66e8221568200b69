"""Signed totals of a drone's flight, committed to the roots of the checkpoints they were computed from.

What a statement shows: its signer declares that the drone's telemetry, exactly that which the listed roots
commit to and the signer received, gives these totals. Who has the record can compute them again. Who has not
believes the signer; they can check that the drone itself signed each listed root as soon as they are shown
the checkpoint, and that two statements about one flight name the same roots. It does not show that the drone
told the truth about where it was, nor anything about packets that the signer never received: their number
stands in the statement.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509

from . import labels
from .disclosure import DisclosureError, bytes_of
from .identity import CertificateError, CertifiedMember, MemberIdentity, check_issuer, read_member_certificate
from .wire import SIGNATURE_BYTES

FORMAT: Final = "chimera-totals-1"
MAX_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SignedTotals:
    """A statement (JSON object of texts, whole numbers and lists), who signed it, and the signature."""

    statement: Mapping[str, Any]
    certificate_der: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def check(self, authority: x509.Certificate) -> CertifiedMember:
        """The member who signed the statement. Raises DisclosureError."""
        try:
            member = read_member_certificate(self.certificate_der)
            check_issuer(self.certificate_der, authority)
        except CertificateError as error:
            raise DisclosureError(f"the signer's certificate {error.fault.value}") from None
        if (self.statement.get("swarm"), self.statement.get("signer")) != (member.swarm, member.name):
            raise DisclosureError(
                f"the statement does not name {member.name} of {member.swarm} as its signer"
            )
        if not member.verify(self.signature, canonical(self.statement), labels.SIGN_TOTALS):
            raise DisclosureError(f"the statement does not bear {member.name}'s signature")
        return member

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "statement": dict(self.statement),
            "certificate": base64.b64encode(self.certificate_der).decode(),
            "signature": base64.b64encode(self.signature).decode(),
        }


def canonical(statement: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: JSON with sorted keys, no spaces, ASCII, whole numbers only.

    Raises DisclosureError for anything else.
    """
    _check(statement, 0)
    return json.dumps(statement, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _check(value: object, depth: int) -> None:
    if depth > 6 or isinstance(value, bool):
        raise DisclosureError("a statement holds texts, whole numbers, lists and objects only")
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise DisclosureError("a statement's names are texts")
            _check(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, depth + 1)
    elif not isinstance(value, str | int):
        raise DisclosureError("a statement holds texts, whole numbers, lists and objects only")


def sign_totals(identity: MemberIdentity, statement: Mapping[str, Any]) -> SignedTotals:
    """The statement, completed by format, swarm and signer, and signed."""
    whole = {**statement, "format": FORMAT, "swarm": identity.swarm, "signer": identity.name}
    return SignedTotals(whole, identity.certificate_der, identity.sign(canonical(whole), labels.SIGN_TOTALS))


def read_totals(value: object) -> SignedTotals:
    """Signed totals from parsed JSON. Raises DisclosureError."""
    statement = value.get("statement") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(statement, Mapping):
        raise DisclosureError("this holds no statement")
    if statement.get("format") != FORMAT:
        raise DisclosureError(f"this holds no totals: `format` must be {FORMAT}")
    return SignedTotals(
        statement,
        bytes_of(value.get("certificate"), "certificate", 16384),
        bytes_of(value.get("signature"), "signature", SIGNATURE_BYTES),
    )
