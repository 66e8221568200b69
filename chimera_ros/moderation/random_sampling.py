"""Uniform random sampling with as many shots as VQE: the baseline for its results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .problem import Problem
from .solver import SolverProgress, progress
from .tracks import IntArray


class RandomSampling:
    """The best of `shots` random choices and `start`; `details["sampled_energy"]` is without `start`."""

    name = "random_sampling"

    def __init__(self, shots: int = 1024) -> None:
        self._shots = shots

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """One slice."""
        choices = np.random.default_rng(seed).integers(0, problem.sizes, (self._shots, len(problem)))
        energies = problem.energies(choices)
        k = int(energies.argmin())
        choice = choices[k]
        if start is not None and problem.energy(start) <= energies[k]:
            choice = np.asarray(start)
        yield progress(
            problem,
            choice,
            done=True,
            details={"sampled_energy": float(energies[k]), "shots": self._shots},
        )
