"""Rigid-body dynamics of N quadrotors at once: thrust, drag, gusts, ground contact, battery, separation.

World frame: NED metres from the swarm datum. Body frame: FRD. Arrays have one row per vehicle, so that one
numpy call moves the whole swarm. No clock is read: every step is given its length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

GRAVITY_M_S2 = 9.80665
DRAG_PER_S = 0.18  # linear drag: acceleration per m/s of airspeed
MOTOR_TAU_S = 0.03  # lag of thrust and torque
RATE_GAIN_PER_S = 28.0  # body-rate loop: angular acceleration per rad/s of error
ANGULAR_ACCELERATION_LIMIT = np.array([90.0, 90.0, 20.0])  # rad/s² about x, y, z
CRASH_SPEED_M_S = 3.5  # hitting the ground faster than this is a crash
COLLISION_DISTANCE_M = 0.5  # centre distance at which rotor discs touch
GUST_TAU_S = 2.5
IDLE_THRUST = 0.08  # of weight
CONTACT_SLACK_M = 1e-4


class Fleet:
    """State of N quadrotors and the physics that moves it.

    Attributes (rows are vehicles): position_m, velocity_m_s (N,3) in world NED; rotation (N,3,3) body to
    world; rates_rad_s (N,3) in body axes; thrust_m_s2 (N,) along minus body z; contact (N,) on the ground;
    battery (N,) from 0 to 1; motors (N,) true where they turn; crashed (N,).
    """

    def __init__(
        self, spawn_ned_m: Floats, yaw_rad: Floats, wind_m_s: float, hover_s: float, seed: int
    ) -> None:
        n = len(spawn_ned_m)
        self.count = n
        self.position_m = spawn_ned_m.copy()
        self.velocity_m_s = np.zeros((n, 3))
        self.acceleration_m_s2 = np.zeros((n, 3))
        self.rotation = level(yaw_rad)
        self.rates_rad_s = np.zeros((n, 3))
        self._angular_acceleration = np.zeros((n, 3))
        self.thrust_m_s2 = np.zeros(n)
        self.ground_down_m = spawn_ned_m[:, 2].copy()
        self.contact = np.ones(n, dtype=bool)
        self.motors = np.zeros(n, dtype=bool)
        self.crashed = np.zeros(n, dtype=bool)
        self.battery = np.ones(n)
        self.hover_s = hover_s
        self._skew = np.zeros((n, 3, 3))
        self._down = np.array([0.0, 0.0, GRAVITY_M_S2])
        self._steps = 0

        random = np.random.default_rng([seed, 1])
        self._gust_random = random
        direction = random.uniform(-np.pi, np.pi)
        self.mean_wind_m_s = wind_m_s * np.array([np.cos(direction), np.sin(direction), 0.0])
        self._gust_sigma = 0.2 * wind_m_s
        self._common_gust = np.zeros(3)
        self._own_gust = np.zeros((n, 3))
        self.wind_m_s = np.tile(self.mean_wind_m_s, (n, 1))

        self.collisions = 0
        self.min_separation_m = np.inf
        self._touching: set[tuple[int, int]] = set()
        self._upper = np.triu_indices(n, 1)
        self._touchdown_speed_m_s = np.zeros(n)

    def at_rest(self) -> bool:
        """True if all stand on the ground with motors off, so that nothing can move."""
        return not self.motors.any() and bool(self.contact.all())

    def step(self, dt: float, thrust_m_s2: Floats, rates_sp_rad_s: Floats) -> None:
        """Advance by dt seconds under a thrust (N,) and body-rate (N,3) setpoint."""
        lag = dt / MOTOR_TAU_S
        wanted = (rates_sp_rad_s - self.rates_rad_s) * RATE_GAIN_PER_S
        clamp(wanted, -ANGULAR_ACCELERATION_LIMIT, ANGULAR_ACCELERATION_LIMIT)
        self._angular_acceleration += (wanted - self._angular_acceleration) * lag
        self.rates_rad_s += self._angular_acceleration * dt
        self.thrust_m_s2 += (thrust_m_s2 - self.thrust_m_s2) * lag

        acceleration = (self.wind_m_s - self.velocity_m_s) * DRAG_PER_S
        acceleration += self._down
        acceleration -= self.rotation[:, :, 2] * self.thrust_m_s2[:, None]
        self._hold_on_ground(acceleration)
        self.acceleration_m_s2 = acceleration
        self.velocity_m_s += acceleration * dt
        self.position_m += self.velocity_m_s * dt
        self._rotate(dt)
        self._touch_ground()

    def _rotate(self, dt: float) -> None:
        skew, w = self._skew, self.rates_rad_s * dt
        skew[:, 0, 1], skew[:, 0, 2], skew[:, 1, 2] = -w[:, 2], w[:, 1], -w[:, 0]
        skew[:, 1, 0], skew[:, 2, 0], skew[:, 2, 1] = w[:, 2], -w[:, 1], w[:, 0]
        turn = self.rotation @ skew
        self.rotation += turn
        self.rotation += 0.5 * (turn @ skew)
        self._steps += 1
        if self._steps % 8 == 0:  # Newton step towards the nearest rotation matrix
            r = self.rotation
            self.rotation = 1.5 * r - 0.5 * (r @ (r.transpose(0, 2, 1) @ r))

    def _hold_on_ground(self, acceleration: Floats) -> None:
        if not self.contact.any():
            return
        pressed = self.contact & (acceleration[:, 2] >= 0.0)
        acceleration[pressed] = 0.0
        self.velocity_m_s[pressed] = 0.0
        self.rates_rad_s[pressed] = 0.0
        self._angular_acceleration[pressed] = 0.0

    def _touch_ground(self) -> None:
        below = self.position_m[:, 2] >= self.ground_down_m - CONTACT_SLACK_M
        fresh = below & ~self.contact
        if fresh.any():
            speed = np.sqrt((self.velocity_m_s[fresh] ** 2).sum(axis=1))
            self._touchdown_speed_m_s[fresh] = speed
            tilted = self.rotation[fresh, 2, 2] < 0.5
            self.crashed[fresh] |= (speed > CRASH_SPEED_M_S) | tilted
            self.motors &= ~self.crashed
            heading = np.arctan2(self.rotation[fresh, 1, 0], self.rotation[fresh, 0, 0])
            self.rotation[fresh] = level(heading)
            self.rates_rad_s[fresh] = 0.0
            self.velocity_m_s[fresh] = 0.0
        if below.any():
            np.minimum(self.position_m[:, 2], self.ground_down_m, out=self.position_m[:, 2])
        self.contact = below

    def step_wind(self, dt: float) -> None:
        """Advance the gusts: a common one and one per vehicle, both Ornstein-Uhlenbeck processes."""
        if self._gust_sigma == 0.0:
            return
        decay = float(np.exp(-dt / GUST_TAU_S))
        spread = self._gust_sigma * float(np.sqrt(1.0 - decay * decay))
        kick = self._gust_random.standard_normal((self.count + 1, 3)) * spread
        kick[:, 2] *= 0.4
        self._common_gust = self._common_gust * decay + kick[0]
        self._own_gust = self._own_gust * decay + 0.5 * kick[1:]
        self.wind_m_s = self.mean_wind_m_s + self._common_gust + self._own_gust

    def step_battery(self, dt: float) -> None:
        """Discharge the batteries: power grows with thrust to the power 3/2 (momentum theory)."""
        load = (np.maximum(self.thrust_m_s2, 0.0) / GRAVITY_M_S2) ** 1.5
        power = np.where(self.motors, 0.05 + 0.95 * load, 0.005)
        self.battery -= power * dt / self.hover_s
        np.maximum(self.battery, 0.0, out=self.battery)
        self.motors &= self.battery > 0.0

    def update_separation(self) -> list[tuple[int, int]]:
        """Update the smallest separation in the air; colliding vehicles crash. Returns the new pairs."""
        flying = ~self.contact
        if self.count < 2 or int(flying.sum()) < 2:
            self._touching.clear()
            return []
        first, second = self._upper
        gap = self.position_m[first] - self.position_m[second]
        squared = np.einsum("ij,ij->i", gap, gap)
        squared[~(flying[first] & flying[second])] = np.inf
        closest = float(np.sqrt(squared.min()))
        self.min_separation_m = min(self.min_separation_m, closest)
        if closest >= COLLISION_DISTANCE_M:
            self._touching.clear()
            return []
        hits = np.nonzero(squared < COLLISION_DISTANCE_M**2)[0]
        pairs = {(int(first[k]), int(second[k])) for k in hits}
        fresh = sorted(pairs - self._touching)
        self._touching = pairs
        self.collisions += len(fresh)
        for pair in fresh:
            for vehicle in pair:
                self.crashed[vehicle] = True
                self.motors[vehicle] = False
        return fresh

    def quaternions(self) -> Floats:
        """Attitudes (N,4), w x y z with w not negative, body FRD to NED."""
        r = self.rotation
        w = np.sqrt(np.maximum(0.0, 1.0 + r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2]))
        x = np.sqrt(np.maximum(0.0, 1.0 + r[:, 0, 0] - r[:, 1, 1] - r[:, 2, 2]))
        y = np.sqrt(np.maximum(0.0, 1.0 - r[:, 0, 0] + r[:, 1, 1] - r[:, 2, 2]))
        z = np.sqrt(np.maximum(0.0, 1.0 - r[:, 0, 0] - r[:, 1, 1] + r[:, 2, 2]))
        x = np.copysign(x, r[:, 2, 1] - r[:, 1, 2])
        y = np.copysign(y, r[:, 0, 2] - r[:, 2, 0])
        z = np.copysign(z, r[:, 1, 0] - r[:, 0, 1])
        q = 0.5 * np.stack((w, x, y, z), axis=1)
        q /= np.linalg.norm(q, axis=1, keepdims=True)
        return np.asarray(q, dtype=np.float64)

    def eulers(self) -> Floats:
        """Roll, pitch, yaw (N,3) in radians."""
        r = self.rotation
        return np.stack(
            (
                np.arctan2(r[:, 2, 1], r[:, 2, 2]),
                -np.arcsin(np.clip(r[:, 2, 0], -1.0, 1.0)),
                np.arctan2(r[:, 1, 0], r[:, 0, 0]),
            ),
            axis=1,
        )

    def digest(self) -> bytes:
        """Bytes of the state, equal for equal flights."""
        parts: list[NDArray[Any]] = [
            self.position_m,
            self.velocity_m_s,
            self.rotation,
            self.battery,
            self.wind_m_s,
        ]
        return b"".join(part.tobytes() for part in parts)


def clamp(values: Floats, low: Floats | float, high: Floats | float) -> None:
    """Bound values in place; half the cost of `numpy.clip` on small arrays."""
    np.maximum(values, low, out=values)
    np.minimum(values, high, out=values)


def level(yaw_rad: Floats) -> Floats:
    """Rotation matrices (N,3,3) of level vehicles with these headings (N,), radians clockwise from north."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    rotation = np.zeros((len(yaw_rad), 3, 3))
    rotation[:, 0, 0], rotation[:, 0, 1] = c, -s
    rotation[:, 1, 0], rotation[:, 1, 1] = s, c
    rotation[:, 2, 2] = 1.0
    return rotation
