"""Key delivery interface: keys by identifier, as in ETSI GS QKD 014 (V1.1.1).

`KeyDelivery` has that interface's three methods: status, get key, get key with key IDs. `DistilledKeys`
implements it with BB84 sessions of this package; a client of real equipment would implement it with the REST
interface of its key management entity.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol
from uuid import UUID

from ..encoding import fields, u32
from ..primitives import labels

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """One key, and the identifier by which the peer obtains its copy."""

    key_id: UUID
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """key_size: bits. simulated: the photons are simulated."""

    key_size: int
    stored_key_count: int
    max_key_count: int
    simulated: bool


class KeyDelivery(Protocol):
    """Keys shared with one peer."""

    def status(self) -> DeliveryStatus:
        """The stored keys."""
        ...

    def get_key(self, number: int = 1) -> list[DeliveredKey]:
        """Up to `number` keys, oldest first; each is delivered once. Never blocks: may be empty.

        Only one of the two endpoints calls this; the other gets its copies by identifier. An exception of a
        client becomes an alarm.
        """
        ...

    def get_key_with_ids(self, key_ids: Sequence[UUID]) -> list[DeliveredKey]:
        """The copies of keys delivered to the peer. Raises KeyError for an unknown one."""
        ...


class DistilledKeys:
    """Keys of BB84 sessions, 256 bits each; those above the limit are dropped. Thread-safe."""

    def __init__(self, max_keys: int = 64) -> None:
        self._max_keys = max_keys
        self._keys: OrderedDict[UUID, bytes] = OrderedDict()
        self._lock = Lock()

    def add(self, session_id: bytes, secret: bytes) -> int:
        """Splits a session's secret into keys with derived IDs; returns how many were stored."""
        stored = 0
        with self._lock:
            for index in range(len(secret) // KEY_BYTES):
                if len(self._keys) >= self._max_keys:
                    break
                name = hashlib.sha3_256(fields(labels.QKD_KEY_ID, session_id, u32(index))).digest()
                self._keys[UUID(bytes=name[:16])] = secret[KEY_BYTES * index : KEY_BYTES * (index + 1)]
                stored += 1
        return stored

    def status(self) -> DeliveryStatus:
        with self._lock:
            return DeliveryStatus(8 * KEY_BYTES, len(self._keys), self._max_keys, simulated=True)

    def get_key(self, number: int = 1) -> list[DeliveredKey]:
        with self._lock:
            count = min(number, len(self._keys))
            return [DeliveredKey(*self._keys.popitem(last=False)) for _ in range(count)]

    def get_key_with_ids(self, key_ids: Sequence[UUID]) -> list[DeliveredKey]:
        with self._lock:
            missing = [key_id for key_id in key_ids if key_id not in self._keys]
            if missing:
                raise KeyError(f"there is no key {missing[0]}")
            return [DeliveredKey(key_id, self._keys.pop(key_id)) for key_id in dict.fromkeys(key_ids)]
