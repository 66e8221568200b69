"""Following an estimator's origin: told, wrong, changed in flight, reset, or found from pairs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from chimera_ros.autopilot.frames import EkfOrigin, LocalFrame, Projection, TangentPlane, Vec3
from chimera_ros.autopilot.origin import OriginTracker
from chimera_ros.flight.datum import Datum

PLANE = TangentPlane(Datum(47.397742, 8.545594, 488.0))


def add(a: Vec3, b: Vec3) -> Vec3:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@dataclass
class Vehicle:
    """A vehicle whose truth is known: 20 Hz local, 10 Hz global positions, noise, jittered arrival."""

    tracker: OriginTracker
    origin_enu_m: Vec3 = (30.0, -20.0, 2.0)
    at_enu_m: Vec3 = (31.0, -22.0, 2.0)
    velocity: Vec3 = (0.0, 0.0, 0.0)
    lie_m: Vec3 = (0.0, 0.0, 0.0)  # added to local positions: the origin is not where it says
    estimate_off_m: Vec3 = (0.0, 0.0, 0.0)  # moves global and local alike, as a reset does
    now: float = 100.0
    noise: random.Random = field(default_factory=lambda: random.Random(5))

    def origin(self) -> EkfOrigin:
        return EkfOrigin(*PLANE.to_geodetic(self.origin_enu_m))

    def fly(self, seconds: float) -> None:
        for k in range(round(seconds / 0.05)):
            self.now += 0.05
            self.at_enu_m = add(self.at_enu_m, tuple(0.05 * v for v in self.velocity))  # type: ignore[arg-type]
            believed = add(self.at_enu_m, self.estimate_off_m)
            local = LocalFrame(PLANE, self.origin(), Projection.PX4).to_local(believed)
            shaken: Vec3 = tuple(a + self.noise.gauss(0.0, 0.02) for a in local)  # type: ignore[assignment]
            arrival = self.now + self.noise.uniform(0.0, 0.02)
            self.tracker.on_local(add(shaken, self.lie_m), self.velocity, arrival)
            if k % 2 == 0:
                self.tracker.on_global(*PLANE.to_geodetic(believed), arrival + 0.021)

    def error_m(self) -> float:
        """How far the tracker's idea of the vehicle's place in `map` is off."""
        frame = self.tracker.frame
        assert frame is not None
        local = LocalFrame(PLANE, self.origin(), Projection.PX4).to_local(self.at_enu_m)
        placed = frame.to_map(add(local, self.lie_m))
        return max(abs(a - b) for a, b in zip(placed, self.at_enu_m, strict=True))


@pytest.fixture
def vehicle() -> Vehicle:
    return Vehicle(OriginTracker(PLANE, Projection.PX4))


def test_told_and_right(vehicle: Vehicle) -> None:
    assert vehicle.tracker.frame is None
    assert "no GPS_GLOBAL_ORIGIN" in vehicle.tracker.blockers("drone_01", vehicle.now)[0]
    vehicle.tracker.on_origin(vehicle.origin())
    assert vehicle.tracker.blockers("drone_01", vehicle.now)  # not compared yet
    vehicle.fly(1.0)
    assert vehicle.tracker.blockers("drone_01", vehicle.now) == ()
    assert vehicle.error_m() < 0.01
    assert not vehicle.tracker.request_soon()


@pytest.mark.parametrize(("lie", "refused"), [(0.5, False), (0.9, False), (1.2, True), (30.0, True)])
def test_wrong_origin_is_refused(vehicle: Vehicle, lie: float, refused: bool) -> None:
    vehicle.lie_m = (0.0, lie, 0.0)
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(3.0)
    blockers = vehicle.tracker.blockers("drone_01", vehicle.now)
    assert bool(blockers) is refused
    if refused:
        assert f"disagree by {lie:.1f} m" in blockers[0]
        assert vehicle.tracker.request_soon()
        vehicle.tracker.on_origin(vehicle.origin())  # told again, no better
        vehicle.fly(1.0)
        assert vehicle.tracker.blockers("drone_01", vehicle.now)


def test_wrong_height_is_refused(vehicle: Vehicle) -> None:
    vehicle.lie_m = (0.0, 0.0, 1.5)
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    assert vehicle.tracker.blockers("drone_01", vehicle.now)


def test_origin_corrected_on_the_ground(vehicle: Vehicle) -> None:
    vehicle.tracker.on_origin(EkfOrigin(*PLANE.to_geodetic((0.0, 0.0, 0.0))))
    vehicle.fly(1.0)
    assert vehicle.tracker.blockers("drone_01", vehicle.now)
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    assert vehicle.tracker.blockers("drone_01", vehicle.now) == ()
    assert vehicle.error_m() < 0.01


@pytest.mark.parametrize("velocity", [(0.0, 0.0, 0.0), (9.0, -4.0, 2.0)])
def test_origin_moved_in_flight(vehicle: Vehicle, velocity: Vec3) -> None:
    """Positions stay right at once, before the new origin has been told, and exactly right afterwards."""
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.velocity = velocity
    vehicle.fly(2.0)
    vehicle.origin_enu_m = add(vehicle.origin_enu_m, (4.0, -3.0, 1.0))
    vehicle.fly(0.2)
    assert vehicle.error_m() < 0.6
    assert vehicle.tracker.request_soon()
    assert vehicle.tracker.origin_changes == 1
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(0.5)
    assert vehicle.error_m() < 0.01
    assert vehicle.tracker.blockers("drone_01", vehicle.now) == ()
    assert not vehicle.tracker.request_soon()
    assert vehicle.tracker.position_resets == 0


def test_new_origin_told_before_the_positions_follow(vehicle: Vehicle) -> None:
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    moved = add(vehicle.origin_enu_m, (5.0, 0.0, 0.0))
    vehicle.tracker.on_origin(EkfOrigin(*PLANE.to_geodetic(moved)))
    vehicle.fly(0.3)
    assert vehicle.error_m() < 0.01  # still the old one
    vehicle.origin_enu_m = moved
    vehicle.fly(0.5)
    assert vehicle.error_m() < 0.01
    assert not vehicle.tracker.request_soon()


def test_origin_that_does_not_fit_positions_is_not_taken(vehicle: Vehicle) -> None:
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    vehicle.tracker.on_origin(EkfOrigin(*PLANE.to_geodetic((500.0, 0.0, 0.0))))
    vehicle.fly(2.0)
    assert vehicle.error_m() < 0.01


def test_position_reset_is_not_an_origin_change(vehicle: Vehicle) -> None:
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    vehicle.estimate_off_m = (3.0, 3.0, 0.0)
    vehicle.fly(1.0)
    assert vehicle.tracker.position_resets == 1
    assert vehicle.tracker.origin_changes == 0
    assert vehicle.error_m() < 0.01


def test_origin_found_from_pairs(vehicle: Vehicle) -> None:
    vehicle.fly(1.0)
    assert vehicle.tracker.frame is None  # it may still tell
    vehicle.tracker.on_origin_unreported()
    vehicle.fly(2.0)
    assert vehicle.error_m() < 0.1
    assert vehicle.tracker.blockers("drone_01", vehicle.now) == ()
    vehicle.tracker.on_origin(vehicle.origin())  # told at last
    vehicle.fly(0.5)
    assert vehicle.error_m() < 0.01


def test_silent_global_position_blocks(vehicle: Vehicle) -> None:
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    assert "no global position" in vehicle.tracker.blockers("drone_01", vehicle.now + 5.0)[0]


@pytest.mark.parametrize("seed", range(10))
def test_fast_and_noisy_flight_does_not_confuse_it(seed: int) -> None:
    """Bursts of delayed messages, as on a busy machine, never move the frame."""
    vehicle = Vehicle(OriginTracker(PLANE, Projection.PX4), noise=random.Random(seed))
    vehicle.tracker.on_origin(vehicle.origin())
    vehicle.fly(1.0)
    dice = random.Random(seed)
    for _ in range(30):
        vehicle.velocity = (dice.uniform(-12, 12), dice.uniform(-12, 12), dice.uniform(-3, 3))
        vehicle.fly(0.5)
        vehicle.now += dice.choice((0.0, 0.0, 0.1, -0.04))  # a gap, or two samples close together
    assert vehicle.error_m() < 0.01
    assert vehicle.tracker.origin_changes == 0


def test_local_positions_that_always_come_just_after_the_global_ones_are_compared(vehicle: Vehicle) -> None:
    tracker, here = vehicle.tracker, vehicle.at_enu_m
    tracker.on_origin(vehicle.origin())
    local = LocalFrame(PLANE, vehicle.origin(), Projection.PX4).to_local(here)
    for k in range(20):
        tracker.on_local(local, (0.0, 0.0, 0.0), 100.0 + 0.2 * k)
        tracker.on_global(*PLANE.to_geodetic(here), 100.0 + 0.2 * k - 0.001)
    assert tracker.agrees
    assert tracker.blockers("drone_01", 104.0) == ()
