"""Replay window, budgets, clock filter, entropy, store, key schedule, suite."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.entropy.pool import draw_seed
from chimera_ros.crypto.errors import KeystoreError, Rejected
from chimera_ros.crypto.keystore.member_state import FileStore, StoredState
from chimera_ros.crypto.member.clock_filter import ClockFilter
from chimera_ros.crypto.primitives import labels
from chimera_ros.crypto.primitives.key_schedule import blind_key, derive_keys, sender_key
from chimera_ros.crypto.primitives.replay_window import WINDOW, ReplayWindow
from chimera_ros.crypto.primitives.suite import SEED_BYTES, digest, suite_named
from chimera_ros.crypto.rate_limit import TokenBucket


@given(st.lists(st.one_of(st.integers(-3, 3000), st.integers(0, 2**64 - 1)), max_size=200))
def test_replay_window_agrees_with_a_set(counters: list[int]) -> None:
    window, accepted, highest = ReplayWindow(), set(), 0
    for counter in counters:
        expected = counter > 0 and counter not in accepted and counter > highest - WINDOW
        assert window.fresh(counter) is expected
        assert window.accept(counter) is expected
        if expected:
            accepted.add(counter)
            highest = max(highest, counter)
        assert window.highest == highest


def test_budget_limits_rate_and_burst() -> None:
    budget = TokenBucket(10.0, burst=5.0)
    assert [budget.take(1.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert budget.take(1.11)
    assert not budget.take(1.11)
    assert sum(budget.take(100.0) for _ in range(20)) == 5


@given(
    st.integers(-(10**9), 10**9),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=20),
)
def test_clock_offset_is_within_its_stated_error(offset_ns: int, delays: list[tuple[int, int]]) -> None:
    clock = ClockFilter()
    now_ns = 10**18
    for there_ns, back_ns in delays:
        t2 = now_ns + there_ns + offset_ns
        assert clock.add(now_ns, t2, t2 + 1000, now_ns + there_ns + 1000 + back_ns, now_ns * 1e-9)
        now_ns += 10**9
    assert abs(clock.offset_s - offset_ns * 1e-9) <= clock.error_s + 1e-6


def test_clock_refuses_nonsense_and_is_not_synchronised_at_first() -> None:
    clock = ClockFilter()
    assert not clock.synchronised()
    assert not clock.add(100, 50, 40, 200, 0.0)  # server answered before it was asked
    assert not clock.add(0, 0, 0, 3 * 10**9, 0.0)  # three seconds under way
    assert clock.samples == 0
    assert clock.add(0, 500_000, 500_000, 1_000_000, 0.0)
    assert clock.synchronised(0.02)
    assert not clock.synchronised(0.02, now=500.0), "an old measurement proves nothing"


def test_seed_needs_system_entropy_and_mixes_every_input() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        draw_seed(b"short", qrng=bytes(64))
    system = bytes(range(64))
    seeds = {
        draw_seed(system),
        draw_seed(system, hardware=b"a"),
        draw_seed(system, qrng=b"a"),
        draw_seed(system, qkd=b"a"),
    }
    assert len(seeds) == 4
    assert all(len(seed) == SEED_BYTES for seed in seeds)


def test_state_survives_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state.json")
    assert store.load() == StoredState()
    state = StoredState(
        highest_epoch=8,
        evictions=frozenset({b"\x01" * 32}),
        operator_counters={"operator": 3},
        time_floor_ns=7,
    )
    store.save(state)
    assert store.load() == state
    assert oct(store.path.stat().st_mode & 0o777) == "0o600"
    assert os.listdir(tmp_path) == ["state.json"]
    data = json.loads(store.path.read_text())
    store.path.write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(KeystoreError, match=r"state\.json.*format 99"):
        store.load()
    store.path.write_text('{"format": 1, "highest_epoch": -4')
    with pytest.raises(KeystoreError, match=r"state\.json: the state file is damaged"):
        store.load()


def test_key_schedule_is_hkdf_and_separates_lanes_and_senders() -> None:
    transcript, seed = bytes(32), bytes(64)
    keys = derive_keys(transcript, seed)
    whole = HKDF(hashes.SHA3_512(), 256, transcript, labels.KEYSET).derive(seed)
    assert b"".join(keys.lanes) == whole
    assert HKDF(hashes.SHA3_512(), 32, transcript, labels.KEY_TAG).derive(seed) == keys.key_tag
    assert derive_keys(b"\x01" * 32, seed).lanes != keys.lanes
    sealed = set()
    for lane in keys.lanes:
        for slot in (0, 1):
            for incarnation in (bytes(16), b"\x01" * 16):
                aead, salt = sender_key(lane, slot, incarnation)
                sealed.add(salt + aead.encrypt(bytes(12), b"", b""))
                sealed.add(blind_key(lane, slot, incarnation))
    assert len(sealed) == 2 * 4 * 2 * 2
    assert "seed" not in repr(keys)


@pytest.mark.parametrize("name", ["CHIMERA-1", "CHIMERA-1-CNSA"])
def test_suite_seals_to_one_key_and_place(name: str) -> None:
    suite = suite_named(name)
    key, other = suite.package_key(), suite.package_key()
    assert len(key.public) == suite.package_public_bytes
    sealed = suite.public_key(key.public).seal(bytes(64), b"place")
    assert len(sealed) == suite.sealed_seed_bytes
    assert key.open(sealed, b"place") == bytes(64)
    for opener, data, info in (
        (other, sealed, b"place"),
        (key, sealed, b"elsewhere"),
        (key, sealed[:-1], b"place"),
        (key, b"", b"place"),
    ):
        with pytest.raises(Rejected, match="seed"):
            opener.open(data, info)
    with pytest.raises(Rejected, match="malformed"):
        suite.public_key(b"\xff" * suite.package_public_bytes)
    with pytest.raises(Rejected, match="malformed"):
        suite.public_key(key.public[:-1])


def test_digest_is_blake3() -> None:
    # first bytes of BLAKE3 of the empty input, from the reference test vectors
    assert digest().hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    assert digest(b"ab", b"c") == digest(b"abc")
