"""Priority planning and holds: what they return is clear at every millisecond, or says what is not."""

import numpy as np
import pytest

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Path
from chimera_ros.moderation import scenes
from chimera_ros.moderation.brute import brute_force
from chimera_ros.moderation.hold import plan_hold
from chimera_ros.moderation.priority import prioritise, unavoidable
from chimera_ros.moderation.scenes import FENCE, LIMITS, SEPARATION
from chimera_ros.moderation.tracks import Track
from chimera_ros.moderation.verify import verify


def tracks_of(knots):
    return [Track.of_knots(mine) for mine in knots]


def last(attempts):
    *_, out = attempts
    assert out.done
    return out


def flying(start, velocity, goal, seconds):
    return [TrajectoryKnot(0.0, start, velocity), TrajectoryKnot(seconds, goal)]


@pytest.mark.parametrize(("make", "count"), [(scenes.antipodal, 12), (scenes.crossings, 15)])
def test_a_whole_scene_is_parted(make, count):
    scene = make(count, 2)
    done = last(prioritise(tracks_of(scene.knots), scene.limits, scene.fence, scene.separation))
    knots = [c.knots for c in done.chosen]
    assert brute_force(scene.knots, scene.separation)
    assert not brute_force(knots, scene.separation)
    assert verify(knots, scene.separation, scene.knots, scene.limits, scene.fence).ok


def test_a_tunnel_is_passed_by_waiting():
    # no room for layers or sides: the second waits until the first is through
    narrow = scenes.Fence.box((-60.0, 60.0), (-60.0, 60.0), (58.0, 62.0))
    first = scenes._legs(np.array([[-50.0, 0.0, 60.0]]), np.array([[50.0, 0.0, 60.0]]), np.array([8.0]))
    other = scenes._legs(np.array([[0.0, -50.0, 60.0]]), np.array([[0.0, 50.0, 60.0]]), np.array([8.0]))
    knots = [first[0], other[0]]
    done = last(prioritise(tracks_of(knots), LIMITS, narrow, SEPARATION))
    assert verify([c.knots for c in done.chosen], SEPARATION, knots, LIMITS, narrow).ok
    assert not brute_force([c.knots for c in done.chosen], SEPARATION)
    assert max(c.late_s for c in done.chosen) > 0.0


def test_what_nothing_parts_is_named():
    scene = scenes.crossings(3, 1)
    knots = [scene.knots[0], scene.knots[0], scene.knots[2]]
    done = last(prioritise(tracks_of(knots), scene.limits, scene.fence, scene.separation))
    assert done.chosen is None
    assert done.blocking == ((0, 1),)
    (pair,) = unavoidable(tracks_of(knots), scene.separation)
    assert (pair.first, pair.second, pair.t_s, pair.horizontal_m, pair.vertical_m) == (0, 1, 0.0, 0.0, 0.0)


def test_goals_in_one_place_are_unavoidable():
    scene = scenes.crossings(3, 1)
    goal = scene.knots[0][-1].position_enu_m
    near = tuple(np.add(goal, (3.0, 0.0, 0.0)))
    knots = [scene.knots[0], flying((100.0, 100.0, 60.0), (0.0, 0.0, 0.0), near, 60.0)]
    (pair,) = unavoidable(tracks_of(knots), scene.separation)
    assert pair.t_s == 60.0
    assert pair.horizontal_m == pytest.approx(3.0)
    assert pair.ratio == pytest.approx(0.6)
    assert not unavoidable(tracks_of(scene.knots), scene.separation)


def test_drones_in_flight_are_parted_without_a_jump():
    ways = [
        flying((-100.0, 0.0, 60.0), (9.0, 0.0, 0.0), (100.0, 0.0, 60.0), 30.0),
        flying((0.0, -100.0, 60.0), (0.0, 9.0, 0.0), (0.0, 100.0, 60.0), 30.0),
        flying((100.0, 1.0, 60.0), (-9.0, 0.0, 0.0), (-100.0, 1.0, 60.0), 30.0),
    ]
    done = last(prioritise(tracks_of(ways), LIMITS, FENCE, SEPARATION))
    knots = [c.knots for c in done.chosen]
    assert brute_force(ways, SEPARATION)
    assert not brute_force(knots, SEPARATION)
    assert verify(knots, SEPARATION, ways, LIMITS, FENCE).ok


def test_everybody_holds():
    scene = scenes.antipodal(6, 1)
    ways = [*scene.knots, flying((0.0, -50.0, 80.0), (0.0, 9.0, 0.0), (0.0, 50.0, 80.0), 14.0)]
    stopped = plan_hold(tracks_of(ways), LIMITS, SEPARATION)
    assert not stopped.conflicts
    knots = [t.knots() for t in stopped.tracks]
    assert not brute_force(knots, SEPARATION)
    for mine, theirs in zip(knots[:6], ways[:6], strict=True):
        assert {k.position_enu_m for k in mine} == {theirs[0].position_enu_m}
    moving = Path(knots[6])
    assert moving.evaluate(0.0)[1] == (0.0, 9.0, 0.0)
    assert moving.knots[-1].velocity_enu_m_s == (0.0, 0.0, 0.0)
    assert moving.bounds().acceleration_m_s2 <= LIMITS.acceleration_m_s2 * (1 + 1e-6)
    assert moving.knots[-1].position_enu_m[1] < -30.0


def test_a_hold_that_is_none_says_so():
    near = [flying((x, 0.0, 60.0), (0.0, 0.0, 0.0), (x, 90.0, 60.0), 30.0) for x in (0.0, 3.0)]
    ahead = [
        flying((0.0, 40.0, 60.0), (0.0, 8.0, 0.0), (0.0, 90.0, 60.0), 12.0),
        flying((0.0, 43.0, 60.0), (0.0, -8.0, 0.0), (0.0, -40.0, 60.0), 20.0),
    ]
    for ways in (near, ahead):
        stopped = plan_hold(tracks_of(ways), LIMITS, Separation(5.0, 4.0))
        assert [(c.first, c.second) for c in stopped.conflicts] == [(0, 1)]
        assert stopped.conflicts[0].ratio < 1.0
