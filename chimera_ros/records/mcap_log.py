"""Flight recorder: decrypted messages in `flight.mcap`, their sealed originals in `sealed.mcap`, the evidence
that verifies them in `evidence.mcap`.

All are MCAP files of profile `ros2` (https://mcap.dev/spec/registry): CDR data with `ros2msg` schemas and
nothing else, since readers of that profile refuse a file for one other encoding. What was written reaches the
operating system at most a second later, so a killed process loses no more than that. Its file lacks the index
at the end, which `close` adds to every file of the record that can have it (`mcap_complete`). When a file
has grown to `max_bytes` the next one begins (`flight_1.mcap`, …); existing files are never overwritten.

A full or read-only disk affects the records only: messages are dropped and counted, `status().problem` says
why, and every ten seconds a new file is tried. Evidence is kept until it is on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from mcap.exceptions import McapError
from mcap.writer import CompressionType, Writer

from chimera_ros import private_files
from chimera_ros.records.mcap_complete import complete, lock_file

FLUSH_EVERY_S: Final = 0.5  # flushed on the first message after this, or by `tick`
RETRY_AFTER_S: Final = 10.0
CHUNK_BYTES: Final = 256 * 1024  # memory bound: a chunk and the index of those written
MAX_CHUNKS: Final = 7200  # an hour at one flush each half second; keeps the index at the end small
MAX_CHANNELS: Final = 4096
MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
MIN_BYTES: Final = 64 * 1024
MAX_KEPT: Final = 4096  # messages
NO_QOS: Final = {"offered_qos_profiles": "[]"}  # of every channel: profile `ros2` requires the key
EVIDENCE_CHANNEL: Final = "record/evidence"
EVIDENCE_TYPE: Final = "std_msgs/msg/String"
EVIDENCE_SCHEMA: Final = "string data\n"
CHECKPOINT_TYPE: Final = "chimera_ros/msg/Checkpoint"
ENVELOPE_TYPE: Final = "chimera_ros/msg/SecureEnvelope"
ENVELOPE_SCHEMA: Final = """\
uint8 VERSION=1
uint8 LANE_COMMAND=0
uint8 LANE_TELEMETRY=1
uint8 LANE_PLAN=2
uint8 LANE_BULK=3
uint8 version
uint8 lane
uint16 sender
uint32 epoch
uint8[] sealed
uint8[<=4627] signature
"""
_MAX_TIME = 2**64 - 1
_CDR_STRING = struct.Struct("<4sI")  # encapsulation header (XCDR1, little-endian), length with the final NUL
_CDR_LE = b"\0\1\0\0"
_Item = tuple[str, str, str, bytes, int, int, Mapping[str, str]]


def encode_string(text: bytes) -> bytes:
    """CDR of a std_msgs/String."""
    return _CDR_STRING.pack(_CDR_LE, len(text) + 1) + text + b"\0"


def decode_string(cdr: bytes) -> bytes:
    """The text of a std_msgs/String. Raises ValueError if this is not the CDR of one."""
    if len(cdr) <= _CDR_STRING.size:
        raise ValueError("a std_msgs/String that is truncated")
    header, size = _CDR_STRING.unpack_from(cdr)
    text = cdr[_CDR_STRING.size : _CDR_STRING.size + size]
    if header != _CDR_LE or len(text) != size or not text.endswith(b"\0"):
        raise ValueError("not the CDR of a std_msgs/String")
    return text[:-1]


class RecordLossMonitor:
    """Edges of record loss: one sentence when it begins, one when it ends."""

    def __init__(self) -> None:
        self._problem = ""

    def change(self, status: RecorderStatus) -> str:
        """One sentence if loss has begun or ended since the last call, else empty."""
        before, self._problem = self._problem, status.problem
        if status.problem and not before:
            return status.problem
        if before and not status.problem:
            return f"records are written again; {status.dropped} messages were lost"
        return ""


@dataclass(frozen=True, slots=True)
class RecorderStatus:
    """Counts of what was recorded. `problem` is one sentence while records are being lost, else empty."""

    opened: int  # decrypted messages in the files
    sealed: int  # sealed originals in the files
    dropped: int  # messages that could not be recorded
    bytes_written: int
    files: tuple[str, ...]
    problem: str


class FlightRecorder:
    """Records into `directory`; disk errors never raise; may be called from any thread.

    `namespace` precedes every channel name to make the topic (`/chimera` gives
    `/chimera/drone_07/telemetry`). `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int = 512 * 1024 * 1024,
        *,
        namespace: str = "/chimera",
        envelope_schema: str = ENVELOPE_SCHEMA,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if max_bytes < MIN_BYTES:
            raise ValueError(f"records rotate at {max_bytes} bytes, at least {MIN_BYTES} are needed")
        self._lock = threading.Lock()
        self._namespace = "/" + namespace.strip("/") if namespace.strip("/") else ""
        self._envelope_schema = envelope_schema
        self._flight = _Stream(directory, "flight", max_bytes, CompressionType.ZSTD, clock)
        # Ciphertext does not compress.
        self._sealed = _Stream(directory, "sealed", max_bytes, CompressionType.NONE, clock)
        self._evidence = _Stream(directory, "evidence", max_bytes, CompressionType.ZSTD, clock, keep=True)
        self._streams = (self._flight, self._sealed, self._evidence)

    def write(
        self,
        channel: str,
        type_name: str,
        schema_text: str,
        cdr: bytes | memoryview,
        sent_ns: int,
        received_ns: int,
        sender: str,
    ) -> bool:
        """Records a decrypted message; False if it was lost. Times are ns since the Unix epoch.

        `type_name` reads `package/msg/Name`; `schema_text` is its ros2msg text with all types it uses.
        """
        topic = f"{self._namespace}/{channel}"
        metadata = {"sender": sender, "channel": channel}
        with self._lock:
            self._evidence.tick()  # what waits for the disk needs no further evidence to be tried again
            return self._flight.write(topic, type_name, schema_text, cdr, sent_ns, received_ns, metadata)

    def write_sealed(self, channel: str, envelope_cdr: bytes | memoryview, received_ns: int) -> bool:
        """Records a sealed envelope as it came from the wire; False if it was lost."""
        topic = f"{self._namespace}/{channel}"
        with self._lock:
            return self._sealed.write(
                topic, ENVELOPE_TYPE, self._envelope_schema, envelope_cdr, received_ns, received_ns, {}
            )

    def write_checkpoint(
        self, member: str, cdr: bytes | memoryview, schema_text: str, received_ns: int
    ) -> bool:
        """Records a member's verified checkpoint beside the sealed originals; False if it was lost."""
        topic = f"{self._namespace}/{member}/checkpoint"
        with self._lock:
            received_ns = max(
                received_ns, self._sealed.newest_ns
            )  # checkpoints come from a thread of their own
            return self._sealed.write(
                topic, CHECKPOINT_TYPE, schema_text, cdr, received_ns, received_ns, {"sender": member}
            )

    def write_evidence(self, value: Mapping[str, object], time_ns: int) -> bool:
        """Records evidence as JSON in a std_msgs/String; False while it has to wait for the disk."""
        topic = f"{self._namespace}/{EVIDENCE_CHANNEL}"
        data = encode_string(json.dumps(value, separators=(",", ":"), sort_keys=True).encode())
        with self._lock:
            time_ns = max(time_ns, self._evidence.newest_ns)
            return self._evidence.write(topic, EVIDENCE_TYPE, EVIDENCE_SCHEMA, data, time_ns, time_ns, {})

    def tick(self) -> None:
        """Flushes what is due; call it about once a second."""
        with self._lock:
            for stream in self._streams:
                stream.tick()

    def status(self) -> RecorderStatus:
        """Counts so far."""
        flight, sealed = self._flight, self._sealed
        return RecorderStatus(
            opened=flight.count,
            sealed=sealed.count,
            dropped=sum(stream.dropped for stream in self._streams),
            bytes_written=sum(stream.bytes_written for stream in self._streams),
            files=tuple(str(path) for stream in self._streams for path in stream.files),
            problem=next((stream.problem for stream in self._streams if stream.problem), ""),
        )

    def close(self) -> RecorderStatus:
        """Completes all files. Writing afterwards only counts as dropped."""
        with self._lock:
            for stream in self._streams:
                stream.close()
        return self.status()


class _Stream:
    """One sequence of MCAP files. With `keep`, what is not on the disk yet begins the next file."""

    def __init__(
        self,
        directory: Path,
        name: str,
        max_bytes: int,
        compression: CompressionType,
        clock: Callable[[], float],
        *,
        keep: bool = False,
    ) -> None:
        self._directory = directory
        self._name = name
        self._max_bytes = max_bytes
        self._compression = compression
        self._clock = clock
        self._file: BinaryIO | None = None
        self._writer: Writer | None = None
        self._schemas: dict[str, int] = {}
        self._channels: dict[tuple[str, str, str], int] = {}
        self._sequences: dict[int, int] = {}
        self._chunks = 0
        self._pending = 0
        self._flush_due_s = 0.0
        self._retry_s = float("-inf")
        self._closed = False
        self._finished_bytes = 0
        self._unflushed = 0  # messages handed to the writer and not yet to the operating system
        self._kept: deque[_Item] | None = deque(maxlen=MAX_KEPT) if keep else None  # not flushed yet
        self.newest_ns = 0
        self.count = 0
        self.dropped = 0
        self.problem = ""
        self.files: list[Path] = []

    @property
    def bytes_written(self) -> int:
        return self._finished_bytes + self._size()

    def write(
        self,
        topic: str,
        type_name: str,
        schema_text: str,
        cdr: bytes | memoryview,
        sent_ns: int,
        received_ns: int,
        metadata: Mapping[str, str],
    ) -> bool:
        if self._closed or len(cdr) > MAX_MESSAGE_BYTES:
            self.dropped += 1
            return False
        item = (topic, type_name, schema_text, bytes(cdr), sent_ns, received_ns, metadata)
        self.newest_ns = max(self.newest_ns, received_ns)
        keep, put = self._kept is not None, False
        try:
            if self._kept is not None:
                self._kept.append(item)
            put = keep and self._writer is None  # a new file begins with what was kept
            writer = self._writer or self._open()
            if writer is None:
                self.dropped += not keep
                return False
            put = put or self._put(writer, item)
            if not put:
                self.dropped += 1
                return False
            if self._pending >= CHUNK_BYTES or self._clock() >= self._flush_due_s:
                self._flush(writer)
        except (OSError, McapError) as error:
            self.dropped += not (put or keep)
            self._fail(error)
            return False
        return True

    def _put(self, writer: Writer, item: _Item) -> bool:
        topic, type_name, schema_text, data, sent_ns, received_ns, metadata = item
        channel = self._channel(writer, topic, type_name, schema_text, metadata)
        if channel is None:
            return False
        sequence = self._sequences.get(channel, 0)
        self._sequences[channel] = (sequence + 1) & 0xFFFFFFFF
        writer.add_message(
            channel_id=channel,
            log_time=min(max(received_ns, 0), _MAX_TIME),
            data=data,
            publish_time=min(max(sent_ns, 0), _MAX_TIME),
            sequence=sequence,
        )
        if self._pending == 0:
            self._flush_due_s = self._clock() + FLUSH_EVERY_S
        self._pending += len(data) + 64
        self._unflushed += 1
        self.count += 1
        return True

    def tick(self) -> None:
        try:
            if self._writer is None and self._kept and not self._closed:
                self._open()
            elif self._writer is not None and self._pending and self._clock() >= self._flush_due_s:
                self._flush(self._writer)
        except (OSError, McapError) as error:
            self._fail(error)

    def close(self) -> None:
        self._closed = True
        self._end()
        # Those that a full disk or a killed process has left without an index.
        for path in self._directory.glob(f"{self._name}*.mcap"):
            with contextlib.suppress(OSError):
                complete(path)

    def _end(self) -> None:
        try:
            if self._writer is None and self._kept:
                self._retry_s = float("-inf")
                self._open()
            if self._writer is not None:
                self._finish(self._writer)
        except (OSError, McapError) as error:
            self._fail(error)

    def _open(self) -> Writer | None:
        """Begins the next file unless a retry is not due yet; existing files are not touched."""
        if self._clock() < self._retry_s:
            return None
        private_files.make_folder(self._directory)
        number = len(self.files)
        while True:
            path = self._directory / (f"{self._name}_{number}.mcap" if number else f"{self._name}.mcap")
            try:
                file = open(path, "xb", buffering=1024 * 1024, opener=private_files.opener)  # noqa: SIM115  # closed by `_finish`
                break
            except FileExistsError:
                number += 1
        self._file = file
        lock_file(file)
        self._schemas.clear()
        self._channels.clear()
        self._sequences.clear()
        self._chunks = 0
        self._pending = 0
        try:
            writer = self._begin(file)
        except (OSError, McapError):  # leave no empty file in the record
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self._writer = writer
        self.files.append(path)
        for item in tuple(self._kept or ()):
            self._put(writer, item)
        return writer

    def _begin(self, file: BinaryIO) -> Writer:
        # The chunk is closed by `_flush`; the writer's own limit lies above it.
        writer = Writer(file, chunk_size=2 * CHUNK_BYTES + MAX_MESSAGE_BYTES, compression=self._compression)
        writer.start(profile="ros2", library="chimera_ros")
        file.flush()
        return writer

    def _channel(
        self,
        writer: Writer,
        topic: str,
        type_name: str,
        schema_text: str,
        metadata: Mapping[str, str],
    ) -> int | None:
        key = (topic, type_name, metadata.get("sender", ""))
        channel = self._channels.get(key)
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS:
                return None
            schema = self._schemas.get(type_name)
            if schema is None:
                schema = writer.register_schema(type_name, "ros2msg", schema_text.encode())
                self._schemas[type_name] = schema
            channel = writer.register_channel(topic, "cdr", schema, NO_QOS | dict(metadata))
            self._channels[key] = channel
        return channel

    def _flush(self, writer: Writer) -> None:
        writer.flush()
        if self._file is not None and os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was deleted")
        self._flushed()
        self._chunks += 1
        if self._size() >= self._max_bytes or self._chunks >= MAX_CHUNKS:
            self._finish(writer)

    def _finish(self, writer: Writer) -> None:
        writer.finish()
        file = self._file
        assert file is not None
        file.flush()
        os.fsync(file.fileno())
        self._flushed()
        self._finished_bytes += self._size()
        self._file = self._writer = None
        file.close()

    def _flushed(self) -> None:
        self._pending = self._unflushed = 0
        if self._kept is not None:
            self._kept.clear()
        self.problem = ""

    def _size(self) -> int:
        if self._file is None:
            return 0
        try:
            return self._file.tell()
        except (OSError, ValueError):
            return 0

    def _fail(self, error: Exception) -> None:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        self.problem = (
            f"records are being lost: {self._directory} cannot be written ({what}); free space there or"
            " choose another directory with --record"
        )
        self.count -= self._unflushed
        if self._kept is None:
            self.dropped += self._unflushed
        self._unflushed = self._pending = 0
        self._finished_bytes += self._size()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            # Closing fails while the buffer cannot be written and leaves the descriptor open: close that one.
            with contextlib.suppress(OSError, AttributeError):
                self._file.raw.close()  # type: ignore[attr-defined]  # a BufferedWriter has it
        self._file = self._writer = None
        self._retry_s = self._clock() + RETRY_AFTER_S
