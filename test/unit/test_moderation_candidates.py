"""Candidate manoeuvres: each joins smoothly, keeps limits and fence, and ends at the planned goal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.limits import Fence, FlightEnvelope
from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import MotionLimits, Path, straight_legs
from chimera_ros.moderation.errors import ModerationError, ModerationReason
from chimera_ros.moderation.manoeuvres import PLANNED, Manoeuvre, apply_manoeuvres, candidates
from chimera_ros.moderation.scenes import FENCE, LIMITS, SEPARATION
from chimera_ros.moderation.tracks import Track

PLACE = st.tuples(st.floats(-120.0, 120.0), st.floats(-120.0, 120.0), st.floats(40.0, 80.0))


def leg(start, goal, speed=10.0):
    limits = MotionLimits(
        speed, LIMITS.climb_m_s, LIMITS.descent_m_s, LIMITS.acceleration_m_s2, LIMITS.jerk_m_s3
    )
    return straight_legs(np.array([start], dtype=float), np.array([goal], dtype=float), limits)[0]


def in_flight(knots, share):
    """What is left of a trajectory after a share of its time: the first state moves."""
    path = Path(knots)
    now = path.duration_s * share
    p, v, a = path.evaluate(now)
    later = [k for k in knots if k.t_s > now + 0.01]
    first = TrajectoryKnot(0.0, p, v, a)
    moved = [
        TrajectoryKnot(k.t_s - now, k.position_enu_m, k.velocity_enu_m_s, k.acceleration_enu_m_s2)
        for k in later
    ]
    return [first, *moved]


def check(knots, made, limits, fence):
    planned = Path(knots)
    own = planned.bounds()
    envelope = FlightEnvelope(
        fence,
        max(limits.speed_m_s, own.horizontal_speed_m_s),
        max(limits.climb_m_s, limits.descent_m_s, own.vertical_speed_m_s),
        max(limits.acceleration_m_s2, own.acceleration_m_s2),
        max(limits.jerk_m_s3, own.jerk_m_s3),
    )
    path = Path(made.knots)
    assert envelope.refuses_path(path, None) == ""
    for mine, theirs in ((made.knots[0], knots[0]), (made.knots[-1], knots[-1])):
        assert mine.position_enu_m == pytest.approx(theirs.position_enu_m, abs=1e-9)
        assert mine.velocity_enu_m_s == pytest.approx(theirs.velocity_enu_m_s, abs=1e-9)
        assert mine.acceleration_enu_m_s2 == pytest.approx(theirs.acceleration_enu_m_s2, abs=1e-9)
    # the compiled pieces that conflicts are looked for in are those of the knots
    times = np.linspace(0.0, path.duration_s, 50)
    assert made.track.coefficients == pytest.approx(path.coefficients, abs=1e-6)
    assert made.late_s == pytest.approx(path.duration_s - planned.duration_s, abs=1e-6)
    assert made.cost >= 0.0
    return path.sample(times)


@settings(max_examples=40)
@given(PLACE, PLACE, st.floats(2.0, 12.0), st.sampled_from([0.0, 0.0, 0.2, 0.5, 0.8]))
def test_every_candidate_may_be_flown(start, goal, speed, share):
    if np.linalg.norm(np.subtract(start, goal)) < 0.5:
        return
    knots = leg(start, goal, speed)
    if share:
        knots = in_flight(knots, share)
    made = candidates(Track.of_knots(knots), LIMITS, FENCE, SEPARATION, 16)
    assert made[0].manoeuvre == PLANNED
    assert made[0].cost == 0.0
    assert len({c.manoeuvre for c in made}) == len(made)
    for one in made:
        check(knots, one, LIMITS, FENCE)


@settings(max_examples=25)
@given(st.lists(PLACE, min_size=3, max_size=5), st.floats(0.0, 0.9))
def test_candidates_of_curved_ways(places, share):
    knots, t = [], 0.0
    for place, velocity in zip(places, np.roll(np.array(places), -1, axis=0) - np.array(places), strict=True):
        inner = 0 < len(knots) < len(places) - 1
        knots.append(TrajectoryKnot(t, place, tuple(0.02 * velocity) if inner else (0.0, 0.0, 0.0)))
        t += 15.0
    knots = in_flight(knots, share) if share else knots
    limits = MotionLimits(30.0, 12.0, 12.0, 12.0, 40.0)
    fence = Fence.box((-200.0, 200.0), (-200.0, 200.0), (0.0, 120.0))
    for one in candidates(Track.of_knots(knots), limits, fence, SEPARATION, 16):
        check(knots, one, limits, fence)


def test_a_way_with_room_has_sixteen_candidates():
    knots = leg((-100.0, 0.0, 60.0), (100.0, 0.0, 60.0))
    made = candidates(Track.of_knots(knots), LIMITS, FENCE, SEPARATION, 16)
    assert len(made) == 16
    by = {c.manoeuvre: check(knots, c, LIMITS, FENCE) for c in made}
    up = [m for m in by if m.layer_m > 0.0 and not m.lateral_m and not m.delay_s]
    assert by[up[0]][:, 2].max() == pytest.approx(60.0 + up[0].layer_m, abs=1e-6)
    left = [m for m in by if m.lateral_m > 0.0 and not m.layer_m]
    assert by[left[0]][:, 1].max() == pytest.approx(left[0].lateral_m, abs=1e-6)
    wait = next(c for c in made if c.manoeuvre.delay_s and not c.manoeuvre.layer_m)
    assert Path(wait.knots).evaluate(wait.manoeuvre.delay_s)[0] == pytest.approx((-100.0, 0.0, 60.0))
    assert wait.late_s == pytest.approx(wait.manoeuvre.delay_s)


def test_a_drone_in_flight_loses_time_without_stopping():
    knots = in_flight(leg((-100.0, 0.0, 60.0), (100.0, 0.0, 60.0)), 0.3)
    track = Track.of_knots(knots)
    (slow,) = apply_manoeuvres(track, [Manoeuvre(delay_s=2.0)], LIMITS, FENCE)
    check(knots, slow, LIMITS, FENCE)
    assert slow.late_s == pytest.approx(2.0, abs=0.7)
    path = Path(slow.knots)
    cruise = [np.hypot(*path.evaluate(t)[1][:2]) for t in np.linspace(0.0, 5.0, 100)]
    assert min(cruise) > 2.0


def test_a_goal_just_ahead_leaves_little_to_do():
    knots = leg((0.0, 0.0, 60.0), (0.6, 0.0, 60.0))
    for one in candidates(Track.of_knots(knots), LIMITS, FENCE, SEPARATION, 16):
        check(knots, one, LIMITS, FENCE)


def test_layers_stay_below_the_fence():
    low = Fence.box((-150.0, 150.0), (-150.0, 150.0), (58.0, 66.0))
    knots = leg((-100.0, 0.0, 60.0), (100.0, 0.0, 60.0))
    made = candidates(Track.of_knots(knots), LIMITS, low, SEPARATION, 16)
    assert {np.sign(c.manoeuvre.layer_m) for c in made} == {0.0, 1.0}
    for one in made:
        check(knots, one, LIMITS, low)


@pytest.mark.parametrize(
    ("fence", "wall"),
    [
        (Fence.box((-50.0, 50.0), (-50.0, 50.0), (0.0, 100.0)), "50.0 m at a side"),
        (Fence.box((-150.0, 150.0), (-150.0, 150.0), (0.0, 40.0)), "20.0 m at the highest"),
    ],
)
def test_an_impossible_fence_is_said(fence, wall):
    track = Track.of_knots(leg((-100.0, 0.0, 60.0), (100.0, 0.0, 60.0)))
    with pytest.raises(ModerationError, match=wall) as caught:
        candidates(track, LIMITS, fence, SEPARATION, who="drone 7")
    assert caught.value.reason is ModerationReason.OUTSIDE_FENCE
    assert str(caught.value).startswith("drone 7")


def test_yaw_is_kept():
    start, end = (
        leg((-100.0, 0.0, 60.0), (100.0, 0.0, 60.0))[0],
        leg((-100.0, 0.0, 60.0), (100.0, 0.0, 60.0))[-1],
    )
    knots = [
        TrajectoryKnot(0.0, start.position_enu_m, yaw_enu_rad=1.0),
        TrajectoryKnot(60.0, end.position_enu_m, yaw_enu_rad=2.0),
    ]
    for one in candidates(Track.of_knots(knots), LIMITS, FENCE, Separation(5.0, 4.0), 16):
        assert one.knots[0].yaw_enu_rad == 1.0
        assert one.knots[-1].yaw_enu_rad == pytest.approx(2.0)
