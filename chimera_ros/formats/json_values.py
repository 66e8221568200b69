"""JSON (RFC 8259) within bounds: depth, digits, no key twice in an object, no NaN or infinity.

The depth is checked before parsing. What the parser's hooks refuse is located by a scan of the tokens, which
a valid file never needs.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from math import isfinite
from typing import Any, Final, NoReturn

from .numbers import MAX_CHARACTERS, number
from .text import FormatError, excerpt, plain_text

MAX_DEPTH: Final = 32
_STRING: Final = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_STRINGS: Final = re.compile(_STRING)
_TOKENS: Final = re.compile(_STRING + r'|[][{}:]|[^][{}:,"\s]+')
_CONSTANTS: Final = ("NaN", "Infinity", "-Infinity")


def parse(content: str | bytes, max_bytes: int) -> Any:
    """The value of a JSON text. Raises FormatError."""
    text = plain_text(content, max_bytes)
    if _depth(text) > MAX_DEPTH:
        raise _refusal(text)
    try:
        return json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_int=_integer, parse_float=_float
        )
    except json.JSONDecodeError as error:
        raise FormatError(f"is not JSON: {error.msg}", error.lineno) from None
    except _Refused:
        raise _refusal(text) from None


class _Refused(Exception):
    """A hook of the parser refuses a token, without its position."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused
    return found


def _constant(text: str) -> NoReturn:
    raise _Refused


def _integer(text: str) -> int:
    if len(text) > MAX_CHARACTERS:
        raise _Refused
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if len(text) > MAX_CHARACTERS or not isfinite(value):
        raise _Refused
    return value


def _depth(text: str) -> int:
    """The largest number of open brackets."""
    brackets = re.findall(r"[][{}]", _STRINGS.sub("", text))
    return max(accumulate(1 if bracket in "[{" else -1 for bracket in brackets), default=0)


def _refusal(text: str) -> FormatError:
    """The first token that is refused, with its line."""
    names: list[set[str] | None] = []  # of the objects that are open, None for an array
    last = ""
    for token in _TOKENS.finditer(text):
        word = token[0]
        try:
            if word in "[{":
                names.append(set() if word == "{" else None)
                if len(names) > MAX_DEPTH:
                    raise ValueError(f"is nested too deeply: at most {MAX_DEPTH} levels are allowed")
            elif word in "]}":
                del names[-1:]
            elif word == ":":
                name = str(json.loads(last)) if last.startswith('"') else last
                known = names[-1] if names else None
                if known is not None and name in known:
                    raise ValueError(f"{excerpt(name)}: is given twice")
                if known is not None:
                    known.add(name)
            elif word in _CONSTANTS:
                raise ValueError(f"{word} is no number that JSON knows")
            elif word[0] in "-0123456789":
                number(word)
        except ValueError as error:
            why = "is not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            return FormatError(why, text.count("\n", 0, token.start()) + 1)
        last = word
    return FormatError("is not JSON")
