"""Bounded histogram with logarithmic buckets: percentiles of a long flight in constant memory.

Buckets grow by 5 %, so a percentile is exact to 5 %. Histograms of several processes merge by adding counts.
"""

from __future__ import annotations

import math

_RATIO = math.log(1.05)
_BUCKETS = 400  # smallest * 1.05**400 is about 3e8 times the smallest


class Histogram:
    """Counts of non-negative values; anything at or below `smallest` falls into the first bucket."""

    def __init__(self, smallest: float = 1e-3) -> None:
        self._smallest = smallest
        self._counts: dict[int, int] = {}
        self.count = 0
        self.maximum = 0.0

    def add(self, value: float) -> None:
        """Count one value; NaN and negative values are ignored."""
        if not value >= 0.0:
            return
        index = 0
        if value > self._smallest:
            index = min(_BUCKETS, math.ceil(math.log(value / self._smallest) / _RATIO))
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self.maximum = max(self.maximum, value)

    def buckets(self) -> list[list[float]]:
        """[[upper bound, count], …] in rising order, empty buckets left out."""
        return [[self._smallest * math.exp(_RATIO * i), float(n)] for i, n in sorted(self._counts.items())]

    def percentile(self, percent: float) -> float | None:
        """Upper bound of the bucket that holds this percentile (0..100); None when nothing was counted."""
        return percentile_of(self.buckets(), percent)


def percentile_of(buckets: list[list[float]], percent: float) -> float | None:
    """Percentile of [[upper bound, count], …]; rows of several histograms may be concatenated."""
    total = sum(count for _, count in buckets)
    if total <= 0:
        return None
    wanted = total * percent / 100.0
    seen = 0.0
    for bound, count in sorted(buckets):
        seen += count
        if seen >= wanted:
            return bound
    return max(bound for bound, _ in buckets)
