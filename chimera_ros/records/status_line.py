"""Status lines: one JSON object per line on a pipe, from a child process to its parent.

The environment variable `CHIMERA_STATUS_FD` holds the descriptor of the pipe. A line has at most 64 KiB; what
is longer or no JSON object is skipped and counted. Writing never blocks: while the parent does not read, new
lines are dropped whole and counted. What a line says is in `process_status`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Final

STATUS_FD: Final = "CHIMERA_STATUS_FD"
MAX_LINE_BYTES: Final = 64 * 1024

StatusDict = dict[str, Any]


class LineSplitter:
    """Splits a byte stream into lines of at most `max_bytes`; longer ones are skipped whole and counted."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._skipping = False
        self.oversized = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Adds bytes; returns the lines that are now complete, without their newline."""
        lines: list[bytes] = []
        pieces = data.split(b"\n")
        for index, piece in enumerate(pieces):
            ends = index < len(pieces) - 1
            if not self._skipping:
                self._rest += piece
                if len(self._rest) > self._max_bytes:
                    self.oversized += 1
                    self._skipping = True
                    self._rest.clear()
            if ends:
                if not self._skipping and self._rest:
                    lines.append(bytes(self._rest))
                self._rest.clear()
                self._skipping = False
        return lines

    def flush(self) -> bytes:
        """Returns the unfinished last line of a stream that has ended."""
        rest = bytes(self._rest)
        self._rest.clear()
        self._skipping = False
        return rest


def parse_status(line: bytes) -> StatusDict | None:
    """Parses one status line; None if it is no JSON object with a text field `process`."""
    try:
        value = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    process = value.get("process")
    return value if isinstance(process, str) and 0 < len(process) <= 64 else None


def encode_status(status: Mapping[str, Any]) -> bytes:
    """Encodes one status line with its newline; numbers that JSON lacks (NaN, infinity) become null.

    Raises ValueError if the line would exceed 64 KiB.
    """
    line = json.dumps(finite(status), separators=(",", ":"), default=str).encode() + b"\n"
    if len(line) > MAX_LINE_BYTES + 1:
        raise ValueError(f"a status line has {len(line)} bytes, at most {MAX_LINE_BYTES} are allowed")
    return line


def finite(value: Any) -> Any:
    """Copies plain data with NaN and infinities replaced by None, so that strict JSON readers accept it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [finite(item) for item in value]
    return value


def _no_number(text: str) -> None:
    return None


class StatusWriter:
    """The child's end of the status pipe; without `CHIMERA_STATUS_FD` every line is discarded.

    `orphaned` becomes true when the parent has closed its end: the process should then land and exit.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            text = os.environ.get(STATUS_FD, "")
            fd = int(text) if text.isdigit() else None
        self._fd = fd
        self._rest = b""
        self.orphaned = False
        self.dropped = 0
        if fd is not None:
            try:
                os.set_blocking(fd, False)
                os.set_inheritable(fd, False)
            except OSError:
                self._fd = None

    @property
    def attached(self) -> bool:
        """True if there is a status pipe, that is, a parent that supervises this process."""
        return self._fd is not None

    def write(self, status: Mapping[str, Any]) -> bool:
        """Writes one line; False if it was dropped because it is too long or the parent does not read."""
        if self._fd is None:
            return False
        try:
            line = encode_status(status)
        except ValueError:
            self.dropped += 1
            return False
        if self._rest and not self._push(b""):
            self.dropped += 1
            return False
        self._push(line)
        return not self.orphaned

    def _push(self, line: bytes) -> bool:
        """Writes the rest of the line before, then `line`; True if nothing is left over."""
        assert self._fd is not None
        data = self._rest + line
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except BlockingIOError:
            pass
        except OSError:
            self.orphaned = True
            self._fd = None
            data = b""
        self._rest = data
        return not data
