"""Crypto nodes that die, return, split and heal on a lossy wire; no number is announced twice."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict

import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.errors import NotReady, Rejected
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.messages.announcement import EpochReason, parse_head
from chimera_ros.crypto.testing.swarm import LinkConditions, Swarm
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage

TYPE = "T"
STORM = LinkConditions(loss=0.1, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05)


class World:
    """A swarm with telemetry, a wire that can be split in two, and a look at every announcement made."""

    def __init__(
        self, seed: int = 1, standbys: int = 1, link: LinkConditions | None = None, **options
    ) -> None:
        self.swarm = Swarm(drones=4, shards=2, seed=seed, standbys=standbys, link=link, **options)
        self.wire = self.swarm.wire
        self.unsent = 0
        self.opened = 0
        self.wire.on_data = self._deliver
        self._expected: dict[tuple[str, bytes], float] = {}

    def _deliver(self, target: str, item: tuple) -> None:
        channel, envelope = item
        node = self.wire.nodes[target]
        host = node.host if isinstance(node, KeyServer) else node
        try:
            opened = host.open(channel, TYPE, envelope, self.wire.wall_ns)
        except Rejected:
            return
        self.opened += 1
        self._expected.pop((target, bytes(opened.payload)), None)

    def fly(self, seconds: float) -> None:
        """20 Hz telemetry of every drone to every other process."""
        end = self.wire.now + seconds
        while self.wire.now < end:
            for member, group in self.swarm.member_host.items():
                if not member.startswith("drone"):
                    continue
                payload = f"{member} {self.wire.now:.4f}".encode()
                channel = f"{member}/telemetry"
                host = self.swarm.hosts[group]
                try:
                    envelope = host.seal(channel, TYPE, payload, self.wire.wall_ns, member)
                except NotReady:
                    self.unsent += 1
                    continue
                for target in self.swarm.hosts:
                    if target != group:
                        self._expected[(target, payload)] = self.wire.now
                self.wire.broadcast(group, (channel, envelope))
            self.wire.run(0.05)

    def missing(self) -> int:
        """Messages that were sent and opened nowhere they should have been, and those never sent."""
        self.wire.run(0.2)
        return self.unsent + len(self._expected)

    def members(self) -> dict[str, int | None]:
        """Epochs of the members of the running processes."""
        return {
            name: epoch
            for name, epoch in self.swarm.epochs().items()
            if name in self.wire.nodes or name in self.swarm.member_host
        }

    def settled(self) -> bool:
        """One in charge, everybody that runs in its epoch."""
        epochs = set(self.members().values())
        return len(self.swarm.in_charge()) == 1 and len(epochs) == 1 and None not in epochs

    def announced(self) -> dict[int, set[bytes]]:
        """Every announcement ever sent: number -> heads."""
        heads: dict[int, set[bytes]] = defaultdict(set)
        for _, _, message in self.wire.sent:
            if message.kind is ControlKind.ANNOUNCEMENT:
                heads[parse_head(message.parts[0]).epoch].add(message.parts[0])
        return heads

    def check_numbers(self) -> None:
        """No number was announced twice, nobody was accused of it."""
        twice = {epoch: len(heads) for epoch, heads in self.announced().items() if len(heads) > 1}
        assert not twice
        assert not [
            alarm.text for alarm in self.wire.of(SecurityAlarm) if "two different epochs" in alarm.text
        ]


def test_standbys_join_and_only_one_crypto_node_is_in_charge() -> None:
    world = World(standbys=3)
    assert world.swarm.join() < 3.0
    world.fly(5.0)
    assert world.swarm.in_charge() == ["crypto"]
    requests = {node for _, node, m in world.wire.sent if m.kind is ControlKind.KEY_REQUEST}
    assert requests == {"crypto"}, "a standby overhears packages and asks for none"
    with pytest.raises(NotReady, match="crypto_2 is standby; crypto is active"):
        world.swarm.servers["crypto_2"].rotate("manual", world.wire.now, world.wire.wall_ns)


@pytest.mark.parametrize("seed", range(3))
def test_a_standby_takes_over_within_two_seconds_and_no_message_is_lost(seed: int) -> None:
    world = World(seed, standbys=2)
    world.swarm.join()
    world.fly(3.0 + seed / 10)
    epoch = world.swarm.epochs()["leader"]
    world.swarm.kill("crypto")
    took = 0.0
    while (
        world.swarm.in_charge() != ["crypto_1"] or not world.settled() or world.members()["leader"] == epoch
    ):
        world.fly(0.05)
        took += 0.05
        assert took < 2.0
    world.fly(3.0)
    assert world.missing() == 0
    assert world.members()["leader"] == 5
    head = next(iter(world.announced()[5]))
    assert parse_head(head).reason is EpochReason.LEAVE
    world.check_numbers()


def test_the_old_one_returns_as_a_standby_and_takes_its_turn_again() -> None:
    world = World(standbys=1)
    world.swarm.join()
    order = ["crypto", "crypto_1", "crypto", "crypto_1"]
    for dying, heir in itertools.pairwise(order):
        world.fly(12.0)
        assert world.settled()
        assert world.swarm.in_charge() == [dying]
        world.swarm.kill(dying)
        world.fly(2.0)
        assert world.swarm.in_charge() == [heir]
        world.swarm.start_server(dying)
        world.fly(2.0)
        assert world.settled()
        assert world.swarm.in_charge() == [heir]
    assert world.missing() == 0
    world.check_numbers()


@pytest.mark.parametrize("seed", range(4))
def test_in_a_storm_a_standby_takes_over_and_everybody_follows(seed: int) -> None:
    world = World(seed, standbys=2, link=STORM)
    world.swarm.join(60.0)
    world.wire.run(5.0)
    world.swarm.kill("crypto")
    world.wire.run_until(lambda: world.swarm.in_charge() != [], 5.0)
    world.wire.run_until(world.settled, 20.0)
    world.swarm.start_server("crypto")
    world.wire.run(2.0)
    world.wire.run_until(world.settled, 30.0)
    world.check_numbers()


def test_a_split_swarm_has_one_in_charge_on_each_side_and_heals() -> None:
    world = World(standbys=1, rotate_s=4.0)
    world.swarm.join()
    world.wire.partition = {"crypto_1": 1, "shard_1": 1}
    world.wire.run(10.0)
    assert sorted(world.swarm.in_charge()) == ["crypto", "crypto_1"]

    def two_swarms() -> bool:  # not while one of them rotates
        epochs = world.members()
        here, there = epochs["crypto"], epochs["crypto_1"]
        return epochs["drone_01"] == epochs["leader"] == here != there == epochs["drone_02"]

    world.wire.run_until(two_swarms, 2.0)
    world.wire.partition = {}
    took = world.wire.run_until(world.settled, 10.0)
    assert took < 3.0
    world.check_numbers()
    world.fly(5.0)
    assert world.missing() == 0


def test_a_node_that_stood_still_steps_down_when_it_goes_on() -> None:
    world = World(standbys=1)
    world.swarm.join()
    world.wire.run(2.0)
    stalled = world.wire.nodes.pop("crypto")
    world.wire.run(3.0)
    assert world.swarm.servers["crypto_1"].active
    world.wire.nodes["crypto"] = stalled  # it has heard nothing meanwhile and believes itself in charge
    assert stalled.active
    world.wire.run_until(world.settled, 5.0)
    assert world.swarm.in_charge() == ["crypto_1"]
    world.check_numbers()


def test_alone_and_restarted_it_announces_above_what_it_is_shown_at_once() -> None:
    world = World(standbys=0)
    world.swarm.join()
    world.wire.run(2.0)
    world.swarm.kill("crypto")
    world.wire.run(2.0)
    world.swarm.start_server("crypto")
    assert world.wire.run_until(lambda: world.settled() and world.members()["leader"] == 12, 5.0) < 1.5


def test_both_dead_the_one_that_returns_waits_for_the_other() -> None:
    world = World(standbys=1)
    world.swarm.join()
    world.wire.run(2.0)
    world.swarm.kill("crypto")
    world.wire.run(3.0)
    world.swarm.kill("crypto_1")
    world.wire.run(3.0)
    world.swarm.start_server("crypto")
    took = world.wire.run_until(lambda: world.settled() and (world.members()["leader"] or 0) > 5, 8.0)
    assert 3.0 < took < 5.0
    assert world.members()["leader"] == 12, "8 was reserved on its disk"
    world.check_numbers()


@pytest.mark.parametrize("who", ["crypto", "crypto_1"])
def test_a_crypto_node_that_lost_its_disk_starts_above_what_is_proven(who: str) -> None:
    world = World(standbys=1, rotate_s=3.0)
    world.swarm.join()
    world.wire.run(10.0)
    world.swarm.kill(who)
    world.wire.run(2.0)
    world.swarm.stores[who] = MemoryStore()
    world.swarm.start_server(who)
    world.wire.run(2.0)
    world.wire.run_until(world.settled, 10.0)
    survivor = next(name for name in ("crypto", "crypto_1") if name != who)
    world.swarm.kill(survivor)
    world.wire.run_until(lambda: world.settled() and world.swarm.in_charge() == [who], 5.0)
    world.check_numbers()


def test_a_number_that_reached_nobody_is_stepped_over() -> None:
    """It announced 8 and died before anybody heard: what follows must be above, or it could not join."""
    world = World(standbys=1)
    world.swarm.join()
    world.wire.run(2.0)
    world.wire.cut.add("crypto")
    world.wire.perform("crypto", world.swarm.server.rotate("manual", world.wire.now, world.wire.wall_ns))
    world.wire.run(0.5)
    assert world.swarm.stores["crypto"].state.highest_epoch == 8
    world.swarm.kill("crypto")
    world.wire.cut.clear()
    world.wire.run(2.0)
    assert world.members()["leader"] == 5
    world.swarm.start_server("crypto")
    world.wire.run_until(world.settled, 10.0)
    assert world.swarm.in_charge() == ["crypto_1"]
    assert world.members()["crypto"] == 9
    world.check_numbers()


def test_the_eviction_list_is_taken_over() -> None:
    world = World(standbys=1)
    put_out = bytes(range(32))
    server_store = world.swarm.stores["crypto"]
    server_store.state = type(server_store.state)(evictions=frozenset({put_out}))
    world.swarm.join()
    world.wire.run(1.0)
    world.swarm.kill("crypto")
    world.wire.run_until(lambda: world.members()["leader"] == 5, 3.0)
    assert put_out in parse_head(next(iter(world.announced()[5]))).evictions
    # Both lose their disks and their memory: what the members prove is enough.
    world.swarm.kill("crypto_1")
    world.swarm.stores["crypto"] = MemoryStore()
    world.swarm.start_server("crypto")
    world.wire.run_until(lambda: (world.members()["leader"] or 0) > 5, 8.0)
    assert put_out in world.swarm.stores["crypto"].state.evictions
    assert put_out in parse_head(next(iter(world.announced()[8]))).evictions


def test_a_node_may_not_announce_a_number_of_another_rank() -> None:
    world = World(standbys=2)
    world.swarm.join()
    world.wire.run(2.0)
    rogue = world.swarm.servers["crypto_1"]
    rogue._builder._rank = 2
    world.swarm.kill("crypto")
    world.wire.run(1.15)
    leader = world.swarm.hosts["leader"]
    world.wire.run(1.0)
    assert leader.counters.snapshot()["control"]["issuer"] >= 1
    assert not any(
        parse_head(head).issuer == rogue.identity.fingerprint and world.members()["leader"] == epoch
        for epoch, heads in world.announced().items()
        for head in heads
    )


def test_a_standby_that_takes_over_with_nobodys_package_announces_once_they_come() -> None:
    """It has only just started, say, and lacks the members' certificates."""
    world = World(standbys=1)
    world.swarm.join()
    world.wire.run(2.0)
    standby = world.swarm.servers["crypto_1"]
    handle = standby.handle
    deaf = {ControlKind.KEY_PACKAGE}
    standby.handle = lambda message, now, wall_ns: (  # type: ignore[method-assign]
        [] if message.kind in deaf else handle(message, now, wall_ns)
    )
    standby._admission._candidates.clear()
    world.swarm.kill("crypto")
    world.wire.run_until(lambda: standby.active, 3.0)
    world.wire.run(3.0)
    assert world.members()["leader"] == 4, "the epoch in force goes on under its beats"
    deaf.clear()
    world.wire.run_until(lambda: world.settled() and world.members()["leader"] == 5, 3.0)
    world.check_numbers()


def test_two_crypto_nodes_of_one_rank_are_told_of_by_everybody_who_hears_them() -> None:
    swarm = Swarm(drones=1, shards=1)
    swarm.identities["spare"] = swarm.keystore.enroll("spare", Role.CRYPTO)
    swarm.stores["spare"] = MemoryStore()
    swarm.start()
    swarm.start_server("spare")
    swarm.wire.run(5.0)
    told = {
        node
        for _, node, effect in swarm.wire.effects
        if isinstance(effect, SecurityAlarm) and "both have rank 0" in effect.text
    }
    assert told == {"crypto", "spare", "leader", "shard_0"}


def test_a_recorded_key_request_keeps_no_standby_from_its_turn() -> None:
    world = World(standbys=1)
    world.swarm.join()
    world.wire.run(2.0)
    recorded: list[ControlMessage] = [
        m
        for _, node, m in world.wire.sent
        if node == "crypto" and m.kind in (ControlKind.KEY_REQUEST, ControlKind.BEAT)
    ]
    world.swarm.kill("crypto")
    world.swarm.kill("crypto_1")
    world.wire.run(4.0)
    world.swarm.start_server("crypto_1")
    standby = world.swarm.servers["crypto_1"]
    for _ in range(100):
        for message in recorded:
            world.wire.perform("crypto_1", standby.handle(message, world.wire.now, world.wire.wall_ns))
        world.wire.run(0.1)
    assert standby.active


@pytest.mark.parametrize("seed", range(6))
def test_whatever_dies_returns_splits_and_heals_no_number_is_announced_twice(seed: int) -> None:
    chance = random.Random(seed)
    link = STORM if seed % 2 else None
    world = World(seed, standbys=2, link=link, rotate_s=3.0)
    world.swarm.join(60.0)
    nodes = ["crypto", "crypto_1", "crypto_2"]
    for _ in range(12):
        event = chance.choice(("kill", "start", "split", "heal", "rotate"))
        name = chance.choice(nodes)
        if event == "kill" and name in world.wire.nodes:
            world.swarm.kill(name)
        elif event == "start" and name not in world.wire.nodes:
            world.swarm.start_server(name)
        elif event == "split":
            world.wire.partition = {who: chance.randrange(2) for who in world.wire.nodes}
        elif event == "heal":
            world.wire.partition = {}
        elif event == "rotate" and name in world.swarm.in_charge():
            server = world.swarm.servers[name]
            world.wire.perform(name, server.rotate("manual", world.wire.now, world.wire.wall_ns))
        world.wire.run(chance.uniform(0.05, 3.0))
        world.check_numbers()
    world.wire.partition = {}
    for name in nodes:
        if name not in world.wire.nodes:
            world.swarm.start_server(name)
    world.wire.run(10.0)
    world.wire.run_until(world.settled, 60.0)
    world.check_numbers()


def test_two_that_only_members_hear_do_not_outbid_each_other_for_ever() -> None:
    """Two ground stations out of each other's reach, with the swarm between them."""
    world = World(standbys=1)
    world.swarm.join()
    wire = world.wire
    broadcast = wire.broadcast

    def hidden(sender: str, message: object) -> None:
        wire.partition = {node: 1 for node in wire.nodes if node != sender and {node, sender} <= CRYPTO}
        broadcast(sender, message)
        wire.partition = {}

    CRYPTO = {"crypto", "crypto_1"}
    wire.broadcast = hidden  # type: ignore[method-assign]
    wire.run(30.0)
    before = len(world.announced())
    took = [takeover for takeover in wire.of(SecurityAlarm) if "takes over" in takeover.text]
    world.fly(30.0)
    assert len(world.announced()) - before <= 6
    assert len([alarm for alarm in wire.of(SecurityAlarm) if "takes over" in alarm.text]) - len(took) <= 6
    epochs = {world.members()[name] for name in ("leader", "drone_01", "drone_02")}
    assert len(epochs) == 1
    world.check_numbers()
    wire.broadcast = broadcast  # type: ignore[method-assign]
    assert wire.run_until(world.settled, 15.0) < 10.0
