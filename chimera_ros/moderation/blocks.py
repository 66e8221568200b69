"""Block coordinate descent for a problem too large for a solver: a few drones at a time, the others fixed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .problem import Problem
from .solver import TIE, Solver, SolverProgress, progress
from .tracks import IntArray
from .vqe import Encoding


def choose_blocks(
    problem: Problem, choice: IntArray, qubits: int, seed: int = 0, count: int | None = None
) -> list[tuple[int, ...]]:
    """Blocks of drones that need at most `qubits` qubits, those with most conflict and cost first.

    A block grows from one drone by the neighbour with the strongest interaction; drones with most conflict or
    cost under `choice` come first. `count` is the number of blocks, by default enough to contain each drone.
    """
    widths = Encoding(problem.sizes).widths
    coupling = np.zeros((len(problem), len(problem)))
    load = np.array([float(c[choice[i]] - c.min()) for i, c in enumerate(problem.costs)])
    for i, j in problem.pairs:
        both = problem.interaction((i, j))
        coupling[i, j] = coupling[j, i] = float(np.minimum(both, problem.hard_penalty).mean()) + 1e-12
        load[[i, j]] += float(both[choice[i], choice[j]])
    rng = np.random.default_rng(seed)
    load += 1e-9 * rng.random(len(problem))
    uses = np.zeros(len(problem))
    touched = [i for i in range(len(problem)) if coupling[i].any() and widths[i]]
    blocks: list[tuple[int, ...]] = []
    while touched and (any(uses[i] == 0 for i in touched) if count is None else len(blocks) < count):
        first = min(touched, key=lambda i: (uses[i], -load[i]))
        block, free = [first], qubits - int(widths[first])
        while True:
            pull = coupling[block].sum(0) / (1.0 + uses)
            pull[[i for i in range(len(problem)) if i in block or not 0 < widths[i] <= free]] = 0.0
            if free < 0 or not pull.any():
                break
            best = int(pull.argmax())
            block.append(best)
            free -= int(widths[best])
        uses[block] += 1
        if free >= 0:
            blocks.append(tuple(sorted(block)))
        else:
            touched.remove(first)
    return blocks


class Blockwise:
    """Solver that improves a choice block by block with an inner solver, until a round improves no block."""

    def __init__(self, inner: Solver, qubits: int = 12, rounds: int = 3) -> None:
        self._inner, self._qubits, self._rounds = inner, qubits, rounds
        self.name = inner.name

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Progress after each step of the inner solver, for the whole problem. Raises SolverUnavailable."""
        choice = np.zeros(len(problem), dtype=np.int64) if start is None else np.asarray(start).copy()
        energy = problem.energy(choice)
        solved = 0
        details: dict[str, object] = {}
        for attempt in range(self._rounds):
            improved = False
            for block in choose_blocks(problem, choice, self._qubits, seed + attempt):
                rows = np.array(block)
                part = problem.block(block, choice)
                for step in self._inner.run(part, choice[rows], seed + 1000 * attempt + solved):
                    if step.energy < energy - TIE:
                        choice[rows] = step.choice
                        energy, improved = step.energy, True
                    if step.done:
                        details = dict(step.details)
                    yield progress(problem, choice, details={**details, "blocks": solved})
                solved += 1
            if not improved:
                break
        yield progress(problem, choice, done=True, details={**details, "blocks": solved})
