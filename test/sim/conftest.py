"""Seeds of the simulations: shifted by `--sim-seed`, and named when a test fails."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.flight.rehearsal.rehearsal import Rehearsal

SHOWN = 8
USED = pytest.StashKey[dict[str, None]]()


def shifted(kind: type[Any], shift: int, used: dict[str, None]) -> Callable[..., None]:
    """The constructor of a simulation with another seed, which it notes in `used`."""
    init, signature = kind.__init__, inspect.signature(kind.__init__)

    @functools.wraps(init)
    def construct(*args: Any, **options: Any) -> None:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        bound.arguments["seed"] += shift
        used[f"{kind.__name__} {bound.arguments['seed']}"] = None
        init(*bound.args, **bound.kwargs)

    return construct


@pytest.fixture(autouse=True)
def _simulation_seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    used = request.node.stash[USED] = {}
    for kind in (Swarm, Rehearsal):
        monkeypatch.setattr(kind, "__init__", shifted(kind, request.config.getoption("sim_seed"), used))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    used = list(item.stash.get(USED, {}))
    if report.failed and used:
        more = f" and {len(used) - SHOWN} more" if len(used) > SHOWN else ""
        option = f"--sim-seed {item.config.getoption('sim_seed')} '{item.nodeid}'"
        text = f"{', '.join(used[:SHOWN])}{more}; to repeat it: python -m pytest {option}"
        report.sections.append(("seeds of the simulations", text))
    return report
