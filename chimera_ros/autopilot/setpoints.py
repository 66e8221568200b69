"""From a setpoint in `map` to one in the vehicle's own frame, handed to MAVSDK or refused and counted."""

from __future__ import annotations

import math
import threading
from collections import Counter
from enum import Enum
from typing import Any

from mavsdk.plugins.offboard import AccelerationNed, PositionNedYaw, VelocityNedYaw

from chimera_ros.autopilot.frames import LocalFrame, yaw_ned_from_enu
from chimera_ros.autopilot.personality import CallFailed, attempt
from chimera_ros.autopilot.watchdog import SetpointWatchdog
from chimera_ros.flight.vehicle import Setpoint


class SetpointRefusal(Enum):
    """Why a setpoint was not handed to the autopilot."""

    NOT_CONNECTED = "not_connected"
    ORIGIN_UNKNOWN = "origin_unknown"
    NOT_FINITE = "not_finite"
    REFUSED_BY_MAVSDK = "refused_by_mavsdk"


class SetpointGate:
    """One vehicle's setpoints. MAVSDK sends each at once and repeats the last by itself at 20 Hz.

    Called from the threads of node and supervisor; the lock keeps a hold from overtaking fresh setpoints.
    """

    def __init__(self) -> None:
        self.given = 0
        self.refused: Counter[SetpointRefusal] = Counter()
        self._offboard: Any = None
        self._watchdog = SetpointWatchdog()
        self._lock = threading.Lock()

    @property
    def degraded(self) -> int:
        """How many times a stale setpoint was replaced by a hold."""
        return self._watchdog.degraded

    def connect(self, offboard: Any) -> None:
        """Use this MAVSDK Offboard plugin from now on; None for no more."""
        with self._lock:
            self._offboard = offboard

    def give(self, setpoint: Setpoint, frame: LocalFrame | None, now: float) -> None:
        """Hand a setpoint over, or count why not."""
        with self._lock:
            if self._hand_over(setpoint, frame):
                self.given += 1
                self._watchdog.fresh(setpoint, now)

    def degrade(self, frame: LocalFrame | None, now: float) -> bool:
        """Replace a setpoint that has become stale by a position hold; whether that was done just now."""
        with self._lock:
            hold = self._watchdog.check(now)
            return hold is not None and self._hand_over(hold, frame, at_rest=True)

    def fresh(self, now: float) -> bool:
        """Whether a setpoint was given that is not stale yet."""
        return self._watchdog.age_s(now) <= self._watchdog.stale_after_s

    def forget(self) -> None:
        """Offboard control has ended: nothing is there to be degraded."""
        with self._lock:
            self._watchdog.forget()

    def _hand_over(self, setpoint: Setpoint, frame: LocalFrame | None, at_rest: bool = False) -> bool:
        if self._offboard is None:
            self.refused[SetpointRefusal.NOT_CONNECTED] += 1
            return False
        if frame is None:
            self.refused[SetpointRefusal.ORIGIN_UNKNOWN] += 1
            return False
        e, n, u = frame.to_local(setpoint.position_enu_m)
        ve, vn, vu = frame.vector_to_local(setpoint.velocity_enu_m_s)
        ae, an, au = frame.vector_to_local(setpoint.acceleration_enu_m_s2)
        if not math.isfinite(e + n + u + ve + vn + vu + ae + an + au + setpoint.yaw_enu_rad):
            self.refused[SetpointRefusal.NOT_FINITE] += 1
            return False
        yaw_deg = math.degrees(yaw_ned_from_enu(setpoint.yaw_enu_rad))
        position = PositionNedYaw(n, e, -u, yaw_deg)
        try:
            if at_rest:
                attempt(self._offboard.set_position_ned, position)
            else:
                attempt(
                    self._offboard.set_position_velocity_acceleration_ned,
                    position,
                    VelocityNedYaw(vn, ve, -vu, yaw_deg),
                    AccelerationNed(an, ae, -au),
                )
        except CallFailed:
            self.refused[SetpointRefusal.REFUSED_BY_MAVSDK] += 1
            return False
        return True
