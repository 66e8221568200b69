"""Fuzz target of fallback: hellos, envelopes, and envelopes that an insider seals in another member's
name.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Final

from fuzz_fixture import Bug, accept_all_signatures

from chimera_ros.crypto.encoding import u32, u64
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.member.fallback import COMMAND_CHANNEL, Fallback
from chimera_ros.crypto.member.host import HostConfig, SecureHost
from chimera_ros.crypto.messages.fallback_hello import FallbackHello
from chimera_ros.crypto.session.epoch_session import Opened
from chimera_ros.crypto.testing.swarm import WALL_START_NS, MemoryKeystore
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import SIGNATURE_BYTES, ControlKind, ControlMessage, Envelope, Lane
from chimera_ros.ros import cdr

_TYPE: Final = "T"
_TELEMETRY: Final = "drone_01/telemetry"
_ROLES: Final = {"leader": Role.LEADER, "drone_01": Role.DRONE, "drone_02": Role.DRONE}
_RESTART_EVERY: Final = 100


class _FallbackSwarm:
    """A leader and two drones, each a process of its own, in fallback."""

    def __init__(self) -> None:
        self.keystore = MemoryKeystore()
        self.identities = {name: self.keystore.enroll(name, role) for name, role in _ROLES.items()}
        self.hosts: dict[str, SecureHost] = {}
        self.now, self.wall_ns = 100.0, WALL_START_NS
        self.counters = itertools.count(1)

    def restart(self) -> None:
        """Restarts the processes and exchanges their hellos."""
        config = HostConfig(fallback=FallbackSecret(WALL_START_NS, bytes(64)))
        self.hosts = {
            name: SecureHost([identity], self.keystore.trust, {name: MemoryStore()}, config=config)
            for name, identity in self.identities.items()
        }
        for host in self.hosts.values():
            host.start(self.now, self.wall_ns)
            for identity in self.identities.values():
                host.context.certificates.put(identity.member)
        self.step(40.0)
        for name in self.hosts:
            self.deliver(
                ControlMessage(ControlKind.FALLBACK_HELLO, (self.hello(name), bytes(SIGNATURE_BYTES)))
            )

    def step(self, seconds: float) -> None:
        """Advances time, so that rate limits recover."""
        self.now += seconds
        self.wall_ns += int(seconds * 1e9)
        for host in self.hosts.values():
            host.tick(self.now, self.wall_ns)

    def deliver(self, message: ControlMessage) -> None:
        for host in self.hosts.values():
            host.handle(message, self.now, self.wall_ns)

    def fallback(self, name: str) -> Fallback:
        found = self.hosts[name].fallback
        assert found is not None
        return found

    def incarnation(self, name: str) -> bytes:
        return self.hosts[name].context.members[name].incarnation

    def hello(self, name: str) -> bytes:
        fingerprint, incarnation = self.identities[name].fingerprint, self.incarnation(name)
        swarm = self.keystore.trust.swarm
        return FallbackHello(swarm, fingerprint, incarnation, WALL_START_NS, self.wall_ns).encode()

    def sealed_by_an_insider(self, name: str, channel: str, plaintext: bytes) -> Envelope:
        """Any plaintext in the name of `name`, sealed by an insider with the secret, with accepted
        signature.
        """
        fallback = self.fallback("drone_02")
        lane = Lane.COMMAND if channel == COMMAND_CHANNEL else Lane.TELEMETRY
        prefix, nonce = self.incarnation(name) + u64(next(self.counters)), bytes(12)
        aad = fallback._aad(lane, channel, _TYPE, prefix)
        sealed = prefix + nonce + fallback._key(self.incarnation(name)).encrypt(nonce, plaintext, aad)
        return Envelope(1, lane, 0, 0, sealed, bytes(SIGNATURE_BYTES))


@cache
def _swarm() -> _FallbackSwarm:
    with accept_all_signatures():
        return _FallbackSwarm()


_inputs = itertools.count()


def _opened(host: SecureHost, channel: str, envelope: Envelope, wall_ns: int) -> Opened | None:
    try:
        return host.open(channel, _TYPE, envelope, wall_ns)
    except Rejected:
        return None


def _ready() -> _FallbackSwarm:
    swarm = _swarm()
    if next(_inputs) % _RESTART_EVERY == 0 or not swarm.hosts:
        swarm.restart()
    swarm.step(0.02)
    return swarm


def run(data: bytes) -> None:
    """First byte: 0 a hello's body, 1 CDR of an envelope, 2 and 3 an insider's plaintext (after its time
    stamp) as telemetry and as a command.
    """
    if not data:
        return
    with accept_all_signatures():
        swarm = _ready()
        kind, rest = data[0] % 4, data[1:]
        if kind == 0:
            swarm.deliver(ControlMessage(ControlKind.FALLBACK_HELLO, (rest, bytes(SIGNATURE_BYTES))))
        elif kind == 1:
            try:
                envelope = Envelope(*cdr.decode_envelope(rest))
            except cdr.CdrError:
                return
            _opened(swarm.hosts["leader"], _TELEMETRY, envelope, swarm.wall_ns)
        elif kind == 2:
            _insider(swarm, "drone_01", _TELEMETRY, "leader", u64(swarm.wall_ns) + rest)
        else:
            _insider(swarm, "leader", COMMAND_CHANNEL, "drone_01", u64(swarm.wall_ns) + rest)
        if any(len(swarm.fallback(name)._peers) > len(_ROLES) - 1 for name in _ROLES):
            raise Bug("a hello without a certificate was accepted")


def _insider(swarm: _FallbackSwarm, name: str, channel: str, target: str, plaintext: bytes) -> None:
    envelope = swarm.sealed_by_an_insider(name, channel, plaintext)
    found = _opened(swarm.hosts[target], channel, envelope, swarm.wall_ns)
    if found is None:
        return
    if found.sender != name or not plaintext.endswith(found.payload) or found.sent_ns != swarm.wall_ns:
        raise Bug("another message than the sealed one was opened")
    if not set(found.addressed) <= {target} or (channel == COMMAND_CHANNEL and not found.addressed):
        raise Bug(f"{found.addressed} are addressed")
    if found.addressed and swarm.incarnation(target) not in plaintext:
        raise Bug(f"{target} is addressed, but its incarnation is not named")
    if _opened(swarm.hosts[target], channel, envelope, swarm.wall_ns) is not None:
        raise Bug("one message was opened twice")


def corpus() -> list[bytes]:
    """One of each kind, genuine."""
    with accept_all_signatures():
        swarm = _ready()
        order = u32(2) + swarm.incarnation("drone_01") + swarm.incarnation("drone_02") + b"order"
        envelope = swarm.hosts["drone_01"].seal(_TELEMETRY, _TYPE, b"text", swarm.wall_ns, "drone_01")
        return [
            b"\x00" + swarm.hello("drone_01"),
            b"\x01" + cdr.encode_envelope(*envelope),
            b"\x02" + u32(0) + b"text",
            b"\x02" + u32(1) + bytes(16) + b"text",
            b"\x03" + order,
        ]
