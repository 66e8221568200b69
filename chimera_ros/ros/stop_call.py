"""Retransmission of an operator's stop until every named drone has acknowledged it, or a time-out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from chimera_ros.crypto.messages.stop import counter_of
from chimera_ros.crypto.wire import ControlMessage

REPEAT_S: Final = 0.25


class StopCall:
    """One stop order. Times in seconds of the boot-time clock."""

    def __init__(
        self,
        message: ControlMessage,
        targets: frozenset[str],
        on_done: Callable[[frozenset[str]], None],
        now: float,
        timeout_s: float,
    ) -> None:
        self.on_done = on_done
        self._message = message
        self._counter = counter_of(message)
        self._targets = targets
        self._acknowledged: set[str] = set()
        self._next = now
        self._deadline = now + timeout_s

    @property
    def acknowledged(self) -> frozenset[str]:
        """Drones that have acknowledged."""
        return frozenset(self._acknowledged)

    def acknowledged_by(self, drone: str, counter: int) -> None:
        """Note a verified acknowledgement; that of another stop is ignored."""
        if counter != self._counter:
            return
        self._acknowledged.add(drone)
        if self._all_acknowledged():
            self._next = float("-inf")  # `finished` at the next tick

    def _all_acknowledged(self) -> bool:
        return bool(self._targets) and self._targets <= self._acknowledged

    def next_timer(self) -> float:
        """When `due` or `finished` is to be called."""
        return min(self._next, self._deadline)

    def due(self, now: float) -> ControlMessage | None:
        """The message if it is to be sent (again) now."""
        if now < self._next or self._all_acknowledged() or now >= self._deadline:
            return None
        self._next = now + REPEAT_S
        return self._message

    def finished(self, now: float) -> bool:
        """True if every named drone has acknowledged or the time-out has passed."""
        return self._all_acknowledged() or now >= self._deadline
