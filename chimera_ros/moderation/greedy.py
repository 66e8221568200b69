"""The first answer: the most entangled drones choose first, then moves of one or two that help."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .fields import Fields
from .problem import Problem
from .solver import SolverProgress, progress
from .tracks import IntArray

_SLICE = 64  # single moves tried before the caller may look at its clock


class Greedy:
    """Greedy construction (from `start` where there is one) and local search; milliseconds for 20 drones."""

    name = "greedy"

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Works in slices; the seed plays no part."""
        fields = Fields(problem)
        if start is None:
            construct(fields)
        else:
            fields.set(start)
        moves, helped = 0, True
        while helped:
            helped = False
            for _ in range(_SLICE):
                if not fields.improve_one():
                    break
                moves, helped = moves + 1, True
            if not helped and fields.improve_two():
                moves, helped = moves + 1, True
            yield progress(problem, fields.choice, done=not helped, details={"moves": moves})


def construct(fields: Fields) -> None:
    """Gives every drone, the most entangled in conflicts first, the candidate that costs least then."""
    problem = fields.problem
    weight = np.zeros(len(problem))
    for (i, j), table in problem.hard.items():
        share = float(table.mean())
        weight[i] += share
        weight[j] += share
    for drone in np.argsort(-weight, kind="stable"):
        fields.move(int(drone), int(fields.field[drone].argmin()))


def polish(fields: Fields) -> None:
    """Local search to its end: moves of one drone, then of two."""
    while fields.improve_one() or fields.improve_two():
        pass
