"""Decimal numbers in text, as the YAML 1.2 core schema writes them (YAML 1.2.2, 10.3.2).

A sign, a missing digit beside the point and an exponent are allowed: `2`, `+.5`, `5.`, `2e0`. Not accepted:
other bases, underscores, sexagesimal numbers, infinity and NaN, which no quantity here can be.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Final

from .text import excerpt

MAX_CHARACTERS: Final = 1000
_BOUND: Final = f" of at most {MAX_CHARACTERS} characters"
_INTEGER: Final = re.compile(r"[-+]?[0-9]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def number(text: str) -> float:
    """A finite number. Raises ValueError."""
    value = float(text) if len(text) <= MAX_CHARACTERS and _FLOAT.fullmatch(text) else None
    if value is None or not isfinite(value):
        raise ValueError(f"'{excerpt(text)}' is not a finite decimal number{_BOUND}")
    return value


def integer(text: str) -> int:
    """A whole number without point or exponent. Raises ValueError."""
    if len(text) > MAX_CHARACTERS or not _INTEGER.fullmatch(text):
        raise ValueError(f"'{excerpt(text)}' is not a decimal integer{_BOUND}")
    return int(text)
