"""Order queue of one vehicle: one order runs at a time, urgent ones overtake. Pure.

HOLD, LAND and KILL are urgent: they cancel what waits and do not wait for what runs, which may be a call that
the autopilot never answers. Every order gets exactly one result.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from chimera_ros.flight.vehicle import Order, OrderKind, OrderResult

MAX_WAITING = 8
_RANK = {
    OrderKind.HOLD: 1,
    OrderKind.LAND: 1,
    OrderKind.KILL: 2,
}  # an urgent order overtakes its own rank and lower


@dataclass(eq=False, slots=True)
class StartedOrder:
    """An order that has been started; `pending` until its result is known."""

    order: Order
    deadline: float
    pending: bool = True
    accepted: bool = False  # by the autopilot; the effect is still awaited
    in_call: bool = True  # a MAVSDK call for it has not returned yet
    repeat: bool = False  # an overtaken call returned meanwhile and may have been executed last


class OrderQueue:
    """Chooses the order to start; the caller executes it and calls `finish`."""

    def __init__(self) -> None:
        self.running: StartedOrder | None = None
        self.newest_urgent: StartedOrder | None = (
            None  # the last urgent order started, if nothing was started after it
        )
        self._waiting: deque[Order] = deque()

    def submit(self, order: Order, now: float) -> list[OrderResult]:
        """Queue an order; returns the results of those that it overtakes, or its own refusal."""
        rank = _RANK.get(order.kind, 0)
        results = []
        if rank:
            overtaken = f"overtaken by {order.kind.value}"
            kept = deque(o for o in self._waiting if _RANK.get(o.kind, 0) > rank)
            results = [self._failed(o, overtaken) for o in self._waiting if o not in kept]
            self._waiting = kept
            running = self.running
            if running is not None and _RANK.get(running.order.kind, 0) <= rank:
                running.pending = False
                self.running = None
                results.append(self._failed(running.order, overtaken))
        elif len(self._waiting) >= MAX_WAITING:
            return [self._failed(order, f"{MAX_WAITING} orders are waiting already")]
        self._waiting.append(order)
        return results

    def next(self, now: float) -> StartedOrder | None:
        """The order to start now, if any."""
        if self.running is not None or not self._waiting:
            return None
        order = self._waiting.popleft()
        self.running = StartedOrder(order, now + max(0.0, order.deadline_s))
        self.newest_urgent = self.running if order.kind in _RANK else None
        return self.running

    def finish(self, running: StartedOrder, ok: bool, reason: str = "") -> list[OrderResult]:
        """The outcome of a started order; empty when its result was given before."""
        if not running.pending:
            return []
        running.pending = False
        if self.running is running:
            self.running = None
        running.accepted = ok
        return [OrderResult(running.order.order_id, running.order.kind, ok, reason)]

    def overdue(self, now: float) -> StartedOrder | None:
        """The running order, if its deadline has passed."""
        return self.running if self.running is not None and now > self.running.deadline else None

    def to_repeat_after(self, late: StartedOrder) -> StartedOrder | None:
        """The accepted urgent order that a late, overtaken call may have undone. One whose own call has not
        returned yet is marked `repeat` instead.
        """
        newest = self.newest_urgent
        if late.pending or newest is None or newest is late:
            return None
        if newest.pending:
            newest.repeat = True
            return None
        return newest if newest.accepted else None

    def drop_all(self, reason: str) -> list[OrderResult]:
        """Fail what runs and what waits (the bridge closes)."""
        results = [self._failed(order, reason) for order in self._waiting]
        self._waiting.clear()
        if self.running is not None:
            self.running.pending = False
            results.insert(0, self._failed(self.running.order, reason))
            self.running = None
        return results

    @staticmethod
    def _failed(order: Order, reason: str) -> OrderResult:
        return OrderResult(order.order_id, order.kind, False, reason)
