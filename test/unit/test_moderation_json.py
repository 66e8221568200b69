"""`chimera moderate` and its JSON: what is read, what is refused and where, what comes out."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros import cli
from chimera_ros.flight.moderation_call import ModerationRequest
from chimera_ros.moderation.file_format import SceneError, read_scene, result_to_dict, scene_to_dict
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.moderation.scenes import antipodal

SCENES = Path(__file__).parents[2] / "config" / "scenes"


def scene() -> dict[str, Any]:
    """Two drones that fly at one another."""
    return {
        "separation": {"horizontal_m": 5.0, "vertical_m": 4.0},
        "limits": {"speed_m_s": 8.0, "climb_m_s": 4.0, "descent_m_s": 3.0, "acceleration_m_s2": 4.0},
        "fence": {"east_m": [-100, 100], "north_m": [-100, 100], "height_m": [5, 80]},
        "trajectories": [
            {"drone": "a", "line": {"from_m": [-50, 0, 40], "to_m": [50, 0, 40]}},
            {"drone": "b", "line": {"from_m": [50, 0, 40], "to_m": [-50, 0, 40], "speed_m_s": 6}},
        ],
    }


def blocked() -> dict[str, Any]:
    """The same in a corridor in which nobody can pass."""
    narrow = scene()
    narrow["fence"] = {"east_m": [-60, 60], "north_m": [-1, 1], "height_m": [39, 41]}
    return narrow


def test_a_scene_survives_the_way_out_and_in() -> None:
    drawn = antipodal(5, 2)
    names = tuple(f"d{i}" for i in range(5))
    request = ModerationRequest(names, drawn.knots, drawn.separation, drawn.limits, drawn.fence, 0.5, 7)
    again = read_scene(json.dumps(scene_to_dict(request)))
    assert (again.drones, again.separation, again.limits) == (names, drawn.separation, drawn.limits)
    assert (again.deadline_s, again.seed) == (0.5, 7)
    assert again.fence is not None and again.fence.polygon_m == drawn.fence.polygon_m
    for mine, theirs in zip(again.knots, drawn.knots, strict=True):
        assert [(k.t_s, k.position_enu_m, k.velocity_enu_m_s) for k in mine] == [
            (k.t_s, k.position_enu_m, k.velocity_enu_m_s) for k in theirs
        ]


def test_an_answer_can_be_asked_about_again() -> None:
    request = read_scene(json.dumps(scene()))
    assert request.deadline_s == 0.25
    data = result_to_dict(request, Moderator(lambda: 0.0).run(request))
    assert data["status"] == "conflict_free" and len(data["conflicts"]) == 1  # type: ignore[arg-type]
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    second = scene() | {"trajectories": data["trajectories"]}
    clear = Moderator(lambda: 0.0).run(read_scene(json.dumps(second)))
    assert clear.winner == "keep" and not clear.before


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda s: s.pop(key)


def first(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda s: s["trajectories"][0].update(values)


def knot(**values: object) -> dict[str, object]:
    return {"t_s": 0, "position_m": [0, 0, 40]} | values


def knots(*rows: dict[str, object]) -> Callable[[dict[str, Any]], object]:
    def change(s: dict[str, Any]) -> None:
        s["trajectories"][0] = {"drone": "a", "knots": list(rows)}

    return change


WRONG: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (drop("separation"), "scene: separation is missing"),
    (drop("trajectories"), "scene: trajectories is missing"),
    (lambda s: s.update(wind=3), "scene: unknown field 'wind'; allowed are separation, limits"),
    (lambda s: s.update(trajectories=[]), "trajectories: must be a list of 1 to 1024"),
    (lambda s: s.update(trajectories=s["trajectories"] * 600), "must be a list of 1 to 1024"),
    (lambda s: s.update(deadline_s=0), "deadline_s: must be a number from 0.02 to 60"),
    (lambda s: s.update(seed=-1), "seed: must be a number from 0"),
    (lambda s: s["separation"].update(vertical_m=0), "separation.vertical_m: must be a number"),
    (lambda s: s["limits"].update(speed_m_s="fast"), "limits.speed_m_s: must be a number from 0.05"),
    (lambda s: s["limits"].update(speed_m_s=True), "limits.speed_m_s: must be a number from 0.05"),
    (lambda s: s["fence"].update(height_m=[80, 5]), "fence.height_m: the first number must be below"),
    (lambda s: s["fence"].update(polygon_m=[[0, 0]]), "fence: polygon_m excludes"),
    (lambda s: s["fence"].pop("north_m"), "fence: needs east_m and north_m"),
    (
        lambda s: s.update(fence={"polygon_m": [[0, 0], [9, 0], [1, 1], [0, 9]], "height_m": [0, 9]}),
        "fence: a fence must be convex",
    ),
    (first(drone="b"), "trajectories[2].drone: b is given twice"),
    (first(drone=""), "trajectories[1].drone: must be a name"),
    (first(knots=[]), "trajectories[1]: needs exactly one of knots and line"),
    (first(line={"from_m": [0, 0], "to_m": [0, 0, 0]}), "line.from_m: must be a list [east, north, up]"),
    (knots(knot()), "trajectories[1].knots: must be a list of 2 to 512 knots"),
    (knots(knot(), knot()), "knots[2].t_s: times must rise from 0, and 0 follows 0"),
    (knots(knot(t_s=1), knot(t_s=2)), "knots[1].t_s: times must rise from 0"),
    (knots(knot(), knot(t_s=1, position_m=[0, 0, 1e9])), "knots[2].position_m: must be a number"),
]


@pytest.mark.parametrize(("spoil", "text"), WRONG)
def test_every_mistake_is_told_with_its_place(spoil: Callable[[dict[str, Any]], object], text: str) -> None:
    wrong = scene()
    spoil(wrong)
    with pytest.raises(SceneError) as error:
        read_scene(json.dumps(wrong))
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: is not JSON"),
        ('{\n "separation": }', "line 2: is not JSON"),
        ("[]", "scene: must be an object"),
        ('{"separation": NaN}', "NaN is no number"),
        ('{"separation": -Infinity}', "-Infinity is no number"),
        ("[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_what_is_no_scene_is_refused(text: str | bytes, said: str) -> None:
    with pytest.raises(SceneError, match=said):
        read_scene(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["separation", "limits", "fence", "trajectories", "drone", "line", "knots", "t_s", "position_m",
         "from_m", "to_m", "horizontal_m", "vertical_m", "height_m", "seed"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
@settings(max_examples=60, deadline=None)
def test_nothing_else_is_raised(value: object) -> None:
    with contextlib.suppress(SceneError):
        read_scene(json.dumps(value))


# ---- the command -------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def make(content: dict[str, Any]) -> str:
        path = tmp_path / "scene.json"
        path.write_text(json.dumps(content))
        return str(path)

    return make


def test_the_command_says_what_it_found(
    write: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "deep" / "picture.png"
    status = cli.main(
        ["moderate", write(scene()), "--backend", "none", "--deadline", "20", "--plot", str(picture)]
    )
    out = capsys.readouterr().out
    assert status == 0
    assert out.startswith("CONFLICT-FREE: 2 drones, 1 conflicts in what was asked")
    assert "winner      " in out and "verify" in out and f"picture     {picture}" in out
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    assert not list(picture.parent.glob(".*"))


def test_infeasible_is_failure_with_pairs_times_and_distances(
    write: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = write(blocked() | {"deadline_s": 30})
    assert cli.main(["moderate", path, "--backend", "none", "--json", "--seed", "3"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["status"] == "infeasible" and data["winner"] == "hold"
    assert [(c["first"], c["second"]) for c in data["remaining"]] == [("a", "b")]
    assert data["remaining"][0]["horizontal_m"] < 5.0 and data["remaining"][0]["t_s"] > 0.0
    assert all(t["knots"][0]["position_m"] == t["knots"][-1]["position_m"] for t in data["trajectories"])
    plot = tmp_path / "hold.png"
    assert cli.main(["moderate", path, "--backend", "none", "--plot", str(plot)]) == 1
    out = capsys.readouterr().out
    assert "a and b come within" in out and "all can hold where they are" in out and plot.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.json"], "nowhere.json: No such file or directory"),
        (["FILE", "--deadline", "0"], "--deadline is 0.0; allowed are 0.02 to 60 s"),
        (["FILE", "--deadline", "nan"], "--deadline: 'nan' is not a finite number"),
        (["FILE", "--seed", "-1"], "--seed is -1"),
        (["-"], "-: line 1: is not JSON"),
        (["FILE", "--plot", "/proc/no/picture.png"], "cannot be written"),
    ],
)
def test_misuse_is_one_sentence(
    arguments: list[str],
    said: str,
    write: Callable[[dict[str, Any]], str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"nonsense")))
    words = [write(scene()) if word == "FILE" else word for word in arguments]
    status = cli.main(["moderate", *words, "--backend", "none"])
    error = capsys.readouterr().err
    assert status == 2
    assert said in error and "Traceback" not in error


def test_a_trajectory_outside_its_fence_is_misuse(
    write: Callable[[dict[str, Any]], str], capsys: pytest.CaptureFixture[str]
) -> None:
    far = scene()
    far["fence"]["east_m"] = [-20, 20]
    assert cli.main(["moderate", write(far), "--backend", "none"]) == 2
    assert "a's planned trajectory leaves the fence" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted(SCENES.glob("*.json")), ids=lambda p: p.stem)
def test_shipped_scenes_conflict_and_are_solved(path: Path) -> None:
    request = read_scene(path.read_bytes())
    answer = Moderator(lambda: 0.0).run(request)
    assert answer.before and answer.status.name == "CONFLICT_FREE"


def test_a_scene_is_shipped() -> None:
    assert sorted(SCENES.glob("*.json"))
