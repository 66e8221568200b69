"""Keys by identifier, in the shape of ETSI GS QKD 014 (V1.1.1): what the swarm asks of a key distribution.

`KeyDelivery` has that interface's three methods: status, get key, get key with key IDs. `DistilledKeys`
serves it from BB84 sessions of this package; a client of real equipment would serve it from the REST
interface of its key management entity, and the pool would not know the difference.
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
    """One key and the identifier by which the other end asks for its copy."""

    key_id: UUID
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """key_size: bits. simulated: no photon was ever sent."""

    key_size: int
    stored_key_count: int
    max_key_count: int
    simulated: bool


class KeyDelivery(Protocol):
    """Key material that one other end holds as well."""

    def status(self) -> DeliveryStatus:
        """What is in store."""
        ...

    def get_key(self, number: int = 1) -> list[DeliveredKey]:
        """Up to `number` keys, oldest first; each is handed out once. Never waits: may be empty.

        Only one of the two ends draws so; the other asks by identifier. What a client raises is an alarm.
        """
        ...

    def get_key_with_ids(self, key_ids: Sequence[UUID]) -> list[DeliveredKey]:
        """The copies of keys that the other end has drawn. Raises KeyError for one that is not here."""
        ...


class DistilledKeys:
    """Keys of BB84 sessions, 256 bits each, bounded: what does not fit is dropped. For several threads."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._keys: OrderedDict[UUID, bytes] = OrderedDict()
        self._lock = Lock()

    def add(self, session_id: bytes, secret: bytes) -> int:
        """Cut a session's secret into keys; returns how many were kept. Both ends name them alike."""
        kept = 0
        with self._lock:
            for index in range(len(secret) // KEY_BYTES):
                if len(self._keys) >= self._most:
                    break
                name = hashlib.sha3_256(fields(labels.QKD_KEY_ID, session_id, u32(index))).digest()
                self._keys[UUID(bytes=name[:16])] = secret[KEY_BYTES * index : KEY_BYTES * (index + 1)]
                kept += 1
        return kept

    def status(self) -> DeliveryStatus:
        with self._lock:
            return DeliveryStatus(8 * KEY_BYTES, len(self._keys), self._most, simulated=True)

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
