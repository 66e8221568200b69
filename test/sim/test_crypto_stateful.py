"""Stateful properties: whatever happens to a swarm, in whatever order, these hold.

Hypothesis chooses what happens: loss, duplication, delay (which reorders), replays of recordings, split
networks, restarts and crashes of members and of both crypto nodes, silences so long that fallback begins,
rotations, evictions. Every step is watched; at the end the link is good and everybody who was not put out
must be together again, under one crypto node.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chimera_ros.crypto.effects import Effect, Installed, SecurityAlarm, Send, Switched
from chimera_ros.crypto.errors import NotReady, Rejected
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.messages.announcement import EpochReason, parse_announcement
from chimera_ros.crypto.session.epoch_session import Opened
from chimera_ros.crypto.testing.swarm import WALL_START_NS, LinkConditions, Swarm
from chimera_ros.crypto.wire import ControlKind, ControlMessage, Envelope

TYPE = "T"
DRONES = ("drone_01", "drone_02", "drone_03")
GROUPS = ("leader", "shard_0", "shard_1", "shard_2")
SERVERS = ("crypto", "crypto_1")
SECRET = FallbackSecret(WALL_START_NS, bytes(64))
VERIFY = os.environ.get("HYPOTHESIS_PROFILE") == "verify"
_SWITCH_S = 0.2
_LIVE_S = 3.0
_SILENCE_S = 32.0
_HEALED_S = 60.0


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
        self.nonces: set[tuple[Any, ...]] = set()
        self.opened: Counter[tuple[SecureHost, bytes]] = Counter()  # by process
        self.evicted_at = float("-inf")  # last order of an eviction
        self.heard_at: dict[tuple[str, str], float] = {}  # crypto node, member -> from a fresh message
        self.degraded = 0  # messages opened in fallback
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
        elif isinstance(effect, SecurityAlarm):
            assert "two different epochs" not in effect.text, effect.text
            assert "two processes" not in effect.text, effect.text
        elif isinstance(effect, Send):
            self.said_at.setdefault(id(effect.message), now)
            self.kept.append(effect.message)
            if effect.message.kind is ControlKind.ANNOUNCEMENT:
                self._announced(effect.message, now)

    def _announced(self, message: ControlMessage, now: float) -> None:
        found = parse_announcement(message, self.swarm.server.host.context.suite)
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
            heard_at = self.heard_at.get((self._names[head.issuer], entry.name), float("-inf"))
            if now - heard_at > _LIVE_S or entry.name in SERVERS:
                continue
            host = self.swarm.host_of(entry.name)
            if host.context.members[entry.name].incarnation != entry.incarnation:
                continue  # it has restarted since: nobody can know yet
            assert self.installed.get(entry.name, 0) >= effect.epoch, (
                f"{effect.member} sends under epoch {effect.epoch}, which {entry.name} lacks"
            )

    def hear(self, server: str, message: ControlMessage) -> None:
        """A crypto node has accepted a message."""
        now = self.swarm.wire.now
        if message.kind in (ControlKind.KEY_PACKAGE, ControlKind.READY):
            if now - self.said_at.get(id(message), float("-inf")) > 1.0:
                return
            for fingerprint, name in self._names.items():
                if fingerprint in message.parts[0]:
                    self.heard_at[(server, name)] = now

    def host(self, process: str) -> SecureHost:
        swarm = self.swarm
        return swarm.servers[process].host if process in SERVERS else swarm.hosts[process]

    def on_data(self, target: str, packet: Packet) -> None:
        swarm = self.swarm
        host = self.host(target)
        try:
            opened: Opened = host.open(packet.channel, TYPE, packet.envelope, swarm.wire.wall_ns)
        except Rejected:
            return
        assert (opened.sender, opened.payload) == (packet.sender, packet.payload)
        self.opened[(host, packet.payload)] += 1
        assert self.opened[(host, packet.payload)] == 1, f"{target} accepted a packet twice"
        members = swarm.groups.get(target, ())
        if opened.epoch == 0:
            self.degraded += 1
            sender = swarm.identities[packet.sender].fingerprint
            for member in members:
                out = host.context.members[member].state.evictions
                assert sender not in out, f"{member} knows that {packet.sender} is out and hears it"
            return
        for member in members:
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
            for key in self._nonces(host.transcript_hash(name) or b"", envelope):
                assert key not in self.nonces, "a nonce was used twice"
                self.nonces.add(key)
            known = frozenset().union(
                *(session.announcement.head.evictions for session in host.context.sessions.open.values())
            )
            packet = Packet(channel, envelope, name, payload, known)
            self.packets.append(packet)
            swarm.wire.broadcast(group, packet)

    @staticmethod
    def _nonces(transcript_hash: bytes, envelope: Envelope) -> tuple[tuple[Any, ...], ...]:
        """What must never come again under one key; in fallback the key is the incarnation's."""
        sealed = envelope.sealed
        if envelope.epoch == 0:
            return ("counter", sealed[:24]), ("nonce", sealed[:16], sealed[24:36])
        return ((envelope.sender, transcript_hash, envelope.lane, sealed[:12]),)

    def start_server(self, name: str) -> None:
        """A new process of a crypto node, with the disk of the old one."""
        self.swarm.start_server(name)
        self.heard_at = {key: at for key, at in self.heard_at.items() if key[0] != name}
        server = self.swarm.servers[name]
        original, refused = server.handle, server.host.counters.control

        def handle(message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
            before = refused.total()
            effects = original(message, now, wall_ns)
            if refused.total() == before:
                self.hear(name, message)
            return effects

        server.handle = handle  # type: ignore[method-assign]


class SwarmMachine(RuleBasedStateMachine):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.swarm = Swarm(drones=3, shards=3, operator=True, seed=7, standbys=1)
        self.swarm.fallback = SECRET
        self.watched = Watched(self.swarm)
        self.evicted: list[str] = []
        self.silences = 0
        for name in SERVERS:
            self.watched.start_server(name)
        for group in self.swarm.groups:
            self.swarm.start_host(group)

    @initialize(joined=st.booleans())
    def begin(self, joined: bool) -> None:
        if joined:
            self.wire.run_until(self.swarm.together)

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
    def link_changes(self, loss: float, duplication: float, delay: float) -> None:
        self.wire.link = LinkConditions(loss, duplication, 0.0005, delay)

    @precondition(lambda self: self.swarm.in_charge())
    @rule()
    def rotate(self) -> None:
        for name in self.swarm.in_charge():
            server = self.swarm.servers[name]
            self.wire.perform(name, server.rotate("manual", self.wire.now, self.wire.wall_ns))

    @rule(group=st.sampled_from(GROUPS))
    def restart_member(self, group: str) -> None:
        self.swarm.start_host(group)

    @rule(name=st.sampled_from(SERVERS))
    def crypto_node_dies(self, name: str) -> None:
        if name in self.wire.nodes:
            self.swarm.kill(name)

    @rule(name=st.sampled_from(SERVERS))
    def crypto_node_restarts(self, name: str) -> None:
        self.watched.start_server(name)

    @precondition(lambda self: self.swarm.in_charge())
    @rule(returns=st.booleans())
    def the_one_in_charge_dies(self, returns: bool) -> None:
        for name in self.swarm.in_charge():
            self.swarm.kill(name)
        self.drones_send(2.5)
        for name in SERVERS:
            if returns and name not in self.wire.nodes:
                self.watched.start_server(name)

    @precondition(lambda self: self.silences <= bool(self.evicted))
    @rule(away=st.booleans())
    def no_crypto_node_is_heard_for_long(self, away: bool) -> None:
        """They are dead, or out of reach: fallback."""
        self.silences += 1
        for name in SERVERS:
            if away:
                self.wire.cut.add(name)
            elif name in self.wire.nodes:
                self.swarm.kill(name)
        self.wire.run(_SILENCE_S)
        self.drones_send(0.3)

    @rule(group=st.sampled_from((*GROUPS, *SERVERS)))
    def cut_off(self, group: str) -> None:
        self.wire.cut.add(group)

    @rule(away=st.sets(st.sampled_from((*GROUPS, *SERVERS)), min_size=1))
    def network_splits(self, away: set[str]) -> None:
        self.wire.partition.update(dict.fromkeys((*GROUPS, *SERVERS), 0) | dict.fromkeys(away, 1))
        self.drones_send(1.5)

    @rule()
    def network_heals(self) -> None:
        self.wire.cut.clear()
        self.wire.partition.clear()

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

    @precondition(lambda self: self.swarm.in_charge() and len(self.evicted) < 2)
    @rule(name=st.sampled_from(DRONES))
    def evict(self, name: str) -> None:
        wire = self.wire
        server = self.swarm.in_charge()[-1]
        verdict = self.swarm.servers[server].evict(name, "operator", bytes(32), wire.now, wire.wall_ns)
        if verdict.acted:
            self.evicted.append(name)
            self.watched.evicted_at = wire.now
        wire.perform(server, verdict.effects)

    # What always holds

    @invariant()
    def nobody_who_is_out_holds_a_later_key(self) -> None:
        for name in self.evicted:
            fingerprint = self.swarm.identities[name].fingerprint
            for session in self.swarm.host_of(name).context.sessions.open.values():
                assert fingerprint not in session.announcement.head.evictions, f"{name} is out and holds keys"

    @invariant()
    def nobody_forgets(self) -> None:
        for name, store in self.swarm.stores.items():
            assert store.load().highest_epoch >= self.watched.installed.get(name, 0)

    @invariant()
    def few_epochs_are_open(self) -> None:
        for host in self.swarm.hosts.values():
            assert len(host.context.sessions.open) <= 6

    def teardown(self) -> None:
        """The link is good again: whoever is not out is together again, and is heard."""
        swarm, wire = self.swarm, self.wire
        self.network_heals()
        wire.link = LinkConditions()
        for name in SERVERS:
            if name not in wire.nodes:
                self.watched.start_server(name)
        wire.run(1.0)
        wanted = [name for name in swarm.identities if name not in self.evicted]
        floor = max(self.watched.announced, default=0)

        def together() -> bool:
            silent = any(swarm.host_of(name).context.silent for name in wanted)
            return len(swarm.in_charge()) == 1 and not silent and _epoch_of(swarm, wanted) >= max(floor, 1)

        wire.run_until(together, _HEALED_S)
        (chief,) = swarm.in_charge()
        roster = {entry.name for entry in swarm.servers[chief].host.roster()}
        assert roster == set(wanted)
        first = len(self.watched.packets)
        self.watched.send_data()
        wire.run(0.3)
        for packet in self.watched.packets[first:]:
            if packet.sender in self.evicted:
                continue
            for group in (*swarm.groups, *SERVERS):
                if group == swarm.member_host.get(packet.sender):
                    continue
                got = self.watched.opened[(self.watched.host(group), packet.payload)]
                put_out = group not in SERVERS and self.out(group)
                assert got == (0 if put_out else 1), f"{group}, from {packet.sender}"


def _epoch_of(swarm: Swarm, names: Sequence[str]) -> int:
    """The one epoch that all of them send under, or 0."""
    epochs = {swarm.host_of(name).epoch(name) for name in names}
    (epoch, *others) = epochs
    return 0 if others or epoch is None else epoch


SwarmMachine.TestCase.settings = settings(
    max_examples=300 if VERIFY else 18,
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
