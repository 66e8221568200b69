"""Private keys of ML-DSA-87 in files: PKCS#8 PEM, encrypted where a passphrase was given."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa

from ..errors import KeyEncrypted, KeystoreError
from .file_access import ReadableByOthers, read_regular

MAX_PASSPHRASE: Final = 1023  # bytes; OpenSSL takes no more
MAX_FILE: Final = 1_048_576  # bytes
_ENCRYPTED: Final = b"BEGIN ENCRYPTED PRIVATE KEY"


def check_passphrase(passphrase: bytes | None) -> None:
    """Raises KeystoreError if the passphrase is too long."""
    if passphrase is not None and len(passphrase) > MAX_PASSPHRASE:
        raise KeystoreError(
            f"the passphrase has {len(passphrase)} bytes; allowed are at most {MAX_PASSPHRASE}."
        )


def key_pem(key: mldsa.MLDSA87PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8 PEM of a private key, encrypted with the passphrase if there is one."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def is_encrypted(path: Path) -> bool:
    """True if the key file is encrypted; False also if it cannot be read."""
    try:
        return _ENCRYPTED in read_regular(path, MAX_FILE)
    except (OSError, KeystoreError):
        return False


def read_key(path: Path, passphrase: bytes | None, remedy: str) -> mldsa.MLDSA87PrivateKey:
    """The key in a file of mode 0600. Raises KeyEncrypted without passphrase, else KeystoreError.

    `remedy` says how to get another key; it completes a sentence.
    """
    try:
        pem = read_regular(path, MAX_FILE, forbidden=0o077)
    except ReadableByOthers as error:
        raise KeystoreError(
            f"{path} can be read by others (mode {error.mode:04o}); run `chmod 600 {path}`, "
            "and if others may have read it, revoke this key and make a new one."
        ) from None
    except FileNotFoundError:
        raise KeystoreError(f"{path} is missing; copy it here with mode 0600, or {remedy}.") from None
    encrypted = _ENCRYPTED in pem
    if encrypted and not passphrase:
        raise KeyEncrypted(f"{path} is encrypted; give its passphrase.")
    try:
        key = serialization.load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        hint = "the passphrase is wrong" if encrypted else f"it is no PKCS#8 key: restore it, or {remedy}"
        raise KeystoreError(f"{path}: cannot open the key, {hint}.") from None
    if not isinstance(key, mldsa.MLDSA87PrivateKey):
        raise KeystoreError(f"{path} is not an ML-DSA-87 key; restore it, or {remedy}.")
    return key
