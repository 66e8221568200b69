"""Cascade: the end with errors asks for parities of the other's key and corrects its own.

G. Brassard, L. Salvail, "Secret-Key Reconciliation by Public Discussion", EUROCRYPT '93: four passes, blocks
of 0.73/Q doubling with each, every corrected bit looked up again in all passes. After them ten random halves
of the key are compared as well (as in BICONF, ibid.), because four passes alone leave an error in one session
of some hundreds. Parities known once are never asked again: a pass is a partition of the key into pieces of
known parity, which bisection only refines.

Every answer discloses one bit of the key, and what is asked next discloses whether the answer agreed: one
bit more. Both count (on what goes wrong otherwise: D. Tupkary, N. Lütkenhaus, "Using Cascade in Quantum Key
Distribution", arXiv:2307.00576): `disclosed_bits` is twice the number of parities.

A bit is only ever flipped where its own parity differs, so Cascade corrects errors and makes none; what it
may leave is an even number of errors in every piece, and the verification hash finds that.
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
from ..entropy.conditioning import Bits
from ..primitives import labels

PASSES: Final = 4
HALVES: Final = 10
TOTAL_PASSES: Final = PASSES + HALVES
MAX_KEY_BITS: Final = 1 << 16
_SMALLEST_BLOCK: Final = 4
MAX_QUERIES: Final = MAX_KEY_BITS // _SMALLEST_BLOCK  # in one message


class Query(NamedTuple):
    """Parity wanted of the bits at places start to end (exclusive) in the order of a pass."""

    turn: int
    start: int
    end: int


class CascadePlan:
    """What both ends derive from public data: the order of bits and the first blocks of each pass.

    seed: 32 public random bytes. n: bits of the key. error_rate: of the sample, at least 1 of 2 n is assumed.
    """

    def __init__(self, seed: bytes, n: int, error_rate: float) -> None:
        if not 2 * _SMALLEST_BLOCK <= n <= MAX_KEY_BITS:
            raise ValueError(f"a key of {n} bits; allowed are {2 * _SMALLEST_BLOCK} to {MAX_KEY_BITS}")
        self.n = n
        block = max(_SMALLEST_BLOCK, math.ceil(0.73 / max(error_rate, 0.5 / n)))
        self.orders: list[NDArray[np.intp]] = [np.arange(n)]
        self.blocks = [min(block, n // 2)]
        for turn in range(1, PASSES):
            keys = np.frombuffer(self._stream(seed, turn, 8 * n), dtype=">u8")
            self.orders.append(np.argsort(keys, kind="stable"))
            self.blocks.append(min(block << turn, n // 2))
        for turn in range(PASSES, TOTAL_PASSES):
            mask = np.unpackbits(np.frombuffer(self._stream(seed, turn, (n + 7) // 8), dtype=np.uint8))[:n]
            inside = np.flatnonzero(mask)
            inside = inside if 0 < len(inside) < n else np.arange(n // 2)
            self.orders.append(np.concatenate((inside, np.setdiff1d(np.arange(n), inside, True))))
            self.blocks.append(len(inside))

    @staticmethod
    def _stream(seed: bytes, turn: int, length: int) -> bytes:
        return hashlib.shake_256(fields(labels.QKD_SHUFFLE, seed, u32(turn))).digest(length)

    def starts(self, turn: int) -> list[int]:
        """Where the blocks of a pass begin."""
        return [0, self.blocks[turn]] if turn >= PASSES else list(range(0, self.n, self.blocks[turn]))


def prefix_parities(key: Bits, order: NDArray[np.intp]) -> list[int]:
    """n + 1 values: parity of the first i bits in this order."""
    sums = np.cumsum(key[order], dtype=np.int64) & 1
    return [0, *sums.tolist()]


class Reference:
    """The end whose key counts: answers, and counts what it tells."""

    def __init__(self, key: Bits, plan: CascadePlan, most: int) -> None:
        self._plan = plan
        self._prefixes = [prefix_parities(key, order) for order in plan.orders]
        self._most = most
        self.parities = 0

    def answer(self, queries: Sequence[Query]) -> Bits:
        """One parity for each query.

        Raises ValueError for places outside the key, or when more would be told than `most` parities.
        """
        for turn, start, end in queries:
            if turn >= TOTAL_PASSES or not 0 <= start < end <= self._plan.n:
                raise ValueError(f"there are no places {start} to {end} in pass {turn}")
        if self.parities + len(queries) > self._most:
            raise ValueError(f"more than {self._most} parities were asked for")
        self.parities += len(queries)
        return np.array(
            [self._prefixes[turn][end] ^ self._prefixes[turn][start] for turn, start, end in queries],
            dtype=np.uint8,
        )


class Corrector:
    """The end with errors: `queries()`, then `answer(parities)`, until `queries()` is empty; then `key`."""

    def __init__(self, key: Bits, plan: CascadePlan) -> None:
        self._plan = plan
        self._key = key.copy()
        self._places = []  # by pass: where in its order a bit stands
        for order in plan.orders:
            places = np.empty(plan.n, dtype=np.intp)
            places[order] = np.arange(plan.n)
            self._places.append(places)
        self._prefixes: list[list[int]] = []
        self._starts: list[list[int]] = []  # by pass: where the pieces of known parity begin
        self._odd: list[set[int]] = []  # by pass: pieces whose parities differ
        self._flipped: list[list[int]] = []  # by pass: places of corrected bits, sorted
        self._asked: list[Query] = []
        self._opening = False  # is what was asked the first blocks of a pass?
        self._total: int | None = None  # parity of the other's whole key
        self._corrected: set[int] = set()
        self.parities = 0

    @property
    def key(self) -> Bits:
        """The corrected key."""
        return self._key

    @property
    def corrected(self) -> int:
        """How many bits were wrong."""
        return len(self._corrected)

    @property
    def disclosed_bits(self) -> int:
        """What an eavesdropper may have learned: the answers, and from the questions which of them agreed."""
        return 2 * self.parities

    def queries(self) -> list[Query]:
        """What to ask now, `MAX_QUERIES` at most; empty when all is done."""
        if not self._asked:
            self._asked = self._bisections()
            self._opening = not self._asked
            if self._opening:
                self._asked = self._next_passes()
        return self._asked

    def answer(self, parities: Bits) -> None:
        """The parities of what `queries()` returned.

        Raises ValueError when their number is another, or when they contradict what was told before.
        """
        asked, self._asked = self._asked, []
        if len(parities) != len(asked) or not asked:
            raise ValueError(f"{len(parities)} parities for {len(asked)} questions")
        self.parities += len(asked)
        if self._opening:
            self._open(asked, parities)
        else:
            for query, parity in zip(asked, parities.tolist(), strict=True):
                self._split(query, parity)
        self._flip_single_bits()

    # Passes

    def _next_passes(self) -> list[Query]:
        first = len(self._starts)
        if first == TOTAL_PASSES:
            return []
        turns = range(first, first + 1) if first < PASSES else range(PASSES, TOTAL_PASSES)
        queries: list[Query] = []
        for turn in turns:
            self._prefixes.append(prefix_parities(self._key, self._plan.orders[turn]))
            starts = self._plan.starts(turn)
            self._starts.append(starts)
            self._odd.append(set())
            self._flipped.append([])
            ends = [*starts[1:], self._plan.n]
            blocks = [Query(turn, start, end) for start, end in zip(starts, ends, strict=True)]
            queries += blocks if turn == 0 else blocks[:-1]  # the last follows from the key's parity
        return queries

    def _open(self, asked: list[Query], parities: Bits) -> None:
        """The first blocks of one or more passes."""
        sums: dict[int, int] = {}
        for query, parity in zip(asked, parities.tolist(), strict=True):
            sums[query.turn] = sums.get(query.turn, 0) ^ parity
            if parity != self._parity(*query):
                self._odd[query.turn].add(query.start)
        if self._total is None:
            self._total = sums[0]
            return
        for turn, total in sums.items():
            last = self._starts[turn][-1]
            if total ^ self._total != self._parity(turn, last, self._plan.n):
                self._odd[turn].add(last)

    # Pieces

    def _parity(self, turn: int, start: int, end: int) -> int:
        """Of our key as corrected so far."""
        flipped = self._flipped[turn]
        inside = bisect.bisect_left(flipped, end) - bisect.bisect_left(flipped, start)
        return self._prefixes[turn][end] ^ self._prefixes[turn][start] ^ inside & 1

    def _end(self, turn: int, start: int) -> int:
        starts = self._starts[turn]
        after = bisect.bisect_right(starts, start)
        return starts[after] if after < len(starts) else self._plan.n

    def _bisections(self) -> list[Query]:
        """First halves of the odd pieces of one pass, the one with the smallest pieces: they cost least.

        Not of several passes at once: they would search for the same errors.
        """
        best: list[Query] = []
        least = math.inf
        for turn, odd in enumerate(self._odd):
            if not odd:
                continue
            pieces = [(start, self._end(turn, start)) for start in sorted(odd)]
            cost = sum(math.log2(end - start) for start, end in pieces) / len(pieces)
            if cost < least:
                least = cost
                best = [Query(turn, start, (start + end) // 2) for start, end in pieces]
        return best

    def _split(self, query: Query, parity: int) -> None:
        turn, start, middle = query
        bisect.insort(self._starts[turn], middle)
        if parity == self._parity(turn, start, middle):
            self._odd[turn].remove(start)
            self._odd[turn].add(middle)

    def _flip_single_bits(self) -> None:
        found = True
        while found:
            found = False
            for turn, odd in enumerate(self._odd):
                for start in [start for start in odd if self._end(turn, start) == start + 1]:
                    if start in odd:
                        self._flip(int(self._plan.orders[turn][start]))
                        found = True

    def _flip(self, bit: int) -> None:
        if (
            bit in self._corrected
        ):  # true parities never say so; without this, false ones could go on for ever
            raise ValueError("parities contradict each other")
        self._corrected.add(bit)
        self._key[bit] ^= 1
        for turn, starts in enumerate(self._starts):
            place = int(self._places[turn][bit])
            bisect.insort(self._flipped[turn], place)
            self._odd[turn] ^= {starts[bisect.bisect_right(starts, place) - 1]}
