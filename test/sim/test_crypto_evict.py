"""Putting members out in flight, on the in-memory wire with stepped time."""

from __future__ import annotations

from typing import Any

import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.errors import KeystoreError, Rejected, RejectReason
from chimera_ros.crypto.keystore.member_state import MemoryStore, StoredState
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.session.epoch_session import EpochSession
from chimera_ros.crypto.testing.swarm import LinkConditions, Swarm
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind

TYPE = "T"
STORM = LinkConditions(loss=0.2, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05)
EVIDENCE = bytes(32)


def swarm_of(drones: int = 4, shards: int = 4, **options: Any) -> Swarm:
    """A swarm in one epoch, every package at hand, each drone in a process of its own."""
    swarm = Swarm(drones=drones, shards=shards, operator=True, **options)
    swarm.join()
    swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
    return swarm


def evict(swarm: Swarm, name: str, by: str = "operator") -> tuple[bool, str]:
    wire = swarm.wire
    verdict = swarm.server.evict(name, by, EVIDENCE, wire.now, wire.wall_ns)
    wire.perform("crypto", verdict.effects)
    return verdict.accepted, verdict.reason


def honest(swarm: Swarm, *out: str) -> list[str]:
    return [name for name in swarm.identities if name not in out]


def all_above(swarm: Swarm, epoch: int, *out: str) -> bool:
    return all((swarm.host_of(name).epoch(name) or 0) > epoch for name in honest(swarm, *out))


def telemetry(swarm: Swarm, name: str) -> Any:
    host = swarm.host_of(name)
    return host.seal(f"{name}/telemetry", TYPE, b"position", swarm.wire.wall_ns, name)


class Captured:
    """A captured member that keeps every session it ever had, whatever the protocol tells it to wipe."""

    def __init__(self, host: SecureHost) -> None:
        self.host = host
        self.sessions: dict[int, EpochSession] = {}
        sessions = host.context.sessions
        wipe = sessions._wipe

        def keep(number: int) -> None:
            kept = sessions.open[number]
            self.sessions[number] = kept
            close = kept.close
            kept.close = lambda: None  # type: ignore[method-assign]
            wipe(number)
            kept.close = close  # type: ignore[method-assign]

        sessions._wipe = keep  # type: ignore[method-assign]

    def opens(self, channel: str, envelope: Any, wall_ns: int) -> bool:
        """Does any key it ever held open this envelope?"""
        held = {**self.sessions, **self.host.context.sessions.open}
        for session in held.values():
            for epoch in {envelope.epoch, session.epoch}:
                try:
                    session.open(channel, TYPE, envelope._replace(epoch=epoch), wall_ns, self.host._good)
                    return True
                except Rejected:
                    continue
        return False


class FullDisk(MemoryStore):
    """A store that refuses to write."""

    def save(self, state: StoredState) -> None:
        raise KeystoreError("state.json: cannot write (No space left on device).")


def test_the_evicted_is_cut_off_at_once_and_the_others_go_on() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    captured = Captured(swarm.host_of("drone_02"))
    before = telemetry(swarm, "drone_01")
    assert captured.opens("drone_01/telemetry", before, wire.wall_ns), "it is still in"
    epoch = swarm.server.status()["epoch"]
    accepted, reason = evict(swarm, "drone_02")
    assert accepted, reason
    took = wire.run_until(lambda: all_above(swarm, epoch, "drone_02"), 1.0)
    assert took < 0.01, "nobody waits for a switch"
    for name in honest(swarm, "drone_02"):
        host = swarm.host_of(name)
        assert list(host.context.sessions.open) == [epoch + 4], "all earlier epochs are wiped"
        assert "drone_02" not in {entry.name for entry in host.roster(name)}
    sent = telemetry(swarm, "drone_01")
    assert swarm.host_of("leader").open("drone_01/telemetry", TYPE, sent, wire.wall_ns).sender == "drone_01"
    assert not captured.opens("drone_01/telemetry", sent, wire.wall_ns)
    assert swarm.server.status()["rotations_by_reason"]["evict"] == 1


def test_the_evicted_cannot_come_back_with_its_certificate() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    evict(swarm, "drone_02")
    wire.run(11.0)  # a restart within ten seconds would be refused anyway
    swarm.start_host("shard_1")
    wire.run(6.0)
    assert not swarm.host_of("drone_02").ready("drone_02")
    assert swarm.server.host.counters.control[RejectReason.EVICTED] > 0
    assert "drone_02" not in swarm.server.status()["members"]


def test_another_certificate_and_key_come_back() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    evict(swarm, "drone_02")
    wire.run(11.0)
    swarm.identities["drone_02"] = swarm.keystore.enroll("drone_02", Role.DRONE)
    swarm.start_host("shard_1")
    epoch = swarm.server.status()["epoch"]
    wire.run_until(lambda: swarm.together(above=epoch), 10.0)


def test_under_loss_every_honest_member_follows_and_the_captured_one_opens_nothing() -> None:
    for seed in range(4):
        swarm = swarm_of(drones=6, shards=6, seed=seed)
        wire = swarm.wire
        captured = Captured(swarm.host_of("drone_03"))
        wire.link = STORM
        epoch = swarm.server.status()["epoch"]
        assert evict(swarm, "drone_03")[0]
        wire.run_until(lambda s=swarm, e=epoch: all_above(s, e, "drone_03"), 10.0)
        for _ in range(20):
            wire.run(0.1)
            for name in ("drone_01", "drone_06"):
                assert not captured.opens(f"{name}/telemetry", telemetry(swarm, name), wire.wall_ns)


def test_a_member_that_was_cut_off_learns_it_from_another_member() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    wire.cut.add("shard_3")
    epoch = swarm.server.status()["epoch"]
    evict(swarm, "drone_02")
    wire.run(1.0)
    assert swarm.host_of("drone_04").epoch("drone_04") == epoch, "it has heard nothing"
    wire.cut.clear()
    wire.remove("crypto")  # nobody but members can tell it now
    sent = telemetry(swarm, "drone_01")
    with pytest.raises(Rejected, match="unknown_epoch"):
        swarm.host_of("drone_04").open("drone_01/telemetry", TYPE, sent, wire.wall_ns)
    took = wire.run_until(lambda: (swarm.host_of("drone_04").epoch("drone_04") or 0) > epoch, 5.0)
    assert took < 1.5
    repeats = [node for at, node, message in wire.sent if message.kind is ControlKind.ANNOUNCEMENT]
    assert repeats.count("crypto") < len(repeats), "a member has repeated the announcement"


def test_an_eviction_that_cannot_be_stored_is_refused_and_changes_nothing() -> None:
    swarm = swarm_of()
    before = swarm.server.status()["epoch"]
    member = swarm.server.host.context.members["crypto"]
    store, member._store = member._store, FullDisk()
    accepted, reason = evict(swarm, "drone_02")
    assert not accepted
    assert "drone_02 was not evicted" in reason and "No space left" in reason
    swarm.wire.run(1.0)
    assert swarm.server.status()["epoch"] == before
    assert swarm.stores["crypto"].state.evictions == frozenset()
    member._store = store
    assert evict(swarm, "drone_02")[0]


def test_evictions_outlive_the_crypto_node_and_every_member() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    fingerprint = swarm.identities["drone_02"].fingerprint
    evict(swarm, "drone_02")
    wire.run(1.0)
    (order,) = swarm.stores["crypto"].state.orders
    assert (order.name, order.by, order.evidence) == ("drone_02", "operator", EVIDENCE)
    assert order.signer == swarm.identities["operator"].fingerprint
    for name in honest(swarm, "drone_02"):
        assert swarm.stores[name].state.evictions == {fingerprint}
    del swarm.groups["shard_1"]
    swarm.identities.pop("drone_02")
    wire.run(11.0)
    swarm.start_server()
    epoch = max(epoch or 0 for epoch in swarm.epochs().values())
    wire.run_until(lambda: swarm.together(above=epoch), 10.0)
    head = swarm.server.host.announcement(swarm.server.status()["epoch"]).head
    assert head.evictions == (fingerprint,)


def test_an_eviction_does_not_wait_for_the_epoch_in_work() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    wire.cut.add("shard_3")  # a live member that will not be ready
    wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
    epoch = swarm.server.status()["epoch"]
    assert not swarm.server.status()["switched"]
    assert evict(swarm, "drone_02")[0]
    wire.run_until(lambda: all_above(swarm, epoch, "drone_02", "drone_04"), 0.5)


def test_who_may_not_be_put_out_and_by_whom() -> None:
    swarm = swarm_of()
    assert evict(swarm, "drone_02", by="drone_01") == (False, "only an operator can evict a member")
    assert "this crypto node itself" in evict(swarm, "crypto")[1]
    assert "last operator" in evict(swarm, "operator")[1]
    assert "no certificate of drone_99" in evict(swarm, "drone_99")[1]
    accepted, reason = evict(swarm, "leader")
    assert accepted
    assert "followers hold, then return" in reason
    assert evict(swarm, "leader") == (True, "leader is evicted already")


def test_the_list_of_evictions_is_bounded() -> None:
    swarm = swarm_of()
    store = swarm.stores["crypto"]
    many = frozenset(number.to_bytes(32, "big") for number in range(1024))
    swarm.server.host.context.members["crypto"].save(evictions=many)
    accepted, reason = evict(swarm, "drone_02")
    assert not accepted
    assert "full (1024)" in reason
    assert store.state.evictions == many


def test_members_refuse_a_roster_that_names_one_who_is_out() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    drone = swarm.host_of("drone_01").context.members["drone_01"]
    drone.save(evictions=frozenset({swarm.identities["drone_02"].fingerprint}))
    epoch = swarm.server.status()["epoch"]
    wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
    wire.run(1.0)
    assert swarm.host_of("drone_01").epoch("drone_01") == epoch
    assert swarm.host_of("drone_01").counters.control[RejectReason.EVICTED] > 0


def test_a_member_that_ends_properly_is_left_out_soon_and_without_a_warning() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    epoch = swarm.server.status()["epoch"]
    host = swarm.hosts.pop("shard_1")
    wire.perform("shard_1", host.leave())
    host.close()
    wire.remove("shard_1")
    took = wire.run_until(lambda: all_above(swarm_without(swarm, "drone_02"), epoch), 2.0)
    assert took < 0.5
    assert swarm.server.status()["rotations_by_reason"]["leave"] == 1
    assert "drone_02" not in swarm.server.status()["members"]
    assert not [alarm for alarm in wire.of(SecurityAlarm) if alarm.severity != "info"]


def swarm_without(swarm: Swarm, *names: str) -> Swarm:
    for name in names:
        swarm.identities.pop(name, None)
    return swarm


def test_a_recorded_farewell_does_not_put_anybody_out() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    farewell = swarm.hosts["shard_1"].leave()[0].message  # recorded, never delivered
    for _ in range(3):
        wire.run_until(lambda: swarm.server.status()["packages_ready"])
        wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
        wire.run(0.5)
    swarm.server.handle(farewell, wire.now, wire.wall_ns)
    wire.run(3.0)
    assert "drone_02" in swarm.server.status()["members"]
    assert swarm.server.host.counters.control[RejectReason.STALE] > 0


def test_a_split_view_is_noticed_by_what_others_say() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    lying = swarm.hosts["shard_1"]
    session = lying.context.newest_installed()
    assert session is not None
    true, session.transcript_hash = session.transcript_hash, bytes(32)
    message = lying.context.ready_message(session, 0)
    session.transcript_hash = true
    for _ in range(2):
        wire.perform("shard_0", swarm.hosts["shard_0"].handle(message, wire.now, wire.wall_ns))
    told = [alarm.text for alarm in wire.of(SecurityAlarm) if "split view" in alarm.text]
    assert len(told) == 1
    assert told[0].startswith("split view: drone_02 holds another epoch 4")


def test_too_low_numbers_of_a_crypto_node_raise_an_alarm() -> None:
    swarm = Swarm(drones=2, shards=2)
    for name in ("drone_01", "drone_02", "leader"):
        swarm.stores[name].save(StoredState(highest_epoch=400))
    swarm.start()
    swarm.wire.run(5.0)
    told = [alarm.text for alarm in swarm.wire.of(SecurityAlarm) if "refuses lower ones" in alarm.text]
    assert len(told) == 3, "each process once"
    assert "has had 400" in told[0]


def test_a_restarted_crypto_node_waits_for_everybody_it_was_shown() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    wire.link = LinkConditions(min_delay_s=0.2, max_delay_s=0.5)  # slow members
    wire.run(2.0)
    swarm.start_server()
    epoch = max(epoch or 0 for epoch in swarm.epochs().values())
    wire.run_until(lambda: swarm.server.status()["epoch"] > epoch, 10.0)
    assert len(swarm.server.status()["members"]) == len(swarm.identities)


def test_a_process_says_of_its_own_members_that_they_are_out() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    assert swarm.host_of("drone_02").excluded_members(wire.wall_ns) == ()
    assert evict(swarm, "drone_02")[0]
    wire.run(1.0)
    assert swarm.host_of("drone_02").excluded_members(wire.wall_ns) == (
        "drone_02 was evicted from the swarm",
    )
    assert swarm.host_of("drone_01").excluded_members(wire.wall_ns) == ()
    later_ns = wire.wall_ns + 301 * 86400 * 10**9
    assert "drone_01 has expired" in swarm.host_of("drone_01").excluded_members(later_ns)[0]
    age_s = swarm.host_of("drone_01").beat_age_s(wire.now)
    assert age_s is not None
    assert age_s < 0.5
    swarm.kill("crypto")
    wire.run(5.0)
    age_s = swarm.host_of("drone_01").beat_age_s(wire.now)
    assert age_s is not None
    assert age_s > 4.5
