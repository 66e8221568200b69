"""Rows and targets of the benchmarks say what they should."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("bench_harness", BENCH / "harness.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_targets(harness):
    assert harness.Result("a", 1.0, "ms").met is None
    assert harness.Result("a", 1.0, "ms", ("<", 1.0)).met is False
    assert harness.Result("a", 1.0, "ms", ("<=", 1.0)).met is True
    assert harness.Result("a", 15001.0, "1/s", (">=", 15000.0)).met is True
    assert harness.Result("a", None, "ms", ("<", 1.0)).met is False  # not measured is not met
    assert harness.Result("a", math.nan, "ms", ("<", 1.0)).met is False


def test_report_is_json_even_without_values(harness, capsys):
    harness.emit("x", [harness.Result("a", math.inf, "ms", ("<", 1.0))], as_json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "x"
    row = {"name": "a", "value": None, "unit": "ms", "target": {"op": "<", "value": 1.0}, "met": False}
    assert report["results"] == [row]
    assert report["machine"]["cores"] >= 1


def test_percentile_is_the_nearest_rank(harness):
    values = [float(number) for number in range(1, 101)]
    assert harness.percentile(values, 50) == 50.0
    assert harness.percentile(values, 99) == 99.0
    assert harness.percentile(values, 100) == 100.0
    assert harness.percentile([7.0], 1) == 7.0
    assert harness.percentile([], 50) is None
