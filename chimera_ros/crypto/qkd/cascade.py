"""Cascade error reconciliation: one endpoint requests parities of the other's key and corrects its own.

G. Brassard, L. Salvail, "Secret-Key Reconciliation by Public Discussion", EUROCRYPT '93: four passes, blocks
of 0.73/Q doubling with each, every corrected bit looked up again in all passes. Then ten random halves of the
key are compared (BICONF, ibid.), because four passes alone leave an error in one of some hundred sessions. A
known parity is never requested again: a pass is a partition of the key into pieces of known parity, which
bisection only refines.

Every parity discloses one bit of the key, and the next request discloses whether it matched: one bit more.
Both are counted (D. Tupkary, N. Lütkenhaus, "Using Cascade in Quantum Key Distribution", arXiv:2307.00576):
`disclosed_bits` is twice the number of parities.

A bit is flipped only where its own parity differs, so Cascade introduces no errors; an even number of errors
in every piece may remain, which the verification hash detects.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..encoding import fields, u32
from ..entropy.conditioning import Bits, unpack
from ..primitives import labels

PASSES: Final = 4
HALVES: Final = 10
TOTAL_PASSES: Final = PASSES + HALVES
MAX_KEY_BITS: Final = 1 << 16
_SMALLEST_BLOCK: Final = 4
MAX_QUERIES: Final = MAX_KEY_BITS // _SMALLEST_BLOCK  # in one message


class Query(NamedTuple):
    """Requested parity of the bits at positions start to end (exclusive) in the order of a pass."""

    pass_index: int
    start: int
    end: int


class CascadePlan:
    """Order of the bits and initial blocks of each pass, which both endpoints derive from public data.

    seed: 32 public random bytes. n: bits of the key. error_rate: of the sample; at least 1 / 2n is assumed.
    """

    def __init__(self, seed: bytes, n: int, error_rate: float) -> None:
        if not 2 * _SMALLEST_BLOCK <= n <= MAX_KEY_BITS:
            raise ValueError(f"a key of {n} bits; allowed are {2 * _SMALLEST_BLOCK} to {MAX_KEY_BITS}")
        self.n = n
        block = max(_SMALLEST_BLOCK, math.ceil(0.73 / max(error_rate, 0.5 / n)))
        self.orders: list[NDArray[np.intp]] = [np.arange(n)]
        self.blocks = [min(block, n // 2)]
        for pass_index in range(1, PASSES):
            keys = np.frombuffer(self._stream(seed, pass_index, 8 * n), dtype=">u8")
            self.orders.append(np.argsort(keys, kind="stable"))
            self.blocks.append(min(block << pass_index, n // 2))
        for pass_index in range(PASSES, TOTAL_PASSES):
            mask = unpack(self._stream(seed, pass_index, (n + 7) // 8))[:n]
            inside = np.flatnonzero(mask)
            inside = inside if 0 < len(inside) < n else np.arange(n // 2)
            self.orders.append(np.concatenate((inside, np.setdiff1d(np.arange(n), inside, True))))
            self.blocks.append(len(inside))

    @staticmethod
    def _stream(seed: bytes, pass_index: int, length: int) -> bytes:
        return hashlib.shake_256(fields(labels.QKD_SHUFFLE, seed, u32(pass_index))).digest(length)

    def starts(self, pass_index: int) -> list[int]:
        """First positions of the blocks of a pass."""
        block = self.blocks[pass_index]
        return [0, block] if pass_index >= PASSES else list(range(0, self.n, block))


def prefix_parities(key: Bits, order: NDArray[np.intp]) -> list[int]:
    """Parity of the first i bits in this order, for i from 0 to n."""
    sums = np.cumsum(key[order], dtype=np.int64) & 1
    return [0, *sums.tolist()]


class Reference:
    """Reference endpoint: answers requests about its key and counts the disclosed parities."""

    def __init__(self, key: Bits, plan: CascadePlan, max_parities: int) -> None:
        self._plan = plan
        self._prefixes = [prefix_parities(key, order) for order in plan.orders]
        self._max_parities = max_parities
        self.parities = 0

    def answer(self, queries: Sequence[Query]) -> Bits:
        """One parity for each query.

        Raises ValueError for positions outside the key, and when `max_parities` would be exceeded.
        """
        for pass_index, start, end in queries:
            if pass_index >= TOTAL_PASSES or not 0 <= start < end <= self._plan.n:
                raise ValueError(f"pass {pass_index} has no positions {start} to {end}")
        if self.parities + len(queries) > self._max_parities:
            raise ValueError(f"more than {self._max_parities} parities were requested")
        self.parities += len(queries)
        return np.array(
            [self._prefixes[index][end] ^ self._prefixes[index][start] for index, start, end in queries],
            dtype=np.uint8,
        )


class Corrector:
    """Correcting endpoint: `queries()`, then `answer(parities)`, until `queries()` is empty; then `key`."""

    def __init__(self, key: Bits, plan: CascadePlan) -> None:
        self._plan = plan
        self._key = key.copy()
        self._positions = []  # by pass: position of each bit in its order
        for order in plan.orders:
            positions = np.empty(plan.n, dtype=np.intp)
            positions[order] = np.arange(plan.n)
            self._positions.append(positions)
        self._prefixes: list[list[int]] = []
        self._starts: list[list[int]] = []  # by pass: first positions of the pieces of known parity
        self._odd: list[set[int]] = []  # by pass: pieces whose parities differ
        self._flipped: list[list[int]] = []  # by pass: positions of corrected bits, sorted
        self._requested: list[Query] = []
        self._initial = False  # the outstanding request is for the initial blocks of a pass
        self._total: int | None = None  # parity of the reference's whole key
        self._corrected: set[int] = set()
        self.parities = 0

    @property
    def key(self) -> Bits:
        """The corrected key."""
        return self._key

    @property
    def corrected(self) -> int:
        """Number of corrected bits."""
        return len(self._corrected)

    @property
    def disclosed_bits(self) -> int:
        """Bits disclosed to an eavesdropper: the parities, and from the requests which of them matched."""
        return 2 * self.parities

    def queries(self) -> list[Query]:
        """The next request, at most `MAX_QUERIES`; empty at the end."""
        if not self._requested:
            self._requested = self._bisections()
            self._initial = not self._requested
            if self._initial:
                self._requested = self._next_passes()
        return self._requested

    def answer(self, parities: Bits) -> None:
        """Processes the parities for the last `queries()`.

        Raises ValueError for a wrong number of parities, or when they contradict earlier ones.
        """
        requested, self._requested = self._requested, []
        if len(parities) != len(requested) or not requested:
            raise ValueError(f"{len(parities)} parities for {len(requested)} queries")
        self.parities += len(requested)
        if self._initial:
            self._start_passes(requested, parities)
        else:
            for query, parity in zip(requested, parities.tolist(), strict=True):
                self._split(query, parity)
        self._flip_single_bits()

    # Passes

    def _next_passes(self) -> list[Query]:
        first = len(self._starts)
        if first == TOTAL_PASSES:
            return []
        pass_indices = range(first, first + 1) if first < PASSES else range(PASSES, TOTAL_PASSES)
        queries: list[Query] = []
        for pass_index in pass_indices:
            self._prefixes.append(prefix_parities(self._key, self._plan.orders[pass_index]))
            starts = self._plan.starts(pass_index)
            self._starts.append(starts)
            self._odd.append(set())
            self._flipped.append([])
            ends = [*starts[1:], self._plan.n]
            blocks = [Query(pass_index, start, end) for start, end in zip(starts, ends, strict=True)]
            queries += blocks if pass_index == 0 else blocks[:-1]  # the last follows from the key's parity
        return queries

    def _start_passes(self, requested: list[Query], parities: Bits) -> None:
        """Processes the initial blocks of one or more passes."""
        sums: dict[int, int] = {}
        for query, parity in zip(requested, parities.tolist(), strict=True):
            sums[query.pass_index] = sums.get(query.pass_index, 0) ^ parity
            if parity != self._parity(*query):
                self._odd[query.pass_index].add(query.start)
        if self._total is None:
            self._total = sums[0]
            return
        for pass_index, total in sums.items():
            last = self._starts[pass_index][-1]
            if total ^ self._total != self._parity(pass_index, last, self._plan.n):
                self._odd[pass_index].add(last)

    # Pieces

    def _parity(self, pass_index: int, start: int, end: int) -> int:
        """Parity of the own key as corrected so far."""
        flipped = self._flipped[pass_index]
        inside = bisect.bisect_left(flipped, end) - bisect.bisect_left(flipped, start)
        return self._prefixes[pass_index][end] ^ self._prefixes[pass_index][start] ^ inside & 1

    def _end(self, pass_index: int, start: int) -> int:
        starts = self._starts[pass_index]
        after = bisect.bisect_right(starts, start)
        return starts[after] if after < len(starts) else self._plan.n

    def _bisections(self) -> list[Query]:
        """First halves of the odd pieces of the pass with the smallest pieces: the fewest parities.

        Only one pass at a time: several would search for the same errors.
        """
        best: list[Query] = []
        least = math.inf
        for pass_index, odd in enumerate(self._odd):
            if not odd:
                continue
            pieces = [(start, self._end(pass_index, start)) for start in sorted(odd)]
            cost = sum(math.log2(end - start) for start, end in pieces) / len(pieces)
            if cost < least:
                least = cost
                best = [Query(pass_index, start, (start + end) // 2) for start, end in pieces]
        return best

    def _split(self, query: Query, parity: int) -> None:
        pass_index, start, middle = query
        bisect.insort(self._starts[pass_index], middle)
        if parity == self._parity(pass_index, start, middle):
            self._odd[pass_index].remove(start)
            self._odd[pass_index].add(middle)

    def _flip_single_bits(self) -> None:
        found = True
        while found:
            found = False
            for pass_index, odd in enumerate(self._odd):
                for start in [start for start in odd if self._end(pass_index, start) == start + 1]:
                    if start in odd:
                        self._flip(int(self._plan.orders[pass_index][start]))
                        found = True

    def _flip(self, bit: int) -> None:
        if bit in self._corrected:  # impossible with true parities; bounds the loop with false ones
            raise ValueError("parities contradict each other")
        self._corrected.add(bit)
        self._key[bit] ^= 1
        for pass_index, starts in enumerate(self._starts):
            position = int(self._positions[pass_index][bit])
            bisect.insort(self._flipped[pass_index], position)
            self._odd[pass_index] ^= {starts[bisect.bisect_right(starts, position) - 1]}
