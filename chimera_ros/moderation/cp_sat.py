"""CP-SAT (OR-Tools) on the whole problem: feasibility, then the optimum.

A slice is one call of the solver and lasts up to `time_limit_s`. The library is loaded on first use.
With `count_work` the limit is of CP-SAT's deterministic time instead of the wall clock, so that the same
problem gives the same result on every machine, however loaded; with one worker only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .problem import Problem
from .solver import SolverProgress, SolverUnavailable, progress
from .tracks import IntArray

_UNIT = 1000.0  # CP-SAT takes integers: energies in millimetres


class CpSat:
    """First feasibility, then (with `optimise`) the optimum. `time_limit_s` may be changed between slices.

    The last progress has `details["status"]`: feasible, optimal, infeasible or unknown, and every progress
    `details["work_s"]`, the deterministic time of its slice. Without a start, the
    result of an infeasible or undecided problem is each drone's cheapest candidate, `feasible` False.
    """

    name = "cp_sat"

    def __init__(
        self,
        time_limit_s: float = 1.0,
        workers: int = 1,
        optimise: bool = True,
        count_work: bool = False,
    ) -> None:
        self.time_limit_s = time_limit_s
        self._count_work = count_work
        self._workers, self._optimise = workers, optimise

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """One slice to build each model and one to solve it. Raises SolverUnavailable.

        A conflict-free start proves feasibility.
        """
        choice = np.array([int(c.argmin()) for c in problem.costs]) if start is None else np.asarray(start)
        model = _Model(problem)
        yield progress(problem, choice, details={"status": "unknown"})
        status, found = "feasible", None
        if problem.violations(choice):
            status, found = self._solve(model, choice, seed)
        if found is not None:
            choice = found
        over = status == "infeasible" or not self._optimise
        yield progress(
            problem, choice, done=over, proven=False, details={"status": status, "work_s": model.work_s}
        )
        if over:
            return
        model.minimise()
        yield progress(problem, choice, details={"status": status})
        status, found = self._solve(model, choice, seed)
        if found is not None and problem.energy(found) < problem.energy(choice):
            choice = found
        yield progress(
            problem, choice, done=True, proven=status == "optimal",
            details={"status": status, "work_s": model.work_s},
        )  # fmt: skip

    def _solve(self, model: _Model, hint: IntArray, seed: int) -> tuple[str, IntArray | None]:
        return model.solve(hint, self.time_limit_s, self._workers, seed, self._count_work)


def load() -> Any:
    """OR-Tools' CP-SAT module. Raises SolverUnavailable."""
    try:
        from ortools.sat.python import cp_model
    except ImportError as error:
        raise SolverUnavailable(
            f"CP-SAT cannot be used: {error}; pip install 'chimera_ros[quantum]' brings OR-Tools"
        ) from None
    return cp_model


class _Model:
    """One Boolean per candidate, exactly one of them per drone, conflicting ones exclude each other."""

    def __init__(self, problem: Problem) -> None:
        self._cp = load()
        self._problem = problem
        self.work_s = 0.0  # deterministic time of the last call
        self._model = self._cp.CpModel()
        model = self._model
        self._taken = [[model.new_bool_var("") for _ in range(size)] for size in problem.sizes]
        for mine in self._taken:
            model.add_exactly_one(mine)
        for (i, j), table in problem.hard.items():
            # along the shorter side: one constraint holds a whole row
            if table.shape[0] > table.shape[1]:
                i, j, table = j, i, table.T
            for a in np.flatnonzero(table.any(1)):
                others = [self._taken[j][b] for b in np.flatnonzero(table[a])]
                model.add_at_most_one([self._taken[i][a], *others])

    def minimise(self) -> None:
        """Adds the costs and soft penalties as the objective."""
        model, terms, weights = self._model, [], []
        for mine, cost in zip(self._taken, self._problem.costs, strict=True):
            terms += mine
            weights += np.rint(cost * _UNIT).astype(int).tolist()
        for (i, j), penalty in self._problem.soft.items():
            hard = self._problem.hard.get((i, j))
            for a, b in zip(*np.nonzero(penalty), strict=True):
                if hard is not None and hard[a, b]:
                    continue
                both = model.new_bool_var("")
                model.add_bool_or([self._taken[i][a].negated(), self._taken[j][b].negated(), both])
                terms.append(both)
                weights.append(round(float(penalty[a, b]) * _UNIT))
        model.minimize(self._cp.LinearExpr.weighted_sum(terms, weights))

    def solve(
        self, hint: IntArray, time_limit_s: float, workers: int, seed: int, count_work: bool
    ) -> tuple[str, IntArray | None]:
        """Status and the choice found, if any."""
        cp = self._cp
        self._model.clear_hints()
        for mine, a in zip(self._taken, hint, strict=True):
            self._model.add_hint(mine[int(a)], True)
        solver = cp.CpSolver()
        # by default every solve replaces the process's SIGINT handler and leaves SIG_DFL behind
        solver.parameters.catch_sigint_signal = False
        limit = "max_deterministic_time" if count_work else "max_time_in_seconds"
        setattr(solver.parameters, limit, max(time_limit_s, 1e-3))
        solver.parameters.num_workers = workers
        solver.parameters.random_seed = seed % 2**31
        status = solver.solve(self._model)
        self.work_s = float(solver.response_proto.deterministic_time)
        if status == cp.INFEASIBLE:
            return "infeasible", None
        if status not in (cp.OPTIMAL, cp.FEASIBLE):
            return "unknown", None
        choice = np.array(
            [int(np.argmax([solver.boolean_value(v) for v in mine])) for mine in self._taken], dtype=np.int64
        )
        best = status == cp.OPTIMAL and self._model.has_objective()
        return ("optimal" if best else "feasible"), choice
