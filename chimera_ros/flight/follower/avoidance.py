"""Collision avoidance of one drone: a bounded shift of its setpoint away from a predicted near miss.

Neighbours are predicted from their telemetry with constant velocity over a short horizon. A neighbour whose
telemetry stops in the air is assumed to descend slowly in place: the column below it is kept clear. On a
checked plan no neighbour is predicted nearer than `avoid_m`, and the shift is zero. It does not replace
planning. Not handled: several drones squeezed together, and a neighbour without any telemetry.
"""

from __future__ import annotations

from math import sqrt

from ..messages import DroneState, DroneTelemetry
from ..vehicle import Vec3

MAX_NEIGHBOURS = 256
_NEAR_M = 25.0  # neighbours further away are ignored until their next telemetry
_FRESH_S = 0.7  # telemetry younger than this is extrapolated; later the neighbour is silent
_HOVER_S = 3.0  # a silent neighbour is assumed to hover for this long, ...
_FALL_M_S = 0.5  # ... then to descend at least this fast
# Shift per missing metre: the neighbour may not avoid, and the shift itself reduces what is missing.
_GAIN = 4.0
_COLUMN_S = 120.0  # the column is dropped after this
_COLUMN_WIDER = 1.5  # of the avoidance distance: where exactly the neighbour descends is not known
_COLUMN_HORIZON_S = 2.0  # longer than for others: the neighbour does not avoid


class Avoider:
    """Near neighbours and the present shift of one drone; ENU metres, m/s, seconds."""

    def __init__(
        self,
        drone: str,
        avoid_m: float,
        horizon_s: float = 0.8,
        max_shift_m: float = 3.0,
        rate_m_s: float = 2.5,
    ) -> None:
        self._drone = drone
        self._avoid_m, self._horizon_s = avoid_m, horizon_s
        self._max_shift_m, self._rate_m_s = max_shift_m, rate_m_s
        # name -> position, velocity, time received, True if its autopilot is lost
        self._near: dict[str, tuple[float, float, float, float, float, float, float, bool]] = {}
        self._received_s = -1e9
        self.ground_m = 0.0  # height of the ground where this drone took off, frame map
        self._shift: Vec3 = (0.0, 0.0, 0.0)
        self.active = False
        self.activations = 0

    def on_telemetry(self, telemetry: DroneTelemetry, own_enu_m: Vec3, now: float) -> None:
        """Stores a neighbour's telemetry; one on the ground, without position or far away is dropped."""
        name = telemetry.drone
        if name == self._drone:
            return
        self._received_s = now
        x, y, z = telemetry.position_enu_m
        dx, dy, dz = x - own_enu_m[0], y - own_enu_m[1], z - own_enu_m[2]
        # written so that NaN counts as far away
        if telemetry.in_air and dx * dx + dy * dy + dz * dz < _NEAR_M * _NEAR_M:
            near = self._near
            if telemetry.state is DroneState.LOST:
                if name in near and near[name][7]:
                    return  # the moment it was lost stays
                if len(near) < MAX_NEIGHBOURS or name in near:
                    near[name] = (x, y, z, 0.0, 0.0, 0.0, now, True)
            elif name in near or len(near) < MAX_NEIGHBOURS:
                vx, vy, vz = telemetry.velocity_enu_m_s
                near[name] = (x, y, z, vx, vy, vz, now, False)
        else:
            self._near.pop(name, None)

    def reset(self) -> None:
        """Resets the shift: setpoints start or end."""
        self._shift, self.active = (0.0, 0.0, 0.0), False

    def shift(self, position_enu_m: Vec3, velocity_enu_m_s: Vec3, now: float, dt_s: float) -> Vec3:
        """The shift to add to the setpoint now, of bounded length and rate."""
        wx = wy = wz = 0.0
        px, py, pz = position_enu_m
        ux, uy, uz = velocity_enu_m_s
        receiving = now - self._received_s < _FRESH_S  # else this drone's own radio is lost
        stale: list[str] = []
        for name, (x, y, z, vx, vy, vz, heard, lost) in self._near.items():
            age = now - heard
            if age < _FRESH_S and not lost:
                rx, ry, rz = px - x - vx * age, py - y - vy * age, pz - z - vz * age
                sx, sy, sz = ux - vx, uy - vy, uz - vz
                wanted, horizon = self._avoid_m, self._horizon_s
            elif receiving:
                top = z - _FALL_M_S * max(age - _HOVER_S, 0.0)
                if top < self.ground_m - 1.0 or age > _COLUMN_S:
                    stale.append(name)
                    continue
                rx, ry, rz = px - x, py - y, max(pz - top, 0.0)
                sx, sy, sz = ux, uy, uz if rz > 0.0 else 0.0
                wanted, horizon = self._avoid_m * _COLUMN_WIDER, _COLUMN_HORIZON_S
            else:
                continue
            if rx * rx + ry * ry + rz * rz > 225.0:
                continue
            speed2 = sx * sx + sy * sy + sz * sz
            meet = -(rx * sx + ry * sy + rz * sz) / speed2 if speed2 > 1e-6 else 0.0
            t = min(max(meet, 0.0), horizon)
            cx, cy, cz = rx + sx * t, ry + sy * t, rz + sz * t
            gap = sqrt(cx * cx + cy * cy + cz * cz)
            if gap >= wanted:
                continue
            # aside, not along: the direction is that of the closest approach, even if that lies further ahead
            t = max(meet, 0.0)
            cx, cy, cz = rx + sx * t, ry + sy * t, rz + sz * t
            gap = sqrt(cx * cx + cy * cy + cz * cz)
            missing = wanted - gap
            if missing <= 0.0:
                continue
            if gap < 0.1:  # head on: both turn to their own right; in the same place: by name
                pace = sqrt(sx * sx + sy * sy)
                side = 1.0 if self._drone < name else -1.0
                cx, cy, cz, gap = (sy / pace, -sx / pace, 0.0, 1.0) if pace > 0.1 else (side, 0.0, 0.0, 1.0)
            wx, wy, wz = wx + missing * cx / gap, wy + missing * cy / gap, wz + missing * cz / gap
        for name in stale:
            del self._near[name]
        length = sqrt(wx * wx + wy * wy + wz * wz)
        was, self.active = self.active, length > 0.0
        if self.active and not was:
            self.activations += 1
        sx, sy, sz = self._shift
        if not self.active and sx == sy == sz == 0.0:
            return self._shift
        if length > 0.0:
            scale = min(_GAIN * length, self._max_shift_m) / length
            wx, wy, wz = wx * scale, wy * scale, wz * scale
        dx, dy, dz = wx - sx, wy - sy, wz - sz
        gap = sqrt(dx * dx + dy * dy + dz * dz)
        step = (self._rate_m_s if self.active else 0.25 * self._rate_m_s) * dt_s
        if gap > step:
            dx, dy, dz = dx * step / gap, dy * step / gap, dz * step / gap
        self._shift = (sx + dx, sy + dy, sz + dz)
        return self._shift
