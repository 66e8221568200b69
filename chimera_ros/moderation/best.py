"""The best conflict-free choice of a problem so far, and what each stage of the ladder had for itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from .problem import Problem
from .solver import TIE
from .tracks import IntArray


@dataclass(slots=True)
class Incumbent:
    """Takes what stages offer for what the problem says it is, not for what the stages say."""

    problem: Problem
    choice: IntArray | None = None
    energy: float = inf
    winner: str = ""
    proven: bool = False
    impossible: bool = False
    nearest: IntArray | None = None  # with the fewest conflicts, while none is free of them
    own: dict[str, float] = field(default_factory=dict)  # least conflict-free energy by stage
    _fewest: float = inf

    def offer(self, stage: str, choice: IntArray) -> None:
        """A stage's choice, kept if it is conflict-free and better, or nearest to that."""
        energy = self.problem.energy(choice)
        if self.problem.violations(choice):
            if energy < self._fewest:
                self._fewest, self.nearest = energy, choice.copy()
            return
        self.own[stage] = min(energy, self.own.get(stage, inf))
        if energy < self.energy - TIE:
            self.choice, self.energy, self.winner = choice.copy(), energy, stage
