"""Provider on `cryptography` (OpenSSL): ML-DSA-87 and HPKE; always available."""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem

from ..errors import Rejected, RejectReason
from .interfaces import (
    MLKEM_PUBLIC_BYTES,
    P384_PUBLIC_BYTES,
    InvalidTag,
    PackageKey,
    PublicKey,
    SigningKey,
    VerifyKey,
)


class _OpenSslSigningKey:
    __slots__ = ("_key",)

    def __init__(self, key: mldsa.MLDSA87PrivateKey) -> None:
        self._key = key

    def sign(self, message: bytes, context: bytes) -> bytes:
        return self._key.sign(message, context)

    def public_bytes(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "SigningKey(ML-DSA-87)"


class _OpenSslVerifyKey:
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


class OpenSslPackageKey:
    """An ML-KEM-1024 key pair, hybrid where it comes with one on P-384."""

    __slots__ = ("_key", "_suite", "public")

    def __init__(self, kem: mlkem.MLKEM1024PrivateKey, curve: ec.EllipticCurvePrivateKey | None) -> None:
        self.public = kem.public_key().public_bytes_raw()
        self._key: Any = kem
        self._suite = _PURE
        if curve is not None:
            self.public += curve.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
            )
            self._key = hpke.MLKEM1024P384PrivateKey(kem, curve)
            self._suite = _HYBRID

    def open(self, sealed: bytes, info: bytes) -> bytes:
        try:
            return self._suite.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError):
            raise Rejected(RejectReason.SEED, "the sealed seed cannot be opened") from None

    def __repr__(self) -> str:
        return "PackageKey()"


class _OpenSslPublicKey:
    __slots__ = ("_key", "_suite")

    def __init__(self, hybrid: bool, public: bytes) -> None:
        try:
            # One encoding for each key: no trailing bytes, no compressed point.
            if len(public) != MLKEM_PUBLIC_BYTES + (P384_PUBLIC_BYTES if hybrid else 0):
                raise ValueError(len(public))
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
            raise Rejected(RejectReason.MALFORMED, "not an HPKE public key") from None

    def seal(self, seed: bytes, info: bytes) -> bytes:
        return self._suite.encrypt(seed, self._key, info=info)


class OpenSslProvider:
    """ML-DSA and HPKE from `cryptography`. sign, verify, seal and open release the GIL."""

    def signing_key(self, key: mldsa.MLDSA87PrivateKey) -> SigningKey:
        return _OpenSslSigningKey(key)

    def verify_key(self, public: bytes) -> VerifyKey:
        return _OpenSslVerifyKey(public)

    def package_key(self, hybrid: bool) -> PackageKey:
        kem = mlkem.MLKEM1024PrivateKey.generate()
        return OpenSslPackageKey(kem, ec.generate_private_key(ec.SECP384R1()) if hybrid else None)

    def public_key(self, hybrid: bool, public: bytes) -> PublicKey:
        return _OpenSslPublicKey(hybrid, public)
