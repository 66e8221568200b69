"""Classical messages of a BB84 session: requests of Bob and answers of Alice, every field bounded.

All begin with a kind (one byte) and, except `Hello` and `Photons`, the session's 16 bytes, chosen by Alice.
`Photons` replaces the quantum channel where Alice and Bob are different processes of a simulation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any, Final, Self

import numpy as np

from ..encoding import Reader, malformed, u32, var
from ..entropy.conditioning import Bits, unpack
from .cascade import MAX_KEY_BITS, MAX_QUERIES, Query
from .quantum_channel import MAX_PHOTONS

SESSION_BYTES: Final = 16
SEED_BYTES: Final = 32
_MAX_SIGNATURE: Final = 8192
_QUERY: Final = np.dtype([("pass_index", "u1"), ("start", ">u4"), ("end", ">u4")])


class Kind(IntEnum):
    HELLO = 1
    PHOTONS = 2
    BASES = 3
    SIFTED = 4
    PARITY_REQUEST = 5
    PARITIES = 6
    FINISH = 7
    HASHES = 8
    CONFIRM = 9
    DONE = 10
    ABORT = 11


class AbortReason(IntEnum):
    """Reason for which a session ended without a key."""

    ERRORS = 1  # above 11 %
    TOO_FEW = 2  # photons in one of the bases
    NO_BITS = 3  # the finite-key bound leaves nothing
    UNVERIFIED = 4  # the hashes differ: errors remain
    SIGNATURE = 5  # transcripts differ, or the peer is another one
    PROTOCOL = 6  # unexpected or malformed message
    BUSY = 7  # the peer accepts no session now


ABORT_TEXTS: Final = {
    AbortReason.ERRORS: "more than 11 % errors: an eavesdropper, or a faulty quantum channel",
    AbortReason.TOO_FEW: "too few photons in one of the bases",
    AbortReason.NO_BITS: "the finite-key bound leaves no secret bits",
    AbortReason.UNVERIFIED: "errors remain after reconciliation",
    AbortReason.SIGNATURE: "the peer does not confirm this exchange",
    AbortReason.PROTOCOL: "an unexpected or malformed message",
    AbortReason.BUSY: "the peer accepts no session now",
}


def _bits(bits: Bits) -> bytes:
    return u32(len(bits)) + np.packbits(bits).tobytes()


def _read_bits(reader: Reader, most: int) -> Bits:
    count = reader.count(most)
    bits = unpack(reader.raw((count + 7) // 8))
    if bits[count:].any():
        raise malformed("bits after the last one")
    return bits[:count]


def _read_session(reader: Reader) -> bytes:
    return reader.raw(SESSION_BYTES)


# Encoder and decoder of a field, by the name in its metadata.
_CODECS: Final[dict[str, tuple[Any, Any]]] = {
    "session": (bytes, _read_session),
    "seed": (bytes, lambda reader: reader.raw(SEED_BYTES)),
    "u32": (u32, Reader.u32),
    "photons": (_bits, lambda reader: _read_bits(reader, MAX_PHOTONS)),
    "bits": (_bits, lambda reader: _read_bits(reader, 2 * MAX_KEY_BITS)),
    "signature": (var, lambda reader: reader.var(_MAX_SIGNATURE)),
}


@dataclass(frozen=True, slots=True)
class Message:
    """Base of the messages that are encoded field by field."""

    def encode(self) -> bytes:
        parts = [_CODECS[item.metadata["as"]][0](getattr(self, item.name)) for item in fields(self)]
        return b"".join((bytes([_KINDS[type(self)]]), *parts))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises Rejected(MALFORMED)."""
        reader = Reader(data)
        if reader.u8() != _KINDS[cls]:
            raise malformed(f"not a {_KINDS[cls].name.lower()} message")
        values = [_CODECS[item.metadata["as"]][1](reader) for item in fields(cls)]
        reader.end()
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Hello(Message):
    nonce: bytes = field(metadata={"as": "session"}, repr=False)


@dataclass(frozen=True, slots=True)
class Photons(Message):
    """nonce: of the hello that this answers."""

    nonce: bytes = field(metadata={"as": "session"}, repr=False)
    session: bytes = field(metadata={"as": "session"}, repr=False)
    bits: Bits = field(metadata={"as": "photons"}, repr=False)
    bases: Bits = field(metadata={"as": "photons"}, repr=False)


@dataclass(frozen=True, slots=True)
class Bases(Message):
    """sample: Bob's outcomes in basis Z, in order."""

    session: bytes = field(metadata={"as": "session"}, repr=False)
    bases: Bits = field(metadata={"as": "photons"}, repr=False)
    sample: Bits = field(metadata={"as": "photons"}, repr=False)


@dataclass(frozen=True, slots=True)
class Sifted(Message):
    """sample: Alice's bits where both bases are Z, in order. seed: of the Cascade permutations."""

    session: bytes = field(metadata={"as": "session"}, repr=False)
    bases: Bits = field(metadata={"as": "photons"}, repr=False)
    sample: Bits = field(metadata={"as": "photons"}, repr=False)
    seed: bytes = field(metadata={"as": "seed"}, repr=False)


@dataclass(frozen=True, slots=True)
class Parities(Message):
    """number: of the request that is answered, from 1."""

    session: bytes = field(metadata={"as": "session"}, repr=False)
    number: int = field(metadata={"as": "u32"}, repr=False)
    parities: Bits = field(metadata={"as": "bits"}, repr=False)


@dataclass(frozen=True, slots=True)
class Finish(Message):
    """parities: number that Bob has received."""

    session: bytes = field(metadata={"as": "session"}, repr=False)
    parities: int = field(metadata={"as": "u32"}, repr=False)


@dataclass(frozen=True, slots=True)
class Hashes(Message):
    """tag: Toeplitz hash of Alice's key bits by `tag_seed`. key_seed: the Toeplitz matrix of the key."""

    session: bytes = field(metadata={"as": "session"}, repr=False)
    length: int = field(metadata={"as": "u32"}, repr=False)
    tag_seed: Bits = field(metadata={"as": "bits"}, repr=False)
    tag: Bits = field(metadata={"as": "bits"}, repr=False)
    key_seed: Bits = field(metadata={"as": "bits"}, repr=False)
    signature: bytes = field(metadata={"as": "signature"}, repr=False)


@dataclass(frozen=True, slots=True)
class Confirm(Message):
    session: bytes = field(metadata={"as": "session"}, repr=False)
    signature: bytes = field(metadata={"as": "signature"}, repr=False)


@dataclass(frozen=True, slots=True)
class Done(Message):
    session: bytes = field(metadata={"as": "session"}, repr=False)


@dataclass(frozen=True, slots=True)
class Abort(Message):
    session: bytes = field(metadata={"as": "session"}, repr=False)
    reason: int = field(metadata={"as": "u32"}, repr=False)


@dataclass(frozen=True, slots=True)
class ParityRequest:
    """number: from 1, so that no two messages of a session are equal."""

    session: bytes
    number: int
    queries: list[Query]

    def encode(self) -> bytes:
        table = np.array([tuple(query) for query in self.queries], dtype=_QUERY)
        return b"".join(
            (bytes([Kind.PARITY_REQUEST]), self.session, u32(self.number), u32(len(table)), table.tobytes())
        )

    @classmethod
    def parse(cls, data: bytes) -> ParityRequest:
        """Raises Rejected(MALFORMED)."""
        reader = Reader(data)
        if reader.u8() != Kind.PARITY_REQUEST:
            raise malformed("not a parity request")
        session, number = _read_session(reader), reader.u32()
        count = reader.count(MAX_QUERIES)
        table = np.frombuffer(reader.raw(count * _QUERY.itemsize), dtype=_QUERY)
        reader.end()
        return cls(session, number, [Query(*row) for row in table.tolist()])


_KINDS: Final[dict[type[Message], Kind]] = {
    Hello: Kind.HELLO,
    Photons: Kind.PHOTONS,
    Bases: Kind.BASES,
    Sifted: Kind.SIFTED,
    Parities: Kind.PARITIES,
    Finish: Kind.FINISH,
    Hashes: Kind.HASHES,
    Confirm: Kind.CONFIRM,
    Done: Kind.DONE,
    Abort: Kind.ABORT,
}


def kind_of(data: bytes) -> Kind:
    """Raises Rejected(MALFORMED)."""
    try:
        return Kind(data[0])
    except (IndexError, ValueError):
        raise malformed("not a message of a key distribution session") from None


def session_of(data: bytes) -> bytes:
    """The session of a message; for Hello and Photons the hello's nonce."""
    return data[1 : 1 + SESSION_BYTES]
