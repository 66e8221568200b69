"""Text of limited size in UTF-8, optional byte order mark, lines in LF or CRLF, no control characters.

Characters that some readers take for line ends (U+0085, U+2028, U+2029) are refused, so that a line number
means the same everywhere. Other encodings are rejected.
"""

from __future__ import annotations

import codecs
import os
import re
import stat
from typing import Final

from . import display

_REFUSED: Final = re.compile(
    r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|\r(?!\n)"
)
_EXCERPT: Final = 40  # characters


class FormatError(ValueError):
    """Content that is not accepted. `line` counts from 1; None if the error is not in a single line."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text if line is None else f"line {line}: {text}")
        self.text, self.line = text, line


def read_bytes(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The content of a file or pipe. Raises FormatError for a device or a larger file, else OSError."""
    mode = os.stat(path).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise FormatError("is a device, not a file")
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    _check_size(len(data), max_bytes)
    return data


def plain_text(content: str | bytes, max_bytes: int) -> str:
    """The content as text without byte order mark, its lines ending in LF. Raises FormatError."""
    if isinstance(content, str):
        text, size = content, len(content.encode("utf-8", "surrogatepass"))
        _check_size(size, max_bytes)
    else:
        _check_size(len(content), max_bytes)
        text = _decoded(content)
    text = text.removeprefix("\ufeff")
    found = _REFUSED.search(text)
    if found:
        raise FormatError(
            f"has the character U+{ord(found[0]):04X}; allowed are printable characters, tabs and lines "
            "ending in LF or CRLF",
            text.count("\n", 0, found.start()) + 1,
        )
    return text.replace("\r\n", "\n")


def excerpt(text: str) -> str:
    """The beginning of a text for an error message, with escapes where it is not printable."""
    return display.line(text[:_EXCERPT])


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise FormatError(f"is larger than allowed: at most {max_bytes} bytes")


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise FormatError("is not text in UTF-8 but in UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"is not text in UTF-8 (byte 0x{data[error.start]:02x}); save it as UTF-8", line
        ) from None
