"""Shared-memory files that Fast DDS leaves in /dev/shm when a process dies: their owners, their removal.

Fast DDS holds a lock (flock) on `<segment>_el` and keeps that file open while its owner lives. So the files
of a live process are among its open files, and a segment is dead when nothing holds that lock. Even a clean
exit may leave port files behind. Names begin with fastrtps_ (Fast DDS 2) or fastdds_ (Fast DDS 3).
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from pathlib import Path

SHM_DIR = Path("/dev/shm")  # noqa: S108 - where Fast DDS keeps its files
_LOCK_NAME = re.compile(r"(?:fastrtps|fastdds)_(?:port\d{1,5}|[0-9a-f]{16})_el")
_ANY_NAME = re.compile(r"(?:sem\.)?((?:fastrtps|fastdds)_(?:port\d{1,5}|[0-9a-f]{16}))(?:_el|_mutex)?")


def segments_of(pid: int, shm_dir: Path = SHM_DIR) -> set[str]:
    """Names (without suffix) of the Fast DDS segments and ports that process `pid` owns at this moment."""
    found: set[str] = set()
    try:
        entries = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found
    for entry in entries:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
        except OSError:
            continue
        folder, _, name = target.rpartition("/")
        if folder == str(shm_dir) and _LOCK_NAME.fullmatch(name):
            found.add(name[: -len("_el")])
    return found


def has_live_owner(segment: str, shm_dir: Path = SHM_DIR) -> bool:
    """True if a process holds the lock of `segment`; a segment that cannot be examined counts as live."""
    try:
        fd = os.open(shm_dir / f"{segment}_el", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def dead_segments(shm_dir: Path = SHM_DIR) -> list[str]:
    """Names (without suffix) of all Fast DDS segments and ports on this machine that no live process owns."""
    try:
        names = os.listdir(shm_dir)
    except OSError:
        return []
    found = {match[1] for name in names if (match := _ANY_NAME.fullmatch(name))}
    return sorted(segment for segment in found if not has_live_owner(segment, shm_dir))


def remove(segments: Iterable[str], shm_dir: Path = SHM_DIR) -> list[str]:
    """Removes those of `segments` that no live process owns; returns the names that were removed."""
    removed: list[str] = []
    for segment in sorted(set(segments)):
        if has_live_owner(segment, shm_dir):
            continue
        gone = False
        for name in (segment, f"sem.{segment}_mutex", f"{segment}_el"):
            try:
                os.unlink(shm_dir / name)
                gone = True
            except OSError:
                continue
        if gone:
            removed.append(segment)
    return removed
