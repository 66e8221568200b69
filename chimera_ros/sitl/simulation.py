"""Simulation of a swarm in stepped time: physics, controllers, estimators and commanders together.

Time advances in `Simulation.advance` only, in steps of `STEP_S`. Two simulations with the same configuration
and the same calls at the same steps are equal bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .commander import Commander
from .config import FaultKind, SitlConfig, Vec3
from .controller import Controller, Floats
from .dynamics import Fleet
from .geodesy import LocalEarth
from .mavlink_types import Severity
from .vehicle_state import VehicleEstimate

STEP_S = 0.004  # 250 Hz
COMMANDER_STEPS = 10  # commanders, gusts, battery and estimator drift at 25 Hz
SEPARATION_STEPS = 5  # separation at 50 Hz
DRIFT_TAU_S = 30.0


@dataclass(slots=True)
class Snapshot:
    """Estimates of all vehicles at one moment as plain Python lists (one row per vehicle)."""

    time_s: float
    position_m: list[list[float]]  # world NED
    velocity_m_s: list[list[float]]
    quaternion: list[list[float]]  # w x y z, FRD to NED
    euler_rad: list[list[float]]
    rates_rad_s: list[list[float]]
    battery: list[float]
    contact: list[bool]
    thrust: list[float]  # as a fraction of hover thrust


class Simulation:
    """N vehicles in one world."""

    def __init__(self, config: SitlConfig) -> None:
        config.check()
        self.config = config
        self.earth = LocalEarth.at(config.datum)
        places = np.array(config.spawn_places(), dtype=float)
        spawn_ned = np.stack((places[:, 1], places[:, 0], -places[:, 2]), axis=1)
        n = config.drones
        random = np.random.default_rng([config.seed, 0])
        yaw = random.uniform(-math.pi, math.pi, n)
        spread = config.origin_spread_m
        # well away from the spawn, so that mistaking local for global positions shows
        offset = random.choice((-1.0, 1.0), (n, 3)) * random.uniform(0.4, 1.0, (n, 3)) * spread
        bias = random.uniform(-1.0, 1.0, n) * config.altitude_bias_m
        self.steps = 0
        self.fleet = Fleet(spawn_ned, yaw, config.wind_m_s, config.hover_minutes * 60.0, config.seed)
        self.fleet.battery[:] = random.uniform(0.97, 1.0, n)
        for i in range(n):
            if config.fault_of(i, FaultKind.LOW_BATTERY):
                self.fleet.battery[i] = 0.12
        self.controller = Controller(self.fleet)
        self._drift_random = np.random.default_rng([config.seed, 2])
        self._drift = self._drift_random.standard_normal((n, 3)) * config.drift_m
        self._bias = np.zeros((n, 3))
        self._bias[:, 2] = bias
        self.controller.estimate_error_m = self._drift + self._bias
        origins = spawn_ned + offset
        self.commanders = [
            Commander(
                i,
                config,
                self.fleet,
                self.controller,
                self.earth,
                _vec(origins[i]),
                _vec(spawn_ned[i] + self.controller.estimate_error_m[i]),
            )
            for i in range(n)
        ]
        self._snapshot: Snapshot | None = None

    @property
    def time_s(self) -> float:
        """Simulation time since the start, seconds."""
        return self.steps * STEP_S

    def advance(self, steps: int = 1) -> None:
        """Advance by `steps` times `STEP_S` seconds."""
        fleet, controller = self.fleet, self.controller
        for _ in range(steps):
            if not fleet.at_rest():
                thrust, rates = controller.step(STEP_S, self.steps * STEP_S, fleet)
                fleet.step(STEP_S, thrust, rates)
            self.steps += 1
            if self.steps % SEPARATION_STEPS == 0:
                self._check_separation()
            if self.steps % COMMANDER_STEPS == 0:
                self._run_commanders()
        self._snapshot = None

    def run_until(self, done: Any, limit_s: float) -> bool:
        """Advance until `done()` is true; False if it was not within limit_s of simulated time."""
        end = self.time_s + limit_s
        while not done():
            if self.time_s >= end:
                return False
            self.advance(COMMANDER_STEPS)
        return True

    def snapshot(self) -> Snapshot:
        """Estimates now; computed once per step, however often it is called."""
        if self._snapshot is None:
            f = self.fleet
            estimate = f.position_m + self.controller.estimate_error_m
            self._snapshot = Snapshot(
                self.time_s,
                estimate.tolist(),
                f.velocity_m_s.tolist(),
                f.quaternions().tolist(),
                f.eulers().tolist(),
                f.rates_rad_s.tolist(),
                f.battery.tolist(),
                f.contact.tolist(),
                (f.thrust_m_s2 / 9.80665).tolist(),
            )
        return self._snapshot

    def status(self) -> dict[str, Any]:
        """Ground truth: true positions (ENU metres from the datum), separation, collisions."""
        fleet = self.fleet
        closest = fleet.min_separation_m
        battery = fleet.battery.tolist()
        return {
            "process": "sitl",
            "sim_time_s": round(self.time_s, 3),
            "min_separation_m": round(closest, 4) if math.isfinite(closest) else None,
            "collisions": fleet.collisions,
            "vehicles": [
                {
                    "id": state.system_id,
                    "armed": state.armed,
                    "mode": state.mode.name.lower(),
                    "landed": state.landed,
                    "broken": state.crashed,
                    "enu": enu,
                    "battery": round(battery[state.index], 4),
                }
                for state, enu in zip((c.state for c in self.commanders), self.true_enu_m(), strict=True)
            ],
        }

    def any_armed(self) -> bool:
        """True while a vehicle is armed."""
        return any(commander.state.armed for commander in self.commanders)

    def true_enu_m(self) -> list[list[float]]:
        """True positions, one [east, north, up] in metres from the datum per vehicle, to the millimetre."""
        p = self.fleet.position_m
        enu = np.round(np.stack((p[:, 1], p[:, 0], -p[:, 2]), axis=1), 3) + 0.0
        rows: list[list[float]] = enu.tolist()
        return rows

    def _check_separation(self) -> None:
        for pair in self.fleet.update_separation():
            for vehicle in pair:
                self.commanders[vehicle].state.report(Severity.EMERGENCY, "Collision with another vehicle")

    def _run_commanders(self) -> None:
        dt = STEP_S * COMMANDER_STEPS
        fleet, config = self.fleet, self.config
        fleet.step_wind(dt)
        fleet.step_battery(dt)
        decay = math.exp(-dt / DRIFT_TAU_S)
        kick = config.drift_m * math.sqrt(1.0 - decay * decay)
        self._drift = self._drift * decay + kick * self._drift_random.standard_normal(self._drift.shape)
        self.controller.estimate_error_m = self._drift + self._bias
        positions: Floats = fleet.position_m + self.controller.estimate_error_m
        now = self.time_s
        rows = zip(
            self.commanders,
            positions.tolist(),
            fleet.velocity_m_s.tolist(),
            fleet.contact.tolist(),
            fleet.crashed.tolist(),
            fleet.battery.tolist(),
            fleet.motors.tolist(),
            strict=True,
        )
        for commander, position, velocity, contact, crashed, battery, motors in rows:
            commander.update(
                VehicleEstimate(tuple(position), tuple(velocity), contact, crashed, battery, motors), now
            )


def _vec(row: Floats) -> Vec3:
    return float(row[0]), float(row[1]), float(row[2])
