"""Attacks on evictions: networks that let only some messages through, full disks, failover, stolen keys."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.errors import KeystoreError, NotReady, RejectReason
from chimera_ros.crypto.keystore.member_state import MemoryStore, StoredState
from chimera_ros.crypto.messages.announcement import SignedHead, encode_head
from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.control import KeyPackage
from chimera_ros.crypto.primitives import labels
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust.signed_documents import read_signed_crl
from chimera_ros.crypto.wire import ControlKind, ControlMessage

TYPE = "T"
EVIDENCE = bytes(32)


class Disk(MemoryStore):
    """A store that can be told to refuse."""

    full = False

    def save(self, state: StoredState) -> None:
        if self.full:
            raise KeystoreError("state.json: cannot write (No space left on device).")
        super().save(state)


def swarm_of(drones: int = 3, **options: Any) -> Swarm:
    swarm = Swarm(drones=drones, shards=drones, operator=True, **options)
    swarm.join()
    swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
    return swarm


def evict(swarm: Swarm, name: str, server: str = "crypto") -> None:
    wire = swarm.wire
    verdict = swarm.servers[server].evict(name, "operator", EVIDENCE, wire.now, wire.wall_ns)
    assert verdict.accepted, verdict.reason
    wire.perform(server, verdict.effects)


def filtered(swarm: Swarm, target: str, *kinds: ControlKind) -> list[ControlMessage]:
    """An attacker takes these kinds of messages away from a process, and keeps them."""
    node = swarm.wire.nodes[target]
    handle, kept = node.handle, []

    def between(message: ControlMessage, now: float, wall_ns: int) -> list[Any]:
        if message.kind in kinds:
            kept.append(message)
            return []
        return handle(message, now, wall_ns)

    node.handle = between  # type: ignore[method-assign]
    return kept


def sends(swarm: Swarm, name: str) -> bool:
    try:
        swarm.host_of(name).seal(f"{name}/telemetry", TYPE, b"position", swarm.wire.wall_ns, name)
    except NotReady:
        return False
    return True


def out_everywhere(swarm: Swarm, name: str) -> bool:
    fingerprint = swarm.identities[name].fingerprint
    others = [other for other in swarm.identities if other != name]
    return all(
        fingerprint in swarm.stores[other].state.evictions
        and name not in {entry.name for entry in swarm.host_of(other).roster(other)}
        for other in others
    )


def test_beats_alone_do_not_keep_a_member_in_the_epoch_of_an_evicted_one() -> None:
    """Who drops announcements and lets beats through gains no more than who drops everything."""
    swarm = swarm_of()
    filtered(swarm, "shard_0", ControlKind.ANNOUNCEMENT)
    evict(swarm, "drone_02")
    swarm.wire.run(29.0)
    assert sends(swarm, "drone_01")
    swarm.wire.run(2.0)
    assert not sends(swarm, "drone_01"), "the evicted one still reads what it sends"


def test_announcements_that_were_held_back_do_not_prolong_the_silence() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    kept = filtered(swarm, "shard_0", ControlKind.ANNOUNCEMENT, ControlKind.SWITCH)
    wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
    wire.run(0.5)
    (announcement,) = {message for message in kept if message.kind is ControlKind.ANNOUNCEMENT}
    switch = next(message for message in kept if message.kind is ControlKind.SWITCH)
    wire.cut.add("shard_0")
    evict(swarm, "drone_02")
    drone = swarm.host_of("drone_01")
    before = drone.epoch("drone_01")
    wire.run(14.0)
    del swarm.wire.nodes["shard_0"].handle
    drone.handle(announcement, wire.now, wire.wall_ns)
    wire.run(14.0)
    drone.handle(switch, wire.now, wire.wall_ns)
    assert drone.epoch("drone_01") == (before or 0) + 4, "it is genuine and was meant for this member"
    wire.run(4.0)
    assert not sends(swarm, "drone_01")


def test_an_eviction_is_obeyed_though_the_disk_is_full() -> None:
    swarm = Swarm(drones=3, shards=3, operator=True)
    disk = swarm.stores["drone_01"] = Disk()
    swarm.join()
    wire = swarm.wire
    wire.run_until(lambda: swarm.server.status()["packages_ready"])
    disk.full = True
    evict(swarm, "drone_02")
    wire.run(0.05)
    assert not sends(swarm, "drone_01"), "what it sent would reach the evicted one alone"
    assert [alarm for alarm in wire.of(SecurityAlarm) if "No space left" in alarm.text]
    disk.full = False
    wire.run_until(lambda: out_everywhere(swarm, "drone_02") and sends(swarm, "drone_01"), 5.0)


def test_an_announcement_that_could_not_be_stored_is_installed_when_it_is_repeated() -> None:
    swarm = Swarm(drones=2, shards=1, operator=True)
    disk = swarm.stores["drone_01"] = Disk()
    swarm.join()
    wire = swarm.wire
    wire.run_until(lambda: swarm.server.status()["packages_ready"])
    disk.full = True
    kept = filtered(swarm, "shard_0", ControlKind.KEY_REQUEST)
    wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
    epoch = swarm.server.status()["epoch"]
    wire.run(0.05)
    drones = swarm.host_of("drone_01")
    assert drones.epoch("drone_01") < epoch
    disk.full = False
    wire.run(1.0)
    assert drones.epoch("drone_01") == drones.epoch("drone_02") == epoch, "the repeat is enough"
    assert kept


def test_an_eviction_that_was_acknowledged_survives_the_failover_that_follows() -> None:
    """The one in charge stores and acknowledges, is cut off in that moment, and comes back as a standby."""
    swarm = swarm_of(standbys=1)
    wire = swarm.wire
    wire.cut.add("crypto")
    evict(swarm, "drone_02")
    wire.run(4.0)
    assert swarm.servers["crypto_1"].active
    assert not out_everywhere(swarm, "drone_02")
    wire.cut.clear()
    wire.run_until(lambda: out_everywhere(swarm, "drone_02"), 10.0)
    takeovers = sum(server.status()["takeovers"] for server in swarm.servers.values())
    wire.run(15.0)
    assert sum(server.status()["takeovers"] for server in swarm.servers.values()) == takeovers, "and rest"
    assert len(swarm.in_charge()) == 1


def test_an_eviction_survives_the_crash_of_the_node_that_stored_it() -> None:
    swarm = swarm_of(standbys=1)
    wire = swarm.wire
    wire.cut.add("crypto")
    evict(swarm, "drone_02")
    swarm.kill("crypto")
    wire.cut.clear()
    wire.run_until(lambda: swarm.servers["crypto_1"].active, 5.0)
    wire.run(3.0)
    swarm.start_server("crypto")
    wire.run_until(lambda: out_everywhere(swarm, "drone_02"), 10.0)


def test_an_eviction_that_only_one_member_has_heard_of_is_learned_from_it() -> None:
    """Also when whoever takes over has announced a higher number before that member's proof comes."""
    swarm = swarm_of(standbys=1)
    wire = swarm.wire
    others = ["leader", "operator", "shard_1", "shard_2", "crypto_1"]
    wire.cut.update(others)
    evict(swarm, "drone_02")
    wire.run(0.1)
    swarm.kill("crypto")
    wire.cut.clear()
    wire.cut.add("shard_0")  # drone_01, the only one that knows
    server = swarm.servers["crypto_1"]
    wire.run_until(lambda: swarm.host_of("leader").epoch("leader") == 5, 8.0)
    wire.perform("crypto_1", server.rotate("manual", wire.now, wire.wall_ns))
    wire.run_until(lambda: (swarm.host_of("leader").epoch("leader") or 0) == 9, 5.0)
    wire.cut.clear()
    swarm.identities.pop("crypto")
    wire.run_until(lambda: out_everywhere(swarm, "drone_02"), 10.0)


@pytest.mark.parametrize("how", ["revoked", "evicted"])
def test_a_swarm_is_taken_over_from_a_crypto_node_that_was_put_out(how: str) -> None:
    """A new crypto node is shown epochs of the one that was captured: they show numbers, nothing more."""
    swarm = swarm_of(standbys=1)
    wire = swarm.wire
    swarm.kill("crypto_1")
    captured = swarm.identities["crypto"]
    wire.run(4.0)
    swarm.kill("crypto")
    if how == "revoked":
        swarm.trust.crl_der = swarm.keystore.crl(2, captured)
        swarm.trust.crl = read_signed_crl(swarm.trust.crl_der, swarm.trust.authority)
    else:
        state = StoredState(evictions=frozenset({captured.fingerprint}))
        swarm.stores["crypto_1"] = MemoryStore(state)
    before = swarm.host_of("leader").epoch("leader") or 0
    swarm.start_server("crypto_1")
    swarm.identities.pop("crypto")
    wire.run_until(lambda: swarm.together(above=before), 20.0)


def test_a_captured_crypto_node_and_an_insider_cannot_put_honest_members_out() -> None:
    swarm = swarm_of(standbys=1)
    wire = swarm.wire
    evicted = swarm.identities["crypto"]
    swarm.kill("crypto")
    wire.run_until(lambda: swarm.servers["crypto_1"].active, 5.0)
    evict(swarm, "crypto", "crypto_1")
    wire.run(2.0)
    server, insider = swarm.servers["crypto_1"], swarm.host_of("drone_03")
    member = insider.context.members["drone_03"]

    head = insider.announcement(insider.epoch("drone_03")).head

    victim = swarm.identities["drone_01"].fingerprint
    forged = encode_head(
        dataclasses.replace(head, epoch=head.epoch + 3, issuer=evicted.fingerprint, evictions=(victim,))
    )
    bare = SignedHead(forged, bytes(32), bytes(32), b"")
    proof = dataclasses.replace(bare, signature=evicted.sign(bare.signed_bytes(), labels.SIGN_ANNOUNCEMENT))
    body = KeyPackage.parse(
        member.answer(member.request, wire.now).parts[0],
        swarm.trust.swarm,
        server.host.context.suite.name,
        server.host.context.suite.package_public_bytes,
    )
    package = dataclasses.replace(
        body, epoch=head.epoch + 3, transcript_hash=digest(forged), proof=proof.encode()
    )
    wire.perform(
        "crypto_1",
        server.handle(
            signed(ControlKind.KEY_PACKAGE, package.encode(), member.identity), wire.now, wire.wall_ns
        ),
    )
    assert server.host.counters.control[RejectReason.SIGNATURE] == 0
    assert victim not in swarm.stores["crypto_1"].state.evictions
