"""Ledgers and the book: ranges that touch, loss and disorder that accuse nobody, forgeries that are found."""

from __future__ import annotations

from threading import Lock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.errors import Rejected, RejectReason
from chimera_ros.crypto.evidence import ledgers as ledgers
from chimera_ros.crypto.evidence.checkpoint_tracker import CheckpointTracker
from chimera_ros.crypto.messages.announcement import RosterEntry
from chimera_ros.crypto.messages.checkpoint import MAX_LEAVES, Checkpoint, make_checkpoint, parse_checkpoint
from chimera_ros.crypto.primitives import merkle
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.testing.swarm import MemoryKeystore
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import Lane

KEY, TRANSCRIPT, AAD = bytes(range(32)), digest(b"epoch"), digest(b"aad")
CHANNEL = "drone_01/telemetry"
WALL_NS = 1_900_000_000_000_000_000
KEYSTORE = MemoryKeystore()
DRONE = KEYSTORE.enroll("drone_01", Role.DRONE)
OTHER = KEYSTORE.enroll("drone_02", Role.DRONE)
ENTRY = RosterEntry(3, "drone_01", Role.DRONE, DRONE.fingerprint, bytes(16), bytes(32))
S = 1_000_000_000


def plain(counter: int, sent_ns: int = WALL_NS) -> bytes:
    return sent_ns.to_bytes(8, "big") + b"telemetry %d" % counter


class Pair:
    """A sender's book and a receiver's, with what travels between them in the test's hands."""

    def __init__(self, verify: bool = True) -> None:
        self.sender = CheckpointTracker("testswarm", Lock(), True, S // 5)
        self.receiver = CheckpointTracker("testswarm", Lock(), verify, S // 5)
        self.out = self.sender.sender(TRANSCRIPT, 8, ENTRY, Lane.TELEMETRY, KEY)
        self.inbox = self.receiver.receiver(TRANSCRIPT, 8, bytes(32), ENTRY, Lane.TELEMETRY, KEY)
        self.now = 0.0

    def send(self, first: int, count: int) -> None:
        for counter in range(first, first + count):
            self.out.add(AAD, plain(counter), WALL_NS)

    def hear(self, counter: int, text: bytes | None = None, sent_ns: int = WALL_NS) -> None:
        assert self.inbox is not None
        self.inbox.add(counter, (CHANNEL, AAD, text or plain(counter), sent_ns))

    def checkpoints(self) -> list[Checkpoint]:
        drafts = []
        for _ in range(4):  # noticed, due
            self.now += 0.25
            drafts += self.sender.drafts(self.now, WALL_NS + S)
        return [self.sender.sign(draft, DRONE) for draft in drafts]

    def take(self, checkpoint: Checkpoint, known: bytes | None = TRANSCRIPT, name: str = "drone_01"):
        members = {DRONE.fingerprint: DRONE.member, OTHER.fingerprint: OTHER.member}
        return self.receiver.take(
            name, checkpoint, DRONE.fingerprint, known, members.get, self.now, WALL_NS + S
        )

    def wait(self, seconds: int) -> list[str]:
        alarms = []
        for _ in range(seconds):
            self.now += 1.0
            alarms += [effect.text for effect in self.receiver.tick(self.now)]
        return alarms


def test_ranges_touch_and_never_overlap():
    pair = Pair()
    pair.send(1, 700)
    found = pair.checkpoints()
    assert [(item.first, item.last) for item in found] == [(1, 256), (257, 512), (513, 700)]
    pair.send(701, 1)
    assert [(item.first, item.last) for item in pair.checkpoints()] == [(701, 701)]
    assert pair.checkpoints() == []
    assert all(item.root_fits() and item.signed_by(DRONE.member, "testswarm") for item in found)


def test_a_range_is_closed_within_a_second():
    pair = Pair()
    pair.send(1, 1)
    pair.now = 10.0
    pair.checkpoints()
    pair.send(2, 1)  # just after the book was asked
    times = []
    for step in range(1, 5):
        times += [step * 0.25 for _ in pair.sender.drafts(pair.now + step * 0.25, WALL_NS)]
    assert times
    assert times[0] <= 1.0


@given(st.integers(1, 600), st.data())
def test_loss_disorder_and_doubles_accuse_nobody(count, data):
    pair = Pair()
    pair.send(1, count)
    random = data.draw(st.randoms(use_true_random=False))
    events = [("packet", counter) for counter in range(1, count + 1) if random.random() < 0.8]
    heard = len(events)
    kept = []
    for checkpoint in pair.checkpoints():
        copies = random.choice([0, 1, 1, 2])
        events += [("checkpoint", checkpoint)] * copies
        kept += [checkpoint] if copies else []
    random.shuffle(events)
    alarms = []
    for kind, item in events:
        if kind == "packet":
            pair.hear(item)
            continue
        try:
            alarms += pair.take(item)
        except Rejected as refusal:
            if refusal.reason is not RejectReason.DUPLICATE:
                raise
    alarms += pair.wait(6)
    counts = pair.receiver.counts
    covered = sum(1 for kind, item in events if kind == "packet" and any(c.covers(item) for c in kept))
    assert not alarms
    assert counts.mismatched == 0
    assert counts.confirmed == covered
    assert counts.unconfirmed == heard - covered
    assert pair.inbox.idle


@given(st.integers(1, 300), st.data())
def test_any_changed_byte_is_found(count, data):
    pair = Pair()
    pair.send(1, count)
    victim = data.draw(st.integers(1, count))
    good = plain(victim)
    at = data.draw(st.integers(0, len(good) - 1))
    forged = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    before = data.draw(st.booleans())
    for counter in range(1, count + 1):
        if counter != victim or before:
            pair.hear(counter, forged if counter == victim else None)
    effects = [effect for item in pair.checkpoints() for effect in pair.take(item)]
    if not before:
        pair.hear(victim, forged)
        effects += pair.receiver.tick(pair.now + 1.0)
    (alarm,) = effects
    assert f"{CHANNEL} packet {victim} of epoch 8" in alarm.text
    assert "another member has forged them, or drone_01 equivocates" in alarm.text
    assert pair.receiver.counts.mismatched == 1
    assert pair.receiver.counts.confirmed == count - 1


def test_other_associated_data_is_another_packet():
    pair = Pair()
    pair.send(1, 1)
    pair.inbox.add(1, (CHANNEL, digest(b"other channel"), plain(1), WALL_NS))
    (checkpoint,) = pair.checkpoints()
    assert len(pair.take(checkpoint)) == 1


def test_a_counter_that_was_never_given_out_is_found():
    """A forger far ahead of the sender is not covered by any range, but older than a checkpoint below it."""
    pair = Pair()
    pair.send(1, 10)
    pair.hear(1_000_000, b"x" * 20, sent_ns=WALL_NS)
    pair.hear(11, sent_ns=WALL_NS + S + 1)  # honest: sent after the range was closed
    (checkpoint,) = pair.checkpoints()  # made_ns is one second after sent_ns
    (alarm,) = pair.take(checkpoint)
    assert "packet 1000000" in alarm.text
    assert pair.receiver.counts.mismatched == 1


def test_a_sender_with_a_wrong_clock_is_not_accused_of_counters():
    pair = Pair()
    pair.send(1, 2)
    pair.hear(3, sent_ns=WALL_NS)
    (checkpoint,) = [
        make_checkpoint(DRONE, TRANSCRIPT, 8, 3, Lane.TELEMETRY, 1, WALL_NS + 3600 * S, item.leaves)
        for item in pair.checkpoints()
    ]
    assert pair.take(checkpoint) == []


def test_a_sender_that_signs_something_else_than_it_sent():
    pair = Pair()
    pair.hear(1)
    lie = merkle.leaf(1, merkle.blind(KEY, 1), AAD, plain(2))
    checkpoint = make_checkpoint(DRONE, TRANSCRIPT, 8, 3, Lane.TELEMETRY, 1, WALL_NS, (lie,))
    (alarm,) = pair.take(checkpoint)
    assert alarm.severity == "error"
    assert "drone_01 equivocates" in alarm.text


def test_two_checkpoints_for_one_counter():
    pair = Pair()
    leaves = tuple(merkle.leaf(c, merkle.blind(KEY, c), AAD, plain(c)) for c in (1, 2, 3))
    pair.take(make_checkpoint(DRONE, TRANSCRIPT, 8, 3, Lane.TELEMETRY, 1, WALL_NS, leaves[:2]))
    (alarm,) = pair.take(make_checkpoint(DRONE, TRANSCRIPT, 8, 3, Lane.TELEMETRY, 2, WALL_NS, leaves[1:]))
    assert "two different checkpoints for packets 2 to 2" in alarm.text


def test_what_is_refused_changes_nothing():
    pair = Pair()
    pair.hear(1)
    pair.hear(2)
    leaves = tuple(merkle.leaf(c, merkle.blind(KEY, c), AAD, plain(c)) for c in (1, 2))
    good = make_checkpoint(DRONE, TRANSCRIPT, 8, 3, Lane.TELEMETRY, 1, WALL_NS, leaves)
    forged = make_checkpoint(OTHER, TRANSCRIPT, 8, 3, Lane.TELEMETRY, 1, WALL_NS, leaves[::-1])

    def changed(**values):
        names = Checkpoint.__slots__
        return Checkpoint(**{**{name: getattr(good, name) for name in names}, **values})

    cases = {
        RejectReason.SIGNATURE: forged,
        RejectReason.MALFORMED: changed(leaves=leaves[::-1]),
        RejectReason.ROSTER: changed(slot=4),
        RejectReason.UNKNOWN_EPOCH: changed(transcript_hash=bytes(32)),
    }
    for reason, checkpoint in cases.items():
        with pytest.raises(Rejected) as refusal:
            pair.take(checkpoint, known=None)
        assert refusal.value.reason is reason
    for values in ({"made_ns": WALL_NS + 1}, {"first": 2, "last": 3}, {"root": bytes(32)}):
        with pytest.raises(Rejected):
            pair.take(changed(**values))
    with pytest.raises(Rejected):
        pair.take(good, name="drone_02")
    assert pair.receiver.counts.mismatched == pair.receiver.counts.confirmed == 0
    assert pair.take(good) == []
    assert pair.receiver.counts.confirmed == 2


def test_a_split_view_is_told_once():
    pair = Pair()
    elsewhere = make_checkpoint(DRONE, digest(b"split"), 8, 3, Lane.TELEMETRY, 1, WALL_NS, (bytes(32),))
    (alarm,) = pair.take(elsewhere)
    assert "split view: drone_01 holds another epoch 8" in alarm.text
    with pytest.raises(Rejected, match="duplicate"):
        pair.take(elsewhere)
    unsigned = make_checkpoint(OTHER, digest(b"third"), 8, 3, Lane.TELEMETRY, 1, WALL_NS, (bytes(32),))
    with pytest.raises(Rejected, match="signature"):
        pair.take(unsigned)


def test_the_last_range_of_an_epoch_outlives_its_keys():
    pair = Pair()
    pair.send(1, 5)
    for counter in range(1, 6):
        pair.hear(counter, b"forged as it can be" if counter == 4 else None)
    pair.sender.close_epoch(TRANSCRIPT)
    pair.receiver.close_epoch(TRANSCRIPT)
    assert pair.inbox.blind_key is None
    (draft,) = pair.sender.drafts(pair.now, WALL_NS)
    assert draft.packets == []
    assert draft.blind_key is None
    assert draft.made_ns == WALL_NS
    (alarm,) = pair.take(pair.sender.sign(draft, DRONE))
    assert "packet 4 " in alarm.text
    assert pair.receiver.counts.confirmed == 4
    assert pair.sender.drafts(pair.now, WALL_NS) == []
    assert pair.wait(8) == []
    assert pair.receiver.opened_senders() == frozenset()  # nothing is kept of a closed epoch
    assert pair.sender._senders == {}


def test_retired_epochs_are_closed_at_once():
    pair = Pair()
    pair.send(1, 3)
    pair.sender.retire(TRANSCRIPT)
    assert len(pair.sender.drafts(0.0, WALL_NS)) == 1


def test_packets_without_checkpoint_are_unconfirmed_and_silence_is_told():
    pair = Pair()
    alarms = []
    for second in range(16):
        pair.hear(1 + second)
        assert pair.receiver.counts.unconfirmed <= max(0, second - 2)
        alarms += pair.wait(1)
    assert pair.receiver.counts.unconfirmed >= 12
    assert pair.receiver.unconfirmed_of["drone_01"] == pair.receiver.counts.unconfirmed
    (text,) = alarms
    assert "drone_01 has sent no checkpoint for 10 s" in text


def test_everything_is_bounded():
    pair = Pair()
    pair.send(1, MAX_LEAVES * (ledgers.MAX_RANGES + 5))
    assert len(pair.out.closed) == ledgers.MAX_RANGES
    found = pair.checkpoints()
    assert pair.sender.counts.dropped == 5
    assert found[0].first == 5 * MAX_LEAVES + 1
    for counter in range(1, ledgers.MAX_PENDING + 100):
        pair.hear(counter)
    assert len(pair.inbox.pending) == ledgers.MAX_PENDING
    pair.wait(5)
    assert pair.receiver.counts.unconfirmed == ledgers.MAX_PENDING + 99
    big = Pair()
    for _ in range(20):
        big.out.add(AAD, bytes(1024 * 1024), WALL_NS)
    assert [item.size for item in big.out.closed] == [ledgers.RANGE_BYTES] * 2
    for item in found[:70]:
        pair.inbox.hold(item, pair.now)
    assert len(pair.inbox._held) <= ledgers.MAX_HELD


def test_a_flood_of_checkpoints_is_limited():
    pair = Pair()
    pair.hear(1)
    reasons = []
    for number in range(400):
        fake = make_fake(number)
        try:
            pair.take(fake)
        except Rejected as refusal:
            reasons.append(refusal.reason)
    assert reasons.count(RejectReason.SIGNATURE) == 128
    assert reasons.count(RejectReason.BUDGET) == 272


def make_fake(number: int) -> Checkpoint:
    leaf = digest(b"%d" % number)
    return Checkpoint(TRANSCRIPT, 8, 3, Lane.TELEMETRY, 1, 1, WALL_NS, leaf, (leaf,), bytes(4627))


def test_who_does_not_verify_keeps_nothing():
    pair = Pair(verify=False)
    assert pair.inbox is None
    with pytest.raises(Rejected, match="not_addressed"):
        pair.take(make_fake(1))


@given(
    st.binary(max_size=40),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=130),
)
def test_no_bytes_surprise_the_parser(short, epoch, lane, first, last, leaves):
    for transcript in (short, TRANSCRIPT):
        try:
            found = parse_checkpoint(
                transcript, epoch, 1, lane, first, last, 0, bytes(32), leaves, bytes(4627)
            )
        except Rejected:
            continue
        assert len(found.leaves) == found.last - found.first + 1
        assert found.lane in (Lane.TELEMETRY, Lane.BULK)
