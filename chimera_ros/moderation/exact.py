"""Exact solver: full enumeration of each component, branch and bound for larger ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from chimera_ros.flight.trajectory import Array

from .fields import Fields
from .greedy import construct, polish
from .problem import Problem
from .solver import TIE, SolverProgress, SolverUnavailable, progress
from .tracks import IntArray

ENUMERATED = 2**20  # largest number of choices of a component that is enumerated
_CHUNK = 2**17  # choices per slice
_NODES_PER_SLICE = 150
MAX_NODES = 200_000  # then branch and bound ends with its best choice and without a proof


class Exact:
    """Enumeration and branch and bound. `proven` is False only if `max_nodes` ended a component's search."""

    name = "exact"

    def __init__(self, max_nodes: int = MAX_NODES) -> None:
        self._max_nodes = max_nodes

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Slices component by component; the seed is not used."""
        fields = Fields(problem)
        if start is None:
            construct(fields)
        else:
            fields.set(start)
        if start is None:
            polish(fields)
        best = fields.choice.copy()
        components = problem.components()
        for i in set(range(len(problem))) - {i for group in components for i in group}:
            best[i] = int(problem.costs[i].argmin())
        proven, nodes = True, 0
        for group in components:
            block = problem.block(group, best)
            size = int(np.prod([float(k) for k in block.sizes]).clip(max=2.0**62))
            rows = np.array(group)
            if size <= ENUMERATED:
                found = np.zeros(len(group), dtype=np.int64)
                least = np.inf
                for energies, first in enumerate_energies(block):
                    k = int(energies.argmin())
                    if energies[k] < least:
                        least, found = float(energies[k]), decode(first + k, block.sizes)
                    yield progress(problem, best)
                if least < block.energy(best[rows]) - TIE:
                    best[rows] = found
            else:
                search = _BranchAndBound(block, best[rows], self._max_nodes)
                while not search.done:
                    search.work()
                    best[rows] = search.best
                    yield progress(problem, best, details={"nodes": nodes + search.nodes})
                nodes += search.nodes
                proven &= search.proven
        yield progress(problem, best, done=True, proven=proven, details={"nodes": nodes})


def enumerate_energies(problem: Problem) -> Iterator[tuple[Array, int]]:
    """All energies in chunks, each with the index of its first choice; the last drone varies fastest."""
    sizes = problem.sizes
    free = len(sizes)
    inner = 1
    while free and inner * sizes[free - 1] <= _CHUNK:
        free -= 1
        inner *= sizes[free]
    drones = range(free, len(sizes))
    for outer in range(int(np.prod(sizes[:free]))):
        head = decode(outer, sizes[:free])
        block = problem.block(drones, np.concatenate([head, np.zeros(len(drones), dtype=np.int64)]))
        yield all_energies(block), outer * inner


def all_energies(problem: Problem) -> Array:
    """Energies of all choices of a small problem, last drone fastest. Raises SolverUnavailable."""
    sizes = problem.sizes
    if np.prod([float(k) for k in sizes]) > ENUMERATED:
        raise SolverUnavailable(f"{len(sizes)} drones have too many choices to enumerate")
    total = np.full(sizes, problem.fixed)
    for i, cost in enumerate(problem.costs):
        total += cost.reshape([-1 if k == i else 1 for k in range(len(sizes))])
    for i, j in problem.pairs:
        shape = [sizes[k] if k in (i, j) else 1 for k in range(len(sizes))]
        total += problem.interaction((i, j)).reshape(shape)
    return total.reshape(-1)


def decode(number: int, sizes: tuple[int, ...]) -> IntArray:
    """The choice (n,) of an index of `all_energies`."""
    out = np.zeros(len(sizes), dtype=np.int64)
    for i in range(len(sizes) - 1, -1, -1):
        number, out[i] = divmod(number, sizes[i])
    return out


class _BranchAndBound:
    """Depth first, best bound first. Bound: each open drone's least field, and each open pair's least penalty
    given the later drone's candidate.
    """

    def __init__(self, problem: Problem, start: IntArray, max_nodes: int) -> None:
        degree = np.zeros(len(problem))
        for i, j in problem.pairs:
            share = float(problem.hard[i, j].mean()) if (i, j) in problem.hard else 0.01
            degree[i] += share
            degree[j] += share
        order = [int(i) for i in np.argsort(-degree, kind="stable")]
        self._order, self._max_nodes = order, max_nodes
        self._problem = problem
        count, widest = len(problem), max(problem.sizes)
        self._tables = np.zeros((count, count, widest, widest))  # by place in the order
        self._root = np.full((count, widest), np.inf)
        place = {drone: k for k, drone in enumerate(order)}
        for drone, cost in enumerate(problem.costs):
            self._root[place[drone], : len(cost)] = cost
        for i, j in problem.pairs:
            a, b = place[i], place[j]
            both = problem.interaction((i, j))
            self._tables[a, b, : both.shape[0], : both.shape[1]] = both
            self._tables[b, a, : both.shape[1], : both.shape[0]] = both.T
        # least cost of a place's candidate with the open places before it: depth, place, candidate
        rows = np.arange(widest)
        self._later = np.zeros((count, count, widest))
        for a in range(count - 1, -1, -1):
            own = rows < len(problem.costs[order[a]])
            self._later[a] = (self._later[a + 1] if a + 1 < count else 0.0) + np.where(
                np.arange(count)[:, None] > a, self._tables[a][:, own].min(1), 0.0
            )
        self.best = np.asarray(start, dtype=np.int64).copy()
        self._least = problem.energy(start)
        self.nodes = 0
        self._stack: list[tuple[int, float, Array, IntArray]] = [
            (0, problem.fixed, self._root, np.zeros(count, dtype=np.int64))
        ]
        self.done = self.proven = False

    def work(self) -> None:
        """Expands up to `_NODES_PER_SLICE` nodes."""
        count = len(self._order)
        for _ in range(_NODES_PER_SLICE):
            if not self._stack:
                self.done = self.proven = True
                return
            if self.nodes >= self._max_nodes:
                self.done = True
                return
            depth, spent, field, path = self._stack.pop()
            self.nodes += 1
            own = field[depth]
            sums = spent + own
            if depth + 1 < count:
                bound = sums.copy()
                rest = field[None, depth + 1 :] + self._tables[depth, depth + 1 :].transpose(1, 0, 2)
                bound += (rest + self._later[depth + 1, depth + 1 :]).min(2).sum(1)
            else:
                bound = sums
            for a in np.argsort(-bound, kind="stable"):  # the best bound is popped first
                if not bound[a] < self._least - TIE:
                    continue
                taken = path.copy()
                taken[depth] = a
                if depth + 1 == count:
                    if sums[a] < self._least - TIE:
                        self._least = float(sums[a])
                        self.best[np.array(self._order)] = taken
                else:
                    self._stack.append((depth + 1, float(sums[a]), field + self._tables[depth, :, a], taken))
            # nodes pushed under an older, weaker bound are pruned when they are expanded
