"""Requests to end a flight: SIGINT, SIGTERM, SIGQUIT and SIGHUP, counted."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

REPEAT_S = 1.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)


class Interrupts:
    """Counts interrupts inside a `with` block; whoever reads `count` acts on them.

    Repeats within a second are one: a terminal and a parent process both send one, `timeout` sends two.
    SIGHUP counts as the first only: to close the terminal during a landing is no order to end it. A signal
    that the caller ignores stays ignored (nohup; jobs that a script has put in the background).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = 0
        self._clock = clock
        self._counted_s = 0.0
        self._wake: Callable[[], None] | None = None
        self._old: dict[int, Any] = {}

    def wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` at every interrupt, in the signal handler."""
        self._wake = wake

    def interrupt(self, number: int) -> None:
        """Take one signal."""
        now = self._clock()
        if self.count and (number == signal.SIGHUP or now - self._counted_s < REPEAT_S):
            return
        self.count += 1
        self._counted_s = now
        if self._wake is not None:
            self._wake()

    def __enter__(self) -> Self:
        for number in SIGNALS:
            old = signal.getsignal(number)
            # A library may have changed the disposition behind Python's back: set it in any case.
            signal.signal(number, signal.SIG_IGN if old is signal.SIG_IGN else self._handle)
            self._old[number] = old
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.interrupt(number)
