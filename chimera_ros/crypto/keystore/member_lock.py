"""Locks of identities while a process uses them: flock(2) on a file beside the member's state.

The kernel releases a lock when the process ends, however it ends. A program started by exec does not inherit
it (close-on-exec), and a forked child closes its copy, so that a restarted process finds its identity free.
The file holds the process id of its holder, for messages only, and is never deleted.

Not handled: the same identity on two machines.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from pathlib import Path
from typing import Final, Self

from ..errors import IdentityInUse, KeystoreError
from .atomic_file import SECRET_MODE
from .file_access import read_error, refuse_hard_link, write_error

LOCK_FILE: Final = "in_use.lock"
_DIGITS: Final = 20  # fixed length: rewriting the process id needs no space on a full disk


class HeldLock:
    """An flock on an open file, held until `release` or the end of the process."""

    __slots__ = ("__weakref__", "_handle")

    def __init__(self, handle: int) -> None:
        self._handle = handle
        _held.add(self)

    def release(self) -> None:
        """Releases the lock. Does nothing the second time."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


_held: weakref.WeakSet[HeldLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """A forked child shares the open file: while it lives, its parent's lock would not be released."""
    for lock in tuple(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)


def lock_member(name: str, path: Path) -> HeldLock:
    """Locks a member by its lock file, which is made where it is missing.

    Raises IdentityInUse if another process (or another session of this one) holds it, else KeystoreError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        handle = os.open(path, flags, SECRET_MODE)
    except OSError as error:
        raise write_error(path, error) from None
    try:
        refuse_hard_link(path, handle)
    except KeystoreError:
        os.close(handle)
        raise
    _flock(handle, fcntl.LOCK_EX, name, path)
    with contextlib.suppress(OSError):
        os.pwrite(handle, f"{os.getpid():<{_DIGITS}}\n".encode(), 0)
    return HeldLock(handle)


def check_unlocked(name: str, path: Path) -> None:
    """Raises IdentityInUse if a process holds the member's lock. Makes no file and keeps no lock."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    except OSError as error:
        raise read_error(path, error) from None
    _flock(handle, fcntl.LOCK_SH, name, path)
    os.close(handle)


def _flock(handle: int, kind: int, name: str, path: Path) -> None:
    """Locks an open file, which is closed if this fails."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(handle)
        os.close(handle)
        raise IdentityInUse(
            f"{name} is in use by {holder} on this machine, which holds {path}; end that process, or use "
            "another member or keystore."
        ) from None
    except OSError as error:
        os.close(handle)
        raise write_error(path, error) from None


def lock_folder(folder: Path) -> HeldLock | None:
    """Locks a folder without writing to it; None if another process has locked it. Raises KeystoreError."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise write_error(folder, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        os.close(handle)
        raise write_error(folder, error) from None
    return HeldLock(handle)


def _holder(handle: int) -> str:
    """The process that has written its id into the lock file, as far as it can be known."""
    try:
        process = int(os.pread(handle, _DIGITS, 0))
    except (OSError, ValueError):
        return "another process"
    return "this process itself" if process == os.getpid() else f"process {process}"
