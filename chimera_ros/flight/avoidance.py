"""A drone's own last resort against its neighbours: a bounded shift of its setpoint away from a predicted near miss.

Neighbours are known from their telemetry and predicted with constant velocity over a short horizon. As long as a
checked plan is followed nobody is predicted nearer than `avoid_m`, and the shift is zero. It does not replace
planning: several drones squeezed together, or a neighbour that is not heard, are beyond it.
"""

from __future__ import annotations

from math import sqrt

from .types import DroneTelemetry
from .vehicle import Vec3

_NEAR_M = 25.0  # neighbours further away are not looked at until their next telemetry
_FORGET_S = 1.0  # an older position says too little
MAX_NEIGHBOURS = 256


class Avoider:
    """Keeps near neighbours and the present shift of one drone. ENU metres, m/s, seconds."""

    def __init__(
        self, drone: str, avoid_m: float, horizon_s: float = 0.8, max_shift_m: float = 3.0, rate_m_s: float = 2.0
    ) -> None:
        self._drone = drone
        self._avoid_m, self._horizon_s = avoid_m, horizon_s
        self._max_shift_m, self._rate_m_s = max_shift_m, rate_m_s
        self._near: dict[str, tuple[float, float, float, float, float, float, float]] = {}
        self._shift: Vec3 = (0.0, 0.0, 0.0)
        self.active = False
        self.activations = 0

    def hear(self, telemetry: DroneTelemetry, own_enu_m: Vec3, now: float) -> None:
        """Takes a neighbour's telemetry; one on the ground, without position, or far away is forgotten."""
        name = telemetry.drone
        if name == self._drone:
            return
        x, y, z = telemetry.position_enu_m
        dx, dy, dz = x - own_enu_m[0], y - own_enu_m[1], z - own_enu_m[2]
        # written so that NaN counts as far away
        if telemetry.in_air and dx * dx + dy * dy + dz * dz < _NEAR_M * _NEAR_M:
            if name in self._near or len(self._near) < MAX_NEIGHBOURS:
                vx, vy, vz = telemetry.velocity_enu_m_s
                self._near[name] = (x, y, z, vx, vy, vz, now)
        else:
            self._near.pop(name, None)

    def reset(self) -> None:
        """Forgets the present shift: the drone has landed."""
        self._shift, self.active = (0.0, 0.0, 0.0), False

    def shift(self, position_enu_m: Vec3, velocity_enu_m_s: Vec3, now: float, dt_s: float) -> Vec3:
        """The shift to add to the setpoint now; moves at a bounded rate and never beyond its largest length."""
        wx = wy = wz = 0.0
        px, py, pz = position_enu_m
        ux, uy, uz = velocity_enu_m_s
        for name, (x, y, z, vx, vy, vz, heard) in self._near.items():
            age = now - heard
            if age > _FORGET_S:
                continue
            rx, ry, rz = px - x - vx * age, py - y - vy * age, pz - z - vz * age
            square = rx * rx + ry * ry + rz * rz
            if square > 144.0:
                continue
            sx, sy, sz = ux - vx, uy - vy, uz - vz
            speed2 = sx * sx + sy * sy + sz * sz
            t = 0.0
            if speed2 > 1e-6:
                t = min(max(-(rx * sx + ry * sy + rz * sz) / speed2, 0.0), self._horizon_s)
            cx, cy, cz = rx + sx * t, ry + sy * t, rz + sz * t
            gap = sqrt(cx * cx + cy * cy + cz * cz)
            missing = self._avoid_m - gap
            if missing <= 0.0:
                continue
            if gap < 0.1:  # head on: both turn to their own right; in the same place: by name
                pace = sqrt(sx * sx + sy * sy)
                side = 1.0 if self._drone < name else -1.0
                cx, cy, cz, gap = (sy / pace, -sx / pace, 0.0, 1.0) if pace > 0.1 else (side, 0.0, 0.0, 1.0)
            wx, wy, wz = wx + missing * cx / gap, wy + missing * cy / gap, wz + missing * cz / gap
        length = sqrt(wx * wx + wy * wy + wz * wz)
        was, self.active = self.active, length > 0.0
        if self.active and not was:
            self.activations += 1
        sx, sy, sz = self._shift
        if not self.active and sx == sy == sz == 0.0:
            return self._shift
        if length > 0.0:
            scale = min(2.0 * length, self._max_shift_m) / length  # the neighbour may not help
            wx, wy, wz = wx * scale, wy * scale, wz * scale
        dx, dy, dz = wx - sx, wy - sy, wz - sz
        gap = sqrt(dx * dx + dy * dy + dz * dz)
        step = (self._rate_m_s if self.active else 0.25 * self._rate_m_s) * dt_s
        if gap > step:
            dx, dy, dz = dx * step / gap, dy * step / gap, dz * step / gap
        self._shift = (sx + dx, sy + dy, sz + dz)
        return self._shift
