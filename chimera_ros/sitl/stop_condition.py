"""End of the simulation: at a signal, or with its parent; not while an orphaned swarm still lands.

Under `ros2 launch`, and once the parent has ended, a first request waits until all vehicles have been
disarmed for `DOWN_S`, for `STAY_S` at most; a second one ends at once. Elsewhere the first one does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from chimera_ros.parent_watch import LANDING_S, ParentWatch
from chimera_ros.stop_requests import StopRequests

LOOK_S = 0.25
DOWN_S = 3.0  # the swarm has to see its vehicles disarmed
STAY_S = LANDING_S + 15.0  # the leader ends after `LANDING_S`, then the followers


class StopCondition:
    """Decides whether the simulation ends now; called once per tick.

    requests: signals. follow_parent: end with the present parent process even if it is not launch.
    """

    def __init__(
        self,
        requests: StopRequests,
        *,
        follow_parent: bool,
        launch: ParentWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._clock = clock
        self._launch = launch if launch is not None else ParentWatch()
        self._parent = os.getppid() if follow_parent else None
        self._looked_s = float("-inf")
        self._orphaned = False
        self._count = 0
        self._requested_s = 0.0
        self._armed_s = float("-inf")

    def __call__(self, any_armed: Callable[[], bool]) -> bool:
        """True if the simulation ends now; `any_armed` is called only after a request to stop."""
        now = self._clock()
        self._watch_parent(now)
        count = self._requests.take()
        if count:
            self._requested_s = self._requested_s if self._count else now
            self._count = count
        if self._count != 1:
            return self._count > 1
        if not (self._orphaned or self._launch.launched):
            return True
        if any_armed():
            self._armed_s = now
        return now - self._armed_s >= DOWN_S or now - self._requested_s >= STAY_S

    def _watch_parent(self, now: float) -> None:
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        other = self._parent is not None and os.getppid() != self._parent
        if self._launch.ended or other:
            self._orphaned = True
            self._requests.request(insists=False)
