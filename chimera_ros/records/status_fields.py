"""Bounded, validating access to the fields of a JSON object that another process has written.

A field that is missing, null or of the wrong type gives the default; one of the wrong type is also counted,
by key, in `ignored`. Texts are one line of at most 200 characters (`formats.display`). Lists and mappings are
cut as well. Nothing raises.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from chimera_ros.formats import display
from chimera_ros.records.histogram import Histogram

MAX_TEXT: Final = 200
MAX_PATH: Final = 4096
MAX_ITEMS: Final = 1000
MAX_NAMES: Final = 64  # keys of a mapping of counts

Vec3 = tuple[float, float, float]
T = TypeVar("T")
D = TypeVar("D")


class StatusFields:
    """Fields of one object; those of its inner objects share its `ignored`."""

    def __init__(self, source: Mapping[str, Any], ignored: Counter[str] | None = None) -> None:
        self._source = source
        self.ignored: Counter[str] = Counter() if ignored is None else ignored

    def text(self, key: str, default: D) -> str | D:
        """One line of at most 200 characters."""
        return self._get(key, _text, default)

    def path(self, key: str, default: D) -> str | D:
        """A path of at most 4096 characters, unaltered."""
        return self._get(key, _path, default)

    def number(self, key: str, default: D) -> float | D:
        """A finite number."""
        return self._get(key, _number, default)

    def count(self, key: str, default: D) -> int | D:
        """A whole number from 0 to 2**63 - 1."""
        return self._get(key, _count, default)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return self._get(key, _flag, default)

    def point(self, key: str) -> Vec3 | None:
        """Three finite numbers."""
        return self._get(key, _point, None)

    def histogram(self, key: str) -> Histogram:
        """A histogram in the form of `Histogram.to_status`; an empty one by default."""
        found = self._get(key, _histogram, None)
        return Histogram() if found is None else found

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return self._list(key, _text)

    def durations(self, key: str) -> tuple[float, ...]:
        """A list of finite numbers that are not negative."""
        return self._list(key, _duration)

    def counts(self, key: str) -> dict[str, int]:
        """Counts by name; those that are 0 are left out."""
        found = {}
        for name, value in list(self._get(key, _mapping, {}).items())[:MAX_NAMES]:
            text, count = _text(name), _count(value)
            if text is None or count is None:
                self.ignored[key] += 1
            elif count:
                found[text[:64]] = count
        return found

    def inner(self, key: str) -> StatusFields | None:
        """An object."""
        found = self._get(key, _mapping, None)
        return None if found is None else StatusFields(found, self.ignored)

    def objects(self, key: str) -> tuple[StatusFields, ...]:
        """A list of objects."""
        return tuple(StatusFields(item, self.ignored) for item in self._list(key, _mapping))

    def _get(self, key: str, parse: Callable[[object], T | None], default: D) -> T | D:
        value = self._source.get(key)
        if value is None:
            return default
        parsed = parse(value)
        if parsed is None:
            self.ignored[key] += 1
            return default
        return parsed

    def _list(self, key: str, parse: Callable[[object], T | None]) -> tuple[T, ...]:
        found = []
        for item in self._get(key, _items, [])[:MAX_ITEMS]:
            parsed = parse(item)
            if parsed is None:
                self.ignored[key] += 1
            else:
                found.append(parsed)
        return tuple(found)


def _text(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return display.line(value, MAX_TEXT, instead=" ")


def _path(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= MAX_PATH else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    number = float(value) if abs(value) < 1e300 else math.inf
    return number if math.isfinite(number) else None


def _duration(value: object) -> float | None:
    number = _number(value)
    return None if number is None or number < 0 else number


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        return None
    return value


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _point(value: object) -> Vec3 | None:
    numbers = [_number(item) for item in value] if isinstance(value, (list, tuple)) else []
    if len(numbers) != 3 or any(number is None for number in numbers):
        return None
    return numbers[0], numbers[1], numbers[2]  # type: ignore[return-value]  # None was ruled out above


def _items(value: object) -> list[Any] | None:
    return list(value) if isinstance(value, (list, tuple)) else None


def _mapping(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _histogram(value: object) -> Histogram | None:
    try:
        return Histogram.from_status(value) if isinstance(value, Mapping) else None
    except ValueError:
        return None
