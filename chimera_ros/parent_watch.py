"""Watch on the process that started this one: an orphan must land what it flies.

`ros2 launch` that is killed, or ended by SIGTERM, leaves its processes behind without a signal. The launch
file names its own process in `CHIMERA_LAUNCH_PID`, and each process that it starts watches that one through a
pidfd, which also works below a `--launch-prefix`. Without the variable nothing is watched: whoever starts a
node with `nohup`, or from a script that ends, wants it to go on.
"""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from typing import Final

LAUNCH_PID: Final = "CHIMERA_LAUNCH_PID"
LANDING_S: Final = 75.0  # time for the supervised landing of a swarm before what is left of it ends


class ParentWatch:
    """State of the process named in `CHIMERA_LAUNCH_PID`. One that has ended stays ended."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        text = (os.environ if environ is None else environ).get(LAUNCH_PID, "")
        self._pid = int(text) if text.isascii() and text.isdecimal() else 0
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
        """True if there is a process to watch, whether it still runs or not."""
        return self._pid > 0

    @property
    def ended(self) -> bool:
        """True once the watched process has ended."""
        if not self._ended and self.launched:
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
