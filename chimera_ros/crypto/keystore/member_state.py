"""What a member must remember across restarts, written before it is acted on.

`FileStore` writes versioned JSON atomically (temporary file, fsync, rename); `MemoryStore` is for tests and
for programs whose identity lives no longer than they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from chimera_ros.formats import json_values

from ..errors import KeystoreError
from ..messages.eviction import EvictionOrder
from ..primitives.interfaces import HASH_BYTES, digest

FORMAT: Final = 1
_MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoredState:
    """A member's memory. Counters only rise; evictions (fingerprints, 32 bytes) only grow."""

    highest_epoch: int = 0  # highest epoch installed
    reserved_epoch: int = 0  # crypto nodes: highest number that may have been issued
    policy_version: int = 0
    crl_number: int = 0
    time_floor_ns: int = 0  # a time that was proven, ns since the Unix epoch: nothing is valid before it
    sequence: int = 0  # crypto nodes: highest sequence of a beat or request that may have been used
    stop_counter: int = 0  # operators: last counter given to a stop of our own
    evictions: frozenset[bytes] = frozenset()
    orders: tuple[EvictionOrder, ...] = ()  # crypto nodes: where each eviction came from
    operator_counters: Mapping[str, int] = field(
        default_factory=dict
    )  # drones: last stop obeyed, by operator

    def to_json(self) -> str:
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
    def from_json(cls, text: str, where: str) -> StoredState:
        """Raises KeystoreError when the text is no state of a known format."""
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
    """Where a member's state is kept, and beside it signed documents that it took over in flight (by file
    name; empty: there is none). `save` and `save_document` return only when what they wrote would survive a
    crash.
    """

    def load(self) -> StoredState: ...
    def save(self, state: StoredState) -> None: ...
    def flush(self) -> None: ...
    def load_document(self, name: str) -> bytes: ...
    def save_document(self, name: str, data: bytes) -> None: ...


class MemoryStore:
    """Keeps the state in memory; hand the same object to a restarted member to imitate a disk."""

    __slots__ = ("documents", "state")

    def __init__(self, state: StoredState | None = None) -> None:
        self.state = state or StoredState()
        self.documents: dict[str, bytes] = {}

    def load(self) -> StoredState:
        return self.state

    def save(self, state: StoredState) -> None:
        self.state = state

    def flush(self) -> None:
        """Nothing waits to be written."""

    def load_document(self, name: str) -> bytes:
        return self.documents.get(name, b"")

    def save_document(self, name: str, data: bytes) -> None:
        self.documents[name] = data


class FileStore:
    """Keeps the state in a file of mode 0600. `durable=False` skips fsync (simulation only).

    A new epoch number or sequence (`<path>.number`, a few bytes written in place, because every member of a
    process does it in every rotation) and evictions that somebody else ordered (`<path>.epoch`) go into files
    of their own, which are not forced to the disk: they have to outlive the process, and what was written
    does. A power cut may lose or spoil them, and then also ends the memory that holds every package key,
    without which no earlier announcement can be installed; every later one carries all evictions. `flush`
    forces evictions to the disk when there is time. Everything else (orders, stop counters, versions) is
    forced at once.
    """

    __slots__ = ("_durable", "_last", "_unforced", "path")

    def __init__(self, path: str | os.PathLike[str], durable: bool = True) -> None:
        self.path = Path(path)
        self._durable = durable
        self._last: StoredState | None = None
        self._unforced = False

    def load(self) -> StoredState:
        """A missing file is a new member. Raises KeystoreError for a damaged one."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return StoredState()
        except (OSError, UnicodeDecodeError) as error:
            raise KeystoreError(f"{self.path}: cannot read the state file ({error}).") from None
        state = StoredState.from_json(text, str(self.path))
        newer = [state, _read_number(self._number_path)]
        with contextlib.suppress(OSError, UnicodeDecodeError, KeystoreError):
            newer.append(StoredState.from_json(self._epoch_path.read_text(encoding="utf-8"), ""))
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
        """Raises KeystoreError when the disk refuses."""
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
            small = replace(state, orders=())  # they are not read from it
            write_atomic(self._epoch_path, small.to_json().encode(), 0o600, durable=False)
            self._unforced |= self._last is not None and state.evictions != self._last.evictions
        else:
            if self._last is None and not self.path.exists():
                self._forget_former()
            write_atomic(self.path, state.to_json().encode(), 0o600, self._durable)
            self._unforced = False
        self._last = state

    def _forget_former(self) -> None:
        """Whoever deleted the state file wants a new member: what stood beside it must not come back."""
        try:
            for path in (self._number_path, self._epoch_path):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _refused(self.path, error) from None

    def flush(self) -> None:
        """Forces evictions to the disk that are not there yet. Raises KeystoreError."""
        if self._unforced and self._last is not None:
            write_atomic(self.path, self._last.to_json().encode(), 0o600, self._durable)
            self._unforced = False

    def load_document(self, name: str) -> bytes:
        """What cannot be read counts as missing: it is verified again whenever it is loaded."""
        try:
            return self.path.with_name(name).read_bytes()
        except OSError:
            return b""

    def save_document(self, name: str, data: bytes) -> None:
        """Raises KeystoreError when the disk refuses."""
        write_atomic(self.path.with_name(name), data, 0o600, self._durable)


_NUMBER: Final = struct.Struct(">8sQQQ")
_NUMBER_MAGIC: Final = b"CHIMERA1"


def _write_number(path: Path, state: StoredState) -> None:
    """Epoch, time floor and sequence in place: one write of a few bytes, which a killed process leaves whole.
    Raises KeystoreError.
    """
    record = _NUMBER.pack(_NUMBER_MAGIC, state.highest_epoch, state.time_floor_ns, state.sequence)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            written = os.pwrite(handle, record + digest(record), 0)
            os.ftruncate(
                handle, written
            )  # what a damaged file system left behind it would spoil every later one
        finally:
            os.close(handle)
    except OSError as error:
        raise _refused(path, error) from None
    if written != _NUMBER.size + HASH_BYTES:
        raise KeystoreError(
            f"{path}: cannot write all of {_NUMBER.size + HASH_BYTES} bytes; check the space."
        )


def _read_number(path: Path) -> StoredState:
    """What is missing or spoilt counts as nothing."""
    try:
        data = path.read_bytes()
    except OSError:
        return StoredState()
    record, check = data[: _NUMBER.size], data[_NUMBER.size :]
    if len(record) != _NUMBER.size or check != digest(record):
        return StoredState()
    magic, epoch, floor_ns, sequence = _NUMBER.unpack(record)
    if magic != _NUMBER_MAGIC:
        return StoredState()
    return StoredState(highest_epoch=epoch, time_floor_ns=floor_ns, sequence=sequence)


def _refused(path: Path, error: OSError) -> KeystoreError:
    return KeystoreError(f"{path}: cannot write ({error.strerror}); check the directory's owner and space.")


def write_atomic(path: Path, data: bytes, mode: int, durable: bool = True) -> None:
    """Replaces `path` by `data` in one step; nobody sees a half-written file. Raises KeystoreError."""
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
        raise _refused(path, error) from None


def replace_durably(source: Path, target: Path, durable: bool = True) -> None:
    """Renames `source` to `target` in one step. Raises KeystoreError."""
    try:
        os.replace(source, target)
        if durable:
            _sync_directory(target.parent)
    except OSError as error:
        raise KeystoreError(f"{target}: cannot replace ({error.strerror}).") from None


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
