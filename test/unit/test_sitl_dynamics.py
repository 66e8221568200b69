"""The simulated vehicles in stepped time: hover, tracking, ground, battery, collisions, reproducibility."""

from __future__ import annotations

import math

import numpy as np
import pytest

from chimera_ros.sitl.config import Fault, FaultKind, SitlConfig, SitlError
from chimera_ros.sitl.mavlink_types import FlightMode, MavCommand, MavResult
from chimera_ros.sitl.simulation import STEP_S, Simulation
from chimera_ros.sitl.vehicle_state import OffboardSetpoint

NAN = math.nan
ARM = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
TAKEOFF = (0.0, 0.0, 0.0, NAN, NAN, NAN, NAN)


def airborne(config: SitlConfig) -> Simulation:
    """A simulation whose vehicles all hover after takeoff."""
    sim = Simulation(config)
    commanders = sim.commanders
    assert sim.run_until(lambda: all(p.state.ready for p in commanders), 10.0)
    for commander in commanders:
        assert commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.ACCEPTED
        assert commander.command(MavCommand.TAKEOFF, TAKEOFF, sim.time_s) == MavResult.ACCEPTED
    assert sim.run_until(
        lambda: all(p.state.mode is FlightMode.HOLD and not p.state.landed for p in commanders), 15.0
    )
    sim.advance(500)
    return sim


def offboard(sim: Simulation, make: object, seconds: float, rate_hz: float = 20.0) -> np.ndarray:
    """Stream `make(t)` (position, velocity, acceleration; NED) to vehicle 0; true errors after 2 s."""
    commander, start, errors = sim.commanders[0], sim.time_s, []
    next_s = start
    entered = False
    while sim.time_s < start + seconds:
        if sim.time_s >= next_s - 1e-9:
            next_s += 1.0 / rate_hz
            position, velocity, acceleration = make(sim.time_s - start)  # type: ignore[operator]
            point = OffboardSetpoint(position, velocity, acceleration, 0.0, 0.0, sim.time_s)
            commander.setpoint(point, sim.time_s)
            if not entered:
                assert commander.set_mode(FlightMode.OFFBOARD, sim.time_s) == MavResult.ACCEPTED
                entered = True
        sim.advance(2)
        if sim.time_s > start + 2.0:
            wanted = np.array(make(sim.time_s - start)[0])  # type: ignore[operator]
            errors.append(float(np.linalg.norm(sim.fleet.position_m[0] - wanted)))
    return np.array(errors)


def test_hover_stays_within_a_few_centimetres_of_where_it_is_asked() -> None:
    sim = airborne(SitlConfig(drones=4, wind_m_s=6.0, drift_m=0.0, altitude_bias_m=0.0))
    places = []
    for _ in range(100):
        sim.advance(25)
        places.append(sim.fleet.position_m.copy())
    track = np.array(places)
    assert np.abs(track - track.mean(axis=0)).max() < 0.35
    wanted = np.array([p.state.guidance.target_m for p in sim.commanders])
    assert np.abs(track.mean(axis=0) - wanted).max() < 0.1
    assert sim.fleet.wind_m_s.std() > 0.1, "there are gusts to hold against"


@pytest.mark.parametrize("given", [True, False])
def test_smooth_trajectory_at_5_m_s_is_tracked_within_0_3_m(given: bool) -> None:
    sim = airborne(SitlConfig(drones=1, wind_m_s=4.0, seed=3))
    x, y, z = sim.fleet.position_m[0]
    radius, speed = 25.0 / 3.0, 5.0  # centripetal acceleration 3 m/s²

    def circle(t: float) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...] | None]:
        ramp = 2.5
        length = 0.5 * speed / ramp * t * t if t < ramp else speed * (t - 0.5 * ramp)
        v, push = (speed * t / ramp, speed / ramp) if t < ramp else (speed, 0.0)
        a, n = length / radius, v * v / radius
        c, s = math.cos(a), math.sin(a)
        place = (x + radius * s, y + radius * (1.0 - c), z - 2.0 - 0.5 * math.sin(0.5 * t))
        rate = -0.25 * math.cos(0.5 * t)
        acceleration = (push * c - n * s, push * s + n * c, 0.125 * math.sin(0.5 * t))
        return place, (v * c, v * s, rate), acceleration if given else None

    errors = offboard(sim, circle, 25.0)
    assert np.percentile(errors[200:], 99) < 0.3
    assert sim.commanders[0].state.mode is FlightMode.OFFBOARD


def test_position_step_settles_without_much_overshoot() -> None:
    sim = airborne(SitlConfig(drones=1, seed=2))
    north, east, down = sim.commanders[0].state.estimate.position_m
    sim.commanders[0].state.guidance.go((north + 20.0, east, down), sim.time_s)
    furthest = 0.0
    for _ in range(400):
        sim.advance(5)
        furthest = max(furthest, float(sim.fleet.position_m[0, 0]) - north)
    assert 19.8 < furthest < 20.6
    assert abs(sim.fleet.position_m[0, 0] - north - 20.0) < 0.15


def test_same_seed_same_flight_and_another_seed_another() -> None:
    def digest(seed: int) -> bytes:
        sim = airborne(SitlConfig(drones=3, wind_m_s=5.0, seed=seed))
        sim.commanders[1].command(MavCommand.RETURN, TAKEOFF, sim.time_s)
        sim.advance(1500)
        return sim.fleet.digest()

    first = digest(7)
    assert first == digest(7)
    assert first != digest(8)


def test_rotation_matrices_stay_rotations() -> None:
    sim = airborne(SitlConfig(drones=2, wind_m_s=8.0))
    sim.advance(5000)
    r = sim.fleet.rotation
    assert np.abs(r @ r.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5
    q = sim.fleet.quaternions()
    assert np.abs(np.linalg.norm(q, axis=1) - 1.0).max() < 1e-9
    w, x, y, z = q.T
    assert np.abs(2.0 * (x * y + w * z) - r[:, 1, 0]).max() < 1e-4
    assert np.abs(1.0 - 2.0 * (x * x + y * y) - r[:, 2, 2]).max() < 1e-4


def test_landing_is_soft_and_ends_disarmed_on_the_pad() -> None:
    config = SitlConfig(drones=2, wind_m_s=3.0, spawn_enu_m=((0.0, 0.0, 0.0), (5.0, 5.0, 1.5)))
    sim = airborne(config)
    for commander in sim.commanders:
        assert commander.command(MavCommand.LAND, TAKEOFF, sim.time_s) == MavResult.ACCEPTED
    assert sim.run_until(lambda: not any(p.state.armed for p in sim.commanders), 30.0)
    assert not sim.fleet.crashed.any()
    assert sim.fleet.position_m[:, 2].tolist() == [0.0, -1.5]
    assert np.abs(sim.fleet.velocity_m_s).max() == 0.0


def test_stopped_motors_mean_a_fall_and_a_broken_vehicle() -> None:
    sim = airborne(SitlConfig(drones=1))
    commander = sim.commanders[0]
    assert (
        commander.command(MavCommand.ARM_DISARM, (0.0, 21196.0, *ARM[2:]), sim.time_s) == MavResult.ACCEPTED
    )
    assert sim.run_until(lambda: commander.state.crashed, 5.0)
    assert sim.fleet.position_m[0, 2] == 0.0
    assert commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.TEMPORARILY_REJECTED
    assert (
        commander.command(MavCommand.ARM_DISARM, (1.0, 21196.0, *ARM[2:]), sim.time_s)
        == MavResult.TEMPORARILY_REJECTED
    )


def test_hovering_empties_the_battery_in_the_time_configured() -> None:
    sim = airborne(SitlConfig(drones=1, hover_minutes=10.0))
    before, start = float(sim.fleet.battery[0]), sim.time_s
    sim.advance(round(30.0 / STEP_S))
    used = before - float(sim.fleet.battery[0])
    assert used == pytest.approx((sim.time_s - start) / 600.0, rel=0.05)


def test_touching_vehicles_are_counted_once_and_fall() -> None:
    sim = airborne(SitlConfig(drones=3, spacing_m=3.0))
    assert sim.fleet.collisions == 0
    assert 2.0 < sim.fleet.min_separation_m < 3.3
    target = sim.commanders[1].state.guidance.target_m
    sim.commanders[0].state.guidance.go(target, sim.time_s)
    assert sim.run_until(lambda: sim.fleet.collisions > 0, 10.0)
    sim.advance(1000)
    assert sim.fleet.collisions == 1
    assert sim.fleet.min_separation_m < 0.5
    assert sim.fleet.crashed.tolist() == [True, True, False]
    status = sim.status()
    assert status["collisions"] == 1
    assert [v["broken"] for v in status["vehicles"]] == [True, True, False]


def test_vehicles_on_the_ground_do_not_count_as_close() -> None:
    sim = Simulation(SitlConfig(drones=4, spacing_m=1.0))
    sim.advance(500)
    assert sim.status()["min_separation_m"] is None


def test_origins_differ_from_spawn_and_from_each_other() -> None:
    sim = Simulation(SitlConfig(drones=6))
    spawn = sim.fleet.position_m
    origins = np.array([p.state.origin_m for p in sim.commanders])
    assert np.abs(origins - spawn).min() > 1.0
    local = np.array([p.state.local_m(p.state.estimate.position_m) for p in sim.commanders])
    assert np.linalg.norm(local[0] - local[1:], axis=1).min() > 0.1


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (SitlConfig(drones=0), "--drones 0"),
        (SitlConfig(drones=300), "--drones 300"),
        (SitlConfig(personality="arducopter"), "not built yet"),
        (SitlConfig(personality="x"), "only px4"),
        (SitlConfig(first_port=80), "--first-port 80"),
        (SitlConfig(gcs_port=15542), "--gcs-port 15542"),
        (SitlConfig(wind_m_s=40.0), "--wind 40"),
        (SitlConfig(drones=2, spawn_enu_m=((0.0, 0.0, 0.0),)), "1 places for 2"),
        (SitlConfig(drones=2, faults=(Fault(4, FaultKind.SILENT),)), "vehicle 5"),
    ],
)
def test_impossible_configurations_are_refused_in_one_sentence(config: SitlConfig, said: str) -> None:
    with pytest.raises(SitlError) as error:
        Simulation(config)
    assert said in str(error.value)
    assert str(error.value).endswith(".")


@pytest.mark.parametrize(
    "text", ["", "x", "1", "0:silent", "1:nothing", "1:freeze@-2", "a:silent", "1:freeze@nan"]
)
def test_faults_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(SitlError):
        Fault.parse(text)


def test_a_fault_is_read() -> None:
    assert Fault.parse("3:freeze@12.5") == Fault(2, FaultKind.FREEZE, 12.5)
