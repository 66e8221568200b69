"""Hash, key derivation and lengths, and the interfaces of a provider of primitives.

HKDF-SHA3-512 (RFC 5869), AES-256-GCM (SP 800-38D) and BLAKE3-256 have one implementation each; ML-DSA-87
(FIPS 204) and HPKE (RFC 9180) come from the provider in use (providers.py).
"""

from __future__ import annotations

from typing import Final, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESGCMSIV
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

HASH_BYTES: Final = 32
SEED_BYTES: Final = 64
SIGNING_PUBLIC_BYTES: Final = 2592
MLKEM_PUBLIC_BYTES: Final = 1568
MLKEM_CIPHERTEXT_BYTES: Final = 1568
P384_PUBLIC_BYTES: Final = 97

__all__ = [
    "AESGCM",
    "AESGCMSIV",
    "HASH_BYTES",
    "MLKEM_CIPHERTEXT_BYTES",
    "MLKEM_PUBLIC_BYTES",
    "P384_PUBLIC_BYTES",
    "SEED_BYTES",
    "SIGNING_PUBLIC_BYTES",
    "InvalidTag",
    "PackageKey",
    "Provider",
    "PublicKey",
    "SigningKey",
    "VerifyKey",
    "digest",
    "expand",
    "extract",
]


def digest(*parts: bytes) -> bytes:
    """BLAKE3-256 of the concatenated parts."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def extract(salt: bytes, key_material: bytes) -> bytes:
    """HKDF-Extract with SHA3-512 (RFC 5869): 64 bytes."""
    return HKDF.extract(hashes.SHA3_512(), salt, key_material)


def expand(key: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA3-512 (RFC 5869)."""
    return HKDFExpand(hashes.SHA3_512(), length, info).derive(key)


class SigningKey(Protocol):
    """An ML-DSA-87 private key."""

    def sign(self, message: bytes, context: bytes) -> bytes:
        """A 4627-byte signature."""
        ...

    def public_bytes(self) -> bytes:
        """The 2592-byte public key."""
        ...


class VerifyKey(Protocol):
    """An ML-DSA-87 public key."""

    def verify(self, signature: bytes, message: bytes, context: bytes) -> bool:
        """True if the signature is valid; never raises on malformed input."""
        ...


class PackageKey(Protocol):
    """An ephemeral HPKE private key, which opens the seed of one epoch."""

    public: bytes

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The sealed seed. Raises Rejected(SEED)."""
        ...


class PublicKey(Protocol):
    """The public key of a PackageKey, parsed."""

    def seal(self, seed: bytes, info: bytes) -> bytes:
        """`seed` sealed to the owner of the key."""
        ...


class Provider(Protocol):
    """Implementation of signatures and HPKE by one library."""

    def signing_key(self, key: mldsa.MLDSA87PrivateKey) -> SigningKey: ...
    def verify_key(self, public: bytes) -> VerifyKey: ...
    def package_key(self, hybrid: bool) -> PackageKey: ...
    def public_key(self, hybrid: bool, public: bytes) -> PublicKey: ...
