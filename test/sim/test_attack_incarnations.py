"""Packages of processes that have ended, held back by an attacker, against those that replaced them."""

from __future__ import annotations

import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.errors import RejectReason
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.wire import ControlKind, ControlMessage

VICTIM = "drone_01"
RESTART_S = 10.0  # one restart per name in this time


def without_victim(standbys: int = 0) -> Swarm:
    """Everything runs but the victim's process."""
    swarm = Swarm(drones=2, shards=2, standbys=standbys)
    swarm.start()
    swarm.kill("shard_0")
    wire = swarm.wire
    wire.run_until(lambda: swarm.host_of("leader").ready("leader"))
    wire.run(1.0)
    return swarm


def ended_unseen(swarm: Swarm) -> ControlMessage:
    """The package of a process of the victim that nobody but the attacker has heard, and that has ended."""
    wire = swarm.wire
    host = swarm.new_host(VICTIM, [swarm.identities[VICTIM]], {VICTIM: MemoryStore()})
    host.start(wire.now, wire.wall_ns)
    for message in known_to_all(swarm):
        host.handle(message, wire.now, wire.wall_ns)
    member = host.context.members[VICTIM]
    assert member.request is not None
    return member.answer(member.request, wire.now)


def known_to_all(swarm: Swarm) -> list[ControlMessage]:
    """Certificates, and the newest request for packages."""
    sent = [message for _, _, message in swarm.wire.sent]
    requests = [message for message in sent if message.kind is ControlKind.KEY_REQUEST]
    return [message for message in sent if message.kind is ControlKind.CERTIFICATE] + requests[-1:]


def start_victim(swarm: Swarm) -> float:
    """Seconds until the victim is in."""
    swarm.start_host("shard_0")
    return swarm.wire.run_until(lambda: is_in(swarm), 30.0)


def is_in(swarm: Swarm, by: str = "leader") -> bool:
    """Does the victim, as it is now, share the epoch of this member?"""
    host = swarm.hosts["shard_0"]
    living = host.context.members[VICTIM].incarnation
    roster = {entry.name: entry.incarnation for entry in swarm.host_of(by).roster(by)}
    return roster.get(VICTIM) == living and host.epoch(VICTIM) == swarm.host_of(by).epoch(by)


def deliver(swarm: Swarm, package: ControlMessage, node: str = "crypto") -> None:
    wire = swarm.wire
    wire.perform(node, swarm.servers[node].handle(package, wire.now, wire.wall_ns))


def test_a_package_held_back_since_before_the_living_process_pushes_nobody_out() -> None:
    swarm = without_victim()
    held_back = ended_unseen(swarm)
    start_victim(swarm)
    swarm.wire.run(RESTART_S + 1.0)
    before = swarm.server.status()["rotations"]
    deliver(swarm, held_back)
    assert swarm.server.host.counters.control[RejectReason.CHALLENGE] == 1
    swarm.wire.run(15.0)
    assert is_in(swarm)
    assert swarm.server.status()["rotations"] == before
    assert not [alarm for alarm in swarm.wire.of(SecurityAlarm) if "has restarted" in alarm.text]


def test_many_of_them_cost_one_challenge_and_two_requests_a_second() -> None:
    swarm = without_victim()
    held_back = [ended_unseen(swarm) for _ in range(20)]
    start_victim(swarm)
    wire = swarm.wire
    wire.run(1.0)
    sent = len(wire.sent)
    drawn = swarm.server._beacon.challenge
    seen = set()
    for package in held_back * 5:
        deliver(swarm, package)
        wire.run(0.05)
        seen.add(swarm.server._beacon.challenge)
    requests = [message for _, _, message in wire.sent[sent:] if message.kind is ControlKind.KEY_REQUEST]
    assert len(requests) <= 12, "5 s, twice a second"
    assert len(seen | {drawn}) == 2
    assert is_in(swarm)


def test_the_ended_process_first_and_the_living_one_second_heals_by_itself() -> None:
    swarm = without_victim()
    held_back = ended_unseen(swarm)
    deliver(swarm, held_back)
    assert start_victim(swarm) < 1.5
    swarm.wire.run(15.0)
    assert is_in(swarm)


def test_an_ended_process_in_place_of_the_one_that_flew_lasts_no_longer_than_the_next_restart() -> None:
    """The one that flew is dead as well, so its successor's package looks like, and is, a restart."""
    swarm = without_victim()
    start_victim(swarm)
    swarm.kill("shard_0")
    swarm.wire.run(31.0)  # a challenge later than anything that was seen of it
    held_back = ended_unseen(swarm)
    deliver(swarm, held_back)
    swarm.wire.run(1.0)
    assert start_victim(swarm) < RESTART_S + 2.0
    swarm.wire.run(15.0)
    assert is_in(swarm)


@pytest.mark.parametrize("after_s", [0.5, 5.0, 40.0])
def test_a_member_that_restarts_is_in_again_within_a_second(after_s: float) -> None:
    """The challenge in use may be older than its first package, then it is asked with another one."""
    swarm = without_victim()
    start_victim(swarm)
    swarm.wire.run(after_s)
    assert start_victim(swarm) < 1.0
    swarm.wire.run(5.0)
    assert is_in(swarm)


def test_all_restart_while_the_crypto_node_restarts_too() -> None:
    """What it knows then is the roster that the one survivor shows; the others' packages contradict it."""
    swarm = Swarm(drones=4, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run(2.0)
    swarm.kill("crypto")
    swarm.start_host("shard_0")
    swarm.start_host("shard_1")
    wire.run(1.0)
    swarm.start_server()
    assert wire.run_until(lambda: swarm.together(above=4), 10.0) < 4.0


def test_a_restarted_crypto_node_is_not_misled_either() -> None:
    """Its challenge may have been answered by a process that ended, before the living one did."""
    swarm = without_victim()
    swarm.start_server()
    swarm.wire.run(0.2)
    held_back = ended_unseen(swarm)
    start_victim(swarm)
    swarm.wire.run(RESTART_S + 1.0)
    deliver(swarm, held_back)
    swarm.wire.run(10.0)
    assert is_in(swarm)


def test_a_standby_that_takes_over_keeps_to_the_rosters_it_has_seen() -> None:
    """It has overheard the challenge that the ended process answered, and no package of the living one."""
    swarm = without_victim(standbys=1)
    wire = swarm.wire
    held_back = ended_unseen(swarm)
    standby = swarm.servers["crypto_1"]
    handle = standby.handle
    deaf = {ControlKind.KEY_PACKAGE}
    standby.handle = lambda message, now, wall_ns: (  # type: ignore[method-assign]
        [] if message.kind in deaf else handle(message, now, wall_ns)
    )
    start_victim(swarm)
    wire.run(RESTART_S + 1.0)
    deaf.clear()
    swarm.kill("crypto")
    wire.run_until(lambda: standby.active, 5.0)
    deliver(swarm, held_back, "crypto_1")
    wire.run(15.0)
    assert is_in(swarm)
    assert standby.host.counters.control[RejectReason.CHALLENGE] >= 1


def test_a_standby_follows_the_roster_when_a_member_has_restarted() -> None:
    swarm = without_victim(standbys=1)
    wire = swarm.wire
    start_victim(swarm)
    wire.run(RESTART_S + 1.0)
    start_victim(swarm)
    wire.run(1.0)
    swarm.kill("crypto")
    epoch = swarm.host_of("leader").epoch("leader") or 0
    wire.run_until(lambda: (swarm.host_of("leader").epoch("leader") or 0) > epoch, 3.0)
    wire.run(0.2)
    assert is_in(swarm), "no package of it is asked for again"


def test_a_member_that_restarts_while_nobody_is_in_charge_is_in_with_the_first_epoch_after() -> None:
    swarm = without_victim(standbys=1)
    wire = swarm.wire
    start_victim(swarm)
    wire.run(RESTART_S + 1.0)
    swarm.kill("crypto")
    wire.run(0.3)
    assert start_victim(swarm) < 3.0
