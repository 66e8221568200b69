"""Cipher suites: the named sets of algorithms; providers.py selects the library.

Not handled here: wiping key material, which Python cannot guarantee; objects are dropped as early as
possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import Rejected, RejectReason
from ..wire import TAG_BYTES
from .interfaces import (
    AESGCM,
    AESGCMSIV,
    HASH_BYTES,
    MLKEM_CIPHERTEXT_BYTES,
    MLKEM_PUBLIC_BYTES,
    P384_PUBLIC_BYTES,
    SEED_BYTES,
    InvalidTag,
    PackageKey,
    PublicKey,
    SigningKey,
    VerifyKey,
    digest,
    expand,
    extract,
)
from .providers import provider

__all__ = [
    "AESGCM",
    "AESGCMSIV",
    "HASH_BYTES",
    "MLKEM_PUBLIC_BYTES",
    "P384_PUBLIC_BYTES",
    "SEED_BYTES",
    "SUITES",
    "InvalidTag",
    "PackageKey",
    "PublicKey",
    "SigningKey",
    "Suite",
    "VerifyKey",
    "digest",
    "expand",
    "extract",
    "suite_named",
]


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher suite; the policy fixes it, nothing is negotiated."""

    name: str
    hybrid: bool
    package_public_bytes: int
    sealed_seed_bytes: int

    def package_key(self) -> PackageKey:
        """A fresh ephemeral key for one epoch."""
        return provider().package_key(self.hybrid)

    def public_key(self, public: bytes) -> PublicKey:
        """A member's public key, parsed. Raises Rejected(MALFORMED)."""
        if len(public) != self.package_public_bytes:
            raise Rejected(RejectReason.MALFORMED, f"HPKE public key of {len(public)} bytes")
        return provider().public_key(self.hybrid, public)


_SEALED_BYTES: Final = MLKEM_CIPHERTEXT_BYTES + SEED_BYTES + TAG_BYTES
SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite("CHIMERA-1", True, MLKEM_PUBLIC_BYTES + P384_PUBLIC_BYTES, P384_PUBLIC_BYTES + _SEALED_BYTES),
        Suite("CHIMERA-1-CNSA", False, MLKEM_PUBLIC_BYTES, _SEALED_BYTES),
    )
}


def suite_named(name: str) -> Suite:
    """The suite of that name. Raises KeyError."""
    return SUITES[name]
