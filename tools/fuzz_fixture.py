"""Fixture of the fuzz targets: a swarm, its genuine messages, and a provider that accepts every signature."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.fallback_hello import FallbackHello
from chimera_ros.crypto.primitives import providers
from chimera_ros.crypto.primitives.interfaces import PackageKey, PublicKey, SigningKey, VerifyKey
from chimera_ros.crypto.primitives.openssl import OpenSslProvider
from chimera_ros.crypto.primitives.suite import suite_named
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.wire import SIGNATURE_BYTES, ControlKind, ControlMessage

SUITE: Final = suite_named("CHIMERA-1-CNSA")
_POLICY: Final = default_policy.TEXT.replace("suite: CHIMERA-1 ", f"suite: {SUITE.name} ")
_RESTART_EVERY: Final = 200  # inputs: one may cause the rejection of all later ones


class Bug(AssertionError):
    """A violated property."""


# Keys that accept every signature -------------------------------------------------------------


class _EmptySigningKey:
    def sign(self, message: bytes, context: bytes) -> bytes:
        return bytes(SIGNATURE_BYTES)

    def public_bytes(self) -> bytes:
        return b""


class _AcceptAllVerifyKey:
    def verify(self, signature: bytes, message: bytes, context: bytes) -> bool:
        return len(signature) == SIGNATURE_BYTES


class _AcceptAllProvider:
    """A provider with genuine HPKE whose signatures always verify."""

    def __init__(self) -> None:
        self._openssl = OpenSslProvider()

    def signing_key(self, key: Any) -> SigningKey:
        return _EmptySigningKey()

    def verify_key(self, public: bytes) -> VerifyKey:
        return _AcceptAllVerifyKey()

    def package_key(self, hybrid: bool) -> PackageKey:
        return self._openssl.package_key(hybrid)

    def public_key(self, hybrid: bool, public: bytes) -> PublicKey:
        return self._openssl.public_key(hybrid, public)


@contextmanager
def accept_all_signatures() -> Iterator[None]:
    """Within the context this process accepts every signature. For fuzzing only."""
    before = providers._chosen
    providers._chosen = providers.Choice(_AcceptAllProvider(), "openssl", "fuzzing")
    try:
        yield
    finally:
        providers._chosen = before


# Swarm and messages ----------------------------------------------------------------------------------


class SwarmFixture:
    """One swarm whose members keep identities and stores while the processes restart."""

    def __init__(self) -> None:
        with accept_all_signatures():
            self.swarm = Swarm(drones=2, shards=1, operator=True, policy_text=_POLICY)
        self._inputs = 0
        self.messages = self._scenario()
        self._inputs = 0

    def _scenario(self) -> list[ControlMessage]:
        """Join, rekeys, a stop, a restart of a shard and of the crypto node: all messages sent."""
        with accept_all_signatures():
            swarm = self.swarm
            wire = swarm.wire
            swarm.join()
            wire.run(1.0)
            wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
            wire.run(1.0)
            stop = swarm.hosts["operator"].sign_stop("operator", "land", ["drone_01"], wire.wall_ns)
            wire.broadcast("operator", stop)
            wire.run(12.0)
            swarm.start_host("shard_0")
            wire.run(3.0)
            swarm.start_server()
            wire.run(3.0)
            drone = swarm.identities["drone_01"]
            hello = FallbackHello(swarm.trust.swarm, drone.fingerprint, bytes(16), 1, wire.wall_ns)
            messages = [stop, signed(ControlKind.FALLBACK_HELLO, hello.encode(), drone)]
            messages += swarm.hosts["leader"].control.trust_updates.messages()
            messages += [message for _, _, message in wire.sent]
            by_kind: dict[ControlKind, list[ControlMessage]] = {}
            for message in messages:
                by_kind.setdefault(message.kind, []).append(message)
            return [message for kind in by_kind.values() for message in [*kind[:3], *kind[-3:]]]

    def joined(self) -> Swarm:
        """The swarm, joined; its processes restart periodically."""
        if self._inputs % _RESTART_EVERY == 0:
            swarm = self.swarm
            swarm.wire.sent.clear()
            swarm.wire.effects.clear()
            swarm.start()
            swarm.wire.run_until(swarm.together, 60.0)
        self._inputs += 1
        return self.swarm


@cache
def fixture() -> SwarmFixture:
    """The fixture, made on first use."""
    return SwarmFixture()
