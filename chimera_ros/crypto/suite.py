"""The primitives, behind small typed interfaces so that a second provider can stand in.

`OpenSslProvider` uses `cryptography`. Nothing here is a new primitive: ML-DSA-87 (FIPS 204), ML-KEM-1024
(FIPS 203), HPKE single shot (RFC 9180) with MLKEM1024-P384 or pure ML-KEM-1024, HKDF-SHA3-512 (RFC 5869),
AES-256-GCM (SP 800-38D), BLAKE3-256.

Not handled here: wiping key material. Python cannot promise it; the objects are dropped as early as possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from .errors import Rejected
from .reasons import Reason

HASH_BYTES: Final = 32
SEED_BYTES: Final = 64
MLKEM_PUBLIC_BYTES: Final = 1568
P384_PUBLIC_BYTES: Final = 97

__all__ = [
    "AESGCM",
    "InvalidTag",
    "OpenSslProvider",
    "PackageKey",
    "Provider",
    "PublicKey",
    "SigningKey",
    "Suite",
    "VerifyKey",
    "digest",
    "expand",
    "extract",
    "suite_named",
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
        """True when the signature is good; never raises on bad input."""
        ...


class PackageKey(Protocol):
    """An ephemeral HPKE private key; it opens the seed of one epoch."""

    public: bytes

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """The sealed seed. Raises Rejected(SEED)."""
        ...


class PublicKey(Protocol):
    """The public half of a PackageKey, parsed and ready to seal to."""

    def seal(self, seed: bytes, info: bytes) -> bytes:
        """`seed` sealed so that only the owner of the package opens it."""
        ...


class Provider(Protocol):
    """Where signatures and HPKE come from. A faster library is a second class with these four methods."""

    def signing_key(self, key: mldsa.MLDSA87PrivateKey) -> SigningKey: ...
    def verify_key(self, public: bytes) -> VerifyKey: ...
    def package_key(self, hybrid: bool) -> PackageKey: ...
    def public_key(self, hybrid: bool, public: bytes) -> PublicKey: ...


class _SigningKey:
    __slots__ = ("_key",)

    def __init__(self, key: mldsa.MLDSA87PrivateKey) -> None:
        self._key = key

    def sign(self, message: bytes, context: bytes) -> bytes:
        return self._key.sign(message, context)

    def public_bytes(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "SigningKey(ML-DSA-87)"


class _VerifyKey:
    __slots__ = ("_key",)

    def __init__(self, public: bytes) -> None:
        self._key = mldsa.MLDSA87PublicKey.from_public_bytes(public)

    def verify(self, signature: bytes, message: bytes, context: bytes) -> bool:
        try:
            self._key.verify(signature, message, context)
        except (InvalidSignature, ValueError):
            return False
        return True


_HYBRID: Final = hpke.Suite(hpke.KEM.MLKEM1024_P384, hpke.KDF.HKDF_SHA512, hpke.AEAD.AES_256_GCM)
_PURE: Final = hpke.Suite(hpke.KEM.MLKEM1024, hpke.KDF.HKDF_SHA512, hpke.AEAD.AES_256_GCM)


class _PackageKey:
    __slots__ = ("_key", "_suite", "public")

    def __init__(self, hybrid: bool) -> None:
        kem = mlkem.MLKEM1024PrivateKey.generate()
        self.public = kem.public_key().public_bytes_raw()
        self._key: Any = kem
        self._suite = _PURE
        if hybrid:
            curve = ec.generate_private_key(ec.SECP384R1())
            self.public += curve.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            self._key = hpke.MLKEM1024P384PrivateKey(kem, curve)
            self._suite = _HYBRID

    def open(self, sealed: bytes, info: bytes) -> bytes:
        try:
            return self._suite.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError):
            raise Rejected(Reason.SEED, "the sealed seed does not open") from None

    def __repr__(self) -> str:
        return "PackageKey()"


class _PublicKey:
    __slots__ = ("_key", "_suite")

    def __init__(self, hybrid: bool, public: bytes) -> None:
        try:
            kem = mlkem.MLKEM1024PublicKey.from_public_bytes(public[:MLKEM_PUBLIC_BYTES])
            self._key: Any = kem
            self._suite = _PURE
            if hybrid:
                curve = ec.EllipticCurvePublicKey.from_encoded_point(
                    ec.SECP384R1(), public[MLKEM_PUBLIC_BYTES:]
                )
                self._key = hpke.MLKEM1024P384PublicKey(kem, curve)
                self._suite = _HYBRID
        except ValueError:
            raise Rejected(Reason.MALFORMED, "not an HPKE public key") from None

    def seal(self, seed: bytes, info: bytes) -> bytes:
        return self._suite.encrypt(seed, self._key, info=info)


class OpenSslProvider:
    """ML-DSA and HPKE from `cryptography`. sign, verify, seal and open release the GIL."""

    def signing_key(self, key: mldsa.MLDSA87PrivateKey) -> SigningKey:
        return _SigningKey(key)

    def verify_key(self, public: bytes) -> VerifyKey:
        return _VerifyKey(public)

    def package_key(self, hybrid: bool) -> PackageKey:
        return _PackageKey(hybrid)

    def public_key(self, hybrid: bool, public: bytes) -> PublicKey:
        return _PublicKey(hybrid, public)


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of algorithms; the policy fixes it and nothing is negotiated."""

    name: str
    hybrid: bool
    package_public_bytes: int
    sealed_seed_bytes: int
    provider: Provider

    def package_key(self) -> PackageKey:
        """A fresh ephemeral key for one epoch."""
        return self.provider.package_key(self.hybrid)

    def public_key(self, public: bytes) -> PublicKey:
        """A member's key, parsed. Raises Rejected(MALFORMED) when it is none."""
        if len(public) != self.package_public_bytes:
            raise Rejected(Reason.MALFORMED, f"HPKE public key of {len(public)} bytes")
        return self.provider.public_key(self.hybrid, public)


_OPENSSL: Final = OpenSslProvider()
_OVERHEAD: Final = SEED_BYTES + 16
SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite(
            "CHIMERA-1",
            True,
            MLKEM_PUBLIC_BYTES + P384_PUBLIC_BYTES,
            MLKEM_PUBLIC_BYTES + P384_PUBLIC_BYTES + _OVERHEAD,
            _OPENSSL,
        ),
        Suite("CHIMERA-1-CNSA", False, MLKEM_PUBLIC_BYTES, MLKEM_PUBLIC_BYTES + _OVERHEAD, _OPENSSL),
    )
}


def suite_named(name: str) -> Suite:
    """The suite of that name. Raises KeyError."""
    return SUITES[name]


def openssl() -> OpenSslProvider:
    """The provider that is always there."""
    return _OPENSSL
