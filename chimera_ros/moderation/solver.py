"""Solver interface: anytime iteration in slices, each of which yields the best choice so far.

A solver reads no clock: its caller requests slices while time is left. `start` is a choice to improve; the
result is never worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .problem import Problem
from .tracks import IntArray

TIE = 1e-9  # energies that differ by less are equal


@dataclass(frozen=True, slots=True)
class SolverProgress:
    """The best choice (n,) so far. `proven`: it is optimal; `done`: this is the last slice."""

    choice: IntArray
    energy: float
    feasible: bool
    done: bool = False
    proven: bool = False
    details: Mapping[str, object] = field(default_factory=dict)


class Solver(Protocol):
    """Chooses one candidate per drone."""

    @property
    def name(self) -> str:
        """Name in reports."""

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Slices of about 10 ms; the last one is `done`. Raises SolverUnavailable."""


class SolverUnavailable(Exception):
    """A library is absent, or the problem is too large for this solver."""


def progress(
    problem: Problem,
    choice: IntArray,
    *,
    done: bool = False,
    proven: bool = False,
    details: Mapping[str, object] | None = None,
) -> SolverProgress:
    """SolverProgress of a choice."""
    choice = np.asarray(choice, dtype=np.int64)
    return SolverProgress(
        choice, problem.energy(choice), not problem.violations(choice), done, proven, dict(details or {})
    )


def run_to_end(
    solver: Solver, problem: Problem, start: IntArray | None = None, seed: int = 0
) -> SolverProgress:
    """The last progress of a solver without a time limit. Raises SolverUnavailable."""
    last = None
    for last in solver.run(problem, start, seed):
        if last.done:
            break
    if last is None:
        raise SolverUnavailable(f"solver {solver.name} gave no result")
    return last
