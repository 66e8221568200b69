"""Keystore watch: detects that revocation list or policy were replaced while a process runs.

The shell calls `poll` periodically. Files are read once they are unchanged for two polls, so that a
replacement in progress is not reported as damage. They are returned as bytes; the caller verifies them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ..errors import KeystoreError
from ..trust.identity import Trust
from ..trust.signed_documents import MAX_DOCUMENT, TrustFiles
from .file_access import read_regular

_NAMES: Final = ("authority.pem", "crl.pem", "policy.yaml", "policy.sig")
_Stamp = tuple[int, int, int] | None


class KeystoreWatch:
    """Watch of one keystore directory. `trust` is what the process was started with."""

    def __init__(self, path: str | os.PathLike[str], trust: Trust) -> None:
        self._path = Path(path)
        self._authority = trust.authority
        self._seen = self._stamps()
        self._settled = self._seen

    def poll(self) -> TrustFiles | None:
        """The files, once after each change, else None.

        Raises KeystoreError, once per change, if they cannot be read or are another authority's.
        """
        stamps = self._stamps()
        if stamps != self._seen:
            self._seen = stamps  # may still be in progress
            return None
        if stamps == self._settled:
            return None
        self._settled = stamps
        if self._certificate() != self._authority:
            raise KeystoreError(
                f"{self._path} was replaced by the keystore of another authority; this process goes on with "
                "what it has loaded. Restart it to use the other one, or restore the files."
            )
        try:
            crl = x509.load_pem_x509_crl(self._read("crl.pem"))
        except ValueError:
            raise KeystoreError(
                f"{self._path / 'crl.pem'} is no revocation list; the former stays in force. Restore it."
            ) from None
        return TrustFiles(
            crl.public_bytes(serialization.Encoding.DER), self._read("policy.yaml"), self._read("policy.sig")
        )

    def _stamps(self) -> tuple[_Stamp, ...]:
        found: list[_Stamp] = []
        for name in _NAMES:
            try:
                status = (self._path / name).stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def _certificate(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read("authority.pem"))
        except ValueError:
            raise KeystoreError(
                f"{self._path / 'authority.pem'} is no certificate; this process goes on. Restore it."
            ) from None

    def _read(self, name: str) -> bytes:
        path = self._path / name
        try:
            return read_regular(path, 2 * MAX_DOCUMENT)
        except FileNotFoundError as error:
            raise KeystoreError(
                f"{path}: cannot read ({error.strerror}); this process goes on with what it has loaded."
            ) from None
        except KeystoreError as error:
            raise KeystoreError(f"{error} This process goes on with what it has loaded.") from None
