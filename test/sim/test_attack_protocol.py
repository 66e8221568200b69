"""Attacks on the key protocol by strangers who record and inject, by members who lie, and by a full disk."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from chimera_ros.crypto.effects import Installed, SecurityAlarm, Send, StopAcked, StopOrder
from chimera_ros.crypto.errors import KeystoreError, Rejected, RejectReason
from chimera_ros.crypto.key_server import rekey_requests
from chimera_ros.crypto.keystore import member_state as store_room
from chimera_ros.crypto.keystore.member_state import MemoryStore, StoredState
from chimera_ros.crypto.member.clock_filter import ClockFilter
from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.control import BEHIND_FLAG, VOLUME_FLAG, Beat, Ready, Switch
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.rate_limit import RateLimiter
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust.policy import Rule
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage, Envelope, Lane


class FullDisk(MemoryStore):
    """A store that can be told to refuse."""

    full = False

    def save(self, state: StoredState) -> None:
        if self.full:
            raise KeystoreError("state.json: cannot write (No space left on device).")
        super().save(state)


def newest(swarm: Swarm, kind: ControlKind) -> ControlMessage:
    return next(message for _, _, message in reversed(swarm.wire.sent) if message.kind is kind)


def changed(message: ControlMessage, signature: bytes) -> ControlMessage:
    return ControlMessage(message.kind, (*message.parts[:-1], signature))


# Stops


def test_an_old_receipt_does_not_pass_for_that_of_a_later_stop() -> None:
    swarm = Swarm(drones=1, shards=1, operator=True)
    swarm.join()
    wire = swarm.wire
    operator = swarm.hosts["operator"]
    wire.perform("operator", [Send(operator.sign_stop("operator", "hold", ["drone_01"], wire.wall_ns))])
    wire.run(0.5)
    receipt = newest(swarm, ControlKind.STOP_ACK)
    assert [ack.counter for ack in wire.of(StopAcked)] == [1]
    wire.run(11.0)
    operator.sign_stop("operator", "land", ["drone_01"], wire.wall_ns)  # the attacker lets nobody hear it
    assert operator.handle(receipt, wire.now, wire.wall_ns) == []
    assert operator.counters.control[RejectReason.AGE] == 1


def test_a_flood_of_forged_beats_does_not_keep_a_stop_away() -> None:
    swarm = Swarm(drones=1, shards=1, operator=True)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    drone, beat = swarm.hosts["shard_0"], newest(swarm, ControlKind.BEAT)
    body = bytearray(beat.parts[0])
    for index in range(2000):
        body[-17:-9] = (2**60 + index).to_bytes(8, "big")
        drone.handle(ControlMessage(ControlKind.BEAT, (bytes(body), beat.parts[1])), wire.now, wire.wall_ns)
    assert drone.counters.control[RejectReason.BUDGET] > 1000
    stop = swarm.hosts["operator"].sign_stop("operator", "land", [], wire.wall_ns)
    effects = drone.handle(stop, wire.now, wire.wall_ns)
    assert [effect.level for effect in effects if isinstance(effect, StopOrder)] == ["land"]


def test_reserves_are_part_of_the_rate() -> None:
    purse = RateLimiter(200.0, ControlKind)
    taken = sum(purse.take(kind, 1.0) for kind in ControlKind for _ in range(500))
    assert taken == 200
    purse = RateLimiter(200.0, ControlKind)
    assert sum(purse.take(ControlKind.BEAT, 1.0) for _ in range(500)) < 200
    assert purse.take(ControlKind.STOP, 1.0)


def test_a_stop_is_obeyed_though_the_disk_is_full() -> None:
    swarm = Swarm(drones=1, shards=1, operator=True)
    disk = swarm.stores["drone_01"] = FullDisk()
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    disk.full = True
    drone = swarm.hosts["shard_0"]
    stop = swarm.hosts["operator"].sign_stop("operator", "land", [], wire.wall_ns)
    effects = drone.handle(stop, wire.now, wire.wall_ns)
    assert [effect.level for effect in effects if isinstance(effect, StopOrder)] == ["land"]
    assert [effect for effect in effects if isinstance(effect, SecurityAlarm)]
    again = drone.handle(stop, wire.now, wire.wall_ns)
    assert not [effect for effect in again if isinstance(effect, StopOrder)], "obeyed once, disk or not"


@pytest.mark.parametrize("victim", ["drone_01", "crypto"])
def test_a_full_disk_ends_no_process_and_heals(victim: str) -> None:
    swarm = Swarm(drones=3, shards=3, rotate_s=5.0)
    disk = swarm.stores[victim] = FullDisk()
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    before = swarm.epochs()
    disk.full = True
    wire.run(12.0)  # any exception would come out here
    assert [alarm for alarm in wire.of(SecurityAlarm) if "No space left" in alarm.text]
    number = before[victim]
    assert number is not None
    assert disk.state.highest_epoch <= number, "nothing is installed that could not be remembered"
    disk.full = False
    wire.run_until(lambda: swarm.together(above=number), 60.0)


@pytest.mark.parametrize("what", ["stop", "eviction"])
def test_what_a_full_disk_did_not_take_does_not_end_a_members_part(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers fit into a file that exists; a stop or an eviction that was obeyed in memory waits for room."""
    swarm = Swarm(drones=2, shards=2, operator=True)
    path = tmp_path / "state.json"
    swarm.stores["drone_01"] = store_room.FileStore(path, durable=False)  # type: ignore[assignment]
    swarm.join()
    wire = swarm.wire

    def rotate() -> int:
        epoch = swarm.epochs()["leader"] or 0
        wire.run(1.0)
        swarm.server.rotate("manual", wire.now, wire.wall_ns)
        wire.run(3.0)
        return epoch

    rotate()
    write = store_room.write_atomic

    def refuse(path: Path, *rest: object, **options: object) -> None:
        if path.parent == tmp_path:
            raise KeystoreError(f"{path}: cannot write (No space left on device)")
        write(path, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store_room, "write_atomic", refuse)
    if what == "stop":
        stop = swarm.hosts["operator"].sign_stop("operator", "hold", [], wire.wall_ns)
        wire.perform("shard_0", swarm.hosts["shard_0"].handle(stop, wire.now, wire.wall_ns))
    else:
        swarm.kill("shard_1")
        verdict = swarm.server.evict("drone_02", "operator", bytes(32), wire.now, wire.wall_ns)
        assert verdict.acted
        wire.perform("crypto", verdict.effects)
    assert (
        wire.run_until(lambda: bool([a for a in wire.of(SecurityAlarm) if "No space left" in a.text]), 2.0)
        < 2.0
    )
    before = rotate()
    assert (swarm.epochs()["drone_01"] or 0) > before, "it goes on with the others"
    monkeypatch.undo()
    rotate()
    remembered = store_room.FileStore(path).load()
    assert remembered.highest_epoch == swarm.epochs()["drone_01"]
    assert remembered.operator_counters if what == "stop" else remembered.evictions


# Epochs and joining


def test_a_forged_switch_is_not_kept_for_later() -> None:
    swarm = Swarm(drones=1, shards=1)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    host = swarm.hosts["leader"]
    crypto = swarm.identities["crypto"]
    epoch = (host.epoch("leader") or 0) + 4
    body = Switch(swarm.trust.swarm, epoch, bytes(32), crypto.fingerprint).encode()
    genuine = signed(ControlKind.SWITCH, body, crypto)
    host.handle(genuine, wire.now, wire.wall_ns)
    assert host.control.installer._early_switch is genuine
    host.handle(changed(genuine, bytes(4627)), wire.now, wire.wall_ns)
    assert host.control.installer._early_switch is genuine
    assert host.counters.control[RejectReason.SIGNATURE] == 1


def test_an_earlier_incarnation_never_comes_back() -> None:
    """A package that an attacker held back must not push out the process that replaced its maker."""
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    swarm.server.rotate("manual", wire.now, wire.wall_ns)
    old = swarm.hosts["shard_0"]
    request = newest(swarm, ControlKind.KEY_REQUEST)
    member = old.context.members["drone_01"]
    member._packages.clear()
    held_back = old.handle(request, wire.now, wire.wall_ns) or [
        Send(member.answer(member.request, wire.now))  # type: ignore[arg-type]
    ]
    swarm.start_host("shard_0")  # the drone restarts
    wire.run(1.0)
    wire.run_until(swarm.together, 30.0)
    wire.run(11.0)
    young = swarm.hosts["shard_0"].context.members["drone_01"].incarnation
    package = next(effect.message for effect in held_back if isinstance(effect, Send))
    before = swarm.server.host.counters.control[RejectReason.STALE]
    swarm.server.handle(package, wire.now, wire.wall_ns)
    assert swarm.server.host.counters.control[RejectReason.STALE] == before + 1
    wire.run(1.0)
    roster = {entry.name: entry.incarnation for entry in swarm.server.host.roster()}
    assert roster["drone_01"] == young
    assert swarm.together()


def test_a_recorded_ready_of_another_epoch_is_no_sign_of_life() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    drone = swarm.identities["drone_01"]
    body = Ready(swarm.trust.swarm, 0, bytes(32), drone.fingerprint, BEHIND_FLAG, ()).encode()
    current = swarm.server._current
    assert current is not None
    heard = dict(current.heard_at)
    wire.now += 5.0
    swarm.server.handle(signed(ControlKind.READY, body, drone), wire.now, wire.wall_ns)
    assert current.heard_at == heard


def test_a_crypto_node_that_beats_ever_other_epochs_is_told_of_now_and_then() -> None:
    swarm = Swarm(drones=1, shards=1)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    host, crypto = swarm.hosts["leader"], swarm.identities["crypto"]
    epoch = host.epoch("leader") or 0
    alarms = []
    for index in range(400):
        wall_ns, made_up = wire.wall_ns, digest(bytes([index % 256, index // 256]))
        body = Beat(swarm.trust.swarm, epoch, made_up, crypto.fingerprint, wall_ns, wall_ns, True).encode()
        alarms += host.handle(signed(ControlKind.BEAT, body, crypto), wire.now, wall_ns)
        wire.now += 0.1
    assert host.counters.control[RejectReason.EQUIVOCATION] == 400
    assert len([item for item in alarms if isinstance(item, SecurityAlarm)]) == 2, "40 s, one in 30"
    assert len(host.control._beats._split_reported) == 1


def test_a_member_that_asks_for_epochs_all_the_time_is_granted_some_and_named() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire, host = swarm.wire, swarm.hosts["shard_0"]
    before = swarm.server.status()["rotations"]
    started = wire.now
    while wire.now < started + 90.0:
        session = host.context.newest_installed()
        wire.perform("shard_0", [Send(host.context.ready_message(session, VOLUME_FLAG))])
        wire.run(0.5)
    rotations = swarm.server.status()["rotations"] - before
    assert 15 <= rotations <= 90 / rekey_requests.GAP_S + 1
    told = [alarm.text for alarm in wire.of(SecurityAlarm) if "has requested 12 new epochs" in alarm.text]
    assert told
    assert all(text.startswith("drone_01 ") for text in told)
    assert len(told) <= 2, "once in a rotation period"


@pytest.mark.parametrize(("members", "gap_s"), [(20, 5.0), (100, 5.0), (1000, 50.0)])
def test_the_gap_between_rotations_that_are_asked_for_grows_with_the_swarm(
    members: int, gap_s: float
) -> None:
    """A genuine sender of bulk data gets each of them, and is asked nothing before the thirteenth."""
    limiter = rekey_requests.RekeyRequestLimiter()
    at = [
        tick * 0.5 for tick in range(1200) if limiter.grant("drone_01", members, 60.0, tick * 0.5) is not None
    ]
    assert {later - earlier for earlier, later in itertools.pairwise(at)} == {gap_s}


@pytest.mark.parametrize("shards", [2, 1], ids=["process of its own", "process of both"])
def test_a_member_that_cannot_open_its_seed_is_in_again_before_the_next_rotation(shards: int) -> None:
    """An epoch may be sealed to a package that its maker has forgotten: late answers overtake each other."""
    swarm = Swarm(drones=2, shards=shards)
    swarm.join()
    wire, server = swarm.wire, swarm.server
    wire.run_until(lambda: server.status()["packages_ready"])
    swarm.hosts["shard_0"].context.members["drone_01"]._packages.clear()
    wire.perform("crypto", server.rotate("manual", wire.now, wire.wall_ns))
    epoch = server.status()["epoch"]
    wire.run(0.5)
    assert swarm.epochs()["drone_02"] == epoch
    assert swarm.epochs()["drone_01"] != epoch
    assert wire.run_until(swarm.together, 20.0) < 3.0
    rotations = server.status()["rotations"]
    wire.run(20.0)
    assert server.status()["rotations"] == rotations


def test_junk_on_the_certificates_topic_makes_the_crypto_node_send_nothing() -> None:
    swarm = Swarm(drones=1, shards=1)
    swarm.join()
    wire = swarm.wire
    wire.run(5.0)
    request_at = swarm.server._beacon.request_at
    for index in range(50):
        junk = ControlMessage(ControlKind.CERTIFICATE, (bytes([index]) * 900,))
        assert swarm.server.handle(junk, wire.now, wire.wall_ns) == []
    assert swarm.server._beacon.request_at == request_at


# Envelopes


def test_a_roster_line_that_the_certificate_contradicts_signs_nothing() -> None:
    """A crypto node that lists a drone as a leader before its certificate is known gets nowhere."""
    swarm = Swarm(drones=1, shards=1)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    envelope = swarm.host_of("leader").seal("leader/command", "T", b"go", wire.wall_ns, "leader")
    host = swarm.hosts["shard_0"]
    directory = host.context.certificates
    certified = directory.get(swarm.identities["leader"].fingerprint)
    assert certified is not None
    directory.put(dataclasses.replace(certified, role=Role.DRONE))
    with pytest.raises(Rejected) as refusal:
        host.open("leader/command", "T", envelope, wire.wall_ns)
    assert refusal.value.reason is RejectReason.ROSTER
    directory.put(certified)
    assert host.open("leader/command", "T", envelope, wire.wall_ns).sender == "leader"


# Commands


def test_a_member_cannot_command_in_the_leaders_name_nor_in_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All members hold the lane's keys: the leader's signature and the channel's permission tell."""
    channel = "leader/command"
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    drone, lies, leader = swarm.hosts["shard_0"], swarm.hosts["shard_1"], swarm.hosts["leader"]
    slot_of = {entry.name: entry.slot for entry in lies.roster()}
    member = lies._members["drone_02"]
    assert member.sending is not None
    session = member.sending[0]

    def sealed(name: str) -> Envelope:
        with monkeypatch.context() as patch:  # the insider's own process asks nobody for permission
            patch.setattr(Rule, "permits", lambda *_: True)
            return session.seal(slot_of[name], member.identity, channel, "C", b"land", wire.wall_ns)

    def refused(envelope: Envelope) -> RejectReason:
        with pytest.raises(Rejected) as refusal:
            drone.open(channel, "C", envelope, wire.wall_ns)
        return refusal.value.reason

    recorded = leader.seal(channel, "C", b"hold", wire.wall_ns, "leader")
    forged = sealed("leader")
    assert (forged.lane, forged.sender) == (Lane.COMMAND, slot_of["leader"])
    assert refused(forged) is RejectReason.SIGNATURE
    assert refused(forged._replace(signature=recorded.signature)) is RejectReason.SIGNATURE
    assert refused(forged._replace(signature=b"")) is RejectReason.SIGNATURE
    assert refused(forged._replace(lane=Lane.TELEMETRY, signature=b"")) is RejectReason.LANE
    assert refused(sealed("drone_02")) is RejectReason.NOT_PERMITTED
    assert refused(sealed("drone_01")) is RejectReason.NOT_PERMITTED
    opened = drone.open(channel, "C", recorded, wire.wall_ns)  # its counter is the forged one's
    assert (opened.sender, opened.payload, opened.signed) == ("leader", b"hold", True)


# Clocks


def test_a_member_cannot_forge_an_answer_of_the_clock() -> None:
    """All members hold the lane's keys: only the signature tells the crypto node's answers from theirs."""
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    asks, lies = swarm.hosts["shard_0"], swarm.hosts["shard_1"]
    pending = asks.seal_request("crypto/clock", "Q", b"t1", wire.wall_ns, "drone_01")
    crypto = next(entry for entry in lies.roster() if entry.name == "crypto")
    member = lies._members["drone_02"]
    assert member.sending is not None
    session = member.sending[0]
    forged = session.seal(
        crypto.slot, member.identity, "crypto/clock/response", "R", b"late", wire.wall_ns, pending.binding
    )
    assert forged.lane == Lane.COMMAND
    for answer in (forged, Envelope(*forged[:5]), forged._replace(lane=Lane.TELEMETRY, signature=b"")):
        with pytest.raises(Rejected):
            asks.open_response("crypto/clock", "R", answer, wire.wall_ns, [pending])
    server = swarm.server.host
    good = server.seal_response("crypto/clock", "R", b"t2", wire.wall_ns, "crypto", pending.envelope)
    assert asks.open_response("crypto/clock", "R", good, wire.wall_ns, [pending])[1].signed


def test_delayed_answers_do_not_move_a_measured_clock() -> None:
    clock = ClockFilter()
    now = 1000.0
    for _ in range(8):
        at = int(now * 1e9)
        assert clock.add(at, at + 500_000, at + 500_000, at + 1_000_000, now)
        now += 0.4
    for _ in range(300):  # two minutes of answers held back for nearly a second
        at = int(now * 1e9)
        assert clock.add(at, at + 500_000, at + 500_000, at + 950_000_000, now)
        now += 0.4
        assert abs(clock.offset_s) < 0.001
    assert clock.synchronised(0.02, now)


def test_a_clock_that_was_set_is_measured_anew() -> None:
    clock = ClockFilter()
    at = 10**12
    for _ in range(8):
        clock.add(at, at + 500_000, at + 500_000, at + 1_000_000, at * 1e-9)
        at += 10**9
    step = 3 * 10**9
    clock.add(at, at + step + 500_000, at + step + 500_000, at + 1_000_000, at * 1e-9)
    assert clock.offset_s == pytest.approx(3.0, abs=0.001)
    assert clock.samples == 1


def test_installed_is_never_reported_twice_for_one_epoch() -> None:
    """Announcements and switches played back, in any order, change nothing."""
    swarm = Swarm(drones=2, shards=1, rotate_s=3.0)
    swarm.join()
    wire = swarm.wire
    wire.run(10.0)
    state = swarm.epochs()
    before = len(wire.of(Installed))
    recorded = [m for _, _, m in wire.sent if m.kind in (ControlKind.ANNOUNCEMENT, ControlKind.SWITCH)]
    for message in [*recorded, *reversed(recorded)]:
        for name, node in wire.nodes.items():
            wire.perform(name, node.handle(message, wire.now, wire.wall_ns))
    assert len(wire.of(Installed)) == before
    assert swarm.epochs() == state
    # Its state is lost.
    again = swarm.new_host("leader", [swarm.identities["leader"]], {"leader": MemoryStore()})
    for message in (m for _, _, m in wire.sent):
        again.handle(message, wire.now, wire.wall_ns)
    assert not again.ready("leader"), "no recorded announcement names a package of this incarnation"


def test_a_member_whose_announcement_was_dropped_is_back_at_once() -> None:
    """Its package is used up in an epoch it never saw; the same package again would be a duplicate."""
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run(7.0)
    wire.cut.add("shard_0")
    for _ in range(2):
        before = swarm.server.status()["epoch"]
        wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
        wire.run_until(
            lambda e=before: swarm.server.status()["epoch"] > e and swarm.server.status()["switched"]
        )
    assert "drone_01" not in swarm.server.status()["members"]
    wire.cut.clear()
    assert wire.run_until(swarm.together, 60.0) < 3.0
