"""Files and folders for their owner alone, whatever the umask.

What a flight leaves behind holds positions: files get mode 0600, folders 0700. A file that exists loses the
permissions of group and others; a folder that exists keeps its own, since it may be anybody's. Devices and
pipes (`/dev/null`, a terminal) are written and never changed or replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


def opener(path: str, flags: int) -> int:
    """For the argument `opener` of `open`."""
    descriptor = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        with contextlib.suppress(OSError):  # another owner's, or a file system without modes
            os.fchmod(descriptor, FILE_MODE)
    return descriptor


def make_folder(path: Path) -> None:
    """Creates a folder and those above it that are missing. Raises OSError."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    try:
        path.mkdir(FOLDER_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    else:
        path.chmod(FOLDER_MODE)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file in one step: `path` holds all of `data` or what was there before. Raises OSError."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    descriptor, temporary = tempfile.mkstemp(prefix=".chimera.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
