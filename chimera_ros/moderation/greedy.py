"""Greedy solver: drones with most conflicts choose first, then local search by one or two drones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .fields import Fields
from .problem import Problem
from .solver import SolverProgress, progress
from .tracks import IntArray

_SLICE = 64  # single moves per slice


class Greedy:
    """Greedy construction (from `start` where there is one) and local search; milliseconds for 20 drones."""

    name = "greedy"

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Slices of some moves; the seed is not used."""
        fields = Fields(problem)
        if start is None:
            construct(fields)
        else:
            fields.set(start)
        moves, improved = 0, True
        while improved:
            improved = False
            for _ in range(_SLICE):
                if not fields.improve_one():
                    break
                moves, improved = moves + 1, True
            if not improved and fields.improve_two():
                moves, improved = moves + 1, True
            yield progress(problem, fields.choice, done=not improved, details={"moves": moves})


def construct(fields: Fields) -> None:
    """Chooses the cheapest candidate of each drone in turn, drones with most conflicts first."""
    problem = fields.problem
    weight = np.zeros(len(problem))
    for (i, j), table in problem.hard.items():
        share = float(table.mean())
        weight[i] += share
        weight[j] += share
    for drone in np.argsort(-weight, kind="stable"):
        fields.move(int(drone), int(fields.field[drone].argmin()))


def polish(fields: Fields) -> None:
    """Local search to a local minimum: moves of one drone, then of two."""
    while fields.improve_one() or fields.improve_two():
        pass
