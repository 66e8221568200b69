"""Stateful properties: whatever happens to a swarm, in whatever order, these hold.

Hypothesis chooses what happens: loss, duplication, delay (which reorders), replays of recordings, split
networks, restarts and crashes of members and of the crypto node, rotations, evictions. Every step is
watched; at the end the weather clears and everybody who was not put out must be together again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chimera_ros.crypto.effects import Alarm, Effect, Installed, Send, Switched
from chimera_ros.crypto.envelope import Opened
from chimera_ros.crypto.epochs import EpochReason, parse_announcement
from chimera_ros.crypto.errors import NotReady, Rejected
from chimera_ros.crypto.testing import Swarm, Weather
from chimera_ros.crypto.wire import ControlKind, ControlMessage, Envelope

TYPE = "T"
DRONES = ("drone_01", "drone_02", "drone_03")
GROUPS = ("leader", "shard_0", "shard_1", "shard_2")
VERIFY = os.environ.get("HYPOTHESIS_PROFILE") == "verify"
_SWITCH_S = 0.2
_LIVE_S = 3.0


@dataclass(frozen=True)
class Packet:
    """A sealed message on the wire, and what the test knows about it."""

    channel: str
    envelope: Envelope
    sender: str
    payload: bytes
    evictions_known: frozenset[bytes]  # what the sender held epochs of when it sealed


class Watched:
    """A swarm and everything that was ever observed of it."""

    def __init__(self, swarm: Swarm) -> None:
        self.swarm = swarm
        self.installed: dict[str, int] = {}  # member -> highest epoch it ever installed
        self.known: dict[str, set[bytes]] = {}  # member -> evictions in the heads it installed
        self.brought: dict[str, set[bytes]] = {}  # member -> evictions that were new in the last of them
        self.announced: dict[int, bytes] = {}  # epoch -> transcript hash
        self.announced_at: dict[bytes, float] = {}
        self.heads: dict[bytes, Any] = {}
        self.nonces: set[tuple[bytes, int, bytes]] = set()
        self.opened: Counter[tuple[str, bytes]] = Counter()
        self.evicted_at = float("-inf")  # last order of an eviction
        self.heard_at: dict[str, float] = {}  # by the crypto node, from fresh messages
        self.said_at: dict[int, float] = {}  # id of a message -> when it was first sent
        self.kept: list[ControlMessage] = []
        self.packets: list[Packet] = []
        swarm.wire.on_effect = self.on_effect
        swarm.wire.on_data = self.on_data
        self._names = {identity.fingerprint: name for name, identity in swarm.identities.items()}

    # What is seen

    def on_effect(self, node: str, effect: Effect) -> None:
        now = self.swarm.wire.now
        if isinstance(effect, Installed):
            before = self.installed.get(effect.member, 0)
            assert effect.epoch > before, f"{effect.member} went from epoch {before} to {effect.epoch}"
            self.installed[effect.member] = effect.epoch
            evictions = set(self.heads[effect.transcript_hash].evictions)
            self.brought[effect.member] = evictions - self.known.get(effect.member, set())
            self.known[effect.member] = self.known.get(effect.member, set()) | evictions
        elif isinstance(effect, Switched):
            self._switched(effect, now)
        elif isinstance(effect, Alarm):
            assert "two different epochs" not in effect.text, effect.text
            assert "two processes" not in effect.text, effect.text
        elif isinstance(effect, Send):
            self.said_at.setdefault(id(effect.message), now)
            self.kept.append(effect.message)
            if effect.message.kind is ControlKind.ANNOUNCEMENT:
                self._announced(effect.message, now)

    def _announced(self, message: ControlMessage, now: float) -> None:
        found = parse_announcement(message, self.swarm.server.host.control.suite)
        epoch, transcript_hash = found.head.epoch, found.transcript_hash
        first = self.announced.setdefault(epoch, transcript_hash)
        assert first == transcript_hash, f"epoch {epoch} was announced twice"
        self.announced_at.setdefault(transcript_hash, now)
        self.heads[transcript_hash] = found.head

    def _switched(self, effect: Switched, now: float) -> None:
        """No sender uses an epoch that a live member lacks, unless 200 ms passed, the epoch brings it an
        eviction, or an eviction waits for its end.
        """
        head = self.heads[effect.transcript_hash]
        announced_at = self.announced_at[effect.transcript_hash]
        late = now - announced_at >= _SWITCH_S - 1e-9
        evicts = head.reason is EpochReason.EVICT or bool(self.brought[effect.member])
        if evicts or late or self.evicted_at >= announced_at:
            return
        for entry in head.roster:
            if now - self.heard_at.get(entry.name, float("-inf")) > _LIVE_S or entry.name == "crypto":
                continue
            host = self.swarm.host_of(entry.name)
            if host.control.members[entry.name].incarnation != entry.incarnation:
                continue  # it has restarted since: nobody can know yet
            assert self.installed.get(entry.name, 0) >= effect.epoch, (
                f"{effect.member} sends under epoch {effect.epoch}, which {entry.name} lacks"
            )

    def hear(self, message: ControlMessage) -> None:
        """The crypto node has accepted a message."""
        now = self.swarm.wire.now
        if message.kind in (ControlKind.KEY_PACKAGE, ControlKind.READY):
            if now - self.said_at.get(id(message), float("-inf")) > 1.0:
                return
            for fingerprint, name in self._names.items():
                if fingerprint in message.parts[0]:
                    self.heard_at[name] = now

    def on_data(self, target: str, packet: Packet) -> None:
        swarm = self.swarm
        host = swarm.server.host if target == "crypto" else swarm.hosts[target]
        try:
            opened: Opened = host.open(packet.channel, TYPE, packet.envelope, swarm.wire.wall_ns)
        except Rejected:
            return
        assert (opened.sender, opened.payload) == (packet.sender, packet.payload)
        self.opened[(target, packet.payload)] += 1
        assert self.opened[(target, packet.payload)] == 1, f"{target} accepted a packet twice"
        for member in swarm.groups.get(target, ()):
            fingerprint = swarm.identities[member].fingerprint
            assert fingerprint not in packet.evictions_known, f"{member} is out and reads on"

    # What is done

    def send_data(self) -> None:
        swarm = self.swarm
        for name in DRONES:
            group = swarm.member_host[name]
            if group not in swarm.wire.nodes:
                continue
            host, channel = swarm.hosts[group], f"{name}/telemetry"
            payload = f"{name} {len(self.packets)}".encode()
            try:
                envelope = host.seal(channel, TYPE, payload, swarm.wire.wall_ns, name)
            except NotReady:
                continue
            key = (host.transcript_hash(name) or b"", envelope.lane, envelope.sealed[:12])
            assert (envelope.sender, *key) not in self.nonces, "a nonce was used twice"
            self.nonces.add((envelope.sender, *key))
            known = frozenset().union(
                *(session.announcement.head.evictions for session in host.control.sessions.open.values())
            )
            packet = Packet(channel, envelope, name, payload, known)
            self.packets.append(packet)
            swarm.wire.broadcast(group, packet)

    def start_server(self) -> None:
        """A new process of the crypto node, with the disk of the old one."""
        self.swarm.start_server()
        self.heard_at.clear()
        server, original = self.swarm.server, self.swarm.server.handle
        refused = server.host.counters.control

        def handle(message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
            before = refused.total()
            effects = original(message, now, wall_ns)
            if refused.total() == before:
                self.hear(message)
            return effects

        server.handle = handle  # type: ignore[method-assign]


class SwarmMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.swarm = Swarm(drones=3, shards=3, operator=True, seed=7)
        self.watched = Watched(self.swarm)
        self.evicted: list[str] = []
        self.watched.start_server()
        for group in self.swarm.groups:
            self.swarm.start_host(group)

    @property
    def wire(self) -> Any:
        return self.swarm.wire

    def out(self, group: str) -> bool:
        return any(member in self.evicted for member in self.swarm.groups[group])

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.15, 0.4, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.wire.run(seconds)

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.0]))
    def drones_send(self, seconds: float) -> None:
        end = self.wire.now + seconds
        while self.wire.now < end:
            self.watched.send_data()
            self.wire.run(0.1)

    @rule(
        loss=st.sampled_from([0.0, 0.1, 0.4]),
        duplication=st.sampled_from([0.0, 0.3]),
        delay=st.sampled_from([0.002, 0.05, 0.5]),
    )
    def weather_changes(self, loss: float, duplication: float, delay: float) -> None:
        self.wire.weather = Weather(loss, duplication, 0.0005, delay)

    @precondition(lambda self: "crypto" in self.wire.nodes)
    @rule()
    def rotate(self) -> None:
        server = self.swarm.server
        self.wire.perform("crypto", server.rotate("manual", self.wire.now, self.wire.wall_ns))

    @rule(group=st.sampled_from(GROUPS))
    def restart_member(self, group: str) -> None:
        self.swarm.start_host(group)

    @precondition(lambda self: "crypto" in self.wire.nodes)
    @rule()
    def crypto_node_dies(self) -> None:
        self.wire.remove("crypto")

    @rule()
    def crypto_node_restarts(self) -> None:
        self.watched.start_server()

    @rule(group=st.sampled_from((*GROUPS, "crypto")))
    def cut_off(self, group: str) -> None:
        self.wire.cut.add(group)

    @rule()
    def network_heals(self) -> None:
        self.wire.cut.clear()

    @rule(age=st.floats(0.0, 1.0), count=st.integers(1, 20))
    def old_control_messages_are_replayed(self, age: float, count: int) -> None:
        kept = self.watched.kept
        start = int(age * len(kept))
        for message in kept[start : start + count]:
            self.wire.broadcast("nobody", ControlMessage(message.kind, message.parts))
        self.wire.run(0.1)

    @rule(age=st.floats(0.0, 1.0), count=st.integers(1, 20))
    def old_packets_are_replayed(self, age: float, count: int) -> None:
        packets = self.watched.packets
        start = int(age * len(packets))
        for packet in packets[start : start + count]:
            self.wire.broadcast("nobody", packet)
        self.wire.run(0.1)

    @precondition(lambda self: "crypto" in self.wire.nodes and len(self.evicted) < 2)
    @rule(name=st.sampled_from(DRONES))
    def evict(self, name: str) -> None:
        wire = self.wire
        verdict = self.swarm.server.evict(name, "operator", bytes(32), wire.now, wire.wall_ns)
        if verdict.acted:
            self.evicted.append(name)
            self.watched.evicted_at = wire.now
        wire.perform("crypto", verdict.effects)

    # What always holds

    @invariant()
    def nobody_who_is_out_holds_a_later_key(self) -> None:
        for name in self.evicted:
            fingerprint = self.swarm.identities[name].fingerprint
            for session in self.swarm.host_of(name).control.sessions.open.values():
                assert fingerprint not in session.announcement.head.evictions, f"{name} is out and holds keys"

    @invariant()
    def nobody_forgets(self) -> None:
        for name, store in self.swarm.stores.items():
            assert store.load().highest_epoch >= self.watched.installed.get(name, 0)

    @invariant()
    def few_epochs_are_open(self) -> None:
        for host in self.swarm.hosts.values():
            assert len(host.control.sessions.open) <= 6

    def teardown(self) -> None:
        """The weather clears: whoever is not out is together again, and is heard."""
        swarm, wire = self.swarm, self.wire
        wire.cut.clear()
        wire.weather = Weather()
        if "crypto" not in wire.nodes:
            self.watched.start_server()
        wire.run(1.0)
        wanted = [name for name in swarm.identities if name not in self.evicted]
        floor = max(self.watched.announced, default=0)

        def together() -> bool:
            return _epoch_of(swarm, wanted) >= max(floor, 1)

        wire.run_until(together, 60.0)
        roster = {entry.name for entry in swarm.server.host.roster()}
        assert roster == set(wanted)
        first = len(self.watched.packets)
        self.watched.send_data()
        wire.run(0.3)
        for packet in self.watched.packets[first:]:
            if packet.sender in self.evicted:
                continue
            for group in (*swarm.groups, "crypto"):
                if group == swarm.member_host.get(packet.sender):
                    continue
                got = self.watched.opened[(group, packet.payload)]
                put_out = group != "crypto" and self.out(group)
                assert got == (0 if put_out else 1), f"{group}, from {packet.sender}"


def _epoch_of(swarm: Swarm, names: Sequence[str]) -> int:
    """The one epoch that all of them send under, or 0."""
    epochs = {swarm.host_of(name).epoch(name) for name in names}
    (epoch, *others) = epochs
    return 0 if others or epoch is None else epoch


SwarmMachine.TestCase.settings = settings(
    max_examples=300 if VERIFY else 12,
    stateful_step_count=40 if VERIFY else 25,
    deadline=None,
    derandomize=not VERIFY,
    suppress_health_check=list(HealthCheck),
    phases=[
        Phase.reuse,
        Phase.generate,
    ],  # making a failure smaller takes minutes; ask for it where one is found
)
TestSwarm = SwarmMachine.TestCase
