"""Fallback secret: the swarm's pre-shared key in `<keystore>/fallback.key`, mode 0600, valid for 24 hours.

It is copied to every member before a flight, like the policy. The authority's key is not needed to create it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chimera_ros.formats import json_values
from chimera_ros.formats.text import FormatError

from ..errors import KeystoreError
from .atomic_file import SECRET_MODE, write_atomic
from .file_access import ReadableByOthers, read_regular

FILE_NAME: Final = "fallback.key"
SECRET_BYTES: Final = 64
LIFE_NS: Final = 24 * 3600 * 1_000_000_000
_FORMAT: Final = 1
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class FallbackSecret:
    """Pre-shared secret of 64 random bytes. `issued_ns` is ns since the Unix epoch."""

    issued_ns: int
    secret: bytes = field(repr=False)

    def valid_at(self, wall_ns: int, ahead_ns: int = 0) -> bool:
        """True if `wall_ns` is less than 24 hours after the issue and at most `ahead_ns` before it."""
        return self.issued_ns - ahead_ns <= wall_ns < self.issued_ns + LIFE_NS


def write_secret(directory: Path, secret: FallbackSecret, durable: bool = True) -> None:
    """Replaces the keystore's secret. Raises KeystoreError if it cannot be written."""
    text = json.dumps(
        {"format": _FORMAT, "issued_ns": secret.issued_ns, "secret": secret.secret.hex()}, indent=1
    )
    write_atomic(directory / FILE_NAME, text.encode(), SECRET_MODE, durable)


def read_secret(directory: Path) -> FallbackSecret | None:
    """The keystore's secret, valid or expired; None if there is none.

    Raises KeystoreError for a file that is damaged, or that group or others can access.
    """
    path = directory / FILE_NAME
    renewal = f"make a new one with `chimera keys fallback --keystore {directory}`"
    try:
        data: Any = json_values.parse(read_regular(path, _MAX_BYTES, forbidden=0o077), _MAX_BYTES)
    except ReadableByOthers as error:
        raise KeystoreError(f"{path} can be read by others (mode {error.mode:04o}); {renewal}.") from None
    except FileNotFoundError:
        return None
    except FormatError as error:
        raise KeystoreError(f"{path} is damaged ({error}); {renewal}.") from None
    try:
        issued_ns, secret = data["issued_ns"], bytes.fromhex(data["secret"])
        valid = data["format"] == _FORMAT and type(issued_ns) is int and len(secret) == SECRET_BYTES
    except (KeyError, TypeError, ValueError):
        valid = False
    if not valid or issued_ns < 0:
        raise KeystoreError(f"{path} is damaged; {renewal}.")
    return FallbackSecret(issued_ns, secret)
