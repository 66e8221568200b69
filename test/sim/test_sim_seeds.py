"""A simulation of one seed is the same run in every process, whatever order sets have and libraries draw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(900)  # two processes with 13 s of work each for a quick core

SCRIPT = Path(__file__).parent / "seeded_runs.py"
SEEDS = {
    "swarm, calm": 1,
    "swarm, storm": 2,
    "swarm, reordering": 3,
    "flight, survey_line": 4,
    "flight, crossing": 5,
}
OTHERS = {"swarm, storm": 102, "flight, survey_line": 104}


@pytest.fixture(scope="module")
def runs() -> list[list[Any]]:
    """What happened in SEEDS and OTHERS, in two processes whose sets have different orders."""
    arguments = [str(item) for runs in (SEEDS, OTHERS) for run in runs.items() for item in run]
    command = [sys.executable, str(SCRIPT), *arguments]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(command, env={**env, "PYTHONHASHSEED": order}, stdout=subprocess.PIPE, text=True)
        for order in ("1", "2")
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


@pytest.mark.parametrize("name", SEEDS)
def test_one_seed_is_one_run_in_every_process(runs: list[list[Any]], name: str) -> None:
    """(time, sender, kind of message, epoch), alarms, keys and serial numbers; for flights the outcome."""
    index = list(SEEDS).index(name)
    first, second = (process[index] for process in runs)
    assert len(first) > 5
    for event, other in zip(first, second, strict=True):
        assert event == other, f"{name}, seed {SEEDS[name]}"


@pytest.mark.parametrize("name", OTHERS)
def test_another_seed_is_another_run(runs: list[list[Any]], name: str) -> None:
    first = runs[0]
    assert first[list(SEEDS).index(name)] != first[len(SEEDS) + list(OTHERS).index(name)]
