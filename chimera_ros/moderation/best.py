"""Incumbent: the best conflict-free choice of a problem so far, and the best energy of each solver."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from .problem import Problem
from .solver import TIE
from .tracks import IntArray


@dataclass(slots=True)
class Incumbent:
    """Compares choices by the problem's own energy, not by what a solver reports."""

    problem: Problem
    choice: IntArray | None = None
    energy: float = inf
    winner: str = ""
    proven: bool = False
    infeasible: bool = False
    closest: IntArray | None = None  # with the fewest conflicts, as long as none is conflict-free
    by_solver: dict[str, float] = field(default_factory=dict)  # least conflict-free energy of each
    _fewest: float = inf

    def offer(self, solver: str, choice: IntArray) -> None:
        """Keeps a solver's choice if it is conflict-free and better, or the closest to conflict-free."""
        energy = self.problem.energy(choice)
        if self.problem.violations(choice):
            if energy < self._fewest:
                self._fewest, self.closest = energy, choice.copy()
            return
        self.by_solver[solver] = min(energy, self.by_solver.get(solver, inf))
        if energy < self.energy - TIE:
            self.choice, self.energy, self.winner = choice.copy(), energy, solver
