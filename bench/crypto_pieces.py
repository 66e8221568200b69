"""Rows of `chimera bench secure` that need no second process: sealing, opening, bulk, handshake, keystore.

Everything goes through the protocol core as a flying member uses it; keys and policy are made in memory. CPU
time of this process, so that other work on the machine counts less.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import Result, percentile

from chimera_ros.crypto.errors import ProviderError
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.messages.announcement import seed_info
from chimera_ros.crypto.messages.body import CONTEXT_OF
from chimera_ros.crypto.messages.control import KeyPackage, KeyRequest
from chimera_ros.crypto.primitives import providers
from chimera_ros.crypto.primitives.suite import SEED_BYTES, digest, suite_named
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.wire import ControlKind, Envelope
from chimera_ros.ros import cdr

TYPE = "chimera_ros/msg/DroneTelemetry"
SMALL = 300
LARGE = 2**20
SENDER, CHANNEL, BULK, SIGNED = "drone_01", "drone_01/telemetry", "survey/image", "drone_01/ack"


def measure(*, quick: bool) -> list[Result]:
    """All rows, those that depend on the provider once for each that is there."""
    rows = _envelopes(20_000 if quick else 100_000) + _bulk(60 if quick else 300)
    for name in ("openssl", "liboqs"):
        try:
            choice = providers.select(name)
        except ProviderError:
            rows.append(Result(f"{name}: not installed, not measured", None, ""))
            continue
        rows += _handshake(choice.name, 40 if quick else 200) + _signed(choice.name, 200 if quick else 1000)
    providers.select()
    return [*rows, _keystore()]


@contextmanager
def _quiet() -> Iterator[None]:
    """No garbage collection inside what is measured."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _joined(policy: str = default_policy.TEXT) -> Swarm:
    policy = policy.replace("\n  rotation_s:", "\n  telemetry_hz: 1000000.0\n  rotation_s:", 1)
    swarm = Swarm(drones=1, shards=1, policy_text=policy)
    swarm.join()
    return swarm


def _cpu_us(action: Callable[[], object], batches: int = 40, each: int = 25) -> float | None:
    """Median CPU time of one call in µs, from batches: the clock is too coarse for one."""
    figures = []
    with _quiet():
        for _ in range(batches):
            began = time.process_time_ns()
            for _ in range(each):
                action()
            figures.append((time.process_time_ns() - began) * 1e-3 / each)
    return percentile(figures, 50)


def _envelopes(count: int) -> list[Result]:
    swarm = _joined()
    sender, receiver, now_ns = swarm.hosts["shard_0"], swarm.hosts["leader"], swarm.wire.wall_ns
    payload = cdr.HEADER + os.urandom(SMALL - len(cdr.HEADER))
    sealing, opening = [], []
    for _ in range(count // 500):
        with _quiet():
            began = time.process_time_ns()
            envelopes = [sender.seal(CHANNEL, TYPE, payload, now_ns, SENDER) for _ in range(500)]
            middle = time.process_time_ns()
            for envelope in envelopes:
                receiver.open(CHANNEL, TYPE, envelope, now_ns)
            ended = time.process_time_ns()
        sealing.append((middle - began) * 1e-3 / 500)
        opening.append((ended - middle) * 1e-3 / 500)
    packed = cdr.encode_envelope(*envelopes[-1])
    return [
        Result(f"sealing {SMALL} bytes", percentile(sealing, 50), "µs", ("<", 15.0)),
        Result(f"opening {SMALL} bytes", percentile(opening, 50), "µs", ("<", 20.0)),
        Result("overhead of an unsigned message", float(len(packed) - SMALL), "bytes", ("<=", 64.0)),
    ]


def _bulk(count: int) -> list[Result]:
    """Sealed, written as CDR, read, opened, one after the other on one core."""
    swarm = _joined()
    sender, receiver, now_ns = swarm.hosts["shard_0"], swarm.hosts["leader"], swarm.wire.wall_ns
    payload = os.urandom(LARGE)
    with _quiet():
        began = time.process_time_ns()
        for _ in range(count):
            wire = cdr.encode_envelope(*sender.seal(BULK, TYPE, payload, now_ns, SENDER))
            receiver.open(BULK, TYPE, Envelope(*cdr.decode_envelope(wire)), now_ns)
        took_s = (time.process_time_ns() - began) * 1e-9
    rate = count * LARGE * 8 / took_s * 1e-9
    return [Result("bulk, 1 MiB, sealed and opened on one core", rate, "Gbit/s", (">=", 1.0))]


def _handshake(provider: str, count: int) -> list[Result]:
    targets = {"CHIMERA-1": ("<", 5000.0), "CHIMERA-1-CNSA": None}
    return [
        Result(f"{provider}: handshake of one member, {suite}", _shake(suite, count), "µs CPU", target)
        for suite, target in targets.items()
    ]


def _shake(suite_name: str, count: int) -> float | None:
    """CPU µs: package made and signed, checked, seed sealed to it, opened."""
    swarm = _joined(default_policy.TEXT.replace("suite: CHIMERA-1 ", f"suite: {suite_name} "))
    suite = suite_named(suite_name)
    member = swarm.hosts["shard_0"].context.members[SENDER]
    member._suite = suite  # a simulation derives its package keys from a seed, which takes longer
    owner = swarm.identities[SENDER].member
    seed, transcript_hash = os.urandom(SEED_BYTES), os.urandom(32)

    def once() -> None:
        request = KeyRequest(owner.swarm, suite_name, b"i" * 32, 1, os.urandom(32), 4, transcript_hash, b"")
        body, signature = member.answer(request, swarm.wire.now).parts
        package = KeyPackage.parse(body, owner.swarm, suite_name, suite.package_public_bytes)
        if not owner.verify(signature, body, CONTEXT_OF[ControlKind.KEY_PACKAGE]):
            raise AssertionError("a genuine package was refused")
        info = seed_info(transcript_hash, 0, digest(body))
        sealed = suite.public_key(package.public).seal(seed, info)
        if member._packages[-1].key.open(sealed, info) != seed:
            raise AssertionError("a seed did not open")

    return _cpu_us(once, batches=count // 10, each=10)


def _signed(provider: str, count: int) -> list[Result]:
    swarm = _joined()
    sender, receiver, now_ns = swarm.hosts["shard_0"], swarm.hosts["leader"], swarm.wire.wall_ns
    payload = os.urandom(SMALL)
    envelopes = iter([sender.seal(SIGNED, TYPE, payload, now_ns, SENDER) for _ in range(count)])
    sealing = _cpu_us(lambda: sender.seal(SIGNED, TYPE, payload, now_ns, SENDER), count // 10, 10)
    opening = _cpu_us(lambda: receiver.open(SIGNED, TYPE, next(envelopes), now_ns), count // 10, 10)
    return [
        Result(f"{provider}: sealing and signing {SMALL} bytes", sealing, "µs CPU"),
        Result(f"{provider}: opening and verifying {SMALL} bytes", opening, "µs CPU"),
    ]


def _keystore() -> Result:
    """A keystore on disk, made durably: authority, crypto node, leader, 20 drones."""
    members = {"crypto": "crypto", "leader": "leader"} | {f"drone_{i:02d}": "drone" for i in range(20)}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        began = time.perf_counter()
        store = Keystore(Path(folder) / "keys")
        store.create("bench", wall_ns=time.time_ns())
        for name, role in members.items():
            store.enroll(name, role, wall_ns=time.time_ns())
        took_s = time.perf_counter() - began
    return Result(f"keystore of {len(members)} members made", took_s, "s", ("<", 2.0))
