"""Reader of a flight's records: plaintext messages with their envelopes, checkpoints, evidence.

A message and its envelope have the same topic and log time, which the recorder never uses twice. Truncated
files are read up to the truncation. Older records have their evidence in `flight.mcap`. The CDR decoders are
passed in, because this package imports no ROS.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chimera_ros.crypto.encoding import is_name
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.messages.checkpoint import Checkpoint, parse_checkpoint
from chimera_ros.crypto.wire import LANE_SIGNED, NONCE_BYTES, Envelope
from chimera_ros.formats import json_values
from chimera_ros.records.mcap_log import (
    CHECKPOINT_TYPE,
    ENVELOPE_TYPE,
    EVIDENCE_CHANNEL,
    EVIDENCE_TYPE,
    decode_string,
)
from chimera_ros.records.mcap_read import read_messages

OLD_EVIDENCE: Final = "chimera_ros/Evidence"  # schema in flight.mcap, of older records
EVIDENCE_FORMAT: Final = "chimera-evidence-1"
MAX_EVIDENCE: Final = 100_000
_MAX_ITEM_BYTES: Final = 65536
_NUMBERED: Final = re.compile(r"(flight|sealed|evidence)(?:_(\d+))?\.mcap")

StreamId = tuple[int, int, int]
"""Epoch, slot, lane: the packets of one sender under one key."""


class RecordError(Exception):
    """A record that cannot be read; the text is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Decoders:
    """CDR decoders: the fields of a SecureEnvelope and of a Checkpoint. Each raises ValueError."""

    envelope: Callable[[bytes], tuple[int, int, int, int, bytes, bytes]]
    checkpoint: Callable[[bytes], tuple[bytes, int, int, int, int, int, int, bytes, bytes, bytes]]


@dataclass(frozen=True, slots=True)
class SenderEvidence:
    """Evidence of a stream: its sender, and the key that blinds the leaves of its checkpoints."""

    swarm: str
    member: str
    epoch: int
    slot: int
    lane: int
    transcript_hash: bytes
    key_tag: bytes
    blind_key: bytes = field(repr=False)
    certificate_der: bytes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The evidence as a JSON object, as it is recorded."""
        return {
            "format": EVIDENCE_FORMAT,
            "swarm": self.swarm,
            "member": self.member,
            "epoch": self.epoch,
            "slot": self.slot,
            "lane": self.lane,
            "transcript_hash": self.transcript_hash.hex(),
            "key_tag": self.key_tag.hex(),
            "blind_key": self.blind_key.hex(),
            "certificate": base64.b64encode(self.certificate_der).decode(),
        }

    @classmethod
    def parse(cls, data: bytes) -> SenderEvidence | None:
        """Evidence from a record; None if it is malformed."""
        try:
            value = json_values.parse(data, _MAX_ITEM_BYTES)
            epoch, slot, lane = (value[name] for name in ("epoch", "slot", "lane"))
            if value["format"] != EVIDENCE_FORMAT or {type(epoch), type(slot), type(lane)} != {int}:
                return None
            if not (is_name(value["swarm"]) and is_name(value["member"])):
                return None
            transcript_hash, key_tag, blind_key = (
                bytes.fromhex(value[name]) for name in ("transcript_hash", "key_tag", "blind_key")
            )
            certificate = base64.b64decode(value["certificate"], validate=True)
        except (ValueError, KeyError, TypeError, binascii.Error):
            return None
        if {len(transcript_hash), len(key_tag), len(blind_key)} != {32}:
            return None
        member = value["member"]
        return cls(
            value["swarm"], member, epoch, slot, lane, transcript_hash, key_tag, blind_key, certificate
        )


@dataclass(frozen=True, slots=True)
class Packet:
    """A plaintext message and the envelope it was opened from. Times are ns since the Unix epoch."""

    channel: str
    type_name: str
    sender: str
    sent_ns: int
    received_ns: int
    payload: bytes = field(repr=False)  # CDR
    envelope: Envelope = field(repr=False)

    @property
    def counter(self) -> int:
        """The sender's packet counter in this stream, from the nonce."""
        return int.from_bytes(self.envelope.sealed[4:NONCE_BYTES])

    @property
    def stream(self) -> StreamId:
        """Epoch, slot, lane."""
        return self.envelope.epoch, self.envelope.sender, self.envelope.lane

    @property
    def plaintext(self) -> bytes:
        """Plaintext of the AEAD: `sent_ns` and payload."""
        return self.sent_ns.to_bytes(8) + self.payload

    @property
    def signed(self) -> bool:
        """True if every message of this lane carries a signature of its own."""
        return LANE_SIGNED[self.envelope.lane]


class FlightFiles:
    """The records of a flight in one folder. Raises RecordError if there are none or one cannot be read."""

    def __init__(self, directory: Path, decoders: Decoders) -> None:
        self.directory = directory
        self._decoders = decoders
        self._flight = _sorted(directory, "flight")
        self._sealed = _sorted(directory, "sealed")
        self._evidence = _sorted(directory, "evidence")
        if not self._flight or not self._sealed:
            raise RecordError(
                f"{directory} holds no flight.mcap with its sealed.mcap; give the folder of a recorded flight"
            )
        self.unpaired = 0  # messages without envelope, and envelopes without message; set by `packets`
        self._broken: list[Path] = []

    @property
    def broken(self) -> list[str]:
        """Names of the files read so far that are truncated or damaged."""
        return sorted({path.name for path in self._broken})

    def _read(self, paths: list[Path]) -> Iterator[Any]:
        for path in paths:
            try:
                yield from read_messages(path, self._broken)
            except OSError as error:
                raise RecordError(f"{path} cannot be read: {error.strerror or error}") from error
            except ValueError as error:
                raise RecordError(str(error)) from error

    def evidence(self) -> dict[StreamId, SenderEvidence]:
        """The senders, by stream."""
        found: dict[StreamId, SenderEvidence] = {}
        for data in self._evidence_documents():
            item = SenderEvidence.parse(data)
            if item is not None and len(found) < MAX_EVIDENCE:
                found[(item.epoch, item.slot, item.lane)] = item
        return found

    def _evidence_documents(self) -> Iterator[bytes]:
        for schema, channel, message in self._read(self._evidence):
            if (
                schema is not None
                and schema.name == EVIDENCE_TYPE
                and channel.topic.endswith(EVIDENCE_CHANNEL)
            ):
                with contextlib.suppress(ValueError):
                    yield decode_string(message.data)
        for schema, _, message in self._read(self._flight):
            if schema is not None and schema.name == OLD_EVIDENCE:
                yield message.data

    def checkpoints(self) -> Iterator[Checkpoint]:
        """The recorded checkpoints in recorded order; malformed ones are skipped."""
        for schema, _, message in self._read(self._sealed):
            if schema is not None and schema.name == CHECKPOINT_TYPE:
                try:
                    yield parse_checkpoint(*self._decoders.checkpoint(message.data))
                except (ValueError, Rejected):
                    continue

    def packets(self) -> Iterator[Packet]:
        """Plaintext messages with their envelopes, in recorded order."""
        self.unpaired = 0
        originals = (item for item in self._read(self._sealed) if item[0] and item[0].name == ENVELOPE_TYPE)
        original = next(originals, None)
        for schema, channel, message in self._read(self._flight):
            if schema is None or channel.message_encoding != "cdr":
                continue
            while original is not None and original[2].log_time < message.log_time:
                self.unpaired += 1
                original = next(originals, None)
            if original is None or (original[2].log_time, original[1].topic) != (
                message.log_time,
                channel.topic,
            ):
                self.unpaired += 1
                continue
            try:
                envelope = Envelope(*self._decoders.envelope(original[2].data))
            except ValueError:
                self.unpaired += 1
                original = next(originals, None)
                continue
            original = next(originals, None)
            if envelope.lane >= len(LANE_SIGNED) or len(envelope.sealed) < NONCE_BYTES:
                self.unpaired += 1
                continue
            yield Packet(
                channel.metadata.get("channel", ""),
                schema.name,
                channel.metadata.get("sender", ""),
                message.publish_time,
                message.log_time,
                message.data,
                envelope,
            )
        self.unpaired += sum(1 for _ in originals) + (original is not None)


def _sorted(directory: Path, name: str) -> list[Path]:
    found = []
    for path in directory.glob(f"{name}*.mcap"):
        match = _NUMBERED.fullmatch(path.name)
        if match is not None:
            found.append((int(match[2] or 0), path))
    return [path for _, path in sorted(found)]
