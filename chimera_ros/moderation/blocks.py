"""Blocks of a problem that is too large for a solver: a few drones choose anew while the others stay."""

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
    """Blocks of drones that need at most `qubits` qubits, the most promising first.

    A block grows from one drone by the neighbour that shares most penalties with it; first come the drones
    that conflict or cost most under `choice`. By default, as many blocks as it takes to hold every drone.
    """
    widths = Encoding(problem.sizes).widths
    ties = np.zeros((len(problem), len(problem)))
    burden = np.array([float(c[choice[i]] - c.min()) for i, c in enumerate(problem.costs)])
    for i, j in problem.pairs:
        both = problem.interaction((i, j))
        ties[i, j] = ties[j, i] = float(np.minimum(both, problem.hard_penalty).mean()) + 1e-12
        burden[[i, j]] += float(both[choice[i], choice[j]])
    rng = np.random.default_rng(seed)
    burden += 1e-9 * rng.random(len(problem))
    uses = np.zeros(len(problem))
    touched = [i for i in range(len(problem)) if ties[i].any() and widths[i]]
    blocks: list[tuple[int, ...]] = []
    while touched and (any(uses[i] == 0 for i in touched) if count is None else len(blocks) < count):
        first = min(touched, key=lambda i: (uses[i], -burden[i]))
        block, room = [first], qubits - int(widths[first])
        while True:
            pull = ties[block].sum(0) / (1.0 + uses)
            pull[[i for i in range(len(problem)) if i in block or not 0 < widths[i] <= room]] = 0.0
            if room < 0 or not pull.any():
                break
            best = int(pull.argmax())
            block.append(best)
            room -= int(widths[best])
        uses[block] += 1
        if room >= 0:
            blocks.append(tuple(sorted(block)))
        else:
            touched.remove(first)
    return blocks


class Blockwise:
    """Improves a choice block by block with a solver of blocks, until no block of a round helped."""

    def __init__(self, inner: Solver, qubits: int = 12, rounds: int = 3) -> None:
        self._inner, self._qubits, self._rounds = inner, qubits, rounds
        self.name = inner.name

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Slices are the inner solver's, told with the whole's choice. Raises SolverUnavailable."""
        choice = np.zeros(len(problem), dtype=np.int64) if start is None else np.asarray(start).copy()
        energy = problem.energy(choice)
        solved = 0
        details: dict[str, object] = {}
        for attempt in range(self._rounds):
            helped = False
            for block in choose_blocks(problem, choice, self._qubits, seed + attempt):
                rows = np.array(block)
                part = problem.block(block, choice)
                for step in self._inner.run(part, choice[rows], seed + 1000 * attempt + solved):
                    if step.energy < energy - TIE:
                        choice[rows] = step.choice
                        energy, helped = step.energy, True
                    if step.done:
                        details = dict(step.details)
                    yield progress(problem, choice, details={**details, "blocks": solved})
                solved += 1
            if not helped:
                break
        yield progress(problem, choice, done=True, details={**details, "blocks": solved})
