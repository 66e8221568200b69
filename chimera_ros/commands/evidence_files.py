"""Files of the evidence commands: the authority's certificate, its revocation list, JSON documents."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509

from chimera_ros import private_files
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.keys import KEYSTORE_VARIABLE
from chimera_ros.crypto.trust.identity import CertifiedMember
from chimera_ros.formats import json_values
from chimera_ros.formats.text import FormatError, read_bytes

MAX_FILE = 16 * 1024 * 1024


def authority_of(arguments: argparse.Namespace) -> x509.Certificate:
    """The certificate that `--authority` or `--keystore` names. Raises CommandFailed."""
    folder = arguments.keystore or Path(os.environ.get(KEYSTORE_VARIABLE) or "keystore")
    path = arguments.authority or folder / "authority.pem"
    try:
        return x509.load_pem_x509_certificate(read_bytes(path, MAX_FILE))
    except OSError as error:
        raise CommandFailed(
            f"{path}: {error.strerror}; name the swarm's keystore with --keystore or its authority.pem with "
            "--authority",
            MISUSE,
        ) from error
    except FormatError as error:
        raise CommandFailed(f"{path}: {error}", MISUSE) from error
    except ValueError as error:
        raise CommandFailed(f"{path} is no certificate", MISUSE) from error


class Revocations:
    """The keystore's revocation list, if there is one that its authority has signed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._serials: frozenset[int] | None = None
        if arguments.authority is not None:
            return
        folder = arguments.keystore or Path(os.environ.get(KEYSTORE_VARIABLE) or "keystore")
        try:
            crl = x509.load_pem_x509_crl(read_bytes(folder / "crl.pem", MAX_FILE))
            if crl.is_signature_valid(authority_of(arguments).public_key()):  # type: ignore[arg-type]  # no ML-DSA
                self._serials = frozenset(entry.serial_number for entry in crl)
        except (OSError, ValueError):
            return

    @property
    def known(self) -> bool:
        """True if there is such a list."""
        return self._serials is not None

    def revoked(self, member: CertifiedMember) -> bool:
        """True if the member's certificate is on the list."""
        return self._serials is not None and member.serial in self._serials


def read_json(path: Path) -> Any:
    """A JSON file of at most 16 MiB. Raises CommandFailed."""
    try:
        return json_values.parse(read_bytes(path, MAX_FILE), MAX_FILE)
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}", MISUSE) from error
    except FormatError as error:
        raise CommandFailed(f"{path}: {error}", MISUSE) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a file atomically, for its owner alone. Raises CommandFailed."""
    try:
        private_files.write_file(path, (json.dumps(value, indent=1) + "\n").encode())
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from error
