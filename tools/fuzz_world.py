"""A swarm to fuzz: its genuine messages, and cores whose signatures are always good."""

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
_RENEW: Final = 200  # inputs after which the cores are made anew: one input may shut the door to all others


class Bug(AssertionError):
    """What must never happen."""


# Keys that cost nothing and accept everything -------------------------------------------------------------


class _Signer:
    def sign(self, message: bytes, context: bytes) -> bytes:
        return bytes(SIGNATURE_BYTES)

    def public_bytes(self) -> bytes:
        return b""


class _Believer:
    def verify(self, signature: bytes, message: bytes, context: bytes) -> bool:
        return len(signature) == SIGNATURE_BYTES


class _Gullible:
    """A provider with genuine HPKE and signatures that are always good."""

    def __init__(self) -> None:
        self._openssl = OpenSslProvider()

    def signing_key(self, key: Any) -> SigningKey:
        return _Signer()

    def verify_key(self, public: bytes) -> VerifyKey:
        return _Believer()

    def package_key(self, hybrid: bool) -> PackageKey:
        return self._openssl.package_key(hybrid)

    def public_key(self, hybrid: bool, public: bytes) -> PublicKey:
        return self._openssl.public_key(hybrid, public)


@contextmanager
def gullible() -> Iterator[None]:
    """While inside, this process accepts every signature. For fuzzing and nothing else."""
    before = providers._chosen
    providers._chosen = providers.Choice(_Gullible(), "openssl", "fuzzing")
    try:
        yield
    finally:
        providers._chosen = before


# A swarm, and what it says ----------------------------------------------------------------------------------


class World:
    """One swarm whose members keep their identities and stores while its processes are made anew."""

    def __init__(self) -> None:
        with gullible():
            self.swarm = Swarm(drones=2, shards=1, operator=True, policy_text=_POLICY)
        self._inputs = 0
        self.messages = self._scenario()
        self._inputs = 0

    def _scenario(self) -> list[ControlMessage]:
        """Join, rotations, a stop, a restart of a shard and of the crypto node: everything that is said."""
        with gullible():
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
            said = [stop, signed(ControlKind.FALLBACK_HELLO, hello.encode(), drone)]
            said += swarm.hosts["leader"].control.trust_updates.messages()
            said += [message for _, _, message in wire.sent]
            by_kind: dict[ControlKind, list[ControlMessage]] = {}
            for message in said:
                by_kind.setdefault(message.kind, []).append(message)
            return [message for kind in by_kind.values() for message in [*kind[:3], *kind[-3:]]]

    def fresh(self) -> Swarm:
        """The swarm, joined; with new processes now and then."""
        if self._inputs % _RENEW == 0:
            swarm = self.swarm
            swarm.wire.sent.clear()
            swarm.wire.effects.clear()
            swarm.start()
            swarm.wire.run_until(swarm.together, 60.0)
        self._inputs += 1
        return self.swarm


@cache
def world() -> World:
    """Made on first use."""
    return World()
