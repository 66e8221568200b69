"""Trajectories, separation, formations, assignment and the flight envelope."""

from math import isfinite, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.follower.guidance import PathGuidance
from chimera_ros.flight.limits import Fence, FlightEnvelope
from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.planning.assignment import assign
from chimera_ros.flight.planning.formations import SHAPES, slots
from chimera_ros.flight.planning.separation import line_separations, nearest_pair, smallest_separation
from chimera_ros.flight.trajectory import MotionLimits, Path, TimeLaw, curved_legs, straight_legs

LIMITS = MotionLimits()
coordinate = st.floats(-50.0, 50.0)
point = st.tuples(coordinate, coordinate, st.floats(2.0, 50.0))
some_points = st.lists(point, min_size=2, max_size=6)


def random_path(seed: int, pieces: int = 4) -> Path:
    rng = np.random.default_rng(seed)
    knots = []
    for k in range(pieces + 1):
        p, v, a = rng.uniform(-10, 10, 3), rng.uniform(-4, 4, 3), rng.uniform(-3, 3, 3)
        knots.append(TrajectoryKnot(1.5 * k, tuple(p), tuple(v), tuple(a)))
    return Path(knots)


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_path_meets_its_knots_and_its_derivatives_are_consistent(seed: int) -> None:
    path = random_path(seed)
    for knot in path.knots[:-1]:
        p, v, a = path.evaluate(knot.t_s)
        assert np.allclose(p, knot.position_enu_m)
        assert np.allclose(v, knot.velocity_enu_m_s)
        assert np.allclose(a, knot.acceleration_enu_m_s2)
    h = 1e-5
    for t in np.linspace(0.1, path.duration_s - 0.1, 23):
        before, here, after = path.evaluate(t - h), path.evaluate(t), path.evaluate(t + h)
        assert np.allclose((np.array(after[0]) - before[0]) / (2 * h), here[1], atol=1e-3)
        assert np.allclose((np.array(after[1]) - before[1]) / (2 * h), here[2], atol=1e-2)
    times = np.linspace(0.0, path.duration_s, 50)[:-1]
    assert np.allclose(path.sample(times), [path.evaluate(t)[0] for t in times])


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_bounds_are_never_below_the_truth_and_close_to_it(seed: int) -> None:
    path = random_path(seed)
    bounds = path.bounds()
    states = [path.evaluate(t) for t in np.linspace(0.0, path.duration_s - 1e-9, 2000)]
    positions = np.array([s[0] for s in states])
    acceleration = max(np.linalg.norm(s[2]) for s in states)
    assert bounds.horizontal_speed_m_s >= max(np.hypot(*s[1][:2]) for s in states) - 1e-9
    assert bounds.vertical_speed_m_s >= max(abs(s[1][2]) for s in states) - 1e-9
    assert acceleration - 1e-9 <= bounds.acceleration_m_s2 <= 1.1 * acceleration + 0.2
    assert (positions >= np.array(bounds.low_enu_m) - 1e-9).all()
    assert (positions <= np.array(bounds.high_enu_m) + 1e-9).all()


@pytest.mark.parametrize(
    ("times", "match"),
    [
        ((0.0,), "2 to"),
        ((0.0, 0.0), "rise"),
        ((0.5, 1.0), "rise"),
        ((0.0, float("nan")), "finite"),
        ((0.0, 2e5), "day"),
    ],
)
def test_malformed_knots_are_refused(times: tuple[float, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Path([TrajectoryKnot(t, (0.0, 0.0, 5.0)) for t in times])


@given(some_points, some_points)
@settings(max_examples=60, deadline=None)
def test_straight_legs_keep_all_limits_and_arrive_together(starts: list, goals: list) -> None:
    count = min(len(starts), len(goals))
    a, b = np.array(starts[:count]), np.array(goals[:count])
    legs = straight_legs(a, b, LIMITS)
    if not legs[0]:
        assert np.allclose(a, b, atol=1e-5)
        return
    paths = [Path(knots) for knots in legs]
    assert len({p.duration_s for p in paths}) == 1
    for path, goal in zip(paths, b, strict=True):
        bounds = path.bounds()
        assert bounds.horizontal_speed_m_s <= LIMITS.speed_m_s * 1.001
        assert bounds.vertical_speed_m_s <= max(LIMITS.climb_m_s, LIMITS.descent_m_s) * 1.001
        assert bounds.acceleration_m_s2 <= LIMITS.acceleration_m_s2 * 1.02
        assert bounds.jerk_m_s3 <= LIMITS.jerk_m_s3 * 1.02
        end = path.evaluate(path.duration_s - 1e-9)
        assert np.allclose(end[0], goal, atol=1e-6)
        assert np.allclose(end[1], 0.0, atol=1e-5)


@given(some_points, some_points)
@settings(max_examples=40, deadline=None)
def test_separation_of_lines_is_exact_and_that_of_paths_a_close_lower_bound(
    starts: list, goals: list
) -> None:
    count = min(len(starts), len(goals))
    a, b = np.array(starts[:count]), np.array(goals[:count])
    exact = line_separations(a, b).min()
    s = np.linspace(0.0, 1.0, 400)[:, None, None]
    track = a + s * (b - a)
    sampled = min(nearest_pair(row).distance_m for row in track)
    step = np.linalg.norm(b - a, axis=1).max() * 2 / 399
    assert sampled - step - 1e-9 <= exact <= sampled + 1e-9
    legs = straight_legs(a, b, LIMITS)
    if legs[0]:
        bound = smallest_separation([Path(knots) for knots in legs]).distance_m
        assert exact - 0.05 <= bound <= exact + 1e-6


def test_separation_says_who_and_when() -> None:
    # head on along x, 1 m apart in y, and a third far away
    starts = np.array([(0.0, 0.0, 5.0), (20.0, 1.0, 5.0), (0.0, 90.0, 5.0)])
    goals = np.array([(20.0, 0.0, 5.0), (0.0, 1.0, 5.0), (20.0, 90.0, 5.0)])
    paths = [Path(knots) for knots in straight_legs(starts, goals, LIMITS)]
    closest = smallest_separation(paths)
    assert (closest.first, closest.second) == (0, 1)
    assert closest.distance_m == pytest.approx(1.0, abs=0.02)
    assert closest.t_s == pytest.approx(paths[0].duration_s / 2, abs=0.15)


@given(st.floats(0.01, 3.0), st.floats(0.01, 3.0), st.floats(0.01, 20.0))
def test_time_law_is_monotone_and_within_limits(speed: float, acceleration: float, jerk: float) -> None:
    law = TimeLaw.within(speed, acceleration, jerk)
    rows = np.array([law.at(t) for t in np.linspace(0.0, law.duration_s, 300)])
    assert isfinite(law.duration_s)
    assert (np.diff(rows[:, 0]) >= -1e-9).all()
    assert rows[-1, 0] == pytest.approx(1.0)
    assert rows[:, 1].max() <= speed * (1 + 1e-6)
    assert np.abs(rows[:, 2]).max() <= acceleration * (1 + 1e-6)
    assert 6 * law.cruise / law.ramp_s**2 <= jerk * (1 + 1e-6)


def test_curved_legs_stay_within_limits() -> None:
    def circle(s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        w, r = pi, 15.0
        c, n, z = np.cos(w * s)[:, None], np.sin(w * s)[:, None], np.zeros((len(s), 1))
        p = np.stack([r * c, r * n, z + 10.0], -1)
        return p, np.stack([-r * w * n, r * w * c, z], -1), np.stack([-r * w * w * c, -r * w * w * n, z], -1)

    path = Path(curved_legs(circle, LIMITS)[0])
    bounds = path.bounds()
    assert bounds.horizontal_speed_m_s <= LIMITS.speed_m_s * 1.02
    assert bounds.acceleration_m_s2 <= LIMITS.acceleration_m_s2 * 1.05
    assert bounds.jerk_m_s3 <= LIMITS.jerk_m_s3 * 1.1
    radius = np.linalg.norm(path.sample(np.linspace(0, path.duration_s, 200))[:, :2], axis=1)
    assert np.abs(radius - 15.0).max() < 0.01


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("count", [1, 2, 3, 5, 20, 80])
def test_slots_keep_their_spacing_and_are_centred(shape: str, count: int) -> None:
    points = slots(shape, count, 4.0, heading_deg=30.0)
    assert points.shape == (count, 3)
    assert np.allclose(points.mean(axis=0), 0.0, atol=1e-9)
    assert nearest_pair(points).distance_m >= 4.0 - 1e-6


def test_a_vee_points_where_it_heads_and_a_line_stands_abreast() -> None:
    east = slots("vee", 5, 4.0, heading_deg=90.0)
    assert east[0, 0] == pytest.approx(east[:, 0].max())
    assert np.ptp(slots("line", 5, 4.0, heading_deg=0.0)[:, 1]) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(2, 30), st.sampled_from(sorted(SHAPES)), st.sampled_from(sorted(SHAPES)))
@settings(max_examples=60, deadline=None)
def test_assigned_straight_lines_keep_the_capt_separation(count: int, first: str, second: str) -> None:
    a = slots(first, count, 4.0)
    b = assign(a, slots(second, count, 4.0))
    assert line_separations(a, b).min() >= 4.0 / 2**0.5 - 1e-6


def test_fence_must_be_convex_and_envelope_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="convex"):
        Fence(((0, 0), (10, 0), (10, 10), (5, 2), (0, 10)), 0.0, 50.0)
    envelope = FlightEnvelope(Fence.box((-20, 20), (-20, 20), (1, 30)), max_speed_m_s=6.0)
    assert envelope.refuses_point((0, 0, 10), None) == ""
    assert "outside the geofence" in envelope.refuses_point((21, 0, 10), None)
    assert "highest" in envelope.refuses_point((0, 0, 31), None)
    assert "finite" in envelope.refuses_point((float("nan"), 0, 10), None)
    start = np.array([[0.0, 0.0, 10.0]])
    out = Path(straight_legs(start, np.array([[25.0, 0.0, 10.0]]), LIMITS)[0])
    assert "leaves the geofence" in envelope.refuses_path(out, None)
    fast = Path(straight_legs(start, np.array([[19.0, 0.0, 10.0]]), MotionLimits(9.0, 2, 2, 6, 20))[0])
    assert "speed" in envelope.refuses_path(fast, None)


@given(some_points, st.lists(st.floats(0.3, 4.0), min_size=6, max_size=6), st.booleans())
@settings(max_examples=50, deadline=None)
def test_reference_stays_smooth_through_changes_of_mind(goals: list, pauses: list, stop: bool) -> None:
    guidance = PathGuidance(LIMITS)
    guidance.engage((0.0, 0.0, 10.0), 0.0)
    now, dt = 0.0, 0.01
    last = guidance.at(now, 0)
    for goal, pause in zip(goals, pauses, strict=False):
        guidance.leg(goal, now, 0)
        for _ in range(int(pause / dt)):
            now += dt
            p, v, a, _ = guidance.at(now, 0)
            assert np.linalg.norm(np.array(p) - last[0]) < 0.30  # no jump: below 30 m/s everywhere
            assert np.linalg.norm(np.array(v) - last[1]) < 0.30  # below 30 m/s^2
            last = (p, v, a, 0.0)
        if stop:
            guidance.brake(now, 0)
    guidance.leg(goals[0], now, 0)
    assert np.allclose(guidance.at(now + 200.0, 0)[0], goals[0], atol=1e-6)
    assert not guidance.moving


@pytest.mark.parametrize("set_s", [3600.0, -3600.0, 5.0, -5.0])
def test_a_plan_goes_on_when_the_clock_is_set(set_s: float) -> None:
    """The reference leaps neither to the end of the plan nor back, nor when the clock is right again."""
    path = Path(straight_legs(np.array([[0.0, 0.0, 10.0]]), np.array([[60.0, 0.0, 10.0]]), LIMITS)[0])
    guidance, undisturbed = PathGuidance(LIMITS), PathGuidance(LIMITS)
    start_ns = 10**18
    for reference in (guidance, undisturbed):
        reference.engage((0.0, 0.0, 10.0), 0.0)
        reference.plan(path, start_ns, 100.0, start_ns)
    for tick in range(1, int(path.duration_s / 0.05)):
        now, swarm_ns = 100.0 + tick * 0.05, start_ns + tick * 50_000_000
        wrong_ns = int(set_s * 1e9) if 40 <= tick < 80 else 0
        expected = undisturbed.at(now, swarm_ns)[0]
        assert np.allclose(guidance.at(now, swarm_ns + wrong_ns)[0], expected, atol=1e-3)
        assert guidance.following
