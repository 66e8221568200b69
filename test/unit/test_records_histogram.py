"""Histograms: percentiles within the promised 5 %, lossless transport, merging."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.records.histogram import Histogram, percentile


@given(
    st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=300), st.sampled_from([0.0, 50.0, 90.0, 99.0, 100.0])
)
def test_percentiles_are_within_five_percent(values: list[float], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    found = histogram.percentile(percent)
    rank = max(1, math.ceil(percent / 100.0 * len(values)))
    exact = sorted(values)[rank - 1]
    assert found is not None
    assert found == pytest.approx(exact, rel=0.05)
    assert found <= histogram.max == max(values)


def test_transport_and_merging_keep_every_count() -> None:
    rng = np.random.default_rng(5)
    one, other = Histogram(), Histogram()
    for value in rng.lognormal(1.0, 2.0, 500):
        one.add(float(value))
    for value in rng.lognormal(-1.0, 1.0, 700):
        other.add(float(value))
    back = Histogram.from_status(json.loads(json.dumps(one.to_status())))
    assert back.count == 500
    assert back.percentile(50.0) == pytest.approx(one.percentile(50.0), rel=1e-5)
    back.merge(other)
    assert back.count == 1200
    both = Histogram()
    both.merge(one)
    both.merge(other)
    assert back.percentile(99.0) == pytest.approx(both.percentile(99.0), rel=1e-5)
    assert len(json.dumps(both.to_status())) < 16_000


def test_odd_values() -> None:
    histogram = Histogram()
    assert histogram.percentile(50.0) is None
    histogram.add(math.nan)
    assert histogram.count == 0
    histogram.add(0.0)
    histogram.add(math.inf)
    assert histogram.count == 2
    assert Histogram.from_status(json.loads(json.dumps(histogram.to_status()))).count == 2


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"histogram": 1},
        {"histogram": [[1.0]]},
        {"histogram": [["a", 1]]},
        {"histogram": [[1.0, -1]]},
        {"histogram": [[1.0, 2**60]]},
        {"histogram": [[-1.0, 1]]},
        {"histogram": [[1.0, 1]] * 10_000},
    ],
)
def test_what_is_no_histogram_is_refused(status: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"histogram|bucket"):
        Histogram.from_status(status)


def test_percentile_of_plain_values() -> None:
    assert percentile([], 50.0) is None
    assert percentile([3.0, 1.0, 2.0], 50.0) == 2.0
    assert percentile([1.0, 2.0], 75.0) == 1.75
