"""The one interface of all solvers: slices of work, after each the best choice so far.

A solver never looks at a clock. Its caller asks for the next slice while time is left, and has an answer
after every one. `start` is a choice to improve on; what comes back is never worse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .problem import Problem
from .tracks import IntArray

TIE = 1e-9  # energies nearer than this are equal


@dataclass(frozen=True, slots=True)
class SolverProgress:
    """The best choice (n,) so far. `proven`: nothing is better; `done`: there is no further slice."""

    choice: IntArray
    energy: float
    feasible: bool
    done: bool = False
    proven: bool = False
    details: Mapping[str, object] = field(default_factory=dict)


class Solver(Protocol):
    """A way to choose one candidate per drone."""

    @property
    def name(self) -> str:
        """For reports."""

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Works in slices of about 10 ms; the last one says `done`. Raises SolverUnavailable."""


class SolverUnavailable(Exception):
    """This solver cannot work here or on this problem: a library is absent, the problem is too large."""


def progress(
    problem: Problem,
    choice: IntArray,
    *,
    done: bool = False,
    proven: bool = False,
    details: Mapping[str, object] | None = None,
) -> SolverProgress:
    """The progress that a choice is."""
    choice = np.asarray(choice, dtype=np.int64)
    return SolverProgress(
        choice, problem.energy(choice), not problem.violations(choice), done, proven, dict(details or {})
    )


def run_to_end(
    solver: Solver, problem: Problem, start: IntArray | None = None, seed: int = 0
) -> SolverProgress:
    """The last progress of a solver that is given all the time it wants. Raises SolverUnavailable."""
    last = None
    for last in solver.run(problem, start, seed):
        if last.done:
            break
    if last is None:
        raise SolverUnavailable(f"solver {solver.name} gave no answer")
    return last
