"""Lines and JSON documents on standard output, sentences on standard error, messages of `logging`.

A line stays one line, whatever text it contains (`formats.display`). JSON holds the text itself, escaped by
JSON's own rules.
"""

from __future__ import annotations

import getpass
import json
import logging
import sys
from types import TracebackType
from typing import Any

from chimera_ros.formats import display


def print_line(
    text: object = "",
    *,
    error: bool = False,
    flush: bool = False,
    limit: int = display.MAX_LINE,
) -> None:
    """Print one line on standard output, or with `error` on standard error."""
    print(display.line(text, limit), file=sys.stderr if error else sys.stdout, flush=flush)


def print_json(value: Any, indent: int | None = None) -> None:
    """Print a JSON document."""
    print(display.json_escaped(json.dumps(value, indent=indent)))


def ask_secret(prompt: str) -> str:
    """Ask for a passphrase on the terminal. Raises EOFError."""
    return getpass.getpass(display.line(prompt))


def guard_logging() -> None:
    """Let messages of `logging` that no handler of the program takes pass the same gate."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(LineFormatter())


class LineFormatter(logging.Formatter):
    """A message is one line; a traceback keeps its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message of a record."""
        return display.line(super().formatMessage(record))

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The traceback of a record."""
        return "\n".join(display.line(part) for part in super().formatException(ei).split("\n"))
