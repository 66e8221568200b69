"""Debiasing, conditioning and the entropy that may be claimed of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.entropy.conditioning import (
    FULL_ENTROPY_INPUT,
    Conditioner,
    debias,
    output_entropy,
    unpack,
)


@given(st.lists(st.integers(0, 1), max_size=300))
def test_von_neumann_against_a_plain_loop(values: list[int]) -> None:
    expected = [a for a, b in zip(values[::2], values[1::2], strict=False) if a != b]
    assert debias(np.array(values, dtype=np.uint8)).tolist() == expected


def test_debiasing_takes_a_bias_away() -> None:
    bits = (np.random.default_rng(1).random(400_000) < 0.8).astype(np.uint8)
    left = debias(bits)
    assert abs(float(left.mean()) - 0.5) < 5 * 0.5 / np.sqrt(len(left))
    assert abs(len(left) - 200_000 * 2 * 0.8 * 0.2) < 1500


def test_full_entropy_needs_64_bits_more_than_come_out() -> None:
    assert output_entropy(FULL_ENTROPY_INPUT, FULL_ENTROPY_INPUT) > 511.9
    assert output_entropy(4096, 4096.0) > 511.9
    assert 255.0 < output_entropy(2048, 256.0) <= 256.0  # what goes in bounds what comes out
    assert output_entropy(8, 8.0) <= 8.0


@given(st.integers(1, 8192), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_output_entropy_is_bounded_and_grows(bits: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    less, more = output_entropy(bits, low * bits), output_entropy(bits, high * bits)
    assert 0.0 <= less <= more + 1e-9
    assert more <= min(512.0, high * bits + 1e-9)


@pytest.mark.parametrize("arguments", [(0, 0.0), (8, 9.0), (8, -1.0), (8, float("nan"))])
def test_impossible_entropy_is_refused(arguments: tuple[int, float]) -> None:
    with pytest.raises(ValueError):
        output_entropy(*arguments)


@given(st.binary(min_size=200, max_size=800), st.lists(st.integers(1, 2000), max_size=8))
def test_blocks_do_not_depend_on_how_input_is_cut(data: bytes, sizes: list[int]) -> None:
    bits = unpack(data)
    whole = Conditioner("test", 0.5).feed(bits)
    cut, at = Conditioner("test", 0.5), 0
    pieces = []
    for size in [*sizes, len(bits)]:
        pieces += cut.feed(bits[at : at + size])
        at += size
    assert pieces == whole
    assert len(whole) == len(bits) // (2 * FULL_ENTROPY_INPUT)


def test_equal_inputs_of_two_sources_or_twice_give_different_blocks() -> None:
    bits = unpack(bytes(72))
    one = Conditioner("one", 1.0)
    assert len({*one.feed(bits), *one.feed(bits), *Conditioner("two", 1.0).feed(bits)}) == 3
