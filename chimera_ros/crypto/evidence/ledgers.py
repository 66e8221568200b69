"""Ledgers of unsigned packets: sealed ones not yet in a checkpoint, opened ones not yet compared with one.

Sealing and opening only append a reference to the plaintext, under the host's lock; leaves are hashed when a
checkpoint is made or received. Everything is bounded: ranges not signed in time are dropped and counted,
packets without a checkpoint in time are counted as unconfirmed and dropped.

Not handled here: signatures, certificates, alarms (checkpoint_tracker.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ..messages.announcement import RosterEntry
from ..messages.checkpoint import MAX_LEAVES, Checkpoint
from ..primitives import merkle
from ..wire import STAMP_BYTES

RANGE_BYTES: Final = 8 * 1024 * 1024  # a range of large messages is closed early
MAX_RANGES: Final = 64  # closed and not yet signed
MAX_RANGE_BYTES: Final = 64 * 1024 * 1024
RANGE_S: Final = 0.7  # a range is closed at the first poll this long after the one that saw its first packet
POLL_S: Final = 0.24  # poll period; with RANGE_S a range is closed within a second

LARGE: Final = 1024  # a received plaintext above this size is stored as its leaf
MAX_PENDING: Final = 4096  # received packets in one bucket
BUCKETS: Final = 4  # one a second: a packet is unconfirmed after three to four
MAX_HELD: Final = 64  # checkpoints kept for packets that come after them
HELD_S: Final = 8.0

Pending = tuple[str, bytes, bytes, int]
"""Channel, BLAKE3(associated data), plaintext, sent_ns; where the hash is empty the third is the leaf."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Blind key of one sender, lane and epoch, to recompute a record's leaves with; it opens no envelope.

    It allows guesses at that sender's packets to be tested, so it is as confidential as the record.
    """

    transcript_hash: bytes
    epoch: int
    key_tag: bytes
    entry: RosterEntry
    lane: int
    blind_key: bytes = field(repr=False)


@dataclass(slots=True)
class CounterRange:
    """A closed range of packets with consecutive counters, not yet signed."""

    transcript_hash: bytes
    epoch: int
    entry: RosterEntry
    lane: int
    first: int
    made_ns: int
    packets: list[tuple[bytes, bytes]] = field(repr=False)
    size: int
    blind_key: bytes | None = field(repr=False)
    leaves: tuple[bytes, ...] = ()

    def compute_leaves(self) -> tuple[bytes, ...]:
        """The leaves; plaintexts and blind key are dropped."""
        if self.blind_key is not None:
            key, first = self.blind_key, self.first
            self.leaves = tuple(
                merkle.leaf(first + index, merkle.blind(key, first + index), aad_hash, plaintext)
                for index, (aad_hash, plaintext) in enumerate(self.packets)
            )
            self.blind_key = None
            self.packets = []
        return self.leaves


class SenderLedger:
    """Packets that a hosted sender has sealed on one lane of one epoch. The caller holds the host's lock."""

    __slots__ = (
        "_blind_key",
        "_bytes",
        "_due_at",
        "_first",
        "_packets",
        "closed",
        "dropped",
        "ended",
        "entry",
        "epoch",
        "lane",
        "made_ns",
        "transcript_hash",
    )

    def __init__(
        self, transcript_hash: bytes, epoch: int, entry: RosterEntry, lane: int, blind_key: bytes
    ) -> None:
        self.transcript_hash = transcript_hash
        self.epoch = epoch
        self.entry = entry
        self.lane = lane
        self.closed: deque[CounterRange] = deque()
        self.dropped = 0
        self.made_ns = 0  # when the last range was closed: later packets must not carry an earlier time
        self.ended = False  # the member sends under another epoch: the open range is the last
        self._blind_key: bytes | None = blind_key
        self._packets: list[tuple[bytes, bytes]] = []
        self._first = 1
        self._bytes = 0
        self._due_at: float | None = None

    def add(self, aad_hash: bytes, plaintext: bytes, sent_ns: int) -> None:
        """Appends the next packet; counters begin at 1 without gaps."""
        self._packets.append((aad_hash, plaintext))
        self._bytes += len(plaintext)
        if len(self._packets) >= MAX_LEAVES or self._bytes >= RANGE_BYTES:
            self._close(sent_ns)

    def poll(self, now: float, wall_ns: int) -> None:
        """Closes the open range when it is due. The first range is staggered by slot, so that signing and
        verification are spread over the second.
        """
        if not self._packets:
            self._due_at = None
            return
        if self._due_at is None:
            spread = 1.0 if self._first > 1 else (self.entry.slot * 0.618) % 1.0
            self._due_at = now + RANGE_S * spread
        if self.ended or now >= self._due_at:
            self._close(wall_ns)

    def end(self) -> None:
        """Closes and hashes everything before the epoch's keys are wiped."""
        self.ended = True
        if self._packets:
            last = self._packets[-1][1]
            self._close(
                int.from_bytes(last[:STAMP_BYTES])
            )  # the last packet's time: the wall clock is not at hand
        for item in self.closed:
            item.compute_leaves()
        self._blind_key = None

    def _close(self, made_ns: int) -> None:
        self.made_ns = max(self.made_ns, made_ns)
        self.closed.append(
            CounterRange(
                self.transcript_hash,
                self.epoch,
                self.entry,
                self.lane,
                self._first,
                made_ns,
                self._packets,
                self._bytes,
                self._blind_key,
            )
        )
        self._first += len(self._packets)
        self._packets = []
        self._bytes = 0
        self._due_at = None
        while (
            len(self.closed) > MAX_RANGES or sum(item.size for item in self.closed) > MAX_RANGE_BYTES
        ) and len(self.closed) > 1:
            self.closed.popleft()
            self.dropped += 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of comparing opened packets with a checkpoint."""

    confirmed: int = 0
    mismatched: tuple[tuple[str, int], ...] = ()  # channel and counter
    beyond_range: tuple[tuple[str, int], ...] = ()  # counters that the sender had not issued yet


class ReceiverLedger:
    """Packets opened from one sender on one lane of one epoch, kept until their checkpoint is received.

    `pending` is filled by `EpochSession.open`; methods that change it need the host's lock.
    """

    __slots__ = ("_held", "_older", "blind_key", "entry", "epoch", "lane", "overflow", "pending")

    def __init__(self, epoch: int, entry: RosterEntry, lane: int, blind_key: bytes) -> None:
        self.epoch = epoch
        self.entry = entry
        self.lane = lane
        self.blind_key: bytes | None = blind_key
        self.pending: dict[int, Pending] = {}
        self.overflow = 0
        self._older: deque[dict[int, Pending]] = deque()
        self._held: deque[tuple[float, Checkpoint]] = deque()

    @property
    def idle(self) -> bool:
        """True if no packet is pending."""
        return not self.pending and not any(self._older)

    @property
    def newest(self) -> Checkpoint | None:
        """The last checkpoint held."""
        return self._held[-1][1] if self._held else None

    def add(self, counter: int, packet: Pending) -> None:
        """Adds an accepted packet. The caller holds the lock."""
        if len(self.pending) >= MAX_PENDING:
            self.overflow += 1
        else:
            self.pending[counter] = packet

    def leaf(self, counter: int, aad_hash: bytes, plaintext: bytes) -> bytes | None:
        """The leaf of a packet; None once the epoch's keys are wiped."""
        key = self.blind_key
        return None if key is None else merkle.leaf(counter, merkle.blind(key, counter), aad_hash, plaintext)

    def drop_key(self) -> None:
        """Hashes all pending packets and drops the blind key. The caller holds the lock."""
        for bucket in (self.pending, *self._older):
            for counter, (channel, aad_hash, data, sent_ns) in bucket.items():
                if aad_hash:
                    bucket[counter] = (channel, b"", self.leaf(counter, aad_hash, data) or b"", sent_ns)
        self.blind_key = None

    def conflict(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """A held checkpoint whose range overlaps this one's."""
        return next((held for _, held in self._held if held.overlaps(checkpoint)), None)

    def hold(self, checkpoint: Checkpoint, now: float) -> None:
        """Holds a verified checkpoint for HELD_S: packets may arrive after it."""
        self._held.append((now, checkpoint))
        while len(self._held) > MAX_HELD:
            self._held.popleft()

    def take(self, checkpoint: Checkpoint, before_ns: int | None) -> list[tuple[int, Pending]]:
        """Removes and returns the packets in the checkpoint's range, and those above it whose `sent_ns` is
        below `before_ns`. The caller holds the lock.
        """
        first, last = checkpoint.first, checkpoint.last
        taken: list[tuple[int, Pending]] = []
        for bucket in (self.pending, *self._older):
            if not bucket:
                continue
            chosen = [
                counter
                for counter, packet in bucket.items()
                if first <= counter <= last
                or (before_ns is not None and counter > last and packet[3] < before_ns)
            ]
            taken += [(counter, bucket.pop(counter)) for counter in chosen]
        return taken

    def late(self) -> list[tuple[Checkpoint, list[tuple[int, Pending]]]]:
        """Removes and returns packets that arrived after their checkpoint. The caller holds the lock."""
        found = []
        if not self.idle:
            for _, checkpoint in self._held:
                taken = self.take(checkpoint, None)
                if taken:
                    found.append((checkpoint, taken))
        return found

    def rotate(self, now: float) -> int:
        """Drops packets that timed out and returns their number; once a second. The caller holds the lock."""
        while self._held and now - self._held[0][0] > HELD_S:
            self._held.popleft()
        self._older.appendleft(self.pending)
        self.pending = {}
        lost, self.overflow = self.overflow, 0
        if len(self._older) >= BUCKETS:
            lost += len(self._older.pop())
        return lost

    def compare(
        self, checkpoint: Checkpoint, taken: list[tuple[int, Pending]], key: bytes | None
    ) -> Comparison:
        """Compares removed packets with a verified checkpoint; `key` is the blind key at their removal."""
        confirmed = 0
        contradicted: list[tuple[str, int]] = []
        beyond: list[tuple[str, int]] = []
        for counter, (channel, aad_hash, data, _) in taken:
            if not checkpoint.covers(counter):
                beyond.append((channel, counter))
                continue
            leaf = data
            if aad_hash:
                assert key is not None  # without a key every packet was hashed
                leaf = merkle.leaf(counter, merkle.blind(key, counter), aad_hash, data)
            if leaf == checkpoint.leaves[counter - checkpoint.first]:
                confirmed += 1
            else:
                contradicted.append((channel, counter))
        return Comparison(confirmed, tuple(sorted(contradicted)), tuple(sorted(beyond)))


@dataclass(frozen=True, slots=True)
class CheckpointCounts:
    """Counts of checkpoints and of the unsigned packets opened by this process."""

    sent: int = 0  # checkpoints signed here
    dropped: int = 0  # ranges dropped before they were signed
    verified: int = 0  # received checkpoints with a valid signature
    refused: int = 0  # received checkpoints that were rejected
    confirmed: int = 0  # packets that match their sender's checkpoint
    unconfirmed: int = 0  # packets without a checkpoint in time
    mismatched: int = 0  # packets that contradict their sender's checkpoint

    def to_status(self) -> dict[str, int]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in self.__slots__}
