"""Entropy: whole BB84 sessions on Aer with finite-key security, QRNG with health tests, draws from the pool.

A session is everything from the first message to the key at both ends: photons prepared, run on Aer in the
worker process (its pipe included), sifted, reconciled, verified, amplified, both ends' ML-DSA-87 signatures
made and checked. The classical messages pass from object to object, not over ROS.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator

import psutil
from harness import OtherLoad, Result, emit, percentile

from chimera_ros.crypto.entropy.conditioning import unpack
from chimera_ros.crypto.entropy.health_tests import HealthTest
from chimera_ros.crypto.entropy.pool import SOURCES, EntropyPool, PoolConfig, draw_seed
from chimera_ros.crypto.qkd.finite_key import Security
from chimera_ros.crypto.qkd.messages import AbortReason, Kind, kind_of
from chimera_ros.crypto.qkd.quantum_channel import QuantumChannel, Simulator, transmit
from chimera_ros.crypto.qkd.session import Alice, Bob, QkdConfig
from chimera_ros.crypto.testing.swarm import MemoryKeystore
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.quantum import entropy_jobs
from chimera_ros.quantum.entropy_feed import MODULES, SHOTS, aer_simulator
from chimera_ros.quantum.worker import AerWorker, WorkerUnavailable

KEYS = MemoryKeystore()
CRYPTO = KEYS.enroll("crypto_0", Role.CRYPTO)
LEADER = KEYS.enroll("leader_0", Role.LEADER)
WANTED_BITS = 256


class Session:
    """One BB84 session, with the time of its parts in ms."""

    def __init__(self, simulator: Simulator, line: QuantumChannel, config: QkdConfig) -> None:
        clock = time.perf_counter
        began = clock()
        alice = Alice(config, CRYPTO, LEADER.member, os.urandom)
        bob = Bob(config, LEADER, CRYPTO.member, os.urandom)
        photons = bob.photons(alice.handle(bob.hello()))
        assert photons is not None
        prepared = clock()
        found = transmit(*photons, bob.bases, line, simulator, os.urandom)
        measured = reconciled = clock()
        message: bytes | None = bob.measured(found)
        while message is not None:
            if kind_of(message) is Kind.FINISH:
                reconciled = clock()
            message = bob.handle(alice.handle(message))
        ended = clock()
        assert alice.outcome is not None
        assert bob.outcome is not None
        if alice.outcome.secret != bob.outcome.secret:
            raise SystemExit("the ends of a session have different keys")
        self.reason = alice.outcome.reason
        self.bits = 8 * len(alice.outcome.secret or b"")
        self.report = {**alice.outcome.report, **bob.outcome.report}
        self.parts_ms = {
            "photons prepared": 1e3 * (prepared - began),
            "photons on Aer": 1e3 * (measured - prepared),
            "sifted and reconciled (Cascade)": 1e3 * (reconciled - measured),
            "verified, amplified, signed, checked": 1e3 * (ended - reconciled),
        }
        self.ms = 1e3 * (ended - began)


def sessions(simulator: Simulator, count: int) -> Iterator[Result]:
    config = QkdConfig()
    done = [Session(simulator, QuantumChannel(0.01), config) for _ in range(count + 3)][3:]
    good = [item for item in done if item.bits >= WANTED_BITS]
    times = [item.ms for item in done]
    name = "BB84, 16 384 photons, 1 % errors"
    yield Result(f"{name}: session, median", percentile(times, 50), "ms", ("<", 42.0))
    yield Result(f"{name}: session, p99", percentile(times, 99), "ms")
    for part in done[0].parts_ms:
        yield Result(f"  {part}", percentile([item.parts_ms[part] for item in done], 50), "ms")
    bits = [float(item.bits) for item in done]
    yield Result(f"{name}: secret bits", percentile(bits, 50), "bit", (">=", WANTED_BITS))
    yield Result("  fewest in one session", min(bits), "bit")
    yield Result(f"  sessions with at least {WANTED_BITS}", 100.0 * len(good) / len(done), "%")
    yield Result("  secret bits per second", sum(bits) / sum(times) * 1e3, "bit/s")
    for key, what, unit in (
        ("leak_bits", "disclosed by reconciliation, both directions", "bit"),
        ("rounds", "rounds of reconciliation", ""),
        ("sample_bits", "bits of the sample", "bit"),
    ):
        yield Result(f"  {what}", percentile([item.report.get(key, 0) for item in done], 50), unit)
    yield Result("  key is not secret with probability below", Security().secrecy, "")
    for rate, photons in ((0.02, 32768), (0.03, 65536)):
        more = [
            Session(simulator, QuantumChannel(rate), QkdConfig(photons)) for _ in range(max(3, count // 8))
        ]
        name = f"BB84, {photons // 1000} {photons % 1000:03d} photons, {rate:.0%} errors"
        yield Result(f"{name}: session, median", percentile([item.ms for item in more], 50), "ms")
        yield Result(f"{name}: secret bits", percentile([item.bits for item in more], 50), "bit")
    spied = [Session(simulator, QuantumChannel(0.01, 1.0), config) for _ in range(max(5, count // 4))]
    caught = [item for item in spied if item.reason is AbortReason.ERRORS and not item.bits]
    yield Result("eavesdropper on every photon: caught", 100.0 * len(caught) / len(spied), "%", ("==", 100.0))
    rates = [100.0 * item.report["error_rate"] for item in spied]
    yield Result("  errors she causes", percentile(rates, 50), "%")


def per_second(step: Callable[[], int], seconds: float) -> float:
    """Sum of what `step` returns, per second."""
    total, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        total += step()
    return total / (time.perf_counter() - began)


def random_bits(worker: AerWorker, seconds: float) -> Iterator[Result]:
    def raw() -> bytes:
        seed = int.from_bytes(os.urandom(8)) >> 2
        request = entropy_jobs.QRNG_REQUEST.pack(seed, SHOTS, entropy_jobs.QUBITS)
        return worker.call(entropy_jobs.QRNG, request, 5.0)

    pool = EntropyPool(os.urandom, ("qrng",), PoolConfig(capacity_bytes=1 << 30))
    now = 0.0

    def whole() -> int:
        nonlocal now
        now += 3600.0  # a false alarm of the health test (2^-20) is over at once
        before = pool.status()["sources"]["qrng"]["held_bytes"]
        pool.add("qrng", raw(), now)
        return max(0, int(pool.status()["sources"]["qrng"]["held_bytes"]) - before) * 8

    yield Result("QRNG: raw bits from Aer", per_second(lambda: 8 * len(raw()), seconds) / 1e3, "kbit/s")
    yield Result(
        "QRNG: health-tested, debiased, conditioned (simulated)", per_second(whole, seconds) / 1e3, "kbit/s"
    )
    sample = unpack(os.urandom(1 << 17))
    test = HealthTest(SOURCES["qrng"].noise)

    def tested() -> int:
        if test.feed(sample) is not None:
            test.reset()
        return len(sample)

    yield Result("health tests alone", per_second(tested, seconds / 4) / 1e6, "Mbit/s")
    rate = per_second(lambda: 8 * len(os.urandom(1 << 16)), seconds / 4) / 1e6
    yield Result("os.urandom, for comparison", rate, "Mbit/s")


def draws(count: int) -> Iterator[Result]:
    def timed(function: Callable[[], object]) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            function()
            times.append(1e6 * (time.perf_counter() - began))
        return times

    pool = EntropyPool(os.urandom, ("hardware", "qrng", "qkd"), PoolConfig(capacity_bytes=1 << 26))
    for name in pool.names:
        for step in range(1 + count * 64 // 256):
            pool.add(name, os.urandom(2048), 3600.0 * step)
    full = timed(pool.draw)
    yield Result("seed from the pool, all sources: median", percentile(full, 50), "µs")
    yield Result("seed from the pool, all sources: p99", percentile(full, 99), "µs")
    alone = EntropyPool(os.urandom)
    yield Result("seed from the pool, operating system: median", percentile(timed(alone.draw), 50), "µs")
    plain = timed(lambda: draw_seed(os.urandom(64)))
    yield Result("without the pool: SHA3-512 over os.urandom(64), median", percentile(plain, 50), "µs")
    yield Result("os.urandom(64), median", percentile(timed(lambda: os.urandom(64)), 50), "µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    count, seconds = (40, 1.0) if arguments.quick else (200, 4.0)
    load = OtherLoad()
    results: list[Result] = []
    with AerWorker(MODULES) as worker:
        try:
            worker.wait_ready(60.0)
            results += sessions(aer_simulator(worker), count)
            results += random_bits(worker, seconds)
            assert worker.pid is not None
            rss_mb = psutil.Process(worker.pid).memory_info().rss / 1e6
            results.append(Result("memory of the worker process", rss_mb, "MB"))
        except WorkerUnavailable as error:
            if not worker.absent:
                raise SystemExit(str(error)) from None
            results.append(Result(f"BB84 session, median: {error}", None, "ms", ("<", 42.0)))
    results += draws(500 if arguments.quick else 5000)
    results.append(load.result())
    emit("entropy", results, as_json=arguments.json)


if __name__ == "__main__":
    main()
