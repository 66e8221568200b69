"""Passphrase of encrypted member keys: from a file, a credential of systemd, or the terminal.

It is never taken from a command line or from an environment variable, both of which other processes can see.
A service manager gives it as the credential `chimera_key_passphrase`, which systemd can decrypt with a TPM 2
(`systemd-creds encrypt --with-key=tpm2`); nothing here talks to a TPM itself.

Not handled: one passphrase per member; wiping it from memory, which Python cannot promise.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from chimera_ros.formats.text import FormatError, plain_text
from chimera_ros.terminal.lines import ask_secret

CREDENTIAL: Final = "chimera_key_passphrase"
CREDENTIALS_DIRECTORY: Final = "CREDENTIALS_DIRECTORY"  # set by systemd for a service with credentials
OPTION_HELP: Final = "first line decrypts the members' keys (default: credential of systemd, or the terminal)"
MAX_FILE: Final = 65536  # bytes
_INHERITED: Final = "/proc/self/fd/"


class PassphraseError(Exception):
    """No passphrase can be had; the text is one sentence that names the remedy."""


def read_file(path: Path, forbidden: int = 0o077) -> bytes:
    """The first line of a file or pipe. Raises PassphraseError.

    forbidden: bits of its mode that are refused.
    """
    try:
        # A named pipe that nobody writes to must not block the start.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
                raise PassphraseError(
                    f"{path} is not a file; the passphrase is read from the first line of one"
                )
            os.set_blocking(file.fileno(), True)
            if status.st_uid not in (os.geteuid(), 0):
                raise PassphraseError(
                    f"{path} belongs to user {status.st_uid}; it must belong to this user, {os.geteuid()}"
                )
            if stat.S_IMODE(status.st_mode) & forbidden:
                raise PassphraseError(f"{path} can be read by others; run `chmod 600 {path}`")
            text = plain_text(file.read(MAX_FILE + 1), MAX_FILE)
    except OSError as error:
        raise PassphraseError(f"{path}: cannot read the passphrase ({error.strerror})") from None
    except FormatError as error:
        raise PassphraseError(f"{path}: {error}") from None
    passphrase = text.partition("\n")[0]
    if not passphrase:
        raise PassphraseError(f"the first line of {path} is empty; it must hold the passphrase")
    return passphrase.encode()


def find(file: str | Path, environ: Mapping[str, str] | None = None) -> bytes | None:
    """The passphrase in `file` unless that is empty, else that of systemd; None if there is neither.

    Raises PassphraseError.
    """
    if str(file):
        return read_file(Path(file))
    folder = (os.environ if environ is None else environ).get(CREDENTIALS_DIRECTORY, "")
    path = Path(folder) / CREDENTIAL
    if not folder or not os.path.lexists(path):
        return None
    # The group's bits of a credential are the mask of its access control list, which names the user.
    return read_file(path, forbidden=0o007)


def ask(prompt: str) -> bytes:
    """Asks on the terminal. Raises PassphraseError where there is none, or nothing was typed."""
    if not sys.stdin.isatty():
        raise PassphraseError(
            "a member's key is encrypted and this is no terminal to ask for its passphrase; give "
            f"--key-passphrase-file FILE, or the credential {CREDENTIAL} of systemd"
        )
    try:
        passphrase = os.fsencode(ask_secret(prompt))
    except EOFError:
        passphrase = b""
    if not passphrase:
        raise PassphraseError("no passphrase was given")
    return passphrase


def as_inherited_file(passphrase: bytes) -> Path:
    """A file in memory without name, for processes that get its descriptor (`inherited`)."""
    handle = os.memfd_create("passphrase", os.MFD_CLOEXEC)
    os.fchmod(handle, 0o600)
    os.write(handle, passphrase + b"\n")
    return Path(f"{_INHERITED}{handle}")


def inherited(file: str | Path) -> tuple[int, ...]:
    """Descriptors that a child needs to read this file: that of `as_inherited_file`, or none."""
    number = str(file).removeprefix(_INHERITED)
    return (int(number),) if number != str(file) and number.isdecimal() else ()
