"""Track file: true positions as JSON lines; a disk that refuses costs lines, never the simulation.

Nothing raises or blocks: what cannot be written is counted and reported once by `take_alarms`; every ten
seconds the file is opened again and continued. A file that was deleted begins anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

from chimera_ros import private_files

RETRY_AFTER_S: Final = 10.0


class TrackFile:
    """Lines `{"t": s, "enu": [[east, north, up], …]}`. `now` is monotonic, in seconds."""

    def __init__(self, path: Path, now: float) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._line_open = False  # the file ends within a line
        self._retry_s = now
        self._alarms: list[str] = []
        self.problem = ""
        self.lost = 0  # lines
        self._open(now, os.O_TRUNC)

    def write(self, time_s: float, position_enu_m: list[list[float]], now: float) -> None:
        """Adds the positions at a simulation time."""
        if self._descriptor is None and now >= self._retry_s:
            self._reopen(now)
        if self._descriptor is None:
            self.lost += 1
            return
        line = json.dumps({"t": round(time_s, 3), "enu": position_enu_m}, separators=(",", ":")).encode()
        data = b"\n" * self._line_open + line + b"\n"
        try:
            if os.fstat(self._descriptor).st_nlink == 0:
                raise FileNotFoundError(0, "it was deleted")
            written = os.write(self._descriptor, data)
        except OSError as error:
            self.lost += 1
            self._fail(error, now)
            return
        self._line_open = written < len(data)
        if self._line_open:
            self.lost += 1
        elif self.problem:
            self._alarms.append(f"tracks are written again; {self.lost} lines were lost")
            self.problem = ""

    def take_alarms(self) -> list[str]:
        """Sentences since the last call: when loss began, and when it ended."""
        alarms, self._alarms = self._alarms, []
        return alarms

    def close(self) -> None:
        """Closes the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                os.close(descriptor)
            except OSError as error:  # some file systems report a full disk here
                self.problem = self.problem or self._sentence(error)

    def _reopen(self, now: float) -> None:
        try:
            private_files.make_folder(self._path.parent)
        except OSError as error:
            self._fail(error, now)
        else:
            self._open(now)

    def _open(self, now: float, truncate: int = 0) -> None:
        # O_NONBLOCK: a pipe without reader must not stop the simulation.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | truncate
        try:
            self._descriptor = private_files.opener(str(self._path), flags)
        except OSError as error:
            self._fail(error, now)

    def _fail(self, error: OSError, now: float) -> None:
        if not self.problem:
            self._alarms.append(self._sentence(error))
        self.problem = self._sentence(error)
        self.close()
        self._retry_s = now + RETRY_AFTER_S

    def _sentence(self, error: OSError) -> str:
        return f"tracks are being lost: {self._path} cannot be written ({error.strerror})"
