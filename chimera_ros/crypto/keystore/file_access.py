"""Bounded reading of a keystore's files, and what an operating system's refusal means for its user."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from chimera_ros.formats.text import FormatError, read_bytes

from ..errors import KeystoreError


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file; a FIFO would block. Raises FileNotFoundError, else KeystoreError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise KeystoreError(f"{path} is not a file; move it away and restore the file.")
        return read_bytes(path, max_bytes)
    except FileNotFoundError:
        if path.is_symlink():
            raise KeystoreError(
                f"{path} is a symbolic link to {os.readlink(path)}, which is missing; restore that file."
            ) from None
        raise
    except FormatError as error:
        raise KeystoreError(f"{path} {error}; move it away and restore the file.") from None
    except OSError as error:
        raise read_error(path, error) from None


def read_error(path: Path, error: OSError) -> KeystoreError:
    """The exception for a failed read."""
    return KeystoreError(f"{path}: cannot read ({error.strerror}); {_remedy(path, error)}.")


def write_error(path: Path, error: OSError) -> KeystoreError:
    """The exception for a failed write."""
    return KeystoreError(f"{path}: cannot write ({error.strerror}); {_remedy(path, error)}.")


def foreign_owner(path: Path, owner: int) -> str:
    """What to do about a file or folder of another user."""
    us = os.geteuid()
    return f"it belongs to user {owner}: run this as that user, or `chown -R {us} {path}` (this is user {us})"


def own_protection(path: Path, status: os.stat_result) -> str:
    """What to do about a mode that keeps the owner from using a file or folder; empty if it does not."""
    is_folder, mode = stat.S_ISDIR(status.st_mode), stat.S_IMODE(status.st_mode)
    needed = stat.S_IRWXU if is_folder else stat.S_IRUSR | stat.S_IWUSR
    if mode & needed == needed:
        return ""
    return f"the mode of {path} is {mode:04o}: run `chmod u+{'rwx' if is_folder else 'rw'} {path}`"


def _remedy(path: Path, error: OSError) -> str:
    match error.errno:
        case errno.EROFS:
            return "mount its file system writable, or copy the keystore to one that is"
        case errno.ENOSPC | errno.EDQUOT:
            return "free space there"
        case errno.EEXIST | errno.ELOOP | errno.ENOTDIR | errno.EISDIR:
            return "move away what stands in its place"
        case errno.ENOLCK | errno.ENOTSUP:
            return "keep the keystore on a file system with locks (flock)"
        case errno.EACCES | errno.EPERM:
            return _permission(path)
        case _:
            return "check its owner, mode and file system"


def _permission(path: Path) -> str:
    """What to do about the file, its folder or a folder above: the first that can be seen and not used."""
    for found in (path, *path.parents):
        try:
            status = found.stat()
        except OSError:
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        wanted = os.X_OK if found not in (path, path.parent) else os.R_OK | os.W_OK | (os.X_OK * is_folder)
        if os.access(found, wanted, effective_ids=True):
            continue
        if status.st_uid != os.geteuid():
            if found == path:
                return foreign_owner(path, status.st_uid)
            return f"{found} belongs to user {status.st_uid}: run this as that user, or copy the keystore"
        protection = own_protection(found, status)
        if protection:
            return protection
        break
    return f"look for an attribute that forbids it with `lsattr -d {path.parent} {path}` and `chattr -i` it"
