"""Fallback hello: signed binding of an incarnation to a certificate, for fallback without an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from ..encoding import u64
from ..primitives.suite import HASH_BYTES
from .announcement import INCARNATION_BYTES
from .body import opening, read_opening


@dataclass(frozen=True, slots=True)
class FallbackHello:
    """Binds `incarnation` to certificate `fingerprint`; `issued_ns` identifies the fallback secret held."""

    swarm: str
    fingerprint: bytes
    incarnation: bytes
    issued_ns: int
    sent_ns: int

    def encode(self) -> bytes:
        return b"".join(
            (opening(self.swarm), self.fingerprint, self.incarnation, u64(self.issued_ns), u64(self.sent_ns))
        )

    @classmethod
    def parse(cls, data: bytes, swarm: str) -> FallbackHello:
        reader = read_opening(data, swarm)
        found = cls(swarm, reader.raw(HASH_BYTES), reader.raw(INCARNATION_BYTES), reader.u64(), reader.u64())
        reader.end()
        return found
