"""Histogram of measured values in fixed logarithmic buckets: small, mergeable, no samples kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

PER_OCTAVE: Final = 16  # neighbouring bounds differ by 4.4 %
_LOWEST: Final = -20 * PER_OCTAVE  # about 1e-6
_HIGHEST: Final = 30 * PER_OCTAVE  # about 1e9
MAX_BUCKETS: Final = _HIGHEST - _LOWEST + 1


class Histogram:
    """A histogram of non-negative values, in any unit; zero counts in the lowest bucket.

    Its JSON form is `{"count": n, "max": x, "histogram": [[bucket_upper, count], …]}` without empty buckets.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.max = 0.0

    def add(self, value: float, count: int = 1) -> None:
        """Counts a value; NaN is ignored, infinity and very large values fall into the highest bucket."""
        if math.isnan(value) or count <= 0:
            return
        if value <= 0.0:
            index = _LOWEST
        else:
            index = _HIGHEST if math.isinf(value) else math.ceil(PER_OCTAVE * math.log2(value) - 1e-9)
        self._add(index, count, value)

    def _add(self, index: int, count: int, value: float) -> None:
        index = min(max(index, _LOWEST), _HIGHEST)
        self._counts[index] = self._counts.get(index, 0) + count
        self.count += count
        self.max = max(self.max, value)

    def merge(self, other: Histogram) -> None:
        """Adds another histogram's counts to this one."""
        for index, count in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + count
        self.count += other.count
        self.max = max(self.max, other.max)

    def percentile(self, percent: float) -> float | None:
        """The value below which `percent` % of the counted values lie, within 5 %; None if none was."""
        if self.count == 0:
            return None
        wanted = percent / 100.0 * self.count
        below = 0
        for index in sorted(self._counts):
            inside = self._counts[index]
            if below + inside >= wanted:
                upper = math.exp2(index / PER_OCTAVE)
                lower = math.exp2((index - 1) / PER_OCTAVE)
                share = min(1.0, max(0.0, (wanted - below) / inside))
                return min(lower + (upper - lower) * share, self.max)
            below += inside
        return self.max

    def to_status(self) -> dict[str, Any]:
        """The JSON form."""
        rows = [
            [_short(math.exp2(index / PER_OCTAVE)), self._counts[index]] for index in sorted(self._counts)
        ]
        return {"count": self.count, "max": _short(self.max), "histogram": rows}

    @classmethod
    def from_status(cls, status: Mapping[str, Any]) -> Histogram:
        """Reads the JSON form. Raises ValueError if it is malformed."""
        rows = status.get("histogram")
        if not isinstance(rows, list) or len(rows) > MAX_BUCKETS:
            raise ValueError("no histogram")
        found = cls()
        for row in rows:
            if not isinstance(row, list) or len(row) != 2:
                raise ValueError("a bucket is not a pair")
            upper, count = row
            if not _is_number(upper) or not isinstance(count, int) or not 0 <= count < 2**53:
                raise ValueError("a bucket is not a bound and a count")
            if count and upper > 0:  # the bound was rounded on its way: nearest, not next above
                found._add(round(PER_OCTAVE * math.log2(upper)), count, float(upper))
        largest = status.get("max")
        if _is_number(largest) and found.count:
            found.max = float(largest)
        return found


def percentile(values: Iterable[float], percent: float) -> float | None:
    """The percentile by linear interpolation; None if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = percent / 100.0 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _is_number(value: object) -> TypeGuard[float]:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}") if math.isfinite(value) else 2.0**30
