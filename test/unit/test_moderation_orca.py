"""The reactive avoidance that planning is compared with."""

from __future__ import annotations

import numpy as np

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.moderation.orca import fly, half_planes

SEPARATION = Separation(5.0, 4.0)


def straight(start, goal, seconds=10.0):
    return tuple(TrajectoryKnot(t, p, (0.0,) * 3, (0.0,) * 3) for t, p in ((0.0, start), (seconds, goal)))


def test_two_drones_that_would_meet_dodge_and_arrive():
    flown = fly(
        [straight((-50.0, 0, 20), (50.0, 0, 20)), straight((50.0, 1.0, 20), (-50.0, 1.0, 20))], SEPARATION
    )
    assert flown.arrived == 2
    assert flown.clearance > 0.95
    assert flown.extra_m > 0.0


def test_drones_at_other_heights_are_not_dodged():
    flown = fly(
        [straight((-50.0, 0, 20), (50.0, 0, 20)), straight((50.0, 0, 30), (-50.0, 0, 30))], SEPARATION
    )
    assert (flown.arrived, flown.conflicts) == (2, 0)
    assert flown.extra_m < 0.5


def test_both_taking_half_of_the_change_leads_out_of_the_velocity_obstacle():
    rng = np.random.default_rng(0)
    for _ in range(200):
        place = np.column_stack([rng.uniform(-20, 20, (2, 2)), np.zeros(2)])
        velocity = rng.uniform(-10, 10, (2, 2))
        if np.hypot(*(place[0] - place[1])[:2]) < 5.5:
            continue
        point, _, active = half_planes(place, velocity, SEPARATION, 4.0, 0.1)
        assert active[0, 1] and not active[0, 0]
        apart = (point[0, 1] - velocity[0]) - (point[1, 0] - velocity[1])  # both halves together
        moving = velocity[0] - velocity[1] + apart
        times = np.linspace(0.0, 4.0, 4001)[:, None]
        gaps = np.hypot(*((place[0] - place[1])[:2] + times * moving).T)
        # the new relative velocity lies on the obstacle's boundary: it grazes the circle, or just reaches it
        assert abs(gaps.min() - 5.0) < 0.02
