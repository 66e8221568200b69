"""The pool: never without the operating system, never waiting, each input once, failing sources off."""

import hashlib
import os
import random

import numpy as np
import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.encoding import fields, u64
from chimera_ros.crypto.entropy import pool, source_names
from chimera_ros.crypto.entropy.conditioning import BLOCK_BYTES, unpack
from chimera_ros.crypto.entropy.pool import EntropyPool, PoolConfig, draw_seed
from chimera_ros.crypto.errors import EntropyError
from chimera_ros.crypto.key_server.server import KeyServerConfig
from chimera_ros.crypto.primitives import labels
from chimera_ros.crypto.testing.swarm import MemoryKeystore
from chimera_ros.crypto.trust.roles import Role


def good(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def started(name: str, **config: float) -> EntropyPool:
    pool = EntropyPool(os.urandom, ("os", name), PoolConfig(**config))  # type: ignore[arg-type]
    assert pool.add(name, good(2048, 7), 0.0) == []
    return pool


def held(pool: EntropyPool, name: str) -> int:
    return int(pool.status()["sources"][name]["held_bytes"])


def test_seed_is_sha3_over_length_prefixed_inputs() -> None:
    system = bytes(range(64))
    expected = hashlib.sha3_512(fields(labels.SEED_DRAW, system, b"h", b"", b"k")).digest()
    assert draw_seed(system, b"h", b"", b"k") == expected
    assert draw_seed(system, b"", b"h", b"k") != expected  # who gave what counts
    with pytest.raises(ValueError, match="64 bytes of system entropy"):
        draw_seed(bytes(63), bytes(64), bytes(64), bytes(64))


def test_without_other_sources_a_seed_is_the_systems() -> None:
    pool = EntropyPool(lambda size: bytes(range(size)), ("os",))
    assert pool.draw() == draw_seed(bytes(range(64)))


def test_an_input_is_used_once_and_nothing_waits() -> None:
    systems = iter([good(64, step) for step in range(100, 200)])
    pool = EntropyPool(lambda size: next(systems), ("qrng",))
    for step in range(4):
        pool.add("qrng", good(1024, step), 0.0)
    inputs = b"".join(pool._sources["qrng"].blocks)
    step = 100
    while left := held(pool, "qrng"):
        mine, inputs = inputs[:BLOCK_BYTES], inputs[BLOCK_BYTES:]
        assert pool.draw() == draw_seed(good(64, step), qrng=mine)
        assert held(pool, "qrng") == left - len(mine)
        step += 1
    assert step >= 103
    assert pool.draw() == draw_seed(good(64, step))  # empty: goes on without


def test_a_source_is_bounded() -> None:
    pool = started("hardware", capacity_bytes=256)
    for step in range(50):
        pool.add("hardware", good(1024, step), 0.0)
    assert held(pool, "hardware") == 256
    assert not pool.accepts("hardware", 0.0)
    pool.draw()
    assert held(pool, "hardware") == 256 - BLOCK_BYTES
    assert pool.accepts("hardware", 0.0)


def test_start_up_samples_are_thrown_away() -> None:
    pool = EntropyPool(os.urandom, ("hardware",))
    pool.add("hardware", good(1023), 0.0)
    assert pool.status()["sources"]["hardware"]["state"] == "starting"
    pool.add("hardware", good(512, 2), 0.0)
    assert held(pool, "hardware") == 0
    pool.add("hardware", good(512, 3), 0.0)
    assert held(pool, "hardware") > 0


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("qrng", bytes(128)),
        ("hardware", b"\xff" * 512),
        ("qrng", bytes(byte | good(1, index)[0] for index, byte in enumerate(good(1024, 5)))),
        ("qkd", bytes(32)),
    ],
)
def test_a_failing_source_is_switched_off_with_an_alarm_and_seeds_go_on(name: str, bad: bytes) -> None:
    pool = started(name)
    pool.add(name, good(32, 11) if name == "qkd" else good(1024, 11), 1.0)
    assert held(pool, name) > 0
    (alarm,) = pool.add(name, bad, 2.0)
    assert alarm.severity == "warning" and name in alarm.text and "tried again in 60 s" in alarm.text
    assert held(pool, name) == 0  # what it had left is not trusted either
    assert not pool.accepts(name, 30.0)
    assert pool.add(name, good(4096), 30.0) == []
    assert held(pool, name) == 0
    assert len(pool.draw()) == 64
    assert pool.summary()[name].startswith("failed: ")


def test_it_comes_back_after_its_pause_and_a_start_up_test() -> None:
    pool = started("hardware")
    pool.add("hardware", bytes(64), 0.0)
    assert pool.accepts("hardware", 60.0)
    (alarm,) = pool.add("hardware", good(1024, 2), 60.0)
    assert alarm == SecurityAlarm("info", "entropy source hardware passed its start-up test again")
    assert held(pool, "hardware") == 0
    pool.add("hardware", good(1024, 3), 61.0)
    assert held(pool, "hardware") > 0


def test_pauses_double_and_five_failures_are_enough() -> None:
    pool = started("hardware")
    now = 0.0
    for pause_s in (60, 120, 240, 480):
        (alarm,) = pool.failed("hardware", "the worker died", now)
        assert f"tried again in {pause_s} s: the worker died" in alarm.text
        assert not pool.accepts("hardware", now + pause_s - 1)
        now += pause_s
        assert pool.accepts("hardware", now)
    (alarm,) = pool.failed("hardware", "the worker died", now)
    assert "until this process is started again" in alarm.text
    assert not pool.accepts("hardware", now + 1e6)
    assert pool.add("hardware", good(2048), now + 1e6) == []
    assert len(pool.draw()) == 64


def test_an_absent_source_is_no_alarm_and_is_said_once() -> None:
    pool = EntropyPool(os.urandom, ("hardware",))
    (said,) = pool.absent("hardware", "no /dev/hwrng")
    assert said.severity == "info"
    assert pool.absent("hardware", "no /dev/hwrng") == []
    assert not pool.accepts("hardware", 1e9)
    assert pool.summary() == {"os": "in use", "hardware": "absent: no /dev/hwrng"}


def test_what_is_drawn_is_debiased_and_conditioned() -> None:
    """Worked again by hand, from raw bits to seed."""
    pool = EntropyPool(lambda size: bytes(range(size)), ("qrng", "hardware"))
    raw = {}
    for name in pool.names:
        pool.add(name, good(1024, 6), 0.0)  # the start-up test
        raw[name] = good(1024, 8)
        pool.add(name, raw[name], 0.0)
    bits = unpack(raw["qrng"]).tolist()
    kept = [a for a, b in zip(bits[::2], bits[1::2], strict=True) if a != b]
    blocks = {}
    for name, data in (("qrng", np.packbits(kept[:576]).tobytes()), ("hardware", raw["hardware"][:144])):
        blocks[name] = hashlib.sha3_512(fields(labels.ENTROPY_BLOCK, name.encode(), u64(0), data)).digest()
    assert pool.draw() == draw_seed(bytes(range(64)), **blocks)


def test_simulated_sources_count_as_nothing() -> None:
    pool = started("qrng")
    pool.add("qrng", good(1024, 9), 0.0)
    pool.draw()
    report = pool.status()["sources"]["qrng"]
    assert report["used_bytes"] == 64
    assert report["simulated"] and report["entropy_used_bits"] == 0.0
    assert pool.summary()["qrng"] == "in use (simulated)"


def test_hardware_is_credited_what_it_claims() -> None:
    pool = started("hardware")
    pool.add("hardware", good(1024, 9), 0.0)
    pool.draw()
    assert pool.status()["sources"]["hardware"]["entropy_used_bits"] == pytest.approx(512, abs=0.2)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match="'radio' is not known; allowed are os, hardware, qrng, qkd"):
        EntropyPool(os.urandom, ("os", "radio"))
    assert source_names.SOURCE_NAMES == ("os", "hardware", "qrng", "qkd")


def test_a_broken_operating_system_stops_seeds() -> None:
    pool = EntropyPool(bytes, ("os",))  # bytes(64): zeros
    with pytest.raises(EntropyError, match="are not random"):
        pool.draw()
    answers = iter([bytes(64), os.urandom(64)])
    assert len(EntropyPool(lambda _: next(answers), ("os",)).draw()) == 64


def test_an_operating_system_that_repeats_itself_or_gives_too_little_stops_seeds() -> None:
    same = EntropyPool(lambda size: bytes(range(size)), ("os",))
    assert len(same.draw()) == 64
    with pytest.raises(EntropyError, match="the same bytes came twice"):
        same.draw()
    with pytest.raises(EntropyError, match="32 bytes came instead of 64"):
        EntropyPool(lambda size: os.urandom(size // 2), ("os",)).draw()

    def none(size: int) -> bytes:
        raise OSError(5, "Input/output error")

    pool = EntropyPool(none, ("os", "hardware"))
    pool.add("hardware", good(4096), 0.0)
    pool.add("hardware", good(4096, 2), 0.0)
    before = held(pool, "hardware")
    with pytest.raises(EntropyError, match="none came"):
        pool.draw()
    assert held(pool, "hardware") == before > 0  # nothing is used up for a seed that is not made
    assert pool.status()["sources"]["os"]["failures"] == 3


def test_keys_longer_than_a_seed_takes_are_used_in_pieces() -> None:
    """Other equipment may deliver keys of 1024 bits."""
    pool = started("qkd")
    key = good(160, 3)
    pool.add("qkd", key, 0.0)
    systems = [good(64, step) for step in (1, 2, 3)]
    answers = iter(systems)
    pool._random = lambda _: next(answers)
    for system, mine in zip(systems, (key[:64], key[64:128], key[128:]), strict=True):
        assert pool.draw() == draw_seed(system, qkd=mine)
    assert held(pool, "qkd") == 0


def test_a_good_source_is_not_barred_by_the_false_alarms_of_a_long_flight() -> None:
    pool = started("qrng")
    now = 0.0
    for _ in range(12):
        now += 12 * 3600.0
        (alarm,) = pool.failed("qrng", "repetition count", now)
        assert "tried again in 60 s" in alarm.text
        now += 60.0
        pool.add("qrng", good(1024, 4), now)
        assert pool.status()["sources"]["qrng"]["state"] == "on"
    for _ in range(4):  # five, none of them after an hour of good service
        now += 3599.0
        pool.add("qrng", good(1024, 4), now)
        pool.failed("qrng", "repetition count", now)
    assert pool.status()["sources"]["qrng"]["state"] == "disabled"


def test_samples_are_bits_or_bytes() -> None:
    with pytest.raises(ValueError, match="samples of 4 bits"):
        pool.SourceConfig(pool.NoiseSource(bits=4, min_entropy=2.0))


def test_a_key_server_draws_from_the_pool() -> None:
    from chimera_ros.crypto.key_server.server import KeyServer
    from chimera_ros.crypto.keystore.member_state import MemoryStore
    from chimera_ros.crypto.member.host import SecureHost
    from chimera_ros.crypto.testing.seeded import stream
    from chimera_ros.crypto.testing.swarm import Wire

    random = stream(1, "pool")
    keys = MemoryKeystore()
    crypto, drone = keys.enroll("crypto_0", Role.CRYPTO), keys.enroll("drone_01", Role.DRONE)
    broken = [False]
    drawn = []

    def draw() -> bytes:
        if broken[0]:
            raise EntropyError("the operating system's random numbers are not random")
        drawn.append(random(64))
        return drawn[-1]

    server = KeyServer(crypto, keys.trust, MemoryStore(), random, KeyServerConfig(draw=draw))
    host = SecureHost([drone], keys.trust, {"drone_01": MemoryStore()}, stream(1, "drone_01"))
    wire = Wire(1)
    wire.add("crypto_0", server)
    wire.add("drone_01", host)
    wire.run_until(lambda: host.ready("drone_01"), 5.0)
    first = server.status()["epoch"]
    assert len(drawn) == 1
    broken[0] = True
    wire.perform("crypto_0", server.rotate("manual", wire.now, wire.wall_ns))
    wire.run(2.0)
    assert server.status()["epoch"] == first
    broken[0] = False
    wire.perform("crypto_0", server.rotate("manual", wire.now, wire.wall_ns))
    wire.run_until(lambda: (host.epoch("drone_01") or 0) > first, 5.0)
    assert len(drawn) == 2
