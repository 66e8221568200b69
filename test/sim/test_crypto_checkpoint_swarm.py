"""Whole swarms with checkpoints: an honest one in a storm accuses nobody; an insider and a liar are found."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.encoding import fields, u16, u32
from chimera_ros.crypto.errors import NotReady, Rejected, RejectReason
from chimera_ros.crypto.evidence.ledgers import POLL_S
from chimera_ros.crypto.messages.checkpoint import Checkpoint, make_checkpoint
from chimera_ros.crypto.primitives import labels, merkle
from chimera_ros.crypto.primitives.key_schedule import blind_key, sender_key
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.testing.swarm import LinkConditions, Swarm
from chimera_ros.crypto.wire import ENVELOPE_VERSION, Envelope, Lane

TYPE = "T"
STORM = LinkConditions(loss=0.1, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05)


class Flight:
    """Telemetry of every drone, opened by everybody else, and checkpoints as the shell sends them."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.alarms: list[tuple[float, str, str]] = []  # when, which process, text
        self.checkpoints: list[tuple[str, Checkpoint]] = []
        self.altered = lambda name, checkpoint: checkpoint
        self._ask_at = 0.0
        swarm.wire.on_data = self._deliver
        swarm.wire.on_effect = self._effect

    def _effect(self, process, effect):
        if isinstance(effect, SecurityAlarm) and effect.severity == "error":
            self.alarms.append((self.swarm.wire.now, process, effect.text))

    def _host(self, process):
        return self.swarm.server.host if process == "crypto" else self.swarm.hosts[process]

    def _deliver(self, target, item):
        wire, host = self.swarm.wire, self._host(target)
        name, message = item
        if isinstance(message, Checkpoint):
            wire.perform(target, host.take_checkpoint(name, message, wire.now, wire.wall_ns) or [])
        else:
            with contextlib.suppress(Rejected):
                host.open(f"{name}/telemetry", TYPE, message, wire.wall_ns)

    def run(self, seconds: float, period_s: float = 0.08) -> None:
        wire = self.swarm.wire
        end = wire.now + seconds
        while wire.now < end:
            for name, process in self.swarm.member_host.items():
                if name.startswith("drone"):
                    try:
                        envelope = self._host(process).seal(
                            f"{name}/telemetry", TYPE, b"%f" % wire.now, wire.wall_ns, name
                        )
                    except NotReady:
                        continue
                    wire.broadcast(process, (name, envelope))
            wire.run(period_s)
            self.ask()

    def ask(self) -> None:
        """What the thread of each process does four times a second."""
        wire = self.swarm.wire
        if wire.now < self._ask_at:
            return
        self._ask_at = wire.now + POLL_S
        for process in wire.nodes:
            host = self._host(process)
            for name, checkpoint in host.make_checkpoints(wire.now, wire.wall_ns):
                self.checkpoints.append((name, checkpoint))
                wire.broadcast(process, (name, self.altered(name, checkpoint)))
            wire.perform(process, host.tick_checkpoints(wire.now))

    def counts(self, process):
        return self._host(process).checkpoints.counts


def forged(swarm: Swarm, victim: str, insider: str, counter: int, text: bytes) -> Envelope:
    """Telemetry in the victim's name, made from what the insider knows: the epoch's keys."""
    session, _ = swarm.host_of(insider).context.members[insider].sending
    entry = next(item for item in session.roster if item.name == victim)
    aead, salt = sender_key(session._keys.lanes[Lane.TELEMETRY], entry.slot, entry.incarnation)
    aad = fields(
        labels.ENVELOPE_AAD,
        bytes((ENVELOPE_VERSION,)),
        swarm.trust.swarm.encode(),
        session.transcript_hash,
        bytes((Lane.TELEMETRY,)),
        u16(entry.slot),
        u32(session.epoch),
        f"{victim}/telemetry".encode(),
        TYPE.encode(),
    )
    nonce = salt + counter.to_bytes(8, "big")
    sealed = nonce + aead.encrypt(nonce, swarm.wire.wall_ns.to_bytes(8, "big") + text, aad)
    return Envelope(ENVELOPE_VERSION, Lane.TELEMETRY, entry.slot, session.epoch, sealed)


def test_an_honest_swarm_in_a_storm_accuses_nobody():
    swarm = Swarm(drones=4, shards=2, link=STORM, rotate_s=6.0)
    swarm.join()
    flight = Flight(swarm)
    flight.run(25.0)
    flight.swarm.wire.link = LinkConditions()
    flight.run(5.0)
    assert flight.alarms == []
    epochs = {checkpoint.epoch for _, checkpoint in flight.checkpoints}
    assert len(epochs) >= 4
    for name in swarm.member_host:
        for epoch in epochs:
            ranges = [(c.first, c.last) for n, c in flight.checkpoints if (n, c.epoch) == (name, epoch)]
            assert all(after[0] == before[1] + 1 for before, after in pairwise(ranges))
            assert not ranges or ranges[0][0] == 1
    counts = [flight.counts(process) for process in ("leader", "crypto", "shard_0")]
    assert all(found.mismatched == 0 for found in counts)
    # A tenth of the checkpoints is lost, each with all its packets; in one process it may be twice as many.
    assert sum(found.confirmed for found in counts) > 4 * sum(found.unconfirmed for found in counts) > 0


def test_without_loss_every_packet_is_confirmed_also_the_last_of_each_epoch():
    swarm = Swarm(drones=3, shards=3, rotate_s=4.0)
    swarm.join()
    flight = Flight(swarm)
    flight.run(14.0)
    swarm.wire.run(0.5)
    for _ in range(8):
        swarm.wire.run(POLL_S)
        flight.ask()
    for process in ("leader", "crypto", "shard_1"):
        counts = flight.counts(process)
        assert counts.unconfirmed == counts.mismatched == counts.refused == 0
        assert counts.confirmed > 200
        assert counts.confirmed == flight._host(process).counters.opened
    assert flight.alarms == []


@pytest.mark.parametrize("ahead", [1, 500_000])
def test_an_insider_who_forges_anothers_telemetry_is_found_within_one_checkpoint(ahead):
    swarm = Swarm(drones=3, shards=3)
    swarm.join()
    flight = Flight(swarm)
    flight.run(3.0)
    assert flight.alarms == []
    session, slot = swarm.host_of("drone_01").context.members["drone_01"].sending
    counter = session._seal_states[(slot, Lane.TELEMETRY)].counter + ahead
    began = swarm.wire.now
    swarm.wire.broadcast("shard_1", ("drone_01", forged(swarm, "drone_01", "drone_02", counter, b"lie")))
    swarm.wire.run(0.01)
    flight.run(2.5)
    assert {process for _, process, _ in flight.alarms} == {"crypto", "leader", "shard_2"}
    for when, _, text in flight.alarms:
        assert when - began < (1.3 if ahead == 1 else 2.3)
        assert f"drone_01/telemetry packet {counter} of epoch {session.epoch}" in text
        assert "another member has forged them, or drone_01 equivocates" in text


def test_a_sender_shut_out_by_a_counter_jump_is_heard_again_in_a_new_epoch():
    swarm = Swarm(drones=3, shards=3)
    swarm.join()
    flight = Flight(swarm)
    flight.run(3.0)
    session, _ = swarm.host_of("drone_01").context.members["drone_01"].sending
    swarm.wire.broadcast("shard_1", ("drone_01", forged(swarm, "drone_01", "drone_02", 2**40, b"lie")))
    flight.run(0.2)
    leader = swarm.hosts["leader"]
    shut_out = leader.counters.rejected[RejectReason.REPLAY]
    assert shut_out > 0
    flight.run(3.0)
    assert swarm.together(above=session.epoch)
    confirmed, refused = flight.counts("leader").confirmed, leader.counters.rejected[RejectReason.REPLAY]
    flight.run(2.0)
    assert flight.counts("leader").confirmed - confirmed > 3 * 2.0 / 0.08 * 0.5
    assert leader.counters.rejected[RejectReason.REPLAY] == refused


def test_a_lying_sender_is_found():
    """It tells its leader one thing and signs another."""
    swarm = Swarm(drones=3, shards=3)
    swarm.join()
    flight = Flight(swarm)

    def lie(name, checkpoint):
        if name != "drone_01":
            return checkpoint
        session, slot = swarm.host_of(name).context.members[name].sending
        entry = session.by_slot[slot]
        key = blind_key(session._keys.lanes[Lane.TELEMETRY], slot, entry.incarnation)
        first = merkle.leaf(checkpoint.first, merkle.blind(key, checkpoint.first), digest(b"x"), b"y")
        return make_checkpoint(
            swarm.identities[name],
            checkpoint.transcript_hash,
            checkpoint.epoch,
            slot,
            checkpoint.lane,
            checkpoint.first,
            checkpoint.made_ns,
            (first, *checkpoint.leaves[1:]),
        )

    flight.altered = lie
    flight.run(2.0)
    assert {process for _, process, _ in flight.alarms} == {"crypto", "leader", "shard_1", "shard_2"}
    assert all("drone_01/telemetry packet" in text for _, _, text in flight.alarms)


def test_a_signature_by_another_member_confirms_nothing():
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    flight = Flight(swarm)

    def usurp(name, checkpoint):
        if name != "drone_01":
            return checkpoint
        return make_checkpoint(
            swarm.identities["drone_02"],
            checkpoint.transcript_hash,
            checkpoint.epoch,
            checkpoint.slot,
            checkpoint.lane,
            checkpoint.first,
            checkpoint.made_ns,
            checkpoint.leaves,
        )

    flight.altered = usurp
    flight.run(7.0)
    host = swarm.hosts["leader"]
    assert host.checkpoints.counts.unconfirmed >= 20
    assert set(host.checkpoints.unconfirmed_of) == {"drone_01"}
    assert host.checkpoints.counts.refused >= 5
    assert flight.alarms == []
