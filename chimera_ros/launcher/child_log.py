"""Output of a child process: a bounded log file, and its last lines in memory."""

from __future__ import annotations

import contextlib
from collections import deque
from io import FileIO
from pathlib import Path

from chimera_ros import private_files
from chimera_ros.records.status_line import LineSplitter

LAST_LINES = 40
MAX_LINE_CHARS = 500


class ChildLog:
    """Log file that is rotated at `max_bytes` to `<path>.1`: twice that at most.

    On a full or read-only disk writing stops and `problem` says why; the child is not affected.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self.problem: str | None = None
        self._max_bytes = max_bytes
        self._size = 0
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._splitter = LineSplitter(4096)
        self._file = None
        try:
            private_files.make_folder(path.parent)
            self._file = self._open()
        except OSError as error:
            self._fail(error)

    def feed(self, data: bytes) -> None:
        """Adds output of the child."""
        for line in self._splitter.feed(data):
            self._remember(line)
        if self._file is None:
            return
        try:
            if self._size + len(data) > self._max_bytes and self._size > 0:
                self._file.close()
                self._file = None
                self.path.replace(self.path.with_name(self.path.name + ".1"))
                self._file = self._open()
                self._size = 0
            self._file.write(data)
            self._size += len(data)
        except OSError as error:
            self._fail(error)

    def last_lines(self) -> tuple[str, ...]:
        """The last lines of output, oldest first."""
        return tuple(self._lines)

    def close(self) -> None:
        """Closes the file; an unfinished last line counts as a line."""
        self._remember(self._splitter.flush())
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> FileIO:
        return open(self.path, "wb", buffering=0, opener=private_files.opener)

    def _remember(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()[:MAX_LINE_CHARS]
        if text:
            self._lines.append("".join(char if char.isprintable() or char == "\t" else "?" for char in text))

    def _fail(self, error: OSError) -> None:
        self.problem = f"the output of a process is no longer kept in {self.path}: {error.strerror or error}"
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
