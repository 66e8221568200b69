"""Signed totals: statement of a drone's flight totals with the checkpoint roots they were computed from.

The signer declares that the drone's telemetry, as committed to by the listed roots and received by the
signer, yields these totals. With the record they can be recomputed. Without it the signer has to be trusted;
given a checkpoint one can verify that the drone has signed the listed root, and two statements about one
flight can be compared by their roots. A statement does not prove that the drone reported its true position,
nor anything about packets that the signer has not received; `coverage` has their number. Only a logger or an
operator may sign, not a drone for its own flight.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509

from ..encoding import is_name
from ..messages.checkpoint import MAX_LEAVES
from ..primitives import labels
from ..trust.identity import (
    CertificateError,
    CertifiedMember,
    MemberIdentity,
    check_issuer,
    read_member_certificate,
)
from ..trust.roles import Role
from ..wire import MAX_CERTIFICATE, MAX_COUNTER, SIGNATURE_BYTES
from .disclosure import DisclosureError, bytes_of, hash_of

FORMAT: Final = "chimera-totals-1"
SIGNERS: Final = (Role.LOGGER, Role.OPERATOR)
MAX_NUMBER: Final = 2**63
MAX_NAMES: Final = 4096
NUMBERS: Final = (
    "from_ns",
    "to_ns",
    "messages",
    "unconfirmed",
    "contradicted",
    "unusable",
    "gaps",
    "distance_mm",
    "airborne_ms",
    "area_m2",
)
MAX_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SignedTotals:
    """A statement (JSON object of strings, integers and lists), its signer's certificate, the signature."""

    statement: Mapping[str, Any]
    certificate_der: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def check(self, authority: x509.Certificate) -> CertifiedMember:
        """Verifies the statement: the member that has signed it. Raises DisclosureError."""
        try:
            member = read_member_certificate(self.certificate_der)
            check_issuer(self.certificate_der, authority)
        except CertificateError as error:
            raise DisclosureError(f"the signer's certificate {error.fault.value}") from None
        if (self.statement.get("swarm"), self.statement.get("signer")) != (member.swarm, member.name):
            raise DisclosureError(
                f"the statement does not name {member.name} of {member.swarm} as its signer"
            )
        check_signer(member)
        if not member.verify(self.signature, canonical(self.statement), labels.SIGN_TOTALS):
            raise DisclosureError(f"the statement is not signed by {member.name}")
        return member

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "statement": dict(self.statement),
            "certificate": base64.b64encode(self.certificate_der).decode(),
            "signature": base64.b64encode(self.signature).decode(),
        }


def canonical(statement: Mapping[str, Any]) -> bytes:
    """The signed bytes: JSON with sorted keys, without spaces, in ASCII, integers only.

    Raises DisclosureError for other content.
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


def check_signer(member: CertifiedMember) -> None:
    """Raises DisclosureError unless the member's role may sign totals."""
    if member.role not in SIGNERS:
        raise DisclosureError(
            f"{member.name} is a {member.role}: totals are signed by a logger or an operator"
        )


@dataclass(frozen=True, slots=True)
class Coverage:
    """Packets in the listed ranges, and in the gaps between them."""

    committed: int  # packets that the signed roots commit to
    received: int  # of them, those that the totals were computed from
    between: int  # packets before the first range of an epoch, or between two


def coverage(statement: Mapping[str, Any]) -> Coverage:
    """Coverage of a statement's `roots`. The ranges of one epoch begin at 1 and are contiguous. Packets after
    the last range of an epoch, or in an epoch without one, are not visible. Raises DisclosureError.
    """
    committed = received = between = 0
    places = set()
    for entry in _list(statement.get("roots"), "roots"):
        if not isinstance(entry, Mapping):
            raise DisclosureError("`roots` must hold objects")
        place = tuple(_number(entry.get(name), name, 2**32) for name in ("epoch", "slot", "lane"))
        if place in places:
            raise DisclosureError("`roots` names a place twice")
        places.add(place)
        hash_of(entry.get("transcript_hash"), "transcript_hash")
        end = 0
        for item in _list(entry.get("ranges"), "ranges"):
            if not isinstance(item, list) or len(item) != 4:
                raise DisclosureError("a range is [first, last, received, root]")
            first, last, number = (_number(value, "ranges", MAX_COUNTER) for value in item[:3])
            hash_of(item[3], "ranges")
            if not end < first <= last < first + MAX_LEAVES or number > last - first + 1:
                raise DisclosureError(f"range {first} to {last} with {number} packets is impossible")
            committed += last - first + 1
            received += number
            between += first - end - 1
            end = last
    return Coverage(committed, received, between)


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise DisclosureError(f"`{name}` must be a list")
    return value


def _number(value: object, name: str, most: int = MAX_NUMBER) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise DisclosureError(f"`{name}` must be a whole number from 0 to {most}")
    return value


def sign_totals(identity: MemberIdentity, statement: Mapping[str, Any]) -> SignedTotals:
    """The statement with format, swarm and signer, signed."""
    check_signer(identity.member)
    whole = {**statement, "format": FORMAT, "swarm": identity.swarm, "signer": identity.name}
    return SignedTotals(whole, identity.certificate_der, identity.sign(canonical(whole), labels.SIGN_TOTALS))


def read_totals(value: object) -> SignedTotals:
    """Signed totals from parsed JSON. Raises DisclosureError."""
    statement = value.get("statement") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(statement, Mapping):
        raise DisclosureError("there is no statement")
    if statement.get("format") != FORMAT:
        raise DisclosureError(f"these are no signed totals: `format` must be {FORMAT}")
    names = _list(statement.get("drones", []), "drones")
    for name in (statement.get("member"), *names[:MAX_NAMES]):
        if not isinstance(name, str) or not is_name(name):
            raise DisclosureError("`member` and `drones` must be names")
    for name in NUMBERS:
        _number(statement.get(name), name)
    coverage(statement)
    return SignedTotals(
        statement,
        bytes_of(value.get("certificate"), "certificate", MAX_CERTIFICATE),
        bytes_of(value.get("signature"), "signature", SIGNATURE_BYTES),
    )
