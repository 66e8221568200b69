"""Watch on the process that started this one: an orphan must land what it flies.

`ros2 launch` and `ros2 run` that are killed, or ended by SIGTERM, leave their processes behind without a
signal. The launch file names its own process in `CHIMERA_LAUNCH_PID`; `ros2 run` is recognised by its command
line. That process is watched through a pidfd, which also works below a `--launch-prefix`. No other parent is
watched: whoever starts a node with `nohup`, or from a script that ends, wants it to go on.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

LAUNCH_PID: Final = "CHIMERA_LAUNCH_PID"
LANDING_S: Final = 75.0  # time for the supervised landing of a swarm before what is left of it ends


class ParentWatch:
    """State of the process that started this one. One that has ended stays ended."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        text = (os.environ if environ is None else environ).get(LAUNCH_PID, "")
        self._launch = int(text) if text.isascii() and text.isdecimal() else 0
        self._pid = self._launch or _ros2_run()
        self._fd: int | None = None
        self._ended = False
        if self._pid <= 0:
            return
        try:
            self._fd = os.pidfd_open(self._pid)
        except (OverflowError, ProcessLookupError):
            self._ended = True
        except (AttributeError, OSError):  # no pidfd in this kernel or sandbox
            self._fd = None

    @property
    def launched(self) -> bool:
        """True if `ros2 launch` started this process, whether it still runs or not."""
        return self._launch > 0

    @property
    def ended(self) -> bool:
        """True once the watched process has ended."""
        if not self._ended and self._pid > 0:
            self._ended = self._has_ended()
            if self._ended:
                self.close()
        return self._ended

    def close(self) -> None:
        """Stop watching."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _has_ended(self) -> bool:
        if self._fd is None:
            return os.getppid() != self._pid
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))


def _ros2_run() -> int:
    """Process id of the parent if it is `ros2 run`, else 0."""
    parent = os.getppid()
    try:
        words = Path(f"/proc/{parent}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return 0
    return parent if (b"ros2", b"run") in pairwise(map(os.path.basename, words)) else 0
