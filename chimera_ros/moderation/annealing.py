"""Simulated annealing of many replicas at once: heat-bath moves of one drone in all of them.

While warm, the conflict penalty is lowered to the scale of the costs, or no replica would ever pass through a
conflict; results are compared by their true energy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chimera_ros.flight.trajectory import Array

from .fields import Fields
from .greedy import construct, polish
from .problem import Problem
from .solver import SolverProgress, progress
from .tracks import IntArray

_WORK_PER_SLICE = 8e6  # multiplications: about 10 ms
_WORK_PER_DRONE = 5e4  # overhead of a small product, in multiplications
_POLISHED = 4  # best replicas that are improved by local search at the end


class Annealing:
    """`replicas` for `sweeps` over all drones; half of them start from `start`."""

    name = "annealing"

    def __init__(self, replicas: int = 48, sweeps: int = 50) -> None:
        self._replicas, self._sweeps = replicas, sweeps

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Slices of some sweeps; the same seed gives the same result."""
        rng = np.random.default_rng(seed)
        fields = Fields(problem)
        if start is None:
            construct(fields)
        else:
            fields.set(start)
        best = fields.choice.copy()
        lattice = _Lattice(problem, best, self._replicas, rng)
        hot, cold = lattice.temperatures()
        schedule = np.geomspace(hot, cold, self._sweeps)
        per_slice = max(1, int(_WORK_PER_SLICE / lattice.work))
        for low in range(0, self._sweeps, per_slice):
            for temperature in schedule[low : low + per_slice]:
                lattice.sweep(float(temperature), rng)
            yield progress(problem, best)
        energies = problem.energies(lattice.choices)
        least = problem.energy(best)
        for row in np.argsort(energies, kind="stable")[:_POLISHED]:
            fields.set(lattice.choices[row])
            polish(fields)
            energy = problem.energy(fields.choice)
            if energy < least:
                best, least = fields.choice.copy(), energy
        yield progress(problem, best, done=True, details={"sweeps": self._sweeps, "replicas": self._replicas})


class _Lattice:
    """The replicas: choices (R, n), and the same as indicator columns for matrix products."""

    def __init__(self, problem: Problem, start: IntArray, replicas: int, rng: np.random.Generator) -> None:
        sizes = np.array(problem.sizes)
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        spread = [float(c.max() - c.min()) for c in problem.costs]
        self._scale = max(*spread, 1e-6) if len(spread) > 1 else max(spread[0], 1e-6)
        self._costs = problem.costs
        columns: list[list[int]] = [[] for _ in sizes]
        rows: list[list[Array]] = [[] for _ in sizes]
        lowered = min(2.0 * self._scale, problem.hard_penalty)
        for i, j in problem.pairs:
            table = np.zeros((sizes[i], sizes[j]))
            if (i, j) in problem.hard:
                table += lowered * problem.hard[i, j]
            if (i, j) in problem.soft:
                table += problem.soft[i, j]
            for here, there, matrix in ((i, j, table.T), (j, i, table)):
                columns[here].extend(range(self._offsets[there], self._offsets[there + 1]))
                rows[here].append(matrix)
        self._columns = [np.array(c, dtype=np.int64) for c in columns]
        self._matrices = [
            np.concatenate(r) if r else np.zeros((0, size)) for r, size in zip(rows, sizes, strict=True)
        ]
        self._every = np.arange(replicas)
        self.work = _WORK_PER_DRONE * len(sizes) + replicas * sum(
            m.size for m in self._matrices
        )  # of a sweep
        self.choices = rng.integers(0, sizes, (replicas, len(sizes)))
        self.choices[: replicas // 2] = start
        self._ones = np.zeros((int(self._offsets[-1]), replicas))
        for i in range(len(sizes)):
            self._ones[self._offsets[i] + self.choices[:, i], self._every] = 1.0

    def temperatures(self) -> tuple[float, float]:
        """First and last temperature of the schedule."""
        return 0.5 * self._scale, 0.005 * self._scale

    def sweep(self, temperature: float, rng: np.random.Generator) -> None:
        """One heat-bath move of every drone in every replica."""
        for i in rng.permutation(len(self._costs)):
            low, high = self._offsets[i], self._offsets[i + 1]
            field = self._matrices[i].T @ self._ones[self._columns[i]] + self._costs[i][:, None]
            # the least of energy/T minus Gumbel noise is a draw from the Boltzmann distribution
            field += temperature * np.log(rng.standard_exponential(field.shape))
            chosen = field.argmin(0)
            self._ones[low:high] = 0.0
            self._ones[low + chosen, self._every] = 1.0
            self.choices[:, i] = chosen
