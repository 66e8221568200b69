"""Completion of MCAP files that were never closed: the summary and index that other readers need.

A process that is killed, or a disk that fills up, leaves a file that ends within a record. That record is
removed; index, statistics and footer are written behind the last whole chunk. A file with any other fault is
left as it is, and so is one that its writer holds locked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Message,
    MessageIndex,
    Schema,
    Statistics,
)

from chimera_ros.records.mcap_read import MAGIC, MAX_RECORD_BYTES, chunk_data, is_complete

MAX_CUT: Final = 4 * 1024 * 1024  # above the largest chunk that the recorder writes
_HEAD: Final = struct.Struct("<BQ")  # opcode and length of a record


@dataclass(slots=True)
class _Content:
    """What a file holds up to `end`."""

    end: int = 0
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)  # messages by channel
    chunks: list[ChunkIndex] = field(default_factory=list)
    missing: dict[int, MessageIndex] = field(default_factory=dict)  # of the last chunk, by channel


def lock_file(file: BinaryIO) -> bool:
    """Locks a file for its writer until it is closed; False if another has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def complete(path: Path) -> bool:
    """Completes a file; True if it is whole now. Raises OSError; then it ends as before."""
    if is_complete(path):
        return True
    with path.open("r+b") as file:
        if not lock_file(file):
            return False
        content = _scan(file)
        if content is None or not content.chunks:
            return False
        file.seek(content.end)
        file.truncate()
        try:
            file.write(_ending(content))
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(content.end)
            raise
    return True


def _scan(file: BinaryIO) -> _Content | None:
    """Reads up to the last whole chunk; None where the file does not merely end too early."""
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        return None
    content = _Content()
    for opcode, start, body in _records(file):
        if body is None:  # ends within this record
            return content if size - start <= MAX_CUT else None
        match opcode:
            case Opcode.HEADER:
                pass
            case Opcode.CHUNK:
                if not _add_chunk(content, start, body):
                    return None
            case Opcode.MESSAGE_INDEX if content.chunks:
                _add_index(content, start, body)
            case Opcode.DATA_END:  # an ending that was not finished
                return content if size - start <= MAX_CUT else None
            case _:
                return None
        content.end = start + _HEAD.size + len(body)
    return content


def _records(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Opcode, offset and body of each record; the body of one that is cut off is None."""
    while True:
        start = file.tell()
        head = file.read(_HEAD.size)
        if not head:
            return
        opcode, length = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
        body = file.read(length) if opcode and length <= MAX_RECORD_BYTES else b""
        whole = len(head) == _HEAD.size and len(body) == length
        yield opcode, start, body if whole else None
        if not whole:
            return


def _add_chunk(content: _Content, start: int, body: bytes) -> bool:
    """Adds a chunk and what is in it; False if it is damaged."""
    try:
        chunk = Chunk.read(ReadDataStream(BytesIO(body)))
        data = chunk_data(chunk)
        content.missing = {}
        stream = ReadDataStream(BytesIO(data))
        while stream.count < len(data):
            offset = stream.count
            opcode, length = stream.read1(), stream.read8()
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                content.schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                channel = Channel.read(stream)
                content.channels[channel.id] = channel
            elif opcode == Opcode.MESSAGE:
                message = Message.read(stream, length)
                index = content.missing.setdefault(
                    message.channel_id, MessageIndex(channel_id=message.channel_id, records=[])
                )
                index.records.append((message.log_time, offset))
            else:
                return False
    except Exception:  # the parser raises many types on damage
        return False
    for number, index in content.missing.items():
        content.counts[number] = content.counts.get(number, 0) + len(index.records)
    content.chunks.append(
        ChunkIndex(
            chunk_length=_HEAD.size + len(body),
            chunk_start_offset=start,
            compression=chunk.compression,
            compressed_size=len(chunk.data),
            message_end_time=chunk.message_end_time,
            message_index_length=0,
            message_index_offsets={},
            message_start_time=chunk.message_start_time,
            uncompressed_size=chunk.uncompressed_size,
        )
    )
    return True


def _add_index(content: _Content, start: int, body: bytes) -> None:
    (number,) = struct.unpack_from("<H", body)
    chunk = content.chunks[-1]
    chunk.message_index_offsets[number] = start
    chunk.message_index_length += _HEAD.size + len(body)
    content.missing.pop(number, None)


def _ending(content: _Content) -> bytes:
    """Everything behind the last chunk and those of its message indexes that were written."""
    builder = RecordBuilder()
    last = content.chunks[-1]
    for number, index in content.missing.items():
        last.message_index_offsets[number] = content.end + builder.count
        before = builder.count
        index.write(builder)
        last.message_index_length += builder.count - before
    DataEnd(0).write(builder)
    summary_start = content.end + builder.count
    for record in (*content.schemas.values(), *content.channels.values()):
        record.write(builder)
    Statistics(
        attachment_count=0,
        channel_count=len(content.channels),
        channel_message_counts=content.counts,
        chunk_count=len(content.chunks),
        message_count=sum(content.counts.values()),
        message_end_time=max(chunk.message_end_time for chunk in content.chunks),
        message_start_time=min(chunk.message_start_time for chunk in content.chunks),
        metadata_count=0,
        schema_count=len(content.schemas),
    ).write(builder)
    for chunk in content.chunks:
        chunk.write(builder)
    Footer(summary_start=summary_start, summary_offset_start=0, summary_crc=0).write(builder)
    return builder.end() + MAGIC
