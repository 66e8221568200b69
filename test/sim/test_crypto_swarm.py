"""Whole swarms on the in-memory wire: join, rotation, loss, restarts, silence, stop."""

from __future__ import annotations

import dataclasses
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from chimera_ros.crypto.effects import Installed, SecurityAlarm, Send, StopAcked, StopOrder, Switched
from chimera_ros.crypto.errors import KeystoreError, NotReady, Rejected, RejectReason
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.member_state import MemoryStore, StoredState
from chimera_ros.crypto.member.host import HostConfig, SecureHost
from chimera_ros.crypto.messages.stop import make_stop
from chimera_ros.crypto.testing.swarm import LinkConditions, MemoryKeystore, Swarm
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage

TYPE = "T"
STORM = LinkConditions(loss=0.1, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05)


class Traffic:
    """Telemetry of every drone, opened by every other process; counts what is lost and what comes twice."""

    def __init__(self, swarm: Swarm, period_s: float = 0.05) -> None:
        self.swarm = swarm
        self.period_s = period_s
        self.sent: set[bytes] = set()
        self.got: Counter[tuple[str, bytes]] = Counter()
        self.refused: Counter[RejectReason] = Counter()
        self.unsent = 0
        swarm.wire.on_data = self._deliver

    def _deliver(self, target: str, item: tuple[str, Any]) -> None:
        channel, envelope = item
        host = self.swarm.server.host if target == "crypto" else self.swarm.hosts[target]
        try:
            opened = host.open(channel, TYPE, envelope, self.swarm.wire.wall_ns)
        except Rejected as refusal:
            self.refused[refusal.reason] += 1
            return
        assert opened.sender == channel.split("/")[0]
        self.got[(target, bytes(opened.payload))] += 1

    def run(self, seconds: float) -> None:
        wire = self.swarm.wire
        end = wire.now + seconds
        while wire.now < end:
            for member, group in self.swarm.member_host.items():
                if not member.startswith("drone") or group not in wire.nodes:
                    continue
                payload = f"{member} {wire.now:.4f}".encode()
                channel = f"{member}/telemetry"
                try:
                    envelope = self.swarm.hosts[group].seal(channel, TYPE, payload, wire.wall_ns, member)
                except NotReady:
                    self.unsent += 1
                    continue
                self.sent.add(payload)
                wire.broadcast(group, (channel, envelope))
            wire.run(self.period_s)

    def settle(self) -> None:
        self.swarm.wire.run(0.2)

    def missing(self) -> list[tuple[str, bytes]]:
        wanted = [
            (node, payload)
            for payload in self.sent
            for node in self.swarm.wire.nodes
            if node != self.swarm.member_host[payload.split()[0].decode()]
        ]
        return [item for item in wanted if not self.got[item]]


def rotate(swarm: Swarm, reason: str = "manual") -> None:
    wire = swarm.wire
    wire.perform("crypto", swarm.server.rotate(reason, wire.now, wire.wall_ns))


def errors(swarm: Swarm) -> list[str]:
    return [alarm.text for alarm in swarm.wire.of(SecurityAlarm) if alarm.severity == "error"]


def test_twenty_drones_join_in_one_epoch() -> None:
    swarm = Swarm(drones=20, shards=4)
    assert swarm.join() < 2.0
    status = swarm.server.status()
    assert status["rotations"] == 1
    assert len(status["members"]) == 22
    assert status["epoch"] == 4, "rank 0 issues multiples of four"
    slots = [entry.slot for entry in swarm.server.host.roster()]
    assert len(set(slots)) == 22
    hashes = {swarm.host_of(name).transcript_hash(name) for name in swarm.identities}
    assert len(hashes) == 1


def test_rotation_on_time_loses_no_message_on_a_good_wire() -> None:
    swarm = Swarm(drones=20, shards=4, rotate_s=1.5)
    swarm.join()
    traffic = Traffic(swarm)
    traffic.run(8.0)
    traffic.settle()
    assert swarm.server.status()["rotations_by_reason"]["time"] >= 4
    assert traffic.missing() == []
    assert not traffic.refused
    assert traffic.unsent == 0
    assert set(traffic.got.values()) == {1}
    assert errors(swarm) == []


def test_forty_manual_rotations_use_rising_numbers_and_prompt_switches() -> None:
    swarm = Swarm(drones=6, shards=2)
    swarm.join()
    traffic = Traffic(swarm)
    seen = [swarm.server.status()["epoch"]]
    for _ in range(40):
        swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
        rotate(swarm)
        swarm.wire.run_until(lambda: swarm.together(above=seen[-1]), 1.0)
        seen.append(swarm.server.status()["epoch"])
        traffic.run(0.1)
    traffic.settle()
    assert seen == sorted(set(seen))
    assert all(epoch % 4 == 0 for epoch in seen)
    assert max(swarm.server.status()["rekey_ms"][1:]) < 20.0
    assert traffic.missing() == []
    assert len(swarm.hosts["shard_0"].context.sessions.open) <= 6


@pytest.mark.parametrize("seed", range(6))
def test_on_a_bad_link_everybody_joins_and_nothing_is_accepted_twice(seed: int) -> None:
    swarm = Swarm(drones=8, shards=3, seed=seed, link=STORM, rotate_s=4.0)
    swarm.join(limit_s=40.0)
    traffic = Traffic(swarm, period_s=0.1)
    traffic.run(20.0)
    epoch = swarm.server.status()["epoch"]
    swarm.wire.link = LinkConditions()
    swarm.wire.run_until(lambda: swarm.together(above=epoch - 1), 30.0)
    assert swarm.server.status()["rotations_by_reason"]["time"] >= 3
    assert set(traffic.got.values()) == {1}
    delivered = len(traffic.got) / (len(traffic.sent) * (len(swarm.wire.nodes) - 1))
    assert delivered > 0.85, "about a tenth is lost on the wire, and nearly nothing more"
    assert errors(swarm) == []


def test_a_late_member_joins_and_the_others_lose_nothing() -> None:
    swarm = Swarm(drones=6, shards=3)
    swarm.start_server()
    for group in ("leader", "shard_0", "shard_1"):
        swarm.start_host(group)
    early = ["leader", "drone_01", "drone_02", "drone_04", "drone_05"]
    swarm.wire.run_until(lambda: all(swarm.host_of(name).ready(name) for name in early))
    traffic = Traffic(swarm)
    traffic.run(1.0)
    swarm.start_host("shard_2")
    while not swarm.together():
        traffic.run(0.1)
        assert swarm.wire.now < 110.0
    traffic.run(3.0)
    traffic.settle()
    lost = [item for item in traffic.missing() if item[0] != "shard_2"]
    assert lost == []
    assert "join" in swarm.server.status()["rotations_by_reason"]


def test_restarted_shard_rejoins_under_new_slots() -> None:
    swarm = Swarm(drones=4, shards=2)
    swarm.join()
    before = {entry.name: entry for entry in swarm.server.host.roster()}
    epoch = swarm.server.status()["epoch"]
    swarm.wire.run(11.0)  # one restart per name in ten seconds
    swarm.start_host("shard_0")
    assert swarm.wire.run_until(lambda: swarm.together(above=epoch), 10.0) < 3.0
    after = {entry.name: entry for entry in swarm.server.host.roster()}
    for name in swarm.groups["shard_0"]:
        assert after[name].slot not in {entry.slot for entry in before.values()}
        assert after[name].incarnation != before[name].incarnation
    for name in swarm.groups["shard_1"]:
        assert after[name].slot == before[name].slot
    assert any("has restarted" in alarm.text for alarm in swarm.wire.of(SecurityAlarm))


def test_two_processes_under_one_name_raise_an_alarm() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    swarm.wire.run(11.0)
    old = swarm.hosts["shard_0"]
    swarm.hosts["twin"] = swarm.new_host("twin", [swarm.identities["drone_01"]], {"drone_01": MemoryStore()})
    swarm.wire.add("twin", swarm.hosts["twin"])
    traffic = Traffic(swarm)
    assert old.ready("drone_01")
    traffic.run(6.0)
    assert any("two processes run as drone_01" in text for text in errors(swarm))


def test_restarted_crypto_node_announces_above_what_members_hold() -> None:
    swarm = Swarm(drones=4, shards=2)
    swarm.join()
    for _ in range(3):
        swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
        rotate(swarm)
        swarm.wire.run(0.5)
    epoch = swarm.server.status()["epoch"]
    traffic = Traffic(swarm)
    swarm.stores["crypto"].save(StoredState())  # its disk is lost as well
    swarm.start_server()
    took = swarm.wire.run_until(lambda: swarm.together(above=epoch), 10.0)
    assert took < 5.0
    traffic.run(1.0)
    traffic.settle()
    assert traffic.missing() == []
    head = swarm.server.host.announcement(swarm.server.status()["epoch"]).head
    assert head.epoch > epoch
    assert head.previous != bytes(32), "it names the epoch it was shown"


def test_data_flows_while_the_crypto_node_is_away_and_stops_after_the_silence() -> None:
    swarm = Swarm(drones=4, shards=2)
    swarm.join()
    swarm.wire.remove("crypto")
    traffic = Traffic(swarm, period_s=0.5)
    traffic.run(28.0)
    traffic.settle()
    assert traffic.unsent == 0
    assert traffic.missing() == []
    traffic.run(3.0)
    assert not swarm.hosts["leader"].ready("leader")
    with pytest.raises(NotReady, match="silent"):
        swarm.hosts["leader"].seal("leader/command", TYPE, b"", swarm.wire.wall_ns, "leader")
    swarm.start_server()
    swarm.wire.run_until(lambda: swarm.together(above=4) and swarm.hosts["leader"].ready("leader"), 10.0)


def test_members_that_waited_longer_than_the_silence_send_as_soon_as_they_join() -> None:
    swarm = Swarm(drones=2, shards=1)
    for group in swarm.groups:
        swarm.start_host(group)
    swarm.wire.run(40.0)
    swarm.start_server()
    swarm.wire.run_until(swarm.together)
    assert all(swarm.host_of(name).ready(name) for name in swarm.identities)


def test_lost_switch_heals_by_the_beat() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire, server = swarm.wire, swarm.server
    wire.run_until(lambda: server.status()["packages_ready"])
    epoch = server.status()["epoch"]
    whole = wire.broadcast

    def without_switch(sender: str, message: Any) -> None:
        if not (isinstance(message, ControlMessage) and message.kind is ControlKind.SWITCH):
            whole(sender, message)

    wire.broadcast = without_switch  # type: ignore[method-assign]
    rotate(swarm)
    assert wire.run_until(lambda: swarm.together(above=epoch), 5.0) < 0.6


def test_lost_announcement_is_asked_for_and_the_switch_does_not_wait_for_ever() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire, server = swarm.wire, swarm.server
    wire.run_until(lambda: server.status()["packages_ready"])
    epoch = server.status()["epoch"]
    wire.cut.add("shard_1")
    rotate(swarm)
    wire.run(0.25)
    assert server.status()["switched"], "200 ms are enough"
    assert swarm.hosts["shard_0"].epoch("drone_01") > epoch
    assert any("before drone_02" in alarm.text for alarm in wire.of(SecurityAlarm))
    wire.cut.clear()
    assert wire.run_until(lambda: swarm.together(above=epoch), 5.0) < 1.5
    assert server.status()["rotations_by_reason"].get("join") == 1, "the same announcement was enough"


def test_vanished_member_is_left_out_with_a_warning() -> None:
    swarm = Swarm(drones=3, shards=3, rotate_s=5.0)
    swarm.join()
    swarm.wire.run(0.5)
    swarm.wire.remove("shard_2")
    del swarm.hosts["shard_2"]
    swarm.wire.run(20.0)
    assert "drone_03" not in swarm.server.status()["members"]
    assert any("without drone_03" in alarm.text for alarm in swarm.wire.of(SecurityAlarm))
    assert swarm.server.status()["rotations_by_reason"]["leave"] >= 1


def test_old_epoch_closes_after_its_grace() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    wire.run_until(lambda: swarm.server.status()["packages_ready"])
    drone, leader = swarm.host_of("drone_01"), swarm.host_of("leader")
    kept = [drone.seal("survey/pose", TYPE, bytes([n]), wire.wall_ns, "drone_01") for n in range(3)]
    rotate(swarm)
    wire.run_until(lambda: swarm.together(above=4))
    wire.run(1.9)
    assert leader.open("survey/pose", TYPE, kept[0], wire.wall_ns).epoch == 4
    wire.run(3.2)  # the sender is not heard under the new epoch: open until the upper limit of 5 s
    with pytest.raises(Rejected, match="unknown_epoch"):
        leader.open("survey/pose", TYPE, kept[1], wire.wall_ns)


def test_volume_makes_a_sender_ask_for_rotation() -> None:
    policy = default_policy.TEXT.replace("volume_bytes: 100000000", "volume_bytes: 100000")
    swarm = Swarm(drones=2, shards=1, policy_text=policy)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    for _ in range(3):
        swarm.host_of("drone_02").seal("survey/scan", TYPE, bytes(50_000), wire.wall_ns, "drone_02")
    wire.perform("shard_0", swarm.hosts["shard_0"].tick(wire.now, wire.wall_ns))
    wire.run(10.0)
    assert swarm.server.status()["rotations_by_reason"].get("volume") == 1


def test_recorded_control_messages_change_nothing_when_replayed() -> None:
    swarm = Swarm(drones=3, shards=2, rotate_s=2.0)
    swarm.join()
    swarm.wire.run(7.0)
    wire = swarm.wire
    state = swarm.epochs()
    recorded = [message for _, _, message in wire.sent]
    for name, node in wire.nodes.items():
        for message in recorded:
            effects = node.handle(message, wire.now, wire.wall_ns)
            bad = [e for e in effects if isinstance(e, Installed | Switched | StopOrder)]
            assert not bad, f"{name} obeyed a replayed {message.kind}"
    assert swarm.epochs() == state
    assert errors(swarm) == []


def test_damaged_control_messages_never_raise_and_never_count_as_good() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.join()
    wire = swarm.wire
    samples = {message.kind: message for _, _, message in wire.sent}
    assert len(samples) >= 6
    state = swarm.epochs()
    for message in samples.values():
        for index, part in enumerate(message.parts):
            for damaged in (part[:-1], b"", bytes(len(part)), part + b"\0", bytes([part[0] ^ 1]) + part[1:]):
                parts = (*message.parts[:index], damaged, *message.parts[index + 1 :])
                for node in wire.nodes.values():
                    effects = node.handle(ControlMessage(message.kind, parts), wire.now, wire.wall_ns)
                    assert not [e for e in effects if isinstance(e, Installed | Switched)]
        for node in wire.nodes.values():
            assert node.handle(ControlMessage(message.kind, ()), wire.now, wire.wall_ns) == []
    assert swarm.epochs() == state


def test_floods_are_paid_from_a_budget() -> None:
    swarm = Swarm(drones=1, shards=1)
    swarm.join()
    wire = swarm.wire
    wire.run(1.0)
    beat = next(message for _, _, message in reversed(wire.sent) if message.kind is ControlKind.BEAT)
    host = swarm.hosts["leader"]
    body = bytearray(beat.parts[0])
    for index in range(1000):
        body[-17:-9] = (2**40 * 1000 + index).to_bytes(8, "big")  # a higher sequence, so it is no replay
        host.handle(ControlMessage(ControlKind.BEAT, (bytes(body), beat.parts[1])), wire.now, wire.wall_ns)
    assert host.counters.control[RejectReason.SIGNATURE] <= 200
    assert host.counters.control[RejectReason.BUDGET] >= 800


def test_strangers_and_wrong_roles_do_not_get_in() -> None:
    swarm = Swarm(drones=2, shards=1)
    swarm.join()
    wire = swarm.wire
    foreign = MemoryKeystore()
    stranger = foreign.enroll("drone_09", Role.DRONE)
    host = swarm.new_host("stranger", [stranger], {"drone_09": MemoryStore()}, foreign.trust)
    wire.add("stranger", host)
    pretender = swarm.keystore.enroll(
        "drone_08", Role.DRONE
    )  # a good certificate, but not that of a crypto node
    with pytest.raises(ValueError, match="needs role crypto"):
        KeyServer(pretender, swarm.trust, MemoryStore())
    wire.run(8.0)
    assert not host.ready("drone_09")
    assert "drone_09" not in swarm.server.status()["members"]
    assert swarm.server.host.counters.control[RejectReason.CERTIFICATE] >= 1


def test_an_evicted_member_in_a_roster_is_refused() -> None:
    swarm = Swarm(drones=2, shards=2)
    out = swarm.identities["drone_02"].fingerprint
    swarm.stores["drone_01"].save(StoredState(evictions=frozenset({out})))
    swarm.start()
    swarm.wire.run(3.0)
    assert swarm.hosts["leader"].ready("leader")
    assert not swarm.hosts["shard_0"].ready("drone_01")
    assert swarm.hosts["shard_0"].counters.control[RejectReason.EVICTED] >= 1


def test_crypto_node_does_not_admit_an_evicted_member() -> None:
    swarm = Swarm(drones=2, shards=2)
    out = swarm.identities["drone_02"].fingerprint
    swarm.stores["crypto"].save(StoredState(evictions=frozenset({out})))
    swarm.start()
    swarm.wire.run(3.0)
    assert swarm.hosts["shard_0"].ready("drone_01")
    assert not swarm.hosts["shard_1"].ready("drone_02")
    assert out in swarm.hosts["shard_0"].context.members["drone_01"].state.evictions


def test_equivocation_is_seen_and_the_issuer_no_longer_followed() -> None:
    swarm = Swarm(drones=2, shards=1)
    swarm.join()
    wire = swarm.wire
    twin = swarm.new_server("crypto", swarm.identities["crypto"], MemoryStore())  # same key, another memory
    wire.run(1.0)
    wire.remove("crypto")
    for group in ("leader", "shard_0"):  # the twin hears fresh members only, so it does not learn the number
        swarm.stores.update({name: MemoryStore() for name in swarm.groups[group]})
    hosts = dict(swarm.hosts)
    for group in hosts:
        wire.remove(group)
    fresh = swarm.new_host("leader", [swarm.identities["leader"]], {"leader": MemoryStore()})
    wire.add("crypto", twin)
    wire.add("leader", fresh)
    wire.run_until(lambda: fresh.ready("leader"), 10.0)
    announced = [m for _, _, m in wire.sent if m.kind is ControlKind.ANNOUNCEMENT][-1]
    effects = hosts["shard_0"].handle(announced, wire.now, wire.wall_ns)
    assert [e for e in effects if isinstance(e, SecurityAlarm) and "two different epochs 4" in e.text]
    assert hosts["shard_0"].handle(announced, wire.now, wire.wall_ns) == []
    assert hosts["shard_0"].counters.control[RejectReason.ISSUER] == 1


def test_older_policy_or_crl_than_seen_is_refused() -> None:
    swarm = Swarm(drones=1, shards=1)
    store = MemoryStore(StoredState(policy_version=7))
    with pytest.raises(KeystoreError, match="version 1, but drone_01 has already seen 7"):
        SecureHost([swarm.identities["drone_01"]], swarm.trust, {"drone_01": store})
    store = MemoryStore(StoredState(crl_number=7))
    with pytest.raises(KeystoreError, match=r"crl\.pem has number 1"):
        SecureHost([swarm.identities["drone_01"]], swarm.trust, {"drone_01": store})


def test_stored_number_is_written_before_the_epoch_is_used() -> None:
    swarm = Swarm(drones=1, shards=1)
    order: list[str] = []

    class Watching(MemoryStore):
        def save(self, state: StoredState) -> None:
            order.append(f"stored {state.highest_epoch}")
            super().save(state)

    swarm.stores["drone_01"] = Watching()
    swarm.wire.on_effect = lambda node, effect: (
        order.append(f"installed {effect.epoch}")
        if isinstance(effect, Installed) and effect.member == "drone_01"
        else None
    )
    swarm.join()
    assert order.index("stored 4") < order.index("installed 4")


def test_rank_decides_the_numbers() -> None:
    swarm = Swarm(drones=1, shards=1)
    keystore = MemoryKeystore()
    server = swarm.new_server(
        "crypto", keystore.enroll("crypto_3", Role.CRYPTO), MemoryStore(), keystore.trust
    )
    swarm.trust = keystore.trust
    swarm.identities = {name: keystore.enroll(name, i.role) for name, i in swarm.identities.items()}
    swarm.server = server
    swarm.wire.add("crypto", server)
    for group in swarm.groups:
        swarm.start_host(group)
    swarm.wire.run_until(lambda: server.status()["epoch"] > 0)
    assert server.status()["epoch"] == 3


def test_a_package_that_overtakes_its_certificate_waits_for_it() -> None:
    swarm = Swarm(drones=1, shards=1)
    swarm.start_server()
    wire, server = swarm.wire, swarm.server
    swarm.start_host("leader")
    certificate = next(m for _, node, m in wire.sent if node == "leader")
    host = swarm.hosts["leader"]
    for _, node, message in list(wire.sent):
        if node == "crypto":
            host.handle(message, wire.now, wire.wall_ns)
    package = [e.message for e in host.tick(wire.now, wire.wall_ns) if isinstance(e, Send)]
    assert [message.kind for message in package] == [ControlKind.KEY_PACKAGE]
    server.handle(package[0], wire.now, wire.wall_ns)
    assert server.host.counters.control[RejectReason.NO_CERTIFICATE] == 1
    server.handle(certificate, wire.now, wire.wall_ns)
    effects = server.tick(wire.now + 0.31, wire.wall_ns + 310_000_000)
    assert [e for e in effects if isinstance(e, Send) and e.message.kind is ControlKind.ANNOUNCEMENT]


def test_expired_revocation_list_bars_joining_but_not_flight() -> None:
    swarm = Swarm(drones=2, shards=2)
    swarm.trust = dataclasses.replace(
        swarm.trust, crl=dataclasses.replace(swarm.trust.crl, expires_ns=swarm.wire.wall_ns + 20_000_000_000)
    )
    swarm.start_server()
    for group in ("leader", "shard_0"):
        swarm.start_host(group)
    swarm.wire.run(30.0)
    assert swarm.host_of("drone_01").ready("drone_01")
    swarm.start_host("shard_1")
    swarm.wire.run(5.0)
    assert not swarm.host_of("drone_02").ready("drone_02")
    swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
    rotate(swarm)
    swarm.wire.run(1.0)
    assert swarm.host_of("drone_01").epoch("drone_01") == 8


def test_seeds_can_be_sealed_and_opened_in_a_pool() -> None:
    with ThreadPoolExecutor(2) as pool:
        swarm = Swarm(drones=4, shards=1)
        server = swarm.new_server(
            "crypto", swarm.identities["crypto"], MemoryStore(), host_config=HostConfig(mapper=pool.map)
        )
        swarm.server = server
        swarm.wire.add("crypto", server)
        swarm.start_host("leader")
        members = swarm.groups["shard_0"]
        host = swarm.new_host(
            "shard_0",
            [swarm.identities[m] for m in members],
            swarm.store_map("shard_0"),
            config=HostConfig(mapper=pool.map),
        )
        swarm.hosts["shard_0"] = host
        swarm.wire.add("shard_0", host)
        swarm.wire.run_until(swarm.together)


# operator/stop


def test_stop_reaches_drones_without_any_epoch_and_is_acknowledged() -> None:
    swarm = Swarm(drones=4, shards=2, operator=True)
    for group in swarm.groups:  # no crypto node at all
        swarm.start_host(group)
    wire = swarm.wire
    wire.run(0.5)
    operator = swarm.hosts["operator"]
    message = operator.sign_stop("operator", "land", ["drone_01", "drone_04"], wire.wall_ns)
    wire.perform("operator", [Send(message)])
    wire.run(0.5)
    orders = wire.of(StopOrder)
    assert {name for order in orders for name in order.targets} == {"drone_01", "drone_04"}
    assert {order.level for order in orders} == {"land"}
    assert {ack.drone for ack in wire.of(StopAcked)} == {"drone_01", "drone_04"}
    # repeated: acknowledged again, obeyed once
    wire.perform("operator", [Send(message)])
    wire.run(0.5)
    assert len(wire.of(StopOrder)) == len(orders)
    assert len(wire.of(StopAcked)) == 4


def test_stop_counter_survives_a_restart_and_old_stops_are_refused() -> None:
    swarm = Swarm(drones=1, shards=1, operator=True)
    swarm.join()
    wire = swarm.wire
    wire.run(2.0)
    operator = swarm.hosts["operator"]
    first = operator.sign_stop("operator", "hold", [], wire.wall_ns)
    second = operator.sign_stop("operator", "kill", [], wire.wall_ns)
    drone = swarm.hosts["shard_0"]
    assert [e.level for e in drone.handle(second, wire.now, wire.wall_ns) if isinstance(e, StopOrder)] == [
        "kill"
    ]
    assert drone.handle(first, wire.now, wire.wall_ns) == []
    assert swarm.stores["drone_01"].state.operator_counters == {"operator": 2}
    again = swarm.new_host("shard_0", [swarm.identities["drone_01"]], swarm.store_map("shard_0"))
    again.handle(
        ControlMessage(ControlKind.CERTIFICATE, (swarm.identities["operator"].certificate_der,)),
        wire.now,
        wire.wall_ns,
    )
    assert again.handle(second, wire.now, wire.wall_ns) == []
    assert again.counters.control[RejectReason.STALE] == 1
    late = make_stop(swarm.identities["operator"], 9, "hold", [], wire.wall_ns - 11_000_000_000)
    (told,) = again.handle(late, wire.now, wire.wall_ns)
    assert isinstance(told, SecurityAlarm)
    assert told.text.startswith("operator's stops are 11.0 s behind the clock of drone_01 and refused")
    assert again.counters.control[RejectReason.AGE] == 1


def test_only_an_operator_can_stop() -> None:
    swarm = Swarm(drones=2, shards=1, operator=True)
    swarm.join()
    wire = swarm.wire
    with pytest.raises(Rejected, match="leader is no operator"):
        swarm.hosts["leader"].sign_stop("leader", "land", [], wire.wall_ns)
    with pytest.raises(ValueError, match="use hold, land or kill"):
        swarm.hosts["operator"].sign_stop("operator", "explode", [], wire.wall_ns)
    forged = make_stop(swarm.identities["leader"], 99, "kill", [], wire.wall_ns)
    drone = swarm.hosts["shard_0"]
    assert drone.handle(forged, wire.now, wire.wall_ns) == []
    assert drone.counters.control[RejectReason.ROLE] == 1
    good = swarm.hosts["operator"].sign_stop("operator", "land", [], wire.wall_ns)
    flipped = ControlMessage(ControlKind.STOP, (good.parts[0][:-1] + b"\x01", good.parts[1]))
    assert not [e for e in drone.handle(flipped, wire.now, wire.wall_ns) if isinstance(e, StopOrder)]


def test_effects_are_plain_data() -> None:
    assert dataclasses.is_dataclass(Installed)
    assert Installed("a", 4, b"") == Installed("a", 4, b"")
