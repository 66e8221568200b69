"""Mission files: what is read, and what is said when something is wrong."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.planning.mission import Formation, Land, Takeoff
from chimera_ros.flight.planning.mission_file import (
    MAX_BYTES,
    MissionError,
    load_mission,
    parse_mission,
    parse_steps,
)

MISSIONS = Path(__file__).parents[2] / "config" / "missions"
GOOD = """\
mission: test
datum: {lat_deg: 47.4, lon_deg: 8.5, amsl_m: 488}
separation_m: 2
fence: {east_m: [-50, 50], north_m: [-50, 50], height_m: [1, 40]}
pads: {spacing_m: 4}
steps:
  - takeoff: {height_m: 8}
  - formation: {shape: vee, spacing_m: 4, center_m: [0, 0, 10]}
  - land
"""


def test_shipped_missions_are_read() -> None:
    names = {load_mission(path).name for path in MISSIONS.glob("*.yaml")}
    assert {"antipodal_swap", "formation_tour", "survey_line"} <= names


def test_a_mission_becomes_data() -> None:
    mission = parse_mission(GOOD)
    assert mission.datum is not None
    assert mission.datum.latitude_deg == 47.4
    assert [type(step) for step in mission.steps] == [Takeoff, Formation, Land]
    assert mission.steps[1].line == 8
    assert len(mission.pad_positions(7)) == 7
    assert parse_mission(GOOD.replace("{lat_deg: 47.4, lon_deg: 8.5, amsl_m: 488}", "local")).datum is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("separation_m: 2", "separation_m: near", r"m\.yaml:3: separation_m: must be a number from 0\.5"),
        (
            "separation_m: 2",
            "seperation_m: 2",
            r"m\.yaml:3: seperation_m: unknown field; allowed are mission",
        ),
        ("separation_m: 2\n", "", r"separation_m: is missing"),
        (
            "shape: vee",
            "shape: cube",
            r"m\.yaml:8: steps\[2\]\.formation\.shape: must be one of grid, line, vee",
        ),
        ("center_m: [0, 0, 10]", "center_m: [0, 0]", r"center_m: must be a list \[east, north, up\]"),
        ("height_m: 8", "height_m: .nan", r"m\.yaml:7: steps\[1\]\.takeoff\.height_m: must be a number"),
        ("height_m: [1, 40]", "height_m: [40, 1]", r"m\.yaml:4: fence\.height_m: .*below"),
        ("  - land", "  - lnad", r"m\.yaml:9: steps\[3\]: "),
        ("  - land", "  - land: {wave: 2.5}", r"m\.yaml:9: steps\[3\]\.land\.wave: must be a whole number"),
        ("lat_deg: 47.4", "lat_deg: 147.4", r"m\.yaml:2: datum\.lat_deg: must be a number from -85 to 85"),
        ("mission: test", "mission: test\nmission: again", r"m\.yaml:2: mission: is given twice"),
        ("pads: {spacing_m: 4}", "pads: {spacing_m: yes}", r"pads\.spacing_m: must be a number"),
        (
            "{east_m: [-50, 50], north_m: [-50, 50],",
            "{polygon_m: [[0,0],[9,0],[1,1],[0,9]],",
            r"fence\.polygon_m: .*convex",
        ),
        ("mission: test", "mission: [", r"m\.yaml:\d+: is not YAML"),
    ],
)
def test_mistakes_are_told_with_line_field_and_what_is_allowed(old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(MissionError, match=says):
        parse_mission(GOOD.replace(old, new), "m.yaml")


def test_sizes_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(MissionError, match="larger"):
        parse_steps("# " + "x" * MAX_BYTES)
    with pytest.raises(MissionError, match="1 to 200"):
        parse_steps("- land\n" * 201)
    big = tmp_path / "big.yaml"
    big.write_bytes(b"a" * (MAX_BYTES + 10))
    with pytest.raises(MissionError, match="larger"):
        load_mission(big)
    with pytest.raises(MissionError, match=r"missing\.yaml: cannot be read: No such file"):
        load_mission(tmp_path / "missing.yaml")


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_either_steps_or_a_mission_error(text: str) -> None:
    with contextlib.suppress(MissionError):
        assert parse_steps(text)


@given(st.integers(0, len(GOOD) - 1), st.characters(codec="utf-8"))
@settings(max_examples=300, deadline=None)
def test_a_damaged_file_never_raises_anything_else(place: int, character: str) -> None:
    with contextlib.suppress(MissionError):
        parse_mission(GOOD[:place] + character + GOOD[place + 1 :])
