"""Text from outside, made safe for the place where it is shown: a terminal or log line, JSON, a file name.

Files, arguments, the network, the environment and other processes supply it. A character that a terminal may
obey or hide (C0 and C1 controls, ESC, DEL, bidirectional controls, zero-width characters, line and paragraph
separators, private use, lone surrogates) is written as a backslash escape. Letters of all scripts, accents,
spaces of all widths and emoji stay as they are. Not handled: letters that look alike.
"""

from __future__ import annotations

import json
from typing import Final
from unicodedata import category

MAX_LINE: Final = 8192  # characters
MAX_STEM_BYTES: Final = 100  # a file name may have 255
_JOINERS: Final = "\u200c\u200d"  # part of emoji, and of words in scripts without case (UAX #31, 2.3)
_JOINED: Final = ("So", "Sk", "Lo", "Mn", "Mc")
_SELECTORS: Final = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))  # of variants
_BLANK: Final = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks that show nothing
_PICTOGRAPHS: Final = range(0x1F000, 0x1FB00)  # emoji, also those that this Python does not know yet


def line(text: object, limit: int = MAX_LINE, *, instead: str | None = None) -> str:
    """One line of at most `limit` characters; what is longer lacks its middle.

    `instead` stands for every character that would be escaped.
    """
    plain = str(text)
    if len(plain) > 2 * limit:
        plain = plain[:limit] + plain[-limit:]
    shown = plain if plain.isascii() and plain.isprintable() else escaped(plain, instead=instead)
    if len(shown) <= limit:
        return shown
    half = max(1, (limit - 3) // 2)
    return f"{shown[:half]} … {shown[-half:]}"


def escaped(text: str, *, instead: str | None = None) -> str:
    """The whole text with the escapes of `line`, which double-quoted YAML reads (YAML 1.2, 5.7)."""
    return "".join(
        char
        if _is_plain(text, index)
        else (char.encode("unicode_escape").decode() if instead is None else instead)
        for index, char in enumerate(text)
    )


def is_plain(text: str) -> bool:
    """True if `line` shows the text as it is."""
    return line(text, len(text)) == text


def json_escaped(document: str) -> str:
    """The same JSON document with escapes (RFC 8259, section 7) for what `line` escapes; its lines stay."""
    return "\n".join(
        part
        if part.isascii() and part.isprintable()
        else "".join(_json_character(part, index) for index in range(len(part)))
        for part in document.split("\n")
    )


def file_stem(text: str) -> str:
    """A name for a file or folder: letters, digits, emoji, `-`, `_` and `.`; `_` for everything else."""
    kept = "".join(c if category(c)[0] in "LNM" or category(c) == "So" or c in "-." else "_" for c in text)
    short = kept.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
    return short.lstrip("-.") or "unnamed"


def _json_character(text: str, index: int) -> str:
    return text[index] if _is_plain(text, index) else json.dumps(text[index])[1:-1]


def _is_plain(text: str, index: int) -> bool:
    char = text[index]
    if char in _JOINERS:
        return 0 < index < len(text) - 1 and _is_joined(text[index - 1]) and _is_joined(text[index + 1])
    if char in _SELECTORS:
        return index > 0 and text[index - 1] not in _SELECTORS
    shown = char.isprintable() and char not in _BLANK
    return shown or category(char) == "Zs" or ord(char) in _PICTOGRAPHS


def _is_joined(char: str) -> bool:
    return category(char) in _JOINED or ord(char) in _PICTOGRAPHS
