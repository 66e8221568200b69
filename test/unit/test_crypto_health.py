"""SP 800-90B health tests: cut-offs of the standard's tables, failures found, good sources left alone."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.entropy.health_tests import START_UP_SAMPLES, HealthTest, NoiseSource


@pytest.mark.parametrize(
    ("bits", "min_entropy", "cutoff"),
    [
        # SP 800-90B, section 4.4.2: binary samples, window 1024; others, window 512; alpha 2^-20
        *[(1, 0.2, 941), (1, 0.4, 840), (1, 0.6, 748), (1, 0.8, 664), (1, 1.0, 589)],
        *[(8, 0.5, 410), (8, 1.0, 311), (8, 2.0, 177), (8, 4.0, 62), (8, 8.0, 13)],
    ],
)
def test_proportion_cutoffs_are_the_standards(bits: int, min_entropy: float, cutoff: int) -> None:
    assert NoiseSource(bits, min_entropy).proportion_cutoff == cutoff


def test_binary_cutoff_agrees_with_exact_arithmetic() -> None:
    cutoff = NoiseSource(1, 1.0).proportion_cutoff
    above = sum(math.comb(1024, count) for count in range(cutoff, 1025))
    assert above << 20 <= 1 << 1024 < (above + math.comb(1024, cutoff - 1)) << 20


@pytest.mark.parametrize(("min_entropy", "cutoff"), [(1.0, 21), (2.0, 11), (4.0, 6), (8.0, 4), (0.5, 41)])
def test_repetition_cutoff(min_entropy: float, cutoff: int) -> None:
    assert NoiseSource(8, min_entropy).repetition_cutoff == cutoff


@pytest.mark.parametrize(
    "arguments", [(0, 1.0), (9, 1.0), (1, 0.0), (1, 1.5), (1, float("nan")), (1, 1.0, -10)]
)
def test_impossible_claims_are_refused(arguments: tuple[int, float]) -> None:
    with pytest.raises(ValueError):
        NoiseSource(*arguments)


def test_a_stuck_source_is_found_within_the_cutoff() -> None:
    test = HealthTest(NoiseSource(1, 1.0))
    assert test.feed(np.zeros(20, dtype=np.uint8)) is None
    fault = test.feed(np.zeros(1, dtype=np.uint8))
    assert fault is not None and "repetition count: 21" in fault


def test_a_biased_source_is_found_in_one_window() -> None:
    bits = (np.random.default_rng(1).random(1024) < 0.35).astype(np.uint8)
    bits[0] = 0  # the window counts its first sample: the frequent value here
    fault = HealthTest(NoiseSource(1, 1.0)).feed(bits)
    assert fault is not None and "adaptive proportion" in fault


def window(zeros: int) -> np.ndarray:
    """1024 bits, the first a zero, with so many zeros and no long runs."""
    ones = 1024 - zeros
    bits = (np.diff(np.arange(1025) * ones // 1024) > 0).astype(np.uint8)
    assert np.count_nonzero(bits) == ones and bits[0] == 0
    return bits


@pytest.mark.parametrize("pieces", [1, 4, 64])
def test_the_proportion_that_is_too_high_is_found_across_calls_and_the_one_below_is_not(pieces: int) -> None:
    for zeros, accused in ((588, False), (589, True)):
        test = HealthTest(NoiseSource(1, 1.0))
        assert test.feed(window(512)) is None
        found = [test.feed(piece) for piece in np.split(window(zeros), pieces)]
        assert found[:-1] == [None] * (pieces - 1)
        assert (found[-1] is not None and "adaptive proportion: a value 589 times" in found[-1]) == accused


def test_good_bits_pass() -> None:
    test = HealthTest(NoiseSource(1, 1.0))
    bits = np.random.default_rng(2).integers(0, 2, 300_000, dtype=np.uint8)
    assert test.feed(bits) is None
    assert test.started and test.tested == 300_000


@given(st.binary(min_size=300, max_size=900), st.lists(st.integers(1, 400), max_size=12), st.integers(0, 40))
def test_verdict_does_not_depend_on_how_samples_are_cut(data: bytes, sizes: list[int], zeros: int) -> None:
    bits = np.unpackbits(np.frombuffer(data + bytes(zeros // 8), dtype=np.uint8))
    whole = HealthTest(NoiseSource(1, 1.0)).feed(bits)
    pieces, at, found = HealthTest(NoiseSource(1, 1.0)), 0, None
    for size in [*sizes, len(bits)]:
        found = found or pieces.feed(bits[at : at + size])
        at += size
    assert (whole is None) == (found is None)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=200))
def test_repetition_count_against_a_plain_loop(values: list[int]) -> None:
    longest = run = 1
    for before, value in itertools.pairwise(values):
        run = run + 1 if value == before else 1
        longest = max(longest, run)
    fault = HealthTest(NoiseSource(1, 1.0)).feed(np.array(values, dtype=np.uint8))
    assert (fault is not None) == (longest >= 21)


def test_reset_means_starting_up_again() -> None:
    test = HealthTest(NoiseSource(1, 1.0))
    bits = np.random.default_rng(3).integers(0, 2, START_UP_SAMPLES, dtype=np.uint8)
    assert test.feed(bits) is None
    assert test.started
    test.reset()
    assert not test.started
