"""Signed documents of the authority: parsing and verification of revocation list and policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa

from ..encoding import malformed
from ..errors import PolicyError, Rejected, RejectReason
from ..primitives import labels
from ..primitives.providers import provider
from .certificates import read_crl
from .identity import CrlView, Trust
from .policy import Policy, load_policy
from .policy_yaml import MAX_DOCUMENT as MAX_DOCUMENT


class Document(IntEnum):
    """Kind of document in a TrustUpdate."""

    CRL = 1
    POLICY = 2


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """The documents as bytes: revocation list (DER), policy (YAML), and the authority's signature over it."""

    crl_der: bytes
    policy_text: bytes
    policy_signature: bytes


def read_signed_crl(der: bytes, authority: x509.Certificate) -> CrlView:
    """A verified revocation list of this authority. Raises Rejected(SIZE, MALFORMED or SIGNATURE)."""
    if len(der) > MAX_DOCUMENT:
        raise Rejected(RejectReason.SIZE, f"revocation list of {len(der)} bytes, at most {MAX_DOCUMENT}")
    try:
        crl = x509.load_der_x509_crl(der)
        key: Any = authority.public_key()  # the type stubs lack ML-DSA here
        valid = crl.issuer == authority.subject and crl.is_signature_valid(key)
        view = read_crl(crl) if valid else None
    except Exception:  # the parser raises many types on malformed input
        raise malformed("not a revocation list") from None
    if view is None:
        raise Rejected(RejectReason.SIGNATURE, "the revocation list is not of this swarm's authority")
    return view


def read_signed_policy(text: bytes, signature: bytes, trust: Trust) -> Policy:
    """A verified policy of this authority for the same swarm and suite.

    Raises Rejected(SIZE, SIGNATURE, MALFORMED, SWARM or SUITE).
    """
    if len(text) > MAX_DOCUMENT:
        raise Rejected(RejectReason.SIZE, f"policy of {len(text)} bytes, at most {MAX_DOCUMENT}")
    public = trust.authority.public_key()
    assert isinstance(public, mldsa.MLDSA87PublicKey)
    if not provider().verify_key(public.public_bytes_raw()).verify(signature, text, labels.SIGN_POLICY):
        raise Rejected(RejectReason.SIGNATURE, "the policy is not signed by this swarm's authority")
    try:
        policy = load_policy(text)
    except PolicyError as error:
        raise malformed(str(error)) from None
    if policy.swarm != trust.swarm:
        raise Rejected(RejectReason.SWARM, policy.swarm)
    if policy.suite != trust.policy.suite:
        raise Rejected(
            RejectReason.SUITE, f"{policy.suite}: another suite needs a restart of the whole swarm"
        )
    return policy
