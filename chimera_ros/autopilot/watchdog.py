"""Watchdogs: one for setpoints that are no longer renewed, one for a control loop that no longer runs."""

from __future__ import annotations

import faulthandler
import sys
from dataclasses import dataclass, field
from typing import TextIO

from chimera_ros.flight.vehicle import Setpoint

STALE_AFTER_S = 0.5


@dataclass(slots=True)
class SetpointWatchdog:
    """Watchdog of one vehicle's setpoints: replaces a stale one by a hold at its position. Times in seconds.

    MAVSDK repeats the last setpoint without end. A repeated position is a hover, a repeated velocity a
    fly-away; so after `stale_after_s` without a new setpoint, the last commanded position with zero velocity
    has to be sent.
    """

    stale_after_s: float = STALE_AFTER_S
    degraded: int = 0  # number of lapses so far
    stale: bool = False
    _last: Setpoint | None = field(default=None, repr=False)
    _last_s: float = field(default=float("-inf"), repr=False)

    def fresh(self, setpoint: Setpoint, now: float) -> None:
        """Note a setpoint that was sent to the autopilot at `now`."""
        self._last, self._last_s, self.stale = setpoint, now, False

    def forget(self) -> None:
        """Stop watching: offboard control has ended, and no setpoint is repeated any more."""
        self._last, self._last_s, self.stale = None, float("-inf"), False

    def age_s(self, now: float) -> float:
        """Seconds since the last fresh setpoint; infinite if there was none."""
        return now - self._last_s

    def check(self, now: float) -> Setpoint | None:
        """Hold setpoint to send now; None while setpoints are fresh, and after the first one of a lapse."""
        if self._last is None or self.stale or now - self._last_s <= self.stale_after_s:
            return None
        self.stale = True
        self.degraded += 1
        return Setpoint(position_enu_m=self._last.position_enu_m, yaw_enu_rad=self._last.yaw_enu_rad)


class InterpreterWatchdog:
    """Watchdog of the process: exits with a traceback of all threads if `pet()` is not called for `limit_s`.

    It is a C thread (faulthandler) that does not need the GIL, so it also fires while a library holds it. The
    autopilots then receive no more setpoints, and their own offboard-loss failsafe acts. There is one per
    process, off until `enable()`: start-up and shut-down may take longer than a control cycle.
    """

    def __init__(self, limit_s: float = 0.5, stream: TextIO | None = None) -> None:
        if limit_s <= 0.0:
            raise ValueError(f"the interpreter watchdog's limit is {limit_s} s, but must be positive")
        self._limit_s = limit_s
        self._stream = stream
        self._enabled = False

    @property
    def enabled(self) -> bool:
        """True if the process ends unless `pet()` is called in time."""
        return self._enabled

    def enable(self) -> None:
        """Start the timer; `pet()` must be called within every `limit_s`."""
        self._enabled = True
        self.pet()

    def pet(self) -> None:
        """Restart the timer; called once per control cycle. Does nothing while disabled."""
        if self._enabled:
            faulthandler.dump_traceback_later(self._limit_s, exit=True, file=self._stream or sys.stderr)

    def disable(self) -> None:
        """Stop the timer."""
        if self._enabled:
            self._enabled = False
            faulthandler.cancel_dump_traceback_later()
