"""Output of a child process: a bounded log file, its last lines and its errors in memory."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from pathlib import Path
from typing import BinaryIO

from chimera_ros import private_files
from chimera_ros.formats.display import escaped

LAST_LINES = 40
MAX_LINE_CHARS = 500
MAX_LINE_BYTES = 4 * MAX_LINE_CHARS  # what is read of a line, escape sequences included
MAX_ERRORS = (
    20  # different ones of one process; the first are kept, a cause comes before what follows from it
)
STARTED_AGAIN = b"\n--- started again, the output of the process before ends here ---\n"

# ECMA-48: control sequences, control strings (titles, hyperlinks), other escapes; CSI as one byte.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]"
)
# The first severity of a line counts, in the formats of rcutils and logging ("[ERROR] [time] [name]: text")
# and of MAVSDK and Fast DDS ("[time|Error] text", "[RTPS_TRANSPORT Error] text").
_SEVERITY = re.compile(
    r"\b(?P<loud>DEBUG|INFO|WARN(?:ING)?|ERROR|FATAL|CRITICAL)\b"
    r"|[| ](?P<quiet>Debug|Info|Warn(?:ing)?|Error) *\]"
)
_ERRORS = ("ERROR", "FATAL", "CRITICAL", "Error")
_PREFIX = re.compile(r"\[[A-Z]+\] \[[0-9.]+\] \[[^\]]*\]: ?")


class ChildLog:
    """Log file that is rotated at `max_bytes` to `<path>.1`: twice that at most.

    What an earlier process has written is kept: the file is appended to. On a full or read-only disk writing
    stops and `problem` says why; the child is not affected.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.problem: str | None = None
        self._max_bytes = max_bytes
        self._size = 0
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._errors: set[str] = set()
        self._rest = bytearray()  # beginning of a line that is not complete
        self._file: BinaryIO | None = None
        try:
            private_files.make_folder(path.parent)
            self._file = _open(path)
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            self._fail(error)
        if self._size:
            self._write(STARTED_AGAIN)

    def feed(self, data: bytes) -> list[str]:
        """Add output of the child; returns the errors in it that have not occurred before."""
        errors = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._extend(piece)
            if error := self._remember():
                errors.append(error)
        self._extend(rest)
        self._write(data)
        return errors

    def last_lines(self) -> tuple[str, ...]:
        """The last lines of output, oldest first."""
        return tuple(self._lines)

    def close(self) -> list[str]:
        """Close the file; an unfinished last line counts as a line. Returns new errors, as `feed` does."""
        error = self._remember()
        if self._file is not None:
            self._file.close()
            self._file = None
        return [error] if error else []

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        try:
            if self._size + len(data) > self._max_bytes and self._size > 0:
                self._file.close()
                self._file = None
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = _open(self.path)
                self._size = 0
            self._file.write(data)
            self._size += len(data)
        except OSError as error:
            self._fail(error)

    def _extend(self, piece: bytes) -> None:
        self._rest += piece[: MAX_LINE_BYTES - len(self._rest)]

    def _remember(self) -> str | None:
        """Keep the line that is now complete; returns its text if it is an error that is new."""
        text = printable(self._rest.decode("utf-8", "replace"))
        self._rest.clear()
        if text:
            self._lines.append(text)
        error = error_in(text)
        if error is None or error in self._errors or len(self._errors) >= MAX_ERRORS:
            return None
        self._errors.add(error)
        return error

    def _fail(self, error: OSError) -> None:
        self.problem = f"the output of a process is no longer kept in {self.path}: {error.strerror or error}"
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


def printable(text: str) -> str:
    """One line of at most `MAX_LINE_CHARS` without escape sequences; other control characters become `?`."""
    line = _ESCAPE.sub("", text).rstrip()[:MAX_LINE_CHARS]
    return "\t".join(escaped(part, instead="?") for part in line.split("\t"))


def error_in(line: str) -> str | None:
    """The text of a line of severity ERROR or FATAL without severity, time and name; None for any other."""
    severity = _SEVERITY.search(line)
    if severity is None or (severity["loud"] or severity["quiet"]) not in _ERRORS:
        return None
    return _PREFIX.sub("", line, count=1) or line


def _open(path: Path) -> BinaryIO:
    return open(path, "ab", buffering=0, opener=private_files.opener)
