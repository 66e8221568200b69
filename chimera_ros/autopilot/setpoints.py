"""Setpoints of one vehicle: from `map` to its local frame, then sent by MAVSDK or refused and counted."""

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
    """Why a setpoint was not sent to the autopilot."""

    NOT_CONNECTED = "not_connected"
    ORIGIN_UNKNOWN = "origin_unknown"
    NOT_FINITE = "not_finite"
    REFUSED_BY_MAVSDK = "refused_by_mavsdk"


class SetpointSender:
    """One vehicle's setpoints. MAVSDK sends each at once and repeats the last by itself at 20 Hz.

    Called from the threads of node and supervisor; the lock keeps a hold from overtaking fresh setpoints.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.refused: Counter[SetpointRefusal] = Counter()
        self._offboard: Any = None
        self._watchdog = SetpointWatchdog()
        self._lock = threading.Lock()

    @property
    def degraded(self) -> int:
        """How many times a stale setpoint was replaced by a hold."""
        return self._watchdog.degraded

    def connect(self, offboard: Any) -> None:
        """Use this MAVSDK Offboard plugin from now on; None sends no more."""
        with self._lock:
            self._offboard = offboard

    def send(self, setpoint: Setpoint, frame: LocalFrame | None, now: float) -> None:
        """Send a setpoint, or count its refusal."""
        with self._lock:
            if self._send(setpoint, frame):
                self.sent += 1
                self._watchdog.fresh(setpoint, now)

    def degrade(self, frame: LocalFrame | None, now: float) -> bool:
        """Replace a stale setpoint by a position hold; True if that was done now."""
        with self._lock:
            hold = self._watchdog.check(now)
            return hold is not None and self._send(hold, frame, at_rest=True)

    def fresh(self, now: float) -> bool:
        """True if the last setpoint is not stale."""
        return self._watchdog.age_s(now) <= self._watchdog.stale_after_s

    def forget(self) -> None:
        """Offboard control has ended: no setpoint is left to degrade."""
        with self._lock:
            self._watchdog.forget()

    def _send(self, setpoint: Setpoint, frame: LocalFrame | None, at_rest: bool = False) -> bool:
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
