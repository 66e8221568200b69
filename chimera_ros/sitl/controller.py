"""The cascaded controller of N quadrotors at once: position → velocity → attitude → body rate.

World frame: NED metres from the swarm datum. The attitude loop is geometric control on SO(3) (Lee, Leok and
McClamroch 2010); the body-rate loop closes in `dynamics.Fleet.step`. PX4 holds a setpoint until the next;
this controller extrapolates it by its velocity and acceleration, for at most `EXTRAPOLATION_LIMIT_S`, so that
a stream of 20 Hz does not turn into steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .dynamics import GRAVITY_M_S2, IDLE_THRUST, Fleet, clamp

Floats = NDArray[np.float64]

EXTRAPOLATION_LIMIT_S = 0.15
POSITION_GAIN_PER_S = 1.8
VELOCITY_GAIN_PER_S = 4.5
INTEGRAL_GAIN_PER_S2 = 1.6
INTEGRAL_LIMIT_M_S2 = 5.0
ATTITUDE_GAIN_PER_S = np.array([11.0, 11.0, 3.0])
RATE_LIMIT_RAD_S = np.array([6.0, 6.0, 2.0])
TILT_LIMIT = float(np.tan(np.radians(40.0)))
MIN_THRUST_M_S2 = 0.15 * GRAVITY_M_S2
MAX_THRUST_M_S2 = 2.2 * GRAVITY_M_S2
BRAKING = 0.6  # share of the acceleration limit in the approach profile


class Controller:
    """Setpoints of N vehicles and the loops that follow them.

    Rows of setpoints: position_m, velocity_m_s, acceleration_m_s2 (N,3) world NED; hold (N,3) 1 where the
    position of that axis counts, 0 where only velocity does; stamp_s (N,) when it was set; yaw_rad,
    yaw_rate_rad_s (N,); speed limits (N,); slew_m_s2 (N,1) limit of acceleration, infinite for streamed
    setpoints; flying (N,) whether the loops run, or the motors idle.
    """

    def __init__(self, fleet: Fleet) -> None:
        n = fleet.count
        self.position_m = fleet.position_m.copy()
        self.velocity_m_s = np.zeros((n, 3))
        self.acceleration_m_s2 = np.zeros((n, 3))
        self.hold = np.ones((n, 3))
        self.stamp_s = np.zeros(n)
        self.yaw_rad = np.arctan2(fleet.rotation[:, 1, 0], fleet.rotation[:, 0, 0])
        self.yaw_rate_rad_s = np.zeros(n)
        self.speed_xy_m_s = np.full(n, 12.0)
        self.speed_up_m_s = np.full(n, 3.0)
        self.speed_down_m_s = np.full(n, 1.5)
        self.slew_m_s2 = np.full((n, 1), 4.0)
        self.flying = np.zeros(n, dtype=bool)
        self.estimate_error_m = np.zeros((n, 3))
        self.velocity_sp_m_s = np.zeros((n, 3))
        self.yaw_now_rad = self.yaw_rad.copy()
        self._integral = np.zeros((n, 3))
        self._thrust_m_s2 = np.zeros(n)
        self._rates_sp = np.zeros((n, 3))
        self._zd = np.tile(np.array([0.0, 0.0, 1.0]), (n, 1))
        self._desired = np.zeros((n, 3, 3))

    def start(self, vehicle: int, fleet: Fleet) -> None:
        """Begin to fly one vehicle from its present state; integrators are reset."""
        self._integral[vehicle] = 0.0
        self.velocity_sp_m_s[vehicle] = fleet.velocity_m_s[vehicle]
        self.yaw_now_rad[vehicle] = np.arctan2(fleet.rotation[vehicle, 1, 0], fleet.rotation[vehicle, 0, 0])
        self.flying[vehicle] = True

    def step(self, dt: float, now: float, fleet: Fleet) -> tuple[Floats, Floats]:
        """Thrust (N,) in m/s² and body-rate (N,3) setpoints for the next dt seconds."""
        if not self.flying.any():
            return np.where(fleet.motors, IDLE_THRUST * GRAVITY_M_S2, 0.0), self._rates_sp
        force = self._position(dt, now, fleet)
        return self._attitude(dt, force, fleet)

    def _position(self, dt: float, now: float, fleet: Fleet) -> Floats:
        """Specific force setpoint (N,3), m/s² in NED, from setpoints and estimates."""
        age = np.minimum(now - self.stamp_s, EXTRAPOLATION_LIMIT_S)[:, None]
        ahead = self.acceleration_m_s2 * age
        target_v = self.velocity_m_s + ahead
        error = self.position_m - fleet.position_m
        error -= self.estimate_error_m
        error += (self.velocity_m_s + 0.5 * ahead) * age
        error *= self.hold

        limit = np.minimum(self.slew_m_s2[:, 0], 8.0) * (2.0 * BRAKING)
        distance = np.sqrt(error[:, 0] ** 2 + error[:, 1] ** 2) + 1e-9
        speed = np.minimum(
            np.minimum(distance * POSITION_GAIN_PER_S, np.sqrt(limit * distance)), self.speed_xy_m_s
        )
        wanted = np.empty_like(error)
        np.multiply(error[:, :2], (speed / distance)[:, None], out=wanted[:, :2])
        down = error[:, 2]
        climb = np.minimum(np.abs(down) * POSITION_GAIN_PER_S, np.sqrt(0.7 * limit * np.abs(down)))
        wanted[:, 2] = np.copysign(climb, down)
        wanted += target_v
        clamp(wanted[:, 2], -self.speed_up_m_s, self.speed_down_m_s)

        change = wanted - self.velocity_sp_m_s
        step = self.slew_m_s2 * dt
        clamp(change, -step, step)
        self.velocity_sp_m_s += change
        slip = self.velocity_sp_m_s - fleet.velocity_m_s
        self._integral += slip * (INTEGRAL_GAIN_PER_S2 * dt)
        clamp(self._integral, -INTEGRAL_LIMIT_M_S2, INTEGRAL_LIMIT_M_S2)
        force = slip * VELOCITY_GAIN_PER_S
        force += self._integral
        force += self.acceleration_m_s2
        force[:, 2] -= GRAVITY_M_S2
        return force

    def _attitude(self, dt: float, force: Floats, fleet: Fleet) -> tuple[Floats, Floats]:
        up = -force[:, 2]
        clamp(up, MIN_THRUST_M_S2, MAX_THRUST_M_S2)
        force[:, 2] = -up
        across = np.sqrt(force[:, 0] ** 2 + force[:, 1] ** 2) + 1e-9
        force[:, :2] *= np.minimum(1.0, TILT_LIMIT * up / across)[:, None]

        zd = -force
        zd /= np.sqrt((zd * zd).sum(axis=1))[:, None]
        turn = self.yaw_rad - self.yaw_now_rad
        turn = (turn + np.pi) % (2.0 * np.pi) - np.pi
        reach = 1.2 * dt  # heading changes at most 1.2 rad/s, so the attitude error stays small
        self.yaw_rad += self.yaw_rate_rad_s * dt
        clamp(turn, -reach, reach)
        self.yaw_now_rad += turn
        c, s = np.cos(self.yaw_now_rad), np.sin(self.yaw_now_rad)
        desired = self._desired
        # yd = zd × (c, s, 0), xd = yd × zd, as columns
        y0, y1, y2 = -zd[:, 2] * s, zd[:, 2] * c, zd[:, 0] * s - zd[:, 1] * c
        scale = 1.0 / np.sqrt(y0 * y0 + y1 * y1 + y2 * y2)
        y0, y1, y2 = y0 * scale, y1 * scale, y2 * scale
        desired[:, 0, 0] = y1 * zd[:, 2] - y2 * zd[:, 1]
        desired[:, 1, 0] = y2 * zd[:, 0] - y0 * zd[:, 2]
        desired[:, 2, 0] = y0 * zd[:, 1] - y1 * zd[:, 0]
        desired[:, 0, 1], desired[:, 1, 1], desired[:, 2, 1] = y0, y1, y2
        desired[:, :, 2] = zd
        m = desired.transpose(0, 2, 1) @ fleet.rotation
        rates = np.empty_like(force)
        rates[:, 0] = m[:, 1, 2] - m[:, 2, 1]
        rates[:, 1] = m[:, 2, 0] - m[:, 0, 2]
        rates[:, 2] = m[:, 0, 1] - m[:, 1, 0]
        rates *= 0.5 * ATTITUDE_GAIN_PER_S
        clamp(rates, -RATE_LIMIT_RAD_S, RATE_LIMIT_RAD_S)
        thrust = -(force * fleet.rotation[:, :, 2]).sum(axis=1)
        clamp(thrust, MIN_THRUST_M_S2, MAX_THRUST_M_S2)

        idle = np.where(fleet.motors, IDLE_THRUST * GRAVITY_M_S2, 0.0)
        active = self.flying & fleet.motors
        rates[~active] = 0.0
        return np.where(active, thrust, idle), rates
