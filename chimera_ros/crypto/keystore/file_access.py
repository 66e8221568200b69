"""Bounded reading of a keystore's files, and what an operating system's refusal means for its user.

A file or folder that decides whom a member trusts must belong to the process's user or to root, and not
everybody may change it. Files are opened once, without following a symbolic link, and what is checked is the
open file. Not handled: access control lists, and folders above the keystore.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from ..errors import KeystoreError

_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # O_NONBLOCK: a FIFO would block


def open_regular(path: Path, flags: int, mode: int = 0o600) -> int:
    """Descriptor of a regular file that only its owner, this user or root, can change.

    Raises FileNotFoundError, else OSError or KeystoreError.
    """
    try:
        handle = os.open(path, flags | _FLAGS, mode)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):  # ENXIO: a FIFO without reader, or a socket
            raise KeystoreError(f"{path} is not a file; move it away and restore the file.") from None
        if error.errno == errno.ELOOP and path.is_symlink():
            raise KeystoreError(link_fault(path)) from None
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise KeystoreError(f"{path} is not a file; move it away and restore the file.")
        check_trusted(path, status)
    except BaseException:
        os.close(handle)
        raise
    return handle


def link_fault(path: Path) -> str:
    """A sentence about a symbolic link in place of a file."""
    return (
        f"{path} is a symbolic link to {os.readlink(path)}, which is not followed; move it away and restore "
        "the file itself."
    )


def refuse_hard_link(path: Path, handle: int) -> None:
    """Raises KeystoreError if writing to this open file would change another one."""
    if os.fstat(handle).st_nlink > 1:
        raise KeystoreError(f"{path} is a hard link to another file, which it would overwrite; delete it.")


def read_regular(path: Path, max_bytes: int, forbidden: int = 0) -> bytes:
    """The content of a regular file. Raises FileNotFoundError, else KeystoreError.

    forbidden: bits of the mode with which the file is refused, as one that others could read.
    """
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & forbidden:
                raise ReadableByOthers(mode)
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise read_error(path, error) from None
    if len(data) > max_bytes:
        raise KeystoreError(
            f"{path} is larger than allowed: at most {max_bytes} bytes; move it away and restore the file."
        )
    return data


class ReadableByOthers(Exception):
    """A secret file's mode lets group or others use it; the caller names the remedy."""

    def __init__(self, mode: int) -> None:
        super().__init__(f"mode {mode:04o}")
        self.mode = mode


def check_trusted(path: Path, status: os.stat_result) -> None:
    """Raises KeystoreError for a file or folder that another user than root owns, or everybody can change."""
    if status.st_uid not in (os.geteuid(), 0):
        raise KeystoreError(f"{path}: {foreign_owner(path, status.st_uid)}.")
    fault = mode_fault(path, status)
    if fault:
        raise KeystoreError(fault)


def check_folder(path: Path) -> None:
    """`check_trusted` for a folder. Raises KeystoreError; a missing one is found by its reader."""
    try:
        check_trusted(path, path.stat())
    except FileNotFoundError:
        return
    except OSError as error:
        raise read_error(path, error) from None


def mode_fault(path: Path, status: os.stat_result) -> str:
    """A sentence if every user can change a file or folder; empty if not."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IWOTH:
        return f"{path} can be changed by every user (mode {mode:04o}); run `chmod o-w {path}`."
    return ""


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
