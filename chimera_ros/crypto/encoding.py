"""Canonical encoding of everything that is hashed or signed, and a bounds-checked reader.

Integers are big endian; every variable field is preceded by its uint32 length. On any input `Reader` raises
nothing but `Rejected(MALFORMED)`.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from .errors import Rejected, RejectReason

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")
NAME_PATTERN: Final = re.compile(r"[a-z0-9_]{1,48}")
MAX_NAME: Final = 48


def is_name(text: str) -> bool:
    """True if `text` is a valid swarm, member or role name: `[a-z0-9_]{1,48}`."""
    return NAME_PATTERN.fullmatch(text) is not None


def u16(value: int) -> bytes:
    return _U16.pack(value)


def u32(value: int) -> bytes:
    return _U32.pack(value)


def u64(value: int) -> bytes:
    return _U64.pack(value)


def var(data: bytes) -> bytes:
    """A variable field: uint32 length, then the bytes."""
    return _U32.pack(len(data)) + data


def text(value: str) -> bytes:
    """A variable field of ASCII text."""
    return var(value.encode("ascii"))


def fields(*parts: bytes) -> bytes:
    """Concatenated variable fields: the usual input of a KDF or a hash."""
    return b"".join([var(part) for part in parts])


def malformed(detail: str) -> Rejected:
    return Rejected(RejectReason.MALFORMED, detail)


class Reader:
    """Reader of fields in untrusted bytes; every length is bounded by the caller."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._at = 0

    def raw(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise malformed("message ends early")
        part = self._data[self._at : end]
        self._at = end
        return part

    def u8(self) -> int:
        return self.raw(1)[0]

    def u16(self) -> int:
        return int(_U16.unpack(self.raw(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack(self.raw(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.raw(8))[0])

    def var(self, limit: int) -> bytes:
        length = self.u32()
        if length > limit:
            raise malformed(f"field of {length} bytes, at most {limit}")
        return self.raw(length)

    def count(self, limit: int) -> int:
        """A uint32 number of items."""
        number = self.u32()
        if number > limit:
            raise malformed(f"{number} items, at most {limit}")
        return number

    def name(self) -> str:
        """A variable field that is a valid name."""
        raw = self.var(MAX_NAME)
        try:
            value = raw.decode("ascii")
        except UnicodeDecodeError:
            raise malformed("name is not ASCII") from None
        if not is_name(value):
            raise malformed("name has characters other than a-z 0-9 _")
        return value

    def end(self) -> None:
        if self._at != len(self._data):
            raise malformed("bytes after the last field")
