"""Atomic, durable file replacement: temporary file, fsync, rename, fsync of the directory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from .file_access import write_error

PUBLIC_MODE: Final = 0o644
SECRET_MODE: Final = 0o600


def write_atomic(path: Path, data: bytes, mode: int, durable: bool = True) -> None:
    """Replaces `path` atomically by `data`; no reader sees a partial file. Raises KeystoreError."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                os.fchmod(file.fileno(), mode)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        raise write_error(path, error) from None


def replace_durably(source: Path, target: Path, durable: bool = True) -> None:
    """Renames `source` to `target` atomically. Raises KeystoreError."""
    try:
        os.replace(source, target)
        if durable:
            _sync_directory(target.parent)
    except OSError as error:
        raise write_error(target, error) from None


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
