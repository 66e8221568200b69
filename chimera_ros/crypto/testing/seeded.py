"""Seeded randomness for simulations: independent streams, and the keys that are derived from them.

Not reproducible, because the library draws it: the randomness of ML-DSA signatures (hedged, FIPS 204) and of
HPKE encapsulations. Certificates contain a signature, so fingerprints and transcript hashes differ between
two runs of one seed; no decision may depend on their values or on their order.

Not for anything but simulations: production code draws from `os.urandom` and from its crypto library, and has
no parameter for a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, mldsa, mlkem

from ..member.member import Member
from ..primitives import providers
from ..primitives.interfaces import PackageKey, PublicKey, SigningKey, VerifyKey
from ..primitives.openssl import OpenSslPackageKey, OpenSslProvider
from ..primitives.suite import Suite

Draw = Callable[[int], bytes]

# Order of the group of P-384, FIPS 186-5 and SP 800-186.
_P384_ORDER: Final = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


def stream(seed: int | str, purpose: str) -> Draw:
    """Bytes for one purpose: what another purpose draws does not change them."""
    return random.Random(f"{seed}/{purpose}").randbytes


def signing_key(draw: Draw) -> mldsa.MLDSA87PrivateKey:
    """An ML-DSA-87 key pair."""
    return mldsa.MLDSA87PrivateKey.from_seed_bytes(draw(32))


def serial_number(draw: Draw) -> int:
    """A certificate's serial number of at most 159 bits (RFC 5280)."""
    return int.from_bytes(draw(20)) >> 1


class SeededProvider:
    """OpenSSL's primitives with package keys from a stream."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._openssl = OpenSslProvider()

    def signing_key(self, key: mldsa.MLDSA87PrivateKey) -> SigningKey:
        return self._openssl.signing_key(key)

    def verify_key(self, public: bytes) -> VerifyKey:
        return self._openssl.verify_key(public)

    def package_key(self, hybrid: bool) -> PackageKey:
        kem = mlkem.MLKEM1024PrivateKey.from_seed_bytes(self._draw(64))
        if not hybrid:
            return OpenSslPackageKey(kem, None)
        # 64 bits more than the order has (FIPS 186-5, A.2.1).
        scalar = 1 + int.from_bytes(self._draw(56)) % (_P384_ORDER - 1)
        return OpenSslPackageKey(kem, ec.derive_private_key(scalar, ec.SECP384R1()))

    def public_key(self, hybrid: bool, public: bytes) -> PublicKey:
        return self._openssl.public_key(hybrid, public)


@dataclass(frozen=True, slots=True)
class _SeededSuite(Suite):
    """A suite whose package keys come from a seeded provider, while OpenSSL is the provider in force."""

    provider: SeededProvider

    def package_key(self) -> PackageKey:
        if providers.current().name != "openssl":
            return super(_SeededSuite, self).package_key()
        return self.provider.package_key(self.hybrid)


def seed_package_keys(members: Iterable[Member], draw: Draw) -> None:
    """Lets these members draw their package keys from a stream."""
    provider = SeededProvider(draw)
    for member in members:
        suite = member._suite
        member._suite = _SeededSuite(
            suite.name, suite.hybrid, suite.package_public_bytes, suite.sealed_seed_bytes, provider
        )
