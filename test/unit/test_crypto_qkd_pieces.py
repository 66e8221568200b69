"""Cascade, Toeplitz hashing, the finite-key bound, key delivery: each against something simpler."""

import itertools
import math
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.crypto.qkd.amplify import seed_bits, toeplitz
from chimera_ros.crypto.qkd.cascade import TOTAL_PASSES, CascadePlan, Corrector, Query, Reference
from chimera_ros.crypto.qkd.delivery import DistilledKeys
from chimera_ros.crypto.qkd.finite_key import Security, deviation, entropy, secret_bits

SECURITY = Security()


def reconcile(key: np.ndarray, errors: np.ndarray, rate: float, seed: bytes) -> tuple[Corrector, Reference]:
    plan = CascadePlan(seed, len(key), rate)
    reference, corrector = Reference(key, plan, 1 << 20), Corrector(key ^ errors, plan)
    rounds = 0
    while queries := corrector.queries():
        corrector.answer(reference.answer(queries))
        rounds += 1
        assert rounds < 2000
    return corrector, reference


@settings(max_examples=60)
@given(st.integers(8, 1500), st.floats(0.0, 0.11), st.floats(0.0, 0.11), st.integers(0, 2**32), st.booleans())
def test_any_pattern_of_errors_is_corrected_or_detected(
    n: int, rate: float, assumed: float, seed: int, burst: bool
) -> None:
    rng = np.random.default_rng(seed)
    key = rng.integers(0, 2, n, dtype=np.uint8)
    errors = np.zeros(n, dtype=np.uint8)
    count = int(rate * n)
    start = int(rng.integers(0, n - count + 1))
    errors[np.arange(start, start + count) if burst else rng.choice(n, count, replace=False)] = 1
    corrector, reference = reconcile(key, errors, assumed, rng.bytes(32))
    left = int(np.count_nonzero(corrector.key != key))
    assert corrector.corrected + left == count  # what it flips was wrong, always
    assert corrector.parities == reference.parities
    assert corrector.disclosed_bits == 2 * reference.parities
    length = min(64, n)
    tag_seed = rng.integers(0, 2, seed_bits(n, length), dtype=np.uint8)
    same = np.array_equal(toeplitz(key, tag_seed, length), toeplitz(corrector.key, tag_seed, length))
    # A small key has a small hash here; with 64 bits a difference goes unseen once in 2^64.
    assert same == (left == 0) or length < 64


def test_usual_error_rates_are_corrected_and_cost_little() -> None:
    rng = np.random.default_rng(5)
    for rate in (0.005, 0.01, 0.02, 0.05, 0.11):
        told = []
        for _ in range(4):
            key = rng.integers(0, 2, 4096, dtype=np.uint8)
            errors = (rng.random(4096) < rate).astype(np.uint8)
            corrector, _ = reconcile(key, errors, rate, rng.bytes(32))
            assert np.array_equal(corrector.key, key)
            told.append(corrector.parities)
        assert np.mean(told) < 1.4 * 4096 * entropy(rate)  # Shannon's limit, and some


def test_reference_answers_true_parities_and_no_more_than_its_budget() -> None:
    rng = np.random.default_rng(6)
    key = rng.integers(0, 2, 500, dtype=np.uint8)
    plan = CascadePlan(rng.bytes(32), 500, 0.02)
    reference = Reference(key, plan, 100)
    queries = [Query(turn, 3 * turn, 400 + turn) for turn in range(TOTAL_PASSES)]
    expected = [int(key[plan.orders[q.pass_index][q.start : q.end]].sum()) & 1 for q in queries]
    assert reference.answer(queries).tolist() == expected
    for bad in (Query(TOTAL_PASSES, 0, 1), Query(0, 5, 5), Query(0, 0, 501)):
        with pytest.raises(ValueError, match="no positions"):
            reference.answer([bad])
    with pytest.raises(ValueError, match="more than 100"):
        reference.answer(queries * 10)
    assert reference.parities == len(queries)


def test_every_pass_is_an_order_of_all_bits() -> None:
    plan = CascadePlan(bytes(32), 777, 0.01)
    for order in plan.orders:
        assert np.array_equal(np.sort(order), np.arange(777))
    assert len({tuple(order) for order in plan.orders}) == TOTAL_PASSES


@given(st.integers(1, 300), st.data())
def test_toeplitz_against_the_matrix(n: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, n))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    key = rng.integers(0, 2, n, dtype=np.uint8)
    seed = rng.integers(0, 2, seed_bits(n, length), dtype=np.uint8)
    matrix = np.array([[seed[i - j + n - 1] for j in range(n)] for i in range(length)])
    assert np.array_equal(toeplitz(key, seed, length), matrix @ key % 2)


def test_toeplitz_is_two_universal() -> None:
    """Over all seeds, two different keys collide in exactly 2^-length of the cases."""
    n, length = 4, 3
    keys = [np.array(bits, dtype=np.uint8) for bits in itertools.product((0, 1), repeat=n)]
    seeds = [
        np.array(bits, dtype=np.uint8) for bits in itertools.product((0, 1), repeat=seed_bits(n, length))
    ]
    hashes = [[bytes(toeplitz(key, seed, length)) for seed in seeds] for key in keys]
    for one, other in itertools.combinations(hashes, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) == len(seeds) >> length


def test_toeplitz_is_exact_where_sums_are_large() -> None:
    n = 1 << 15
    ones = np.ones(n, dtype=np.uint8)
    rng = np.random.default_rng(8)
    seed = rng.integers(0, 2, seed_bits(n, 64), dtype=np.uint8)
    expected = [int(seed[row : row + n].sum()) & 1 for row in range(64)]
    assert toeplitz(ones, seed, 64).tolist() == expected
    with pytest.raises(ValueError, match="cannot be made"):
        toeplitz(ones, seed[:-1], 64)


def test_bound_is_the_papers_with_the_charges_for_choosing_afterwards() -> None:
    """Worked by hand for n = k = 4096, 1 % errors, 768 bits disclosed."""
    secrecy = 1e-10 / (23 * 128)
    mu = math.sqrt(8192 / 4096**2 * 4097 / 4096 * math.log(4 / secrecy))
    assert deviation(4096, 4096, secrecy) == pytest.approx(mu)
    by_hand = 4096 * (1 - entropy(0.01 + mu)) - 768 - math.log2(2 / secrecy**2) - 64
    assert secret_bits(4096, 4096, 40, 768, SECURITY) == math.floor(by_hand)


def test_failure_probabilities_of_the_bound_add_up_to_its_secrecy() -> None:
    """From the parts of the proof: sampling without replacement (Serfling) and the leftover hash lemma."""
    n, k, wanted = 3000, 5000, 1e-6
    mu = deviation(n, k, wanted)
    sampling = math.exp(-2 * n * k**2 * mu**2 / ((n + k) * (k + 1)))  # P(key is worse than sample + mu)
    smoothing = math.sqrt(sampling)  # purified distance
    min_entropy_left = 2 * math.log2(1 / wanted)  # what log2(1 / eps_sec^2) keeps back
    hashing = 0.5 * math.sqrt(2**-min_entropy_left)
    assert 2 * smoothing + hashing == pytest.approx(wanted)


def test_every_pair_of_rate_and_leak_has_its_share_of_the_secrecy() -> None:
    """What `secret_bits` can tell apart may not be more than what it divides the failure probability by."""
    rates = {math.ceil(errors / 10_000 / SECURITY.rate_step) for errors in range(1101)}
    leaks = {math.ceil(leak / SECURITY.leak_step) for leak in range(1, SECURITY.leak_limit + 1)}
    assert len(rates) * len(leaks) <= SECURITY.outcomes


@given(
    st.integers(64, 20000),
    st.integers(64, 20000),
    st.integers(0, 2000),
    st.integers(0, 8192),
    st.integers(0, 300),
)
def test_bound_only_falls_with_errors_and_leak_and_rises_with_bits(
    n: int, k: int, errors: int, leak: int, more: int
) -> None:
    bits = secret_bits(n, k, errors, leak, SECURITY)
    assert 0 <= bits <= n
    assert secret_bits(n, k, errors + more, leak, SECURITY) <= bits
    assert secret_bits(n, k, errors, leak + more, SECURITY) <= bits
    assert secret_bits(n, k + more, errors, leak, SECURITY) >= bits
    assert secret_bits(n, k, errors, leak, Security(secrecy=1e-14)) <= bits


def test_small_or_noisy_sessions_leave_nothing() -> None:
    assert secret_bits(512, 512, 5, 60, SECURITY) == 0  # 2048 photons are too few
    assert secret_bits(4096, 4096, 460, 0, SECURITY) == 0
    assert secret_bits(10**6, 10**6, 110_001, 0, SECURITY) == 0
    assert secret_bits(4096, 4096, 0, 8193, SECURITY) == 0
    assert secret_bits(0, 0, 0, 0, SECURITY) == 0


def test_delivery_hands_out_each_key_once_by_the_same_name_on_both_ends() -> None:
    alice, bob = DistilledKeys(), DistilledKeys()
    secret = bytes(range(100))
    assert alice.add(b"session", secret) == bob.add(b"session", secret) == 3  # the rest is dropped
    (first,) = alice.get_key()
    assert first.key == secret[:32]
    assert bob.get_key_with_ids([first.key_id]) == [first]
    with pytest.raises(KeyError):
        bob.get_key_with_ids([first.key_id])
    assert len(alice.get_key(9)) == 2
    assert alice.get_key() == []
    assert alice.status().stored_key_count == 0
    assert repr(first).count(str(first.key)) == 0
    with pytest.raises(KeyError):
        alice.get_key_with_ids([uuid.uuid4()])


def test_delivery_is_bounded() -> None:
    keys = DistilledKeys(max_keys=4)
    assert keys.add(b"one", bytes(96)) == 3
    assert keys.add(b"two", bytes(96)) == 1
    assert keys.status().stored_key_count == 4
