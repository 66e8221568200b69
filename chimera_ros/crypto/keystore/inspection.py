"""Faults of what members keep on disk, found before a process depends on it.

Looked at are the keystore's folders and, per member, the state file with its number files, the signed
documents received in flight and the lock file: kind, owner, mode, access, content, and the space of their
file system. Writing is tried, with a temporary file. Each fault is one sentence with the remedy.

Not handled: validity of certificates, policy and revocation list (`Keystore.load_identity`, `load_trust`).
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from ..errors import KeystoreError
from .file_access import foreign_owner, link_fault, mode_fault, own_protection, read_error, write_error
from .keystore import Keystore
from .member_lock import LOCK_FILE
from .member_state import CRL_FILE, POLICY_FILE, STATE_FILES

FREE_BYTES: Final = 1_048_576  # per member: state, two documents of 256 KiB, one of them twice while replaced
FREE_FILES: Final = 8  # per member
_PROBE: Final = bytes(4096)
_NAMED: Final = 4  # members in a sentence
_DOCUMENTS: Final = (CRL_FILE, POLICY_FILE)


def keystore_faults(keystore: Keystore, names: Iterable[str]) -> list[str]:
    """Folders that every user can change, and too little space for these members' state.

    The keystore's own folders need not be writable for a member to run.
    """
    faults = []
    for folder in (keystore.path, keystore.path / "members"):
        try:
            fault = mode_fault(folder, folder.stat())
        except OSError as error:
            fault = str(read_error(folder, error))
        faults += [fault] if fault else []
    return faults + list(_space_faults(keystore.member_path(name) for name in names))


def member_faults(keystore: Keystore, name: str) -> list[str]:
    """Faults of one member's folder and of what it keeps there."""
    folder = keystore.member_path(name)
    fault = _folder_fault(folder)
    if fault:
        return [fault]
    files = (*STATE_FILES, *_DOCUMENTS, LOCK_FILE)
    faults = [fault for file in files if (fault := _file_fault(folder / file))]
    store = keystore.state_store(name)
    try:
        store.load()
        for document in _DOCUMENTS:
            store.load_document(document)
    except KeystoreError as error:
        if not faults:
            faults.append(str(error))
    return faults


def merged(keystore: Keystore, faults: Mapping[str, Sequence[str]]) -> list[str]:
    """Faults by member, as sentences for people: those that several members share are stated once."""
    shared: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for name, found in faults.items():
        for fault in found:
            kind = fault.replace(str(keystore.path / "members" / name), "").replace(name, "")
            first.setdefault(kind, fault)
            shared.setdefault(kind, []).append(name)
    return [first[kind] + _also(names[1:]) for kind, names in shared.items()]


def _also(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f" The same holds for {', '.join(names[:_NAMED])}{more}."


def _folder_fault(folder: Path) -> str:
    """Why members cannot keep files in the folder; empty if they can."""
    try:
        status = folder.stat()
    except OSError as error:
        return str(read_error(folder, error))
    if not stat.S_ISDIR(status.st_mode):
        return f"{folder} is not a folder; move it away."
    fault = _owner_fault(folder, status)
    if fault:
        return fault
    try:
        handle, probe = tempfile.mkstemp(prefix=".probe.", dir=folder)
        try:
            os.write(handle, _PROBE)
        finally:
            os.close(handle)
            os.unlink(probe)
    except OSError as error:
        return str(write_error(folder, error))
    return ""


def _file_fault(path: Path) -> str:
    """Why a member cannot use the file; empty if it can, or if there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(read_error(path, error))
    try:
        if stat.S_ISLNK(status.st_mode):
            return link_fault(path)
        if not stat.S_ISREG(status.st_mode):
            return f"{path} is not a file; move it away."
        fault = _owner_fault(path, status)
        if not fault:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW))
        return fault
    except OSError as error:
        return str(write_error(path, error))


def _owner_fault(path: Path, status: os.stat_result) -> str:
    if status.st_uid != os.geteuid():
        return f"{path}: {foreign_owner(path, status.st_uid)}."
    protection = own_protection(path, status)  # root can write in spite of it; what it starts may not
    return f"{path} is protected from its owner: {protection}." if protection else mode_fault(path, status)


def _space_faults(folders: Iterable[Path]) -> Iterator[str]:
    """File systems with less space or fewer free files than the members on them need."""
    shared: dict[int, list[Path]] = {}
    for folder in folders:
        try:
            shared.setdefault(folder.stat().st_dev, []).append(folder)
        except OSError:
            continue  # named as a fault of the folder
    for group in shared.values():
        free = os.statvfs(group[0])
        needed = FREE_BYTES * len(group)
        available = free.f_bavail * free.f_frsize
        if free.f_blocks and available < needed:
            yield (
                f"{group[0]}: {available // 1024} KiB are free on its file system, but the swarm's members "
                f"need {needed // 1024} KiB; free space there."
            )
        if free.f_files and free.f_favail < FREE_FILES * len(group):
            yield (
                f"{group[0]}: its file system has room for {free.f_favail} more files, but the swarm's "
                f"members need {FREE_FILES * len(group)}; delete some there."
            )
