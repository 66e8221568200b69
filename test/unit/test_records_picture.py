"""Pictures with text from outside: drawn literally, in any script, without a word on standard error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chimera_ros.commands.mission import find_mission, plan_file
from chimera_ros.moderation.file_format import read_scene
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.records import moderation_plot
from chimera_ros.records import tracks as tracks_module
from chimera_ros.records.picture import MAX_LABEL, drawing, label
from chimera_ros.records.tracks import Tracks, draw_tracks

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    r"$\frac{1$",
    r"$\frac{1}{0}$ and $",
    r"\$x\$ $$ $",
    "任务 演示",
    "🚁👨‍👩‍👧 ✈️",
    "مهمة नमस्ते",
    "[red] %s {0} _x # & ~ ^",
    "\x1b[31m\n\t\u202e\u2028\x00\udcff",
    "任" * 10_000,
]


def texts_drawn(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[str]:
    """Texts of the figures that a module saves; none is taken for mathematics."""
    from matplotlib.text import Text

    found: list[str] = []
    save = module.save_picture

    def note(figure: Any, picture: Path) -> None:
        save(figure, picture)
        for text in figure.findobj(Text):
            assert not text.get_parse_math()
            found.append(text.get_text())

    monkeypatch.setattr(module, "save_picture", note)
    return found


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_title_is_drawn_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = texts_drawn(monkeypatch, tracks_module)
    tracks = Tracks(np.arange(3.0), np.zeros((3, 2, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_tracks(tracks, tmp_path / "tracks.png", title=name)
    assert any(text.startswith(label(name)) for text in found)
    assert len(label(name)) <= MAX_LABEL
    assert (tmp_path / "tracks.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_the_name_of_a_drone_is_drawn_as_it_is(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"drone": drone, "line": {"from_m": [0, y, 10], "to_m": [20, y, 10]}}
        for drone, y in (("a", 0), ("b", 20))
    ]
    scene = {"separation": {"horizontal_m": 2, "vertical_m": 2}, "trajectories": rows}
    request = read_scene(json.dumps(scene))
    answer = Moderator(lambda: 0.0).run(request)
    object.__setattr__(request, "drones", (name, "b"))  # past the reader, as another reader might let it
    found = texts_drawn(monkeypatch, moderation_plot)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moderation_plot.draw_moderation(request, answer, tmp_path / "scene.png")
    assert label(name) in found


def test_a_figure_does_not_depend_on_the_settings_of_the_user_nor_changes_them() -> None:
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "font.family": ["No Such Font"]}):
        with drawing(4.0, 3.0, 50) as figure:
            assert not matplotlib.rcParams["text.usetex"]
            assert figure.text(0.5, 0.5, "$x$").get_parse_math() is False
        assert matplotlib.rcParams["text.usetex"]
        assert matplotlib.rcParams["font.family"] == ["No Such Font"]


def test_no_command_that_draws_says_a_word_about_fonts(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.family: No Such Font\n")
    mission = (ROOT / "config" / "missions" / "antipodal_swap.yaml").read_text()
    name = "任务 🚁 $x^$ السلام"
    (tmp_path / "m.yaml").write_text(mission.replace("mission: antipodal_swap", f"mission: {name}"))
    rows = [{"drone": name, "line": {"from_m": [0, 0, 10], "to_m": [20, 0, 10]}}]
    scene = {"separation": {"horizontal_m": 2, "vertical_m": 2}, "trajectories": rows}
    (tmp_path / "s.json").write_text(json.dumps(scene))
    flight = tmp_path / name
    flight.mkdir()
    samples = [{"t": t, "enu": [[0, 0, t], [5, 0, t]]} for t in range(4)]
    (flight / "tracks.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    for arguments, picture in (
        (["check", "m.yaml", "--drones", "2", "--plot", f"{name}.png"], tmp_path / f"{name}.png"),
        (["moderate", "s.json", "--backend", "none", "--plot", "s.png"], tmp_path / "s.png"),
        (["log", "plot", name], flight / "tracks.png"),
    ):
        env = {**os.environ, "PYTHONPATH": str(ROOT), "MPLCONFIGDIR": str(tmp_path / "no" / "where")}
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-m", "chimera_ros.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=env,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_plan_of_a_mission_has_its_name(tmp_path: Path) -> None:
    mission, plan = plan_file(find_mission("crossing"), 2, embedded=True)
    time_s, position_enu_m = plan.tracks()
    draw_tracks(Tracks(time_s, position_enu_m), tmp_path / "p.png", title=f"{mission.name} (plan)")
    assert (tmp_path / "p.png").is_file()
