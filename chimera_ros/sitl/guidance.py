"""Setpoints and motors of one vehicle, written into its rows of the vectorised controller and physics."""

from __future__ import annotations

import math

import numpy as np

from .config import Vec3
from .controller import BRAKING, Controller
from .dynamics import Fleet
from .parameters import Parameters


class SetpointGuidance:
    """Row `index` of controller and fleet. World NED metres from the datum, yaw clockwise from north."""

    def __init__(self, index: int, controller: Controller, fleet: Fleet, parameters: Parameters) -> None:
        self.index = index
        self._c = controller
        self._fleet = fleet
        self._parameters = parameters

    @property
    def flying(self) -> bool:
        """True if the controller flies the vehicle (motors above idle)."""
        return bool(self._c.flying[self.index])

    @property
    def yaw_rad(self) -> float:
        """The present heading setpoint."""
        return float(self._c.yaw_rad[self.index])

    @property
    def target_m(self) -> Vec3:
        """The present position setpoint."""
        north, east, down = self._c.position_m[self.index].tolist()
        return north, east, down

    @property
    def commanded_down_m_s(self) -> float:
        """The downward velocity that the controller follows now."""
        return float(self._c.velocity_sp_m_s[self.index, 2])

    def start_motors(self) -> None:
        """Motors turn at idle."""
        self._fleet.motors[self.index] = True

    def stop_motors(self) -> None:
        """Motors stop, in flight as well."""
        self._fleet.motors[self.index] = False
        self.stop_flying()

    def start_flying(self) -> None:
        """The controller flies the vehicle from its present state."""
        self._c.start(self.index, self._fleet)

    def stop_flying(self) -> None:
        """The motors idle."""
        self._c.flying[self.index] = False

    def limit_speed(self, speed_m_s: float) -> None:
        """Horizontal speed limit until the next setpoint."""
        self._c.speed_xy_m_s[self.index] = speed_m_s

    def go(
        self, target_m: Vec3, now: float, speed_m_s: float | None = None, up_m_s: float | None = None
    ) -> None:
        """Fly to a position and hold it, with bounded acceleration."""
        i, c, p = self.index, self._c, self._parameters
        c.position_m[i] = target_m
        c.velocity_m_s[i] = 0.0
        c.acceleration_m_s2[i] = 0.0
        c.hold[i] = 1.0
        c.stamp_s[i] = now
        c.yaw_rate_rad_s[i] = 0.0
        c.speed_xy_m_s[i] = p["MPC_XY_CRUISE"] if speed_m_s is None else speed_m_s
        c.speed_up_m_s[i] = p["MPC_Z_V_AUTO_UP"] if up_m_s is None else up_m_s
        c.speed_down_m_s[i] = p["MPC_Z_V_AUTO_DN"]
        c.slew_m_s2[i] = p["MPC_ACC_HOR"]

    def stop(self, at_m: Vec3, velocity_m_s: Vec3, now: float) -> None:
        """Brake and hold the position where that ends."""
        north, east, down = velocity_m_s
        time = math.hypot(north, east) / (2.0 * BRAKING * self._parameters["MPC_ACC_HOR"]) + 0.25
        self.go((at_m[0] + north * time, at_m[1] + east * time, at_m[2] + down * 0.5), now)

    def descend(self, above_m: Vec3, speed_m_s: float, now: float) -> None:
        """Descend at a speed above a position."""
        self.go(above_m, now)
        i, c = self.index, self._c
        c.hold[i, 2] = 0.0
        c.velocity_m_s[i, 2] = speed_m_s
        c.speed_down_m_s[i] = speed_m_s

    def face(self, yaw_rad: float) -> None:
        """Turn to a heading."""
        self._c.yaw_rad[self.index] = yaw_rad

    def stream(
        self,
        position_m: tuple[float | None, float | None, float | None],
        velocity_m_s: Vec3,
        acceleration_m_s2: Vec3,
        yaw_rad: float | None,
        yaw_rate_rad_s: float,
        now: float,
        feed_forward: bool,
    ) -> None:
        """Follow a streamed setpoint; a position of None leaves that axis to the velocity.

        With feed_forward the acceleration is not limited: the stream is expected to be smooth.
        """
        i, c, p = self.index, self._c, self._parameters
        for axis, target in enumerate(position_m):
            if target is None:
                c.hold[i, axis] = 0.0
            else:
                c.hold[i, axis] = 1.0
                c.position_m[i, axis] = target
        c.velocity_m_s[i] = velocity_m_s
        c.acceleration_m_s2[i] = acceleration_m_s2
        c.stamp_s[i] = now
        if yaw_rad is not None:
            c.yaw_rad[i] = yaw_rad
        c.yaw_rate_rad_s[i] = yaw_rate_rad_s
        c.speed_xy_m_s[i] = p["MPC_XY_VEL_MAX"]
        c.speed_up_m_s[i] = p["MPC_Z_VEL_MAX_UP"]
        c.speed_down_m_s[i] = p["MPC_Z_VEL_MAX_DN"]
        c.slew_m_s2[i] = np.inf if feed_forward else p["MPC_ACC_HOR"]
