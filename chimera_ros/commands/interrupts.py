"""Requests to end a flight or a benchmark, while it lasts: the signals of `stop_requests`."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from chimera_ros.stop_requests import INSISTING, StopRequests


class Interrupts:
    """Handles signals inside a `with` block, and restores their dispositions; who reads `count` acts on them.

    What the caller ignores stays ignored (nohup; jobs that a script has put in the background).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = StopRequests(clock)
        self._count = 0
        self._wake: Callable[[], None] | None = None
        self._old: dict[int, Any] = {}

    @property
    def count(self) -> int:
        """Number of requests so far; from the second on they insist."""
        self._count = self._requests.take() or self._count
        return self._count

    def wake(self, wake: Callable[[], None]) -> None:
        """Call `wake` at every signal, in its handler."""
        self._wake = wake

    def __enter__(self) -> Self:
        for number in (*INSISTING, signal.SIGHUP):
            old = signal.getsignal(number)
            # A library may have changed the disposition behind Python's back: set it in any case.
            signal.signal(number, signal.SIG_IGN if old is signal.SIG_IGN else self._handle)
            self._old[number] = old
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._requests.request(insists=number != signal.SIGHUP)
        if self._wake is not None:
            self._wake()
