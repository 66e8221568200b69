"""Provider on liboqs: ML-DSA-87 and ML-KEM-1024, where its shared library is installed.

Importing `oqs` without that library would download and build one, so the library is searched first, in the
paths that `oqs` searches. What liboqs does not implement is OpenSSL's: HPKE with the hybrid KEM
MLKEM1024-P384, certificates.

Key files hold the 32-byte seed of FIPS 204; liboqs signs with the expanded key and has no function that
expands a seed. Its key generation draws exactly that seed from its random number generator, which can be
replaced by public API: for one call, and in the calling thread only, the generator returns the seed. The
resulting public key must be the seed's, else the key is refused.

HPKE with pure ML-KEM-1024 is RFC 9180's base mode over liboqs's encapsulation (draft-ietf-hpke-pq), with the
same bytes as OpenSSL's. Expanded keys are overwritten when their object is deleted.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import logging
import os
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from threading import Lock, get_ident
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ..errors import ProviderError, Rejected, RejectReason
from ..wire import SIGNATURE_BYTES
from . import labels
from .interfaces import (
    AESGCM,
    MLKEM_CIPHERTEXT_BYTES,
    MLKEM_PUBLIC_BYTES,
    SIGNING_PUBLIC_BYTES,
    InvalidTag,
    PackageKey,
    PublicKey,
    SigningKey,
    VerifyKey,
)
from .openssl import OpenSslProvider

SIGNATURE: Final = "ML-DSA-87"
KEM: Final = "ML-KEM-1024"
_NEEDED: Final = (
    "OQS_SIG_sign_with_ctx_str",
    "OQS_SIG_verify_with_ctx_str",
    "OQS_randombytes_custom_algorithm",
)


# Search for the library -----------------------------------------------------------------------------------


def _candidates() -> Iterator[str]:
    """Paths and names that `oqs` searches, cheapest first."""
    try:
        root = (
            Path(os.environ["OQS_INSTALL_PATH"]) if "OQS_INSTALL_PATH" in os.environ else Path.home() / "_oqs"
        )
    except RuntimeError:  # no home directory
        root = Path("/nonexistent")
    for folder in ("lib", "lib64"):
        path = root.absolute() / folder / "liboqs.so"
        if path.is_file():
            yield str(path)
    for name in ("oqs", "liboqs"):
        found = ctypes.util.find_library(name)
        if found:
            yield found


def find_library() -> str | None:
    """Path or name of a liboqs library that can be loaded, or None."""
    for name in _candidates():
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


def load() -> tuple[LiboqsProvider, str]:
    """The tested provider and its description. Raises ProviderError with a phrase about what is missing."""
    if importlib.util.find_spec("oqs") is None:
        raise ProviderError("liboqs-python is not installed")
    library = find_library()
    if library is None:
        raise ProviderError("liboqs-python is installed, but no liboqs library was found")
    oqs = _import()
    try:
        native, version = oqs.native(), oqs.oqs_version()
        signatures, kems = oqs.get_enabled_sig_mechanisms(), oqs.get_enabled_kem_mechanisms()
    except Exception as error:  # another package of that name, or another version of this one
        raise ProviderError(f"the package oqs is not the liboqs-python that is needed ({error})") from None
    missing = [name for name in _NEEDED if not hasattr(native, name)]
    if missing:
        raise ProviderError(f"liboqs {version} is too old: it has no {missing[0]}")
    for name, enabled in ((SIGNATURE, signatures), (KEM, kems)):
        if name not in enabled:
            raise ProviderError(f"liboqs {version} was built without {name}")
    try:
        provider = LiboqsProvider(oqs)
        self_test(provider)
    except Exception as error:  # whatever the cause, this library is not used
        raise ProviderError(f"liboqs {version} failed its self test ({error})") from None
    # The one that `oqs` has loaded: with several installed its search order differs.
    return provider, f"liboqs {version} from {getattr(native, '_name', library)}"


def _import() -> Any:
    """Imports `oqs` without letting it write to standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            # Wrapper and library may differ in version: the self test decides.
            warnings.simplefilter("ignore")
            import oqs
    except (Exception, SystemExit) as error:
        raise ProviderError(f"liboqs-python cannot be imported ({error})") from None
    finally:
        logging.disable(before)
    logging.getLogger("oqs.oqs").setLevel(logging.WARNING)
    return oqs


def self_test(provider: LiboqsProvider) -> None:
    """liboqs and OpenSSL must accept each other's output. Raises ProviderError."""
    message, context, info = b"self test", labels.SIGN_SELF_TEST, b"info"
    key = mldsa.MLDSA87PrivateKey.generate()
    public = key.public_key()
    signature = provider.signing_key(key).sign(message, context)
    public.verify(signature, message, context)
    verifier = provider.verify_key(public.public_bytes_raw())
    signature = key.sign(message, context)
    accepted = verifier.verify(signature, message, context)
    if not accepted or verifier.verify(signature, message, context + b"!"):
        raise ProviderError("signatures disagree")
    other = OpenSslProvider()
    for one, two in ((provider, other), (other, provider)):
        package = one.package_key(hybrid=False)
        if package.open(two.public_key(False, package.public).seal(message, info), info) != message:
            raise ProviderError("HPKE disagrees")


# Signatures ----------------------------------------------------------------------------------------------


class _SeedFeed:
    """Random number generator for liboqs: a given seed in one thread, system randomness in the others."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self._lock = Lock()
        self._assigned: tuple[int, bytes] | None = None  # thread, seed
        self._drawn = 0
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
        # Never freed: another thread may be about to call it when it is replaced.
        self._callback = prototype(self._fill)

    def _fill(self, target: int, size: int) -> None:
        assigned = self._assigned
        if assigned is not None and assigned[0] == get_ident() and size == len(assigned[1]):
            self._drawn += 1
            ctypes.memmove(target, assigned[1], size)
        else:
            ctypes.memmove(target, os.urandom(size), size)

    def generate(self, signer: Any, seed: bytes) -> bytes:
        """Makes `signer` generate the key pair of `seed`; returns the public key. Raises ProviderError."""
        with self._lock:
            self._assigned, self._drawn = (get_ident(), seed), 0
            self._native.OQS_randombytes_custom_algorithm(self._callback)
            try:
                public: bytes = signer.generate_keypair()
            finally:
                restored = self._native.OQS_randombytes_switch_algorithm(b"system")
                self._assigned = None
            if restored != 0:
                raise ProviderError("liboqs has no system random number generator")
            if self._drawn != 1:
                raise ProviderError(f"key generation drew {self._drawn} seeds instead of one")
            return public


class _LiboqsSigningKey:
    __slots__ = ("__weakref__", "_public", "_signer")

    def __init__(self, oqs: Any, feed: _SeedFeed, key: mldsa.MLDSA87PrivateKey) -> None:
        self._signer = oqs.Signature(SIGNATURE)
        weakref.finalize(self, self._signer.free)  # overwrites the expanded key
        self._public = feed.generate(self._signer, key.private_bytes_raw())
        if self._public != key.public_key().public_bytes_raw():
            raise ProviderError("liboqs expands the seed to another key")

    def sign(self, message: bytes, context: bytes) -> bytes:
        signature: bytes = self._signer.sign_with_ctx_str(message, context)
        return signature

    def public_bytes(self) -> bytes:
        return self._public

    def __repr__(self) -> str:
        return "SigningKey(ML-DSA-87)"


class _LiboqsVerifyKey:
    __slots__ = ("_public", "_verifier")

    def __init__(self, verifier: Any, public: bytes) -> None:
        if len(public) != SIGNING_PUBLIC_BYTES:
            raise ValueError(f"an ML-DSA-87 public key of {len(public)} bytes")
        self._verifier = verifier
        self._public = public

    def verify(self, signature: bytes, message: bytes, context: bytes) -> bool:
        if len(signature) != SIGNATURE_BYTES or len(context) > 255:
            return False
        valid: bool = self._verifier.verify_with_ctx_str(
            bytes(message), bytes(signature), context, self._public
        )
        return valid


# HPKE, base mode, single shot (RFC 9180, 5.1 and 6.1) with ML-KEM-1024, HKDF-SHA512, AES-256-GCM ------------

_SUITE_ID: Final = b"HPKE" + bytes.fromhex("0042 0003 0002")
_LABELED: Final = b"HPKE-v1" + _SUITE_ID
_KEY_LABEL: Final = b"\x00\x20" + _LABELED + b"key"
_NONCE_LABEL: Final = b"\x00\x0c" + _LABELED + b"base_nonce"


def _extract(salt: bytes, label: bytes, key_material: bytes) -> bytes:
    return HKDF.extract(hashes.SHA512(), salt, _LABELED + label + key_material)


_NO_SALT: Final = bytes(64)  # RFC 5869 replaces an empty salt by this
_CONTEXT: Final = b"\x00" + _extract(_NO_SALT, b"psk_id_hash", b"")  # mode base, no pre-shared key


def _key_schedule(shared_secret: bytes, info: bytes) -> tuple[AESGCM, bytes]:
    context = _CONTEXT + _extract(_NO_SALT, b"info_hash", info)
    secret = _extract(shared_secret, b"secret", b"")
    key = HKDFExpand(hashes.SHA512(), 32, _KEY_LABEL + context).derive(secret)
    nonce = HKDFExpand(hashes.SHA512(), 12, _NONCE_LABEL + context).derive(secret)
    return AESGCM(key), nonce


class _LiboqsPackageKey:
    __slots__ = ("__weakref__", "_kem", "public")

    def __init__(self, oqs: Any) -> None:
        self._kem = oqs.KeyEncapsulation(KEM)
        weakref.finalize(self, self._kem.free)  # overwrites the private key
        self.public: bytes = self._kem.generate_keypair()

    def open(self, sealed: bytes, info: bytes) -> bytes:
        if len(sealed) < MLKEM_CIPHERTEXT_BYTES:
            raise Rejected(RejectReason.SEED, "the sealed seed is truncated")
        try:
            shared_secret = self._kem.decap_secret(bytes(sealed[:MLKEM_CIPHERTEXT_BYTES]))
            aead, nonce = _key_schedule(shared_secret, info)
            return aead.decrypt(nonce, sealed[MLKEM_CIPHERTEXT_BYTES:], None)
        except (InvalidTag, RuntimeError):  # RuntimeError: liboqs failed
            raise Rejected(RejectReason.SEED, "the sealed seed cannot be opened") from None

    def __repr__(self) -> str:
        return "PackageKey()"


class _LiboqsPublicKey:
    __slots__ = ("_kem", "_public")

    def __init__(self, kem: Any, public: bytes) -> None:
        try:
            if len(public) != MLKEM_PUBLIC_BYTES:
                raise ValueError(len(public))
            # liboqs applies the modulus check of FIPS 203 only on use; an invalid key must be rejected now,
            # because it would fail the next announcement.
            kem.encap_secret(public)
        except (RuntimeError, ValueError):
            raise Rejected(RejectReason.MALFORMED, "not an HPKE public key") from None
        self._kem = kem
        self._public = public

    def seal(self, seed: bytes, info: bytes) -> bytes:
        ciphertext, shared_secret = self._kem.encap_secret(self._public)
        aead, nonce = _key_schedule(shared_secret, info)
        sealed: bytes = ciphertext + aead.encrypt(nonce, seed, None)
        return sealed


class LiboqsProvider:
    """ML-DSA-87 and HPKE with ML-KEM-1024 from liboqs; the hybrid KEM from OpenSSL. Releases the GIL."""

    def __init__(self, oqs: Any) -> None:
        """`oqs` is the imported package."""
        self._oqs = oqs
        self._feed = _SeedFeed(oqs.native())
        # Without key and stateless: one of each serves all threads.
        self._verifier = oqs.Signature(SIGNATURE)
        self._kem = oqs.KeyEncapsulation(KEM)
        self._openssl = OpenSslProvider()

    def signing_key(self, key: mldsa.MLDSA87PrivateKey) -> SigningKey:
        return _LiboqsSigningKey(self._oqs, self._feed, key)

    def verify_key(self, public: bytes) -> VerifyKey:
        return _LiboqsVerifyKey(self._verifier, public)

    def package_key(self, hybrid: bool) -> PackageKey:
        return self._openssl.package_key(True) if hybrid else _LiboqsPackageKey(self._oqs)

    def public_key(self, hybrid: bool, public: bytes) -> PublicKey:
        return self._openssl.public_key(True, public) if hybrid else _LiboqsPublicKey(self._kem, public)
