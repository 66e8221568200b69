"""Numeric optimisation problem: one candidate per drone, no conflict, least cost.

Energy of a choice: costs, plus `hard_penalty` for each conflicting pair, plus soft penalties for small
margins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array

from .conflicts import near_pairs, refine
from .errors import ModerationError, ModerationReason
from .manoeuvres import MAX_CANDIDATES, Candidate
from .tracks import IntArray, TrackTable

BoolArray = NDArray[np.bool_]
Pair = tuple[int, int]

SOFT_WEIGHT_M = 4.0  # penalty of a zero margin, in metres of extra path
MARGIN = 0.25  # clearance above 1 up to which a pair is penalised
MAX_TOTAL = 20_000  # candidates of all drones
_WINDOW = 4  # short, because candidates cross often


@dataclass(frozen=True, slots=True)
class Problem:
    """Costs (K_i,) by drone and pair tables (K_i, K_j) for i < j; a pair without tables never interacts.

    `hard` is True where two candidates conflict, `soft` the penalty >= 0 of a small margin in the unit of the
    costs; `hard_penalty` exceeds the costs and soft penalties of any choice. `fixed` is the cost of drones
    outside a block.
    """

    costs: tuple[Array, ...]
    hard: Mapping[Pair, BoolArray]
    soft: Mapping[Pair, Array]
    hard_penalty: float
    fixed: float = 0.0

    @staticmethod
    def of(
        costs: Sequence[Array], hard: Mapping[Pair, BoolArray], soft: Mapping[Pair, Array], fixed: float = 0.0
    ) -> Problem:
        """The problem with a sufficient `hard_penalty`; tables without an entry are dropped."""
        worst = sum(float(c.max()) for c in costs) + sum(float(s.max()) for s in soft.values())
        return Problem(
            tuple(np.asarray(c, dtype=float) for c in costs),
            MappingProxyType({pair: h for pair, h in sorted(hard.items()) if h.any()}),
            MappingProxyType({pair: s for pair, s in sorted(soft.items()) if s.any()}),
            1.0 + 1.01 * worst,
            fixed,
        )

    def __len__(self) -> int:
        return len(self.costs)

    @property
    def pairs(self) -> list[Pair]:
        """Pairs with a hard or a soft entry."""
        return sorted(self.hard.keys() | self.soft.keys())

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of candidates by drone."""
        return tuple(len(c) for c in self.costs)

    def interaction(self, pair: Pair) -> Array:
        """Energy (K_i, K_j) of a pair i < j: hard and soft penalties."""
        i, j = pair
        out = np.zeros((len(self.costs[i]), len(self.costs[j])))
        if pair in self.hard:
            out += self.hard_penalty * self.hard[pair]
        if pair in self.soft:
            out += self.soft[pair]
        return out

    def energy(self, choice: IntArray) -> float:
        """Energy of one choice (n,)."""
        return float(self.energies(np.asarray(choice)[None, :])[0])

    def energies(self, choices: IntArray) -> Array:
        """Energies (m,) of choices (m, n)."""
        out = np.full(len(choices), self.fixed)
        for i, cost in enumerate(self.costs):
            out += cost[choices[:, i]]
        for (i, j), table in self.hard.items():
            out += self.hard_penalty * table[choices[:, i], choices[:, j]]
        for (i, j), penalty in self.soft.items():
            out += penalty[choices[:, i], choices[:, j]]
        return out

    def violations(self, choice: IntArray) -> list[Pair]:
        """Pairs that conflict under a choice (n,)."""
        return [(i, j) for (i, j), table in self.hard.items() if table[choice[i], choice[j]]]

    def infeasible_pairs(self) -> list[Pair]:
        """The pairs that conflict with every choice."""
        return [pair for pair, table in self.hard.items() if table.all()]

    def components(self) -> list[tuple[int, ...]]:
        """Connected components of interacting drones, largest first."""
        parent = list(range(len(self)))

        def root(i: int) -> int:
            while parent[i] != i:
                parent[i] = parent[parent[i]]
                i = parent[i]
            return i

        touched = set()
        for i, j in self.pairs:
            parent[root(i)] = root(j)
            touched |= {i, j}
        groups: dict[int, list[int]] = {}
        for i in sorted(touched):
            groups.setdefault(root(i), []).append(i)
        return sorted((tuple(g) for g in groups.values()), key=lambda g: (-len(g), g))

    def block(self, drones: Sequence[int], choice: IntArray) -> Problem:
        """The problem of some drones, in their order, with the others fixed at `choice` (n,).

        Its energies are those of the whole problem: costs of the others are in `fixed`, interactions with
        them in the costs of the block; `hard_penalty` is unchanged.
        """
        place = {drone: k for k, drone in enumerate(drones)}
        costs = [self.costs[d].copy() for d in drones]
        hard: dict[Pair, BoolArray] = {}
        soft: dict[Pair, Array] = {}
        fixed = self.fixed + sum(float(c[choice[i]]) for i, c in enumerate(self.costs) if i not in place)
        for i, j in self.pairs:
            if i in place and j in place:
                a, b = place[i], place[j]
                if (i, j) in self.hard:
                    hard[min(a, b), max(a, b)] = self.hard[i, j] if a < b else self.hard[i, j].T
                if (i, j) in self.soft:
                    soft[min(a, b), max(a, b)] = self.soft[i, j] if a < b else self.soft[i, j].T
                continue
            both = self.interaction((i, j))
            if i in place:
                costs[place[i]] += both[:, choice[j]]
            elif j in place:
                costs[place[j]] += both[choice[i], :]
            else:
                fixed += float(both[choice[i], choice[j]])
        return Problem(tuple(costs), MappingProxyType(hard), MappingProxyType(soft), self.hard_penalty, fixed)


def without_dominated(problem: Problem) -> tuple[Problem, tuple[IntArray, ...]]:
    """The problem without dominated candidates, for which another of the same drone is never worse.

    Also returns the indices of the kept candidates by drone. The least energy stays the same.
    """
    kept = [np.arange(len(c)) for c in problem.costs]
    tables: dict[int, list[tuple[int, Array]]] = {i: [] for i in range(len(problem))}
    for i, j in problem.pairs:
        both = problem.interaction((i, j))
        tables[i].append((j, both))
        tables[j].append((i, both.T))
    for _ in range(4):  # a removed candidate may make others dominated
        before = sum(map(len, kept))
        for i, cost in enumerate(problem.costs):
            rows = kept[i]
            wide = np.column_stack([cost[rows], *(t[np.ix_(rows, kept[j])] for j, t in tables[i])])
            kept[i] = rows[~_dominated(wide)]
        if sum(map(len, kept)) == before:
            break
    costs = [c[k] for c, k in zip(problem.costs, kept, strict=True)]
    hard = {(i, j): t[np.ix_(kept[i], kept[j])] for (i, j), t in problem.hard.items()}
    soft = {(i, j): t[np.ix_(kept[i], kept[j])] for (i, j), t in problem.soft.items()}
    smaller = Problem(
        tuple(costs),
        MappingProxyType({p: t for p, t in hard.items() if t.any()}),
        MappingProxyType({p: t for p, t in soft.items() if t.any()}),
        problem.hard_penalty,
        problem.fixed,
    )
    return smaller, tuple(kept)


def _dominated(rows: Array) -> BoolArray:
    """True for rows (K, E) that another row never exceeds; of equal rows the first stays."""
    never_worse = (rows[:, None, :] <= rows[None, :, :]).all(-1)  # [a, b]: a is never worse than b
    index = np.arange(len(rows))
    beats = never_worse & (~never_worse.T | (index[:, None] < index[None, :]))
    np.fill_diagonal(beats, False)
    return np.asarray(beats.any(0))


def build(
    candidates: Sequence[Sequence[Candidate]], separation: Separation, margin: float = MARGIN
) -> Problem:
    """The problem of choosing one candidate per drone.

    A pair is hard if it conflicts (conservatively: curvature is bounded), soft if its clearance is below
    1 + `margin`. Raises ModerationError.
    """
    if not candidates:
        raise ModerationError(ModerationReason.NO_DRONES, "there is no drone to plan for")
    sizes = [len(c) for c in candidates]
    if max(sizes) > MAX_CANDIDATES or sum(sizes) > MAX_TOTAL:
        raise ModerationError(
            ModerationReason.TOO_MANY,
            f"{sum(sizes)} candidates, {max(sizes)} of one drone, are more than "
            f"the {MAX_TOTAL} and {MAX_CANDIDATES} that fit",
        )
    if min(sizes) == 0:
        raise ModerationError(
            ModerationReason.OUTSIDE_FENCE, f"drone {sizes.index(0)} has no feasible candidate"
        )
    costs = [np.array([c.cost for c in part]) for part in candidates]
    table = TrackTable([c.track for part in candidates for c in part], window=_WINDOW)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    first_row = np.concatenate([[0], np.cumsum(sizes)])
    rows, columns, clearance = pair_clearances(table, separation, 1.0 + margin, owner)
    i, j = owner[rows], owner[columns]
    order = np.argsort(i * len(sizes) + j, kind="stable")
    i, j, clearance = i[order], j[order], clearance[order]
    a, b = rows[order] - first_row[i], columns[order] - first_row[j]
    hard: dict[Pair, BoolArray] = {}
    soft: dict[Pair, Array] = {}
    cuts = np.flatnonzero(np.diff(i * len(sizes) + j)) + 1
    bounds = [0, *cuts.tolist(), len(i)] if len(i) else [0]
    for low, high in pairwise(bounds):
        p, q = int(i[low]), int(j[low])
        near = np.full((sizes[p], sizes[q]), np.inf)
        near[a[low:high], b[low:high]] = clearance[low:high]
        hard[p, q] = near < 1.0
        thin = np.clip((1.0 + margin - near) / margin, 0.0, 1.0)
        soft[p, q] = np.where(hard[p, q], 0.0, SOFT_WEIGHT_M * thin**2)
    return Problem.of(costs, hard, soft)


def pair_clearances(
    table: TrackTable, separation: Separation, limit: float, groups: IntArray | None = None
) -> tuple[IntArray, IntArray, Array]:
    """Rows, columns (rows < columns) and least clearances (P,) of the pairs below `limit`."""
    near = near_pairs(table, separation, limit, groups)
    clearance = refine(table, separation, near)
    low, high = np.minimum(near.first, near.second), np.maximum(near.first, near.second)
    keys = low * len(table) + high
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    if not len(keys):
        return low, high, clearance
    new = np.flatnonzero(np.concatenate([[True], np.diff(keys) != 0]))
    least = np.minimum.reduceat(clearance[order], new)
    below = least < limit
    keys = keys[new][below]
    return keys // len(table), keys % len(table), least[below]
