"""Simulated swarm for tests: an in-memory wire with stepped time, loss, delay, duplication and reordering.

No clock is read and all randomness is seeded, keys included: the same seed gives the same run in every
process. What the crypto library draws itself differs (seeded.py), and no decision depends on it.
"""

from __future__ import annotations

import heapq
import itertools
import random as random_module
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives import serialization

from ..effects import Effect, Send
from ..key_server.server import KeyServer, KeyServerConfig
from ..keystore.fallback_secret import FallbackSecret
from ..keystore.keystore import with_validity
from ..keystore.member_state import MemoryStore, StateStore
from ..member.host import HostConfig, SecureHost
from ..primitives import labels
from ..primitives.providers import provider
from ..trust import default_policy
from ..trust.certificates import crl_der, make_authority, make_crl, make_member, read_crl
from ..trust.identity import MemberIdentity, Trust, read_member_certificate
from ..trust.policy import load_policy
from ..trust.roles import Role
from ..wire import ControlMessage
from .seeded import Draw, seed_package_keys, serial_number, signing_key, stream

_MAX_TICKS = 256
WALL_START_NS = 1_900_000_000_000_000_000  # some day in 2030


class SimulatedNode(Protocol):
    """A node on the wire: a SecureHost or a KeyServer."""

    def start(self, now: float, wall_ns: int) -> list[Effect]: ...
    def handle(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]: ...
    def tick(self, now: float, wall_ns: int) -> list[Effect]: ...
    def next_timer(self) -> float | None: ...


class MemoryKeystore:
    """Authority, policy and identities in memory. Keystores of different authorities need different seeds."""

    def __init__(
        self,
        swarm: str = "testswarm",
        policy_text: str | None = None,
        wall_ns: int = WALL_START_NS,
        revoked: frozenset[int] = frozenset(),
        seed: int | str = 0,
    ) -> None:
        self.wall_ns = wall_ns
        self._draw = stream(seed, "keystore")
        self.key = signing_key(self._draw)
        self.authority = make_authority(swarm, self.key, wall_ns, 800, serial_number(self._draw))
        text = with_validity(policy_text or default_policy.TEXT, swarm, wall_ns, 800)
        crl = make_crl(self.authority, self.key, 1, revoked, wall_ns, 800)
        signature = self.key.sign(text.encode(), labels.SIGN_POLICY)
        self.trust = Trust(
            self.authority, load_policy(text), read_crl(crl), crl_der(crl), text.encode(), signature
        )

    def crl(self, number: int, *revoked: MemberIdentity, days: float = 800.0) -> bytes:
        """A revocation list (DER) naming these members' certificates."""
        serials = frozenset(identity.member.serial for identity in revoked)
        return crl_der(make_crl(self.authority, self.key, number, serials, self.wall_ns, days))

    def policy(self, version: int, change: tuple[str, str] = ("", "")) -> tuple[bytes, bytes]:
        """(text, signature) of the policy with another version and one text replaced."""
        text = self.trust.policy_text.decode().replace("version: 1\n", f"version: {version}\n")
        raw = text.replace(*change).encode()
        return raw, self.key.sign(raw, labels.SIGN_POLICY)

    def enroll(self, name: str, role: Role, days: float = 300.0, swarm: str | None = None) -> MemberIdentity:
        """A new identity."""
        key = signing_key(self._draw)
        certificate = make_member(
            swarm or self.trust.swarm,
            name,
            role,
            key.public_key(),
            self.authority,
            self.key,
            self.wall_ns,
            days,
            serial_number(self._draw),
        )
        der = certificate.public_bytes(serialization.Encoding.DER)
        return MemberIdentity(read_member_certificate(der), provider().signing_key(key))


@dataclass(frozen=True, slots=True)
class LinkConditions:
    """Loss, duplication and delay of the wire. Delays in seconds; random delays also reorder."""

    loss: float = 0.0
    duplication: float = 0.0
    min_delay_s: float = 0.0005
    max_delay_s: float = 0.002


@dataclass(order=True, slots=True)
class _Delivery:
    at: float
    number: int
    target: str = field(compare=False)
    message: Any = field(compare=False)


class Wire:
    """Broadcasts control messages (and anything else given to `broadcast`) between nodes, in stepped time."""

    def __init__(
        self, seed: int = 0, link: LinkConditions | None = None, wall_ns: int = WALL_START_NS
    ) -> None:
        self.now = 100.0
        self.link = link or LinkConditions()
        self.nodes: dict[str, SimulatedNode] = {}
        self.effects: list[tuple[float, str, Effect]] = []
        self.sent: list[tuple[float, str, ControlMessage]] = []
        self.on_effect: Callable[[str, Effect], None] | None = None
        self.on_data: Callable[[str, Any], None] | None = None
        self.cut: set[str] = set()  # disconnected nodes: they neither send nor receive
        self.clock_offset_s: dict[str, float] = {}  # offset of a node's wall clock
        self.partition: dict[str, int] = {}  # by node, default 0: messages stay within one
        self._wall_ns = wall_ns - int(self.now * 1e9)
        self.seed = seed
        self._random = random_module.Random(seed)
        self._queue: list[_Delivery] = []
        self._numbers = itertools.count()
        self._ticked: tuple[float, str] = (0.0, "")
        self._ticks = 0  # consecutive timers of one node at one time

    @property
    def wall_ns(self) -> int:
        return self._wall_ns + int(self.now * 1e9)

    def wall_of(self, name: str) -> int:
        """A node's own wall clock."""
        return self.wall_ns + int(self.clock_offset_s.get(name, 0.0) * 1e9)

    def add(self, name: str, node: SimulatedNode) -> None:
        """Connects and starts a node; a node of that name is replaced (its process was terminated)."""
        self.nodes[name] = node
        self._queue = [item for item in self._queue if item.target != name]
        heapq.heapify(self._queue)
        self._perform(name, node.start(self.now, self.wall_of(name)))

    def perform(self, name: str, effects: Sequence[Effect]) -> None:
        """Performs effects that a test got from calling a node directly."""
        self._perform(name, effects)

    def remove(self, name: str) -> None:
        """Terminates the process of a node."""
        del self.nodes[name]

    def broadcast(self, sender: str, message: Any) -> None:
        """Sends to every other node, under the link conditions."""
        link = self.link
        for target in self.nodes:
            if target == sender or sender in self.cut or target in self.cut:
                continue
            if self.partition.get(sender, 0) != self.partition.get(target, 0):
                continue
            copies = 1 + (self._random.random() < link.duplication)
            for _ in range(copies):
                if self._random.random() < link.loss:
                    continue
                delay_s = self._random.uniform(link.min_delay_s, link.max_delay_s)
                heapq.heappush(
                    self._queue, _Delivery(self.now + delay_s, next(self._numbers), target, message)
                )

    def _perform(self, name: str, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self.effects.append((self.now, name, effect))
            if self.on_effect is not None:
                self.on_effect(name, effect)
            if isinstance(effect, Send):
                self.sent.append((self.now, name, effect.message))
                self.broadcast(name, effect.message)

    def step(self, until: float) -> None:
        """Delivers the next message or timer that is due before `until`; otherwise time is `until`."""
        delivery_at = self._queue[0].at if self._queue else float("inf")
        timers = [
            (timer, name) for name, node in self.nodes.items() if (timer := node.next_timer()) is not None
        ]
        timer_at, name = min(timers, default=(float("inf"), ""))
        timer_at = max(timer_at, self.now)
        if min(delivery_at, timer_at) > until:
            self.now = until
            return
        if delivery_at <= timer_at:
            item = heapq.heappop(self._queue)
            self.now = max(self.now, item.at)
            node = self.nodes.get(item.target)
            if node is None:
                return
            if isinstance(item.message, ControlMessage):
                self._perform(item.target, node.handle(item.message, self.now, self.wall_of(item.target)))
            elif self.on_data is not None:
                self.on_data(item.target, item.message)
            return
        self.now = timer_at
        self._ticks = self._ticks + 1 if (self.now, name) == self._ticked else 1
        self._ticked = (self.now, name)
        if self._ticks > _MAX_TICKS:
            raise AssertionError(f"{name} requests the same timer without end")
        self._perform(name, self.nodes[name].tick(self.now, self.wall_of(name)))

    def run(self, seconds: float) -> None:
        """Advances time."""
        end = self.now + seconds
        while self.now < end:
            self.step(end)

    def run_until(self, condition: Callable[[], bool], limit_s: float = 30.0) -> float:
        """Advances time until the condition holds; returns how long. Raises AssertionError at the limit."""
        start = self.now
        while not condition():
            if self.now >= start + limit_s:
                raise AssertionError(f"not reached within {limit_s} s of simulated time, seed {self.seed}")
            self.step(start + limit_s)
        return self.now - start

    def of(self, kind: type[Any]) -> list[Any]:
        """All effects of one type, in order."""
        return [effect for _, _, effect in self.effects if isinstance(effect, kind)]


class Swarm:
    """A key server, a leader, drones in shards and an operator on one wire."""

    def __init__(
        self,
        drones: int = 4,
        shards: int = 2,
        seed: int = 1,
        link: LinkConditions | None = None,
        rotate_s: float | None = None,
        policy_text: str | None = None,
        operator: bool = False,
        standbys: int = 0,
    ) -> None:
        self.seed = seed
        self._drawn: dict[str, int] = {}  # streams by name
        self.keystore = MemoryKeystore(policy_text=policy_text, seed=f"swarm {seed}")
        self.trust = self.keystore.trust
        self.wire = Wire(seed, link)
        self.rotate_s = rotate_s
        self.fallback: FallbackSecret | None = None  # for hosts started later
        names = [f"drone_{index + 1:02d}" for index in range(drones)]
        self.identities: dict[str, MemberIdentity] = {
            "crypto": self.keystore.enroll("crypto", Role.CRYPTO),
            "leader": self.keystore.enroll("leader", Role.LEADER),
        }
        self.standbys = tuple(f"crypto_{rank}" for rank in range(1, standbys + 1))
        for name in self.standbys:
            self.identities[name] = self.keystore.enroll(name, Role.CRYPTO)
        self.groups: dict[str, tuple[str, ...]] = {"leader": ("leader",)}
        if operator:
            self.identities["operator"] = self.keystore.enroll("operator", Role.OPERATOR)
            self.groups["operator"] = ("operator",)
        for name in names:
            self.identities[name] = self.keystore.enroll(name, Role.DRONE)
        for shard in range(shards):
            self.groups[f"shard_{shard}"] = tuple(names[shard::shards])
        self.stores: dict[str, MemoryStore] = {name: MemoryStore() for name in self.identities}
        self.hosts: dict[str, SecureHost] = {}
        self.server: KeyServer
        self.servers: dict[str, KeyServer] = {}  # all crypto nodes, including `server`
        self.member_host: dict[str, str] = {m: group for group, ms in self.groups.items() for m in ms}

    def draw(self, name: str) -> Draw:
        """A stream of random bytes: another one with each call, as with each start of a process."""
        self._drawn[name] = self._drawn.get(name, 0) + 1
        return stream(self.seed, f"{name} {self._drawn[name]}")

    def new_host(
        self,
        name: str,
        identities: Sequence[MemberIdentity],
        stores: Mapping[str, StateStore],
        trust: Trust | None = None,
        config: HostConfig | None = None,
    ) -> SecureHost:
        """A process with its randomness from a stream of this name; it is on no wire yet."""
        host = SecureHost(identities, trust or self.trust, stores, self.draw(name), config)
        seed_package_keys(host.context.members.values(), self.draw(f"packages of {name}"))
        return host

    def new_server(
        self,
        name: str,
        identity: MemberIdentity,
        store: StateStore,
        trust: Trust | None = None,
        host_config: HostConfig | None = None,
    ) -> KeyServer:
        """The same for a crypto node."""
        config = KeyServerConfig(rotate_s=self.rotate_s)
        server = KeyServer(identity, trust or self.trust, store, self.draw(name), config, host_config)
        seed_package_keys(server.host.context.members.values(), self.draw(f"packages of {name}"))
        return server

    def start_server(self, name: str = "crypto") -> None:
        """Starts, or restarts, a crypto node."""
        server = self.new_server(name, self.identities[name], self.stores[name])
        if name == "crypto":
            self.server = server
        self.servers[name] = server
        self.wire.add(name, server)

    def kill(self, name: str) -> None:
        """Terminates a process without notice."""
        del self.wire.nodes[name]

    def in_charge(self) -> list[str]:
        """The running crypto nodes that are in charge."""
        return [name for name, node in self.servers.items() if node.active and name in self.wire.nodes]

    def start_host(self, group: str) -> None:
        """Starts, or restarts, a process with its members."""
        identities = [self.identities[m] for m in self.groups[group]]
        host = self.new_host(
            group, identities, self.store_map(group), config=HostConfig(fallback=self.fallback)
        )
        self.hosts[group] = host
        self.wire.add(group, host)

    def store_map(self, group: str) -> Mapping[str, MemoryStore]:
        return {member: self.stores[member] for member in self.groups[group]}

    def start(self) -> None:
        """Starts everything."""
        self.start_server()
        for name in self.standbys:
            self.start_server(name)
        for group in self.groups:
            self.start_host(group)

    def host_of(self, member: str) -> SecureHost:
        """The SecureHost that hosts the member."""
        if member == "crypto":
            return self.server.host
        if member in self.servers:
            return self.servers[member].host
        return self.hosts[self.member_host[member]]

    def epochs(self) -> dict[str, int | None]:
        """The epoch each member sends under."""
        return {member: self.host_of(member).epoch(member) for member in self.identities}

    def together(self, above: int = 0) -> bool:
        """True if all members send under one epoch, higher than `above`."""
        epochs = set(self.epochs().values())
        epoch = next(iter(epochs))
        return len(epochs) == 1 and epoch is not None and epoch > above

    def join(self, limit_s: float = 30.0) -> float:
        """Starts everything and runs until all members are in one epoch; returns the simulated seconds."""
        self.start()
        return self.wire.run_until(self.together, limit_s)
