"""The verification of outgoing knots: it must see whatever a look at every millisecond sees, and more."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.moderation import scenes
from chimera_ros.moderation.brute import brute_force
from chimera_ros.moderation.conflicts import find_conflicts
from chimera_ros.moderation.errors import ModerationError, ModerationReason
from chimera_ros.moderation.tracks import Track
from chimera_ros.moderation.verify import verify

small = st.floats(-8.0, 8.0)
state = st.tuples(small, small, st.floats(-4.0, 4.0))
slow = st.tuples(st.floats(-4.0, 4.0), st.floats(-4.0, 4.0), st.floats(-1.0, 1.0))


@st.composite
def trajectories(draw):
    """Curved knots that begin anywhere, also in flight, and end at rest."""
    t, knots = 0.0, []
    for _ in range(draw(st.integers(1, 3))):
        knots.append(TrajectoryKnot(t, draw(state), draw(slow), draw(slow)))
        t += draw(st.floats(0.3, 3.0))
    return (*knots, TrajectoryKnot(t, draw(state)))


def pairs(conflicts):
    return {(c.first, c.second) for c in conflicts}


separations = st.builds(
    Separation,
    st.floats(0.5, 4.0),
    st.floats(0.5, 4.0),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([0.0, 0.05]),
)


@settings(max_examples=60)
@given(st.lists(trajectories(), min_size=2, max_size=4), separations)
def test_nothing_that_every_millisecond_shows_is_missed(knots, separation):
    seen = brute_force(knots, separation)
    verdict = verify(knots, separation)
    found = find_conflicts([Track.of_knots(mine) for mine in knots], separation)
    assert pairs(seen) <= pairs(verdict.conflicts)
    assert pairs(seen) <= pairs(found)
    if separation.clock_skew_s == 0.0:  # with it, speeds are bounded over a while, and so a little higher
        sure = brute_force(
            knots,
            replace(
                separation,
                horizontal_m=separation.horizontal_m + 0.03,
                vertical_m=separation.vertical_m + 0.03,
            ),
        )
        assert pairs(verdict.conflicts) <= pairs(sure)
        assert pairs(found) <= pairs(sure)
        assert pairs(found) == pairs(verdict.conflicts)


def test_a_grazing_pass_between_samples_is_seen():
    # 20 m/s against one another: they are near for a fraction of a millisecond only
    fast = [
        TrajectoryKnot(0.0, (-10.0, 0.0, 0.0), (10.0, 0.0, 0.0)),
        TrajectoryKnot(2.0003, (10.003, 0.0, 0.0), (10.0, 0.0, 0.0)),
    ]
    still = [TrajectoryKnot(0.0, (0.0031, 0.5, 0.0)), TrajectoryKnot(1.0, (0.0031, 0.5, 0.0))]
    near = Separation(0.5000001, 4.0)
    assert not brute_force([fast, still], Separation(0.5, 4.0))
    assert pairs(verify([fast, still], near).conflicts) == {(0, 1)}
    assert not verify([fast, still], Separation(0.4999, 4.0)).conflicts


def test_what_joins_badly_or_leaves_its_limits_is_named():
    scene = scenes.crossings(3, 1)
    planned = [list(k) for k in scene.knots]
    moved = [list(k) for k in planned]
    moved[1][0] = replace(moved[1][0], position_enu_m=(0.0, 0.0, 60.0))
    moved[2][-1] = replace(moved[2][-1], position_enu_m=(200.0, 0.0, 60.0))
    text = " ".join(verify(moved, scene.separation, planned, scene.limits, scene.fence).reasons)
    assert "drone 1 does not begin in its present state" in text
    assert "drone 2 does not end at its goal" in text
    assert "drone 2 leaves the fence by 50.0" in text
    assert "allowed" in text
    assert not verify(planned, scene.separation, planned, scene.limits, scene.fence).reasons
    assert "answer" in verify(planned[:2], scene.separation, planned).reasons[0]


@pytest.mark.parametrize(
    ("knots", "reason"),
    [
        ([TrajectoryKnot(0.0, (0.0, 0.0, 0.0))], ModerationReason.BAD_KNOTS),
        (
            [TrajectoryKnot(0.0, (0.0, 0.0, 0.0)), TrajectoryKnot(-1.0, (1.0, 0.0, 0.0))],
            ModerationReason.BAD_KNOTS,
        ),
        (
            [TrajectoryKnot(0.0, (0.0, float("nan"), 0.0)), TrajectoryKnot(1.0, (1.0, 0.0, 0.0))],
            ModerationReason.NOT_FINITE,
        ),
        (
            [TrajectoryKnot(0.0, (0.0, 0.0, 0.0)), TrajectoryKnot(float("nan"), (1.0, 0.0, 0.0))],
            ModerationReason.NOT_FINITE,
        ),
        ([], ModerationReason.BAD_KNOTS),
    ],
)
def test_knots_that_are_no_trajectory_are_refused(knots, reason):
    with pytest.raises(ModerationError, match="drone 0") as caught:
        verify([knots], Separation(5.0, 4.0))
    assert caught.value.reason is reason
