"""Reader of MCAP files that may be truncated, damaged or hostile.

What precedes the fault is read, memory is bounded, and truncation is reported.
"""

from __future__ import annotations

import dataclasses
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import zstandard
from mcap.exceptions import McapError
from mcap.records import Channel, Chunk, Message, MessageIndex, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

MAGIC: Final = b"\x89MCAP0\r\n"
MAX_RECORD_BYTES: Final = 256 * 1024 * 1024  # of a chunk too, compressed or not; ours have 3 MiB at most


def read_messages(
    path: Path, broken: list[Path] | None = None
) -> Iterator[tuple[Schema | None, Channel, Message]]:
    """Reads a record file from the front, in the order written, also one that was never closed.

    Ends where the file is truncated or damaged; then `path` is added to `broken`. Raises OSError if it cannot
    be opened, ValueError if it is no MCAP file.
    """
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if not MAGIC.startswith(magic):
            raise ValueError(f"{path} is not an MCAP file")
        try:
            yield from _messages(file)
        except OSError:
            raise
        except Exception:  # the parser raises many types on damage; every one means the same
            if broken is not None:
                broken.append(path)


def is_complete(path: Path) -> bool:
    """True if the file was closed and has its index at the end. Raises OSError."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        if file.tell() < 16:
            return False
        file.seek(-8, os.SEEK_END)
        return file.read(8) == MAGIC


def _messages(file: IO[bytes]) -> Iterator[tuple[Schema | None, Channel, Message]]:
    file.seek(0)
    schemas: dict[int, Schema] = {}
    channels: dict[int, Channel] = {}
    indexed: set[int] = set()  # channels of the chunk before whose index is still to come
    reader = StreamReader(file, emit_chunks=True, record_size_limit=MAX_RECORD_BYTES)
    for record in reader.records:
        if isinstance(record, MessageIndex):
            # The index of a chunk that was not read: its opcode is damaged, and readers skip what they
            # do not know.
            if record.channel_id not in indexed:
                raise McapError("a message index without its chunk")
            indexed.remove(record.channel_id)
        elif isinstance(record, Chunk):
            indexed.clear()
        for item in _unpacked(record) if isinstance(record, Chunk) else (record,):
            if isinstance(item, Schema):
                schemas[item.id] = item
            elif isinstance(item, Channel):
                channels[item.id] = item
            elif isinstance(item, Message):
                channel = channels[item.channel_id]
                indexed.add(item.channel_id)
                yield schemas.get(channel.schema_id), channel, item


def chunk_data(chunk: Chunk) -> bytes:
    """The records in a chunk, not parsed. Raises McapError where it is damaged or too large."""
    size = chunk.uncompressed_size
    if chunk.compression == "zstd":
        size = max(size, zstandard.frame_content_size(chunk.data))
    if size > MAX_RECORD_BYTES or chunk.compression not in ("", "zstd"):
        raise McapError(f"a chunk of {size} bytes, compressed by {chunk.compression!r}")
    data = zstandard.decompress(chunk.data, size) if chunk.compression else chunk.data
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise McapError("a chunk whose checksum differs")
    return data


def _unpacked(chunk: Chunk) -> list[object]:
    plain = dataclasses.replace(chunk, compression="", data=chunk_data(chunk))
    return list(breakup_chunk(plain, validate_crc=False))
