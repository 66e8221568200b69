"""Conflict detection: never misses what a look at every millisecond sees, never invents anything."""

import numpy as np
import pytest

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.moderation import scenes
from chimera_ros.moderation.conflicts import closest_approach, find_conflicts, near_pairs, refine
from chimera_ros.moderation.errors import ModerationError
from chimera_ros.moderation.tracks import Track, TrackTable


@pytest.mark.parametrize("make", [scenes.crossings, scenes.antipodal])
def test_detection_agrees_with_single_pairs(make):
    scene = make(10, 3)
    tracks = [Track.of_knots(knots) for knots in scene.knots]
    found = {(c.first, c.second): c for c in find_conflicts(tracks, scene.separation)}
    for i in range(10):
        for j in range(i + 1, 10):
            alone = closest_approach(tracks[i], tracks[j], scene.separation)
            assert (alone.ratio < 1.0) == ((i, j) in found)
            if (i, j) in found:
                assert found[i, j].ratio == pytest.approx(alone.ratio, abs=1e-6)
                assert found[i, j].t_s == pytest.approx(alone.t_s, abs=1e-2)


@pytest.mark.parametrize("values", [(np.nan, 4.0), (5.0, 0.0), (5.0, 4.0, -1.0), (5.0, 4.0, 0.0, np.inf)])
def test_a_separation_that_is_none_is_refused(values):
    with pytest.raises(ValueError, match="is allowed"):
        Separation(*values)


def test_trees_find_what_looking_at_all_pairs_finds():
    scene = scenes.wide(120, 5, duration_s=30.0, area_m2=1200.0)
    table = TrackTable([Track.of_knots(knots) for knots in scene.knots])
    rows, columns = np.triu_indices(len(table), 1)
    for separation in (scene.separation, Separation(5.0, 4.0, 0.3, 0.1)):
        found = find_conflicts(table, separation)
        near = near_pairs(table, separation, 1.0, pairs=(rows, columns))
        hit = refine(table, separation, near) < 1.0
        pairs = {(c.first, c.second) for c in found}
        assert pairs == set(zip(near.first[hit].tolist(), near.second[hit].tolist(), strict=True))
        assert len(found) == len(pairs) > 5
        assert all(c.ratio < 1.0 for c in found)


def test_tracking_errors_and_skew_count_for_both():
    side = [
        [TrajectoryKnot(t, (10.0 * t, y, 0.0), (10.0, 0.0, 0.0)) for t in (0.0, 20.0)] for y in (0.0, 6.0)
    ]
    # side by side at 6 m: clear by itself and with 0.4 m each, not with 0.6 m each
    tracks = [Track.of_knots(mine) for mine in side]
    assert not find_conflicts(tracks, Separation(5.0, 5.0))
    assert not find_conflicts(tracks, Separation(5.0, 5.0, 0.4))
    (conflict,) = find_conflicts(tracks, Separation(5.0, 5.0, 0.6))
    assert conflict.horizontal_m == pytest.approx(6.0)
    assert conflict.ratio == pytest.approx(6.0 / 6.2)
    # one behind the other at the same speed: relative speed nil, but a late clock closes the gap
    ahead = [
        [TrajectoryKnot(t, (x + 10.0 * t, 0.0, 0.0), (10.0, 0.0, 0.0)) for t in (0.0, 20.0)]
        for x in (0.0, 6.0)
    ]
    tracks = [Track.of_knots(mine) for mine in ahead]
    assert not find_conflicts(tracks, Separation(5.0, 5.0, 0.0, 0.04))
    assert find_conflicts(tracks, Separation(5.0, 5.0, 0.0, 0.06))


def test_a_drone_stands_before_its_start_and_after_its_end():
    way = [TrajectoryKnot(0.0, (-20.0, 0.0, 0.0)), TrajectoryKnot(10.0, (20.0, 0.0, 0.0))]
    post = [TrajectoryKnot(0.0, (20.0, 1.0, 0.0)), TrajectoryKnot(1.0, (20.0, 1.0, 0.0))]
    first, second = Track.of_knots(way, 100.0), Track.of_knots(post)
    (conflict,) = find_conflicts([first, second], Separation(3.0, 3.0))
    assert conflict.t_s > 100.0
    assert conflict.ratio == pytest.approx(1.0 / 3.0, abs=1e-3)
    early = closest_approach(Track.of_knots(way), Track.of_knots(way, 500.0), Separation(3.0, 3.0))
    assert early.ratio == pytest.approx(0.0, abs=1e-3)


def test_a_very_long_trajectory_is_looked_at_in_bounded_memory():
    slow = [TrajectoryKnot(0.0, (0.0, 0.0, 10.0)), TrajectoryKnot(80_000.0, (900.0, 0.0, 10.0))]
    post = [TrajectoryKnot(0.0, (450.0, 2.0, 10.0)), TrajectoryKnot(1.0, (450.0, 2.0, 10.0))]
    (conflict,) = find_conflicts([Track.of_knots(slow), Track.of_knots(post)], Separation(5.0, 4.0))
    assert conflict.horizontal_m == pytest.approx(2.0, abs=1e-3)
    assert conflict.t_s == pytest.approx(40_000.0, abs=50.0)


def test_nothing_and_a_start_outside_time_are_refused():
    with pytest.raises(ModerationError):
        find_conflicts([], Separation(5.0, 4.0))
    with pytest.raises(ModerationError):
        Track.of_knots(
            [TrajectoryKnot(0.0, (0.0, 0.0, 0.0)), TrajectoryKnot(1.0, (0.0, 0.0, 0.0))], float("nan")
        )
