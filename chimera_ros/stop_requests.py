"""Requests to stop a process: signals of terminals and service managers, or the end of the parent.

SIGINT, SIGTERM and SIGQUIT request a stop, and a second one insists on it. Requests within `REPEAT_S` of one
that is handled are the same one: a terminal and `ros2 launch` both send SIGINT. SIGHUP (the terminal was
closed) and an ended parent request a stop too and never insist. What the caller ignores stays ignored.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

REPEAT_S: Final = 1.0
INSISTING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)


class StopRequests:
    """Counts requests to stop. Safe in a signal handler, which Python runs in the main thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0
        self._taken_s = float("-inf")
        self._waiting = False

    def install(self) -> None:
        """Handle the signals; call from the main thread."""
        for number in INSISTING:
            handle_unless_ignored(number, self._on_insisting)
        handle_unless_ignored(signal.SIGHUP, self._on_hangup)

    def request(self, *, insists: bool) -> None:
        """Note a request; the first one counts in any case, a later one only if it insists."""
        if self._count == 0 or (insists and self._clock() - self._taken_s >= REPEAT_S):
            self._waiting = True

    def take(self) -> int:
        """Number of the newest request, once per request, from 1; 0 if there is no new one."""
        if not self._waiting:
            return 0
        # In this order, so that a signal in between belongs to the request that is being taken.
        self._count += 1
        self._taken_s = self._clock()
        self._waiting = False
        return self._count

    def _on_insisting(self, _number: int, _frame: FrameType | None) -> None:
        self.request(insists=True)

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self.request(insists=False)


def handle_unless_ignored(number: int, handler: Callable[[int, FrameType | None], None]) -> None:
    """Install a signal handler, unless the caller of this process has chosen to ignore the signal."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, handler)
