"""Telemetry cache of one vehicle: newest values, stored by MAVSDK's callbacks in NED and FRD.

MAVSDK has one thread for the callbacks of all vehicles, and a blocking call inside one deadlocks for good:
these callbacks store a value and a time, nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from mavsdk.plugins.telemetry import FlightMode

from chimera_ros.autopilot.frames import Vec3

_MODES = {FlightMode.RETURN_TO_LAUNCH: "return"}
MODE_NAMES: dict[int, str] = {int(mode): _MODES.get(mode, mode.name.lower()) for mode in FlightMode}
_SEVERE = 3  # StatusTextType.WARNING and above
_TEXTS = 8
_POLL_EVERY_S = 0.015
_POLL_SLOW_EVERY_S = 0.25
_HEALTH = (
    ("is_gyrometer_calibration_ok", "its gyroscope is not calibrated"),
    ("is_accelerometer_calibration_ok", "its accelerometer is not calibrated"),
    ("is_magnetometer_calibration_ok", "its magnetometer is not calibrated"),
    ("is_local_position_ok", "its estimator has no local position yet"),
    ("is_global_position_ok", "its estimator has no global position yet"),
    ("is_home_position_ok", "it has no home position yet"),
)


class TelemetryCache:
    """Newest values, each replaced as a whole, so that readers need no lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.connected = False
        self.local: tuple[float, Vec3, Vec3] | None = None  # stamp, NED metres, NED m/s; local origin
        self.geodetic: tuple[float, float, float, float] | None = None  # stamp, deg, deg, AMSL metres
        self.attitude: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)  # w, x, y, z; FRD in NED
        self.armed = False
        self.in_air = False
        self.mode = 0
        self.battery_fraction = math.nan
        self.health: Any = None
        self.texts: deque[tuple[float, int, str]] = deque(maxlen=_TEXTS)
        self._polled_s = self._polled_slow_s = float("-inf")

    def subscribe(self, telemetry: Any) -> None:
        """Connect the callbacks to a MAVSDK Telemetry plugin."""
        telemetry.subscribe_position_velocity_ned(self._on_local)
        telemetry.subscribe_position(self._on_global)
        telemetry.subscribe_status_text(self._on_text)

    def poll(self, system: Any, telemetry: Any, now: float) -> None:
        """Poll the other values; these calls only copy from MAVSDK's memory."""
        if now - self._polled_s < _POLL_EVERY_S:
            return
        self._polled_s = now
        self.armed = bool(telemetry.armed())
        self.in_air = bool(telemetry.in_air())
        self.mode = int(telemetry.flight_mode())
        q = telemetry.attitude_quaternion()
        if math.isfinite(q.w + q.x + q.y + q.z):
            self.attitude = (q.w, q.x, q.y, q.z)
        if now - self._polled_slow_s < _POLL_SLOW_EVERY_S:
            return
        self._polled_slow_s = now
        self.connected = bool(system.is_connected())
        self.battery_fraction = telemetry.battery().remaining_percent / 100.0
        self.health = telemetry.health()

    def _on_local(self, data: Any, _: Any) -> None:
        p, v = data.position, data.velocity
        self.local = (
            self._clock(),
            (p.north_m, p.east_m, p.down_m),
            (v.north_m_s, v.east_m_s, v.down_m_s),
        )

    def _on_global(self, data: Any, _: Any) -> None:
        self.geodetic = (self._clock(), data.latitude_deg, data.longitude_deg, data.absolute_altitude_m)

    def _on_text(self, text: Any, _: Any) -> None:
        self.texts.append((self._clock(), int(text.type), text.text))

    def last_warning(self, since_s: float) -> str:
        """Text of the newest STATUSTEXT from WARNING up received since `since_s`; empty if none."""
        for stamp, kind, text in reversed(tuple(self.texts)):
            if stamp >= since_s and kind >= _SEVERE:
                return text
        return ""

    def health_blockers(self, drone: str, now: float) -> list[str]:
        """Reasons not to arm by the autopilot's own health flags, one sentence each."""
        health = self.health
        if health is None or not any(getattr(health, name) for name, _ in _HEALTH):
            return [f"{drone} has not reported its health yet"]
        reasons = [f"{drone}: {words}" for name, words in _HEALTH if not getattr(health, name)]
        if not reasons and not health.is_armable and not self.armed:
            text = self.last_warning(now - 30.0)
            reasons.append(f"{drone}: the autopilot's arming checks fail" + (f" ({text})" if text else ""))
        return reasons
