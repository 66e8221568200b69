"""Tracks: separations between the samples, only of flying drones; the picture itself; bad files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from chimera_ros.records.tracks import Tracks, TracksFailed, draw_tracks, read_tracks, separation


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def crossing() -> Tracks:
    """Two drones stand, rise, and pass each other at 1 m between the samples at 3 and 4 s."""
    one = [(-15, 0, 0), (-15, 0, 10), (-10, 0, 10), (-5, 0, 10), (5, 0, 10), (10, 0, 10)]
    other = [(15, 1, 0), (15, 1, 10), (10, 1, 10), (5, 1, 10), (-5, 1, 10), (-10, 1, 10)]
    return Tracks(np.arange(6.0), np.array([one, other], dtype=float).transpose(1, 0, 2))


def test_the_closest_approach_between_two_samples_is_found() -> None:
    apart = separation(crossing())
    assert apart.minimum_m == pytest.approx(1.0)
    assert apart.pair == (0, 1)
    assert apart.when_s == 4.0
    assert apart.where_enu_m == pytest.approx((0.0, 0.5, 10.0))
    assert np.isnan(apart.smallest_m[:2]).all()  # on the ground, and rising from it
    assert apart.smallest_m[2] == pytest.approx(np.hypot(20.0, 1.0))


def test_drones_on_the_ground_do_not_count() -> None:
    positions = np.zeros((5, 2, 3))
    positions[:, 1, 0] = 0.5
    positions[1:4, 0, 2] = 10.0
    assert separation(Tracks(np.arange(5.0), positions)).minimum_m is None


def test_separation_agrees_with_fine_sampling() -> None:
    rng = np.random.default_rng(3)
    coarse = rng.uniform(-10.0, 10.0, (30, 7, 3))
    coarse[:, :, 2] += 30.0
    coarse[0, :, 2] = 0.0
    apart = separation(Tracks(np.arange(30.0), coarse))
    share = np.linspace(0.0, 1.0, 400)[:, None, None]
    for step in range(1, 29):
        between = coarse[step] * (1.0 - share) + coarse[step + 1] * share
        gaps = np.linalg.norm(between[:, :, None] - between[:, None], axis=-1)
        gaps[:, range(7), range(7)] = np.inf
        assert apart.smallest_m[step + 1] == pytest.approx(gaps.min(), abs=0.1)


@pytest.mark.parametrize("count", [1, 5, 20, 80])
def test_a_picture_for_any_number_of_drones(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    positions = np.cumsum(rng.normal(0.0, 0.3, (60, count, 3)), axis=0)
    positions[5:, :, 2] += 10.0
    picture = tmp_path / "deep" / "tracks.png"
    draw_tracks(Tracks(np.arange(60.0), positions), picture, title="tour", asked_separation_m=2.0)
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 20_000
    assert [item.name for item in picture.parent.iterdir()] == ["tracks.png"]


def test_broken_lines_are_left_out(tmp_path: Path) -> None:
    good = {"enu": [[0, 0, 0], [1, 1, 1]]}
    path = write(
        tmp_path / "t.jsonl",
        [
            {"t": 0, **good},
            {"t": 1},
            5,
            {"t": 2, "enu": [[0, 0, 0]]},
            {"t": 3, **good},
            {"t": 2, **good},
            "x",
        ],
    )
    with path.open("a") as file:
        file.write('{"t": 4, "enu": [[NaN, 0, 0], [1, 1, 1]]}\n{"t": 5, "en')
    tracks = read_tracks(path)
    assert tracks.time_s.tolist() == [0.0, 3.0]
    assert tracks.drones == 2


def test_long_flights_are_thinned_evenly(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", [{"t": i, "enu": [[i, 0, 0]]} for i in range(45_000)])
    tracks = read_tracks(path)
    assert 10_000 <= len(tracks.time_s) <= 20_001
    assert len(set(np.diff(tracks.time_s))) == 1
    assert tracks.time_s[-1] > 44_990


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(TracksFailed, match="cannot be read: No such file"):
        read_tracks(tmp_path / "none.jsonl")
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(TracksFailed, match="fewer than two samples"):
        draw_tracks(empty, tmp_path / "x.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(TracksFailed, match="cannot be written"):
        draw_tracks(crossing(), tmp_path / "file" / "x.png")
