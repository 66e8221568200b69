"""Local fields: the cost of each candidate given the other drones' choices, updated with every move."""

from __future__ import annotations

import numpy as np

from chimera_ros.flight.trajectory import Array

from .problem import Problem
from .solver import TIE
from .tracks import IntArray

FREE = -1  # no candidate chosen yet


class Fields:
    """Choices (n,) and fields (n, K): field[i, a] is a's cost plus its penalties with the others' choices.

    Rows of drones with fewer candidates than K are filled with infinity.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count, widest = len(problem), max(problem.sizes)
        self._costs = np.full((count, widest), np.inf)
        for i, cost in enumerate(problem.costs):
            self._costs[i, : len(cost)] = cost
        self.pairs = problem.pairs
        self.tables = np.zeros((len(self.pairs), widest, widest))
        around: list[list[tuple[int, Array]]] = [[] for _ in range(count)]
        for k, (i, j) in enumerate(self.pairs):
            self.tables[k, : len(problem.costs[i]), : len(problem.costs[j])] = problem.interaction((i, j))
            around[i].append((j, self.tables[k]))
            around[j].append((i, self.tables[k].T))
        self.neighbours = [np.array([j for j, _ in near], dtype=np.int64) for near in around]
        # by drone: (its candidates, neighbours, the neighbour's candidates)
        self._pushes = [
            np.stack([table for _, table in near], axis=1) if near else np.zeros((widest, 0, widest))
            for near in around
        ]
        self._ends = np.array(self.pairs, dtype=np.int64).reshape(-1, 2)
        self.choice = np.full(count, FREE)
        self.field = self._costs.copy()

    def set(self, choice: IntArray) -> None:
        """Sets the choice of all drones."""
        self.choice = np.full(len(self.problem), FREE)
        self.field = self._costs.copy()
        for i, a in enumerate(np.asarray(choice)):
            self.move(i, int(a))

    def move(self, drone: int, candidate: int) -> None:
        """Changes the candidate of a drone, or sets its first."""
        pushes, before = self._pushes[drone], self.choice[drone]
        change = pushes[candidate] - pushes[before] if before != FREE else pushes[candidate]
        self.field[self.neighbours[drone]] += change
        self.choice[drone] = candidate

    def gains(self) -> Array:
        """Change of energy (n, K) by each single move."""
        out: Array = self.field - self.field[np.arange(len(self.choice)), self.choice, None]
        return out

    def improve_one(self) -> bool:
        """Makes the best single move if it lowers the energy."""
        gains = self.gains()
        drone, candidate = divmod(int(gains.argmin()), gains.shape[1])
        if gains[drone, candidate] >= -TIE:
            return False
        self.move(drone, candidate)
        return True

    def improve_two(self) -> bool:
        """Makes the best move of two interacting drones if it lowers the energy."""
        if not len(self.pairs):
            return False
        gains, rows = self.gains(), np.arange(len(self.pairs))
        i, j = self._ends.T
        a, b = self.choice[i], self.choice[j]
        both = gains[i][:, :, None] + gains[j][:, None, :]
        # each gain counts the pair's own penalty against the other's old choice
        both += self.tables - self.tables[rows, :, b][:, :, None] - self.tables[rows, a, :][:, None, :]
        both += self.tables[rows, a, b][:, None, None]
        best = int(both.argmin())
        if both.flat[best] >= -TIE:
            return False
        pair, x, y = np.unravel_index(best, both.shape)
        self.move(int(i[pair]), int(x))
        self.move(int(j[pair]), int(y))
        return True
