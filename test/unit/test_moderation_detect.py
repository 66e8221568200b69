"""Conflict detection: never misses what a look at every millisecond sees, never invents anything."""

import numpy as np
import pytest

from chimera_ros.moderation import scenes
from chimera_ros.moderation.conflicts import Separation, closest_approach, find_conflicts
from chimera_ros.moderation.errors import ModerationError
from chimera_ros.moderation.tracks import Track


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
    with pytest.raises(ModerationError, match="is allowed"):
        Separation(*values)
