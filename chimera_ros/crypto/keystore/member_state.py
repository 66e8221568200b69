"""Persistent state of a member, stored before it takes effect.

`FileStore` writes versioned JSON atomically (temporary file, fsync, rename); `MemoryStore` is for tests and
for programs with ephemeral identities.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from chimera_ros.formats import json_values

from ..errors import KeystoreError
from ..messages.eviction import EvictionOrder
from ..primitives.interfaces import HASH_BYTES, digest
from ..trust.policy_yaml import MAX_DOCUMENT
from .atomic_file import SECRET_MODE, write_atomic
from .file_access import open_regular, read_regular, refuse_hard_link, write_error

FORMAT: Final = 1
STATE_FILE: Final = "state.json"
STATE_FILES: Final = (STATE_FILE, STATE_FILE + ".number", STATE_FILE + ".epoch")
CRL_FILE: Final = "crl.der"  # documents that a member takes over in flight
POLICY_FILE: Final = "policy.signed"
_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_NUMBER: Final = 65536  # bytes; a longer file than is written is damaged


@dataclass(frozen=True, slots=True)
class StoredState:
    """Persistent member state. Counters increase only; evictions (32-byte fingerprints) are added only."""

    highest_epoch: int = 0  # highest epoch installed
    reserved_epoch: int = 0  # crypto nodes: highest number that may have been issued
    policy_version: int = 0
    crl_number: int = 0
    time_floor_ns: int = 0  # proven lower bound of the time, ns since the Unix epoch
    sequence: int = 0  # crypto nodes: highest sequence of a beat or request that may have been used
    stop_counter: int = 0  # operators: last counter of an own stop
    evictions: frozenset[bytes] = frozenset()
    orders: tuple[EvictionOrder, ...] = ()  # crypto nodes: the order behind each eviction
    # Drones: counter of the last stop executed, by operator.
    operator_counters: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text of the state file."""
        return json.dumps(
            {
                "format": FORMAT,
                "highest_epoch": self.highest_epoch,
                "reserved_epoch": self.reserved_epoch,
                "policy_version": self.policy_version,
                "crl_number": self.crl_number,
                "time_floor_ns": self.time_floor_ns,
                "sequence": self.sequence,
                "stop_counter": self.stop_counter,
                "evictions": sorted(item.hex() for item in self.evictions),
                "orders": [order.to_plain() for order in self.orders],
                "operator_counters": dict(sorted(self.operator_counters.items())),
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> StoredState:
        """The state in the text. Raises KeystoreError if it is damaged or of an unknown format."""
        try:
            data: Any = json_values.parse(text, _MAX_BYTES)
            if data["format"] != FORMAT:
                raise KeystoreError(
                    f"{where}: state format {data['format']!r} is not {FORMAT}; upgrade chimera_ros."
                )
            numbers = {name: _natural(data[name]) for name in _NUMBERS}
            numbers["sequence"] = _natural(data.get("sequence", 0))
            evictions = frozenset(bytes.fromhex(item) for item in data["evictions"])
            orders = tuple(EvictionOrder.from_plain(item) for item in data.get("orders", ()))
            counters = {str(name): _natural(value) for name, value in data["operator_counters"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise KeystoreError(
                f"{where}: the state file is damaged ({error}); restore it from a backup, or renew "
                "this member's key and certificate before deleting it (it guards against old epochs)."
            ) from None
        return cls(evictions=evictions, orders=orders, operator_counters=counters, **numbers)


_NUMBERS: Final = (
    "highest_epoch",
    "reserved_epoch",
    "policy_version",
    "crl_number",
    "time_floor_ns",
    "stop_counter",
)


def _natural(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no natural number")
    return value


class StateStore(Protocol):
    """Store of a member's state and of the signed documents received in flight (by file name; empty: none).

    `save` and `save_document` return once the data would survive a crash.
    """

    def load(self) -> StoredState: ...
    def save(self, state: StoredState) -> None: ...
    def flush(self) -> None: ...
    def load_document(self, name: str) -> bytes: ...
    def save_document(self, name: str, data: bytes) -> None: ...


class MemoryStore:
    """Store in memory; a restarted member that gets the same object finds its state again."""

    __slots__ = ("documents", "state")

    def __init__(self, state: StoredState | None = None) -> None:
        self.state = state or StoredState()
        self.documents: dict[str, bytes] = {}

    def load(self) -> StoredState:
        return self.state

    def save(self, state: StoredState) -> None:
        self.state = state

    def flush(self) -> None:
        """Does nothing."""

    def load_document(self, name: str) -> bytes:
        return self.documents.get(name, b"")

    def save_document(self, name: str, data: bytes) -> None:
        self.documents[name] = data


class FileStore:
    """Store in a file of mode 0600. `durable=False` skips fsync (simulation only).

    A new epoch number or sequence (`<path>.number`, a few bytes written in place, because every member of a
    process writes them in every rekey) and evictions ordered elsewhere (`<path>.epoch`) are written to
    separate files without fsync: they have to survive the process, not the machine. A power failure may lose
    or damage them, but it also erases the package keys, without which no earlier announcement can be
    installed; every later one has all evictions. `flush` syncs evictions later. Everything else (orders, stop
    counters, versions) is synced at once.
    """

    __slots__ = ("_durable", "_last", "_unsynced", "path")

    def __init__(self, path: str | os.PathLike[str], durable: bool = True) -> None:
        self.path = Path(path)
        self._durable = durable
        self._last: StoredState | None = None
        self._unsynced = False

    def load(self) -> StoredState:
        """The stored state, initial if there is no file. Raises KeystoreError for a damaged one."""
        try:
            state = StoredState.from_json(read_regular(self.path, _MAX_BYTES), str(self.path))
        except FileNotFoundError:
            return StoredState()
        newer = [state, _read_number(self._number_path)]
        recent = _read_if_present(self._epoch_path, _MAX_BYTES)
        with contextlib.suppress(KeystoreError):
            newer.append(StoredState.from_json(recent, ""))
        return replace(
            state,
            highest_epoch=max(item.highest_epoch for item in newer),
            time_floor_ns=max(item.time_floor_ns for item in newer),
            sequence=max(item.sequence for item in newer),
            evictions=frozenset().union(*(item.evictions for item in newer)),
        )

    @property
    def _epoch_path(self) -> Path:
        return self.path.with_name(self.path.name + ".epoch")

    @property
    def _number_path(self) -> Path:
        return self.path.with_name(self.path.name + ".number")

    def save(self, state: StoredState) -> None:
        """Raises KeystoreError if the state cannot be written."""
        routine = self._last is not None and state == replace(
            self._last,
            highest_epoch=state.highest_epoch,
            time_floor_ns=state.time_floor_ns,
            sequence=state.sequence,
            evictions=state.evictions,
        )
        if routine and self._last is not None and state.evictions == self._last.evictions:
            _write_number(self._number_path, state)
        elif routine:
            small = replace(state, orders=())  # not read from this file
            write_atomic(self._epoch_path, small.to_json().encode(), SECRET_MODE, durable=False)
            self._unsynced |= self._last is not None and state.evictions != self._last.evictions
        else:
            if self._last is None and not self.path.exists():
                self._delete_previous()
            self._write(state)
        self._last = state

    def _write(self, state: StoredState) -> None:
        """Replaces the state file. A stop that another process of this operator has sent meanwhile (it does
        not wait for the member's lock) keeps its counter.
        """
        if state.stop_counter:
            with contextlib.suppress(FileNotFoundError, KeystoreError):
                on_disk = StoredState.from_json(read_regular(self.path, _MAX_BYTES), str(self.path))
                state = replace(state, stop_counter=max(state.stop_counter, on_disk.stop_counter))
        write_atomic(self.path, state.to_json().encode(), SECRET_MODE, self._durable)
        self._unsynced = False

    def _delete_previous(self) -> None:
        """Without a state file the member is a new one: deletes what an earlier one has left."""
        try:
            for path in (self._number_path, self._epoch_path):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(self.path, error) from None

    def flush(self) -> None:
        """Syncs evictions to the disk. Raises KeystoreError."""
        if self._unsynced and self._last is not None:
            self._write(self._last)

    def load_document(self, name: str) -> bytes:
        """The document, empty if there is none; the caller verifies it. Raises KeystoreError."""
        return _read_if_present(self.path.with_name(name), 2 * MAX_DOCUMENT)

    def save_document(self, name: str, data: bytes) -> None:
        """Raises KeystoreError if the document cannot be written."""
        write_atomic(self.path.with_name(name), data, SECRET_MODE, self._durable)


_NUMBER: Final = struct.Struct(">8sQQQ")
_NUMBER_MAGIC: Final = b"CHIMERA1"


def _write_number(path: Path, state: StoredState) -> None:
    """Writes epoch, time floor and sequence in place, in one write of a few bytes that a killed process
    leaves complete. Raises KeystoreError.
    """
    record = _NUMBER.pack(_NUMBER_MAGIC, state.highest_epoch, state.time_floor_ns, state.sequence)
    try:
        handle = open_regular(path, os.O_WRONLY | os.O_CREAT, SECRET_MODE)
        try:
            refuse_hard_link(path, handle)
            written = os.pwrite(handle, record + digest(record), 0)
            os.ftruncate(handle, written)  # bytes behind the record would invalidate it
        finally:
            os.close(handle)
    except OSError as error:
        raise write_error(path, error) from None
    if written != _NUMBER.size + HASH_BYTES:
        raise KeystoreError(
            f"{path}: cannot write all of {_NUMBER.size + HASH_BYTES} bytes; check the space."
        )


def _read_if_present(path: Path, max_bytes: int) -> bytes:
    try:
        return read_regular(path, max_bytes)
    except FileNotFoundError:
        return b""


def _read_number(path: Path) -> StoredState:
    """The numbers; initial ones if the file is missing or damaged. Raises KeystoreError if it cannot be read:
    a file of another user must not set the numbers back.
    """
    data = _read_if_present(path, _MAX_NUMBER)
    record, check = data[: _NUMBER.size], data[_NUMBER.size :]
    if len(record) != _NUMBER.size or check != digest(record):
        return StoredState()
    magic, epoch, floor_ns, sequence = _NUMBER.unpack(record)
    if magic != _NUMBER_MAGIC:
        return StoredState()
    return StoredState(highest_epoch=epoch, time_floor_ns=floor_ns, sequence=sequence)
