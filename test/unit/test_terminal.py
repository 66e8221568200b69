"""Text from outside on its way to a terminal: one test for each way, nothing steers it or fakes a line."""

from __future__ import annotations

import ast
import importlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rich.console
from rich.table import Table

from chimera_ros import standard_streams
from chimera_ros.cli import main
from chimera_ros.command_line import OneSentenceParser
from chimera_ros.commands import bench_table, command, doctor
from chimera_ros.commands.doctor_checks import MISSING, Check
from chimera_ros.commands.swarm_setup import add_arguments, read_options
from chimera_ros.formats.display import is_plain
from chimera_ros.launcher.child_log import ChildLog
from chimera_ros.records.mcap_log import FlightRecorder
from chimera_ros.records.report import build_report, render_report, write_report
from chimera_ros.records.status import StatusAggregator
from chimera_ros.records.table import LiveTable, plain_line, render_view
from chimera_ros.ros.log import log
from chimera_ros.ros.startup import StartRefused, refused
from chimera_ros.terminal.lines import print_json, print_line
from chimera_ros.terminal.styled import Console, Text

ROOT = Path(__file__).resolve().parents[2]
MISSIONS = ROOT / "config" / "missions"
# Colour, title, bell, erasure, C1, faked lines, bidirectional override, hidden and broken characters, markup.
EVIL = (
    "任务\x1b[31m\x1b]0;t\x07\x1b[2J\x9b2J\x7f\r\nGO\nacknowledged by drone_01\x85\x0b\u2028"
    "\u202ex\u2066y\u200bz\udcff [red]b[/red] :bomb: $\\frac{1$"
)
KEPT = "任务", " [red]b[/red] :bomb: $\\frac{1$"
FILE_NAME = EVIL.replace("/", "|")


def check_lines(output: str, *, kept: tuple[str, ...] = KEPT, lines: int | None = None) -> None:
    """Every line is plain; none begins with what the text wanted a line to begin with."""
    assert output
    found = output.removesuffix("\n").split("\n")
    for line in found:
        assert is_plain(line), ascii(line)
        assert not line.startswith(("GO", "acknowledged")), line
    assert lines is None or len(found) == lines, output
    for text in kept:
        assert text in output.replace("\n", "")


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    """Standard output and standard error so far."""

    def take() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    return take


def mission_file(folder: Path, name: str = "m.yaml", title: str = "x") -> Path:
    text = (MISSIONS / "antipodal_swap.yaml").read_text()
    quoted = "".join(c if is_plain(c) or c == "\u200d" else f"\\u{ord(c):04x}" for c in title)
    text = text.replace("mission: antipodal_swap", f'mission: "{quoted}"')
    path = folder / name
    path.write_text(text)
    return path


def scene_file(folder: Path, *drones: str) -> Path:
    rows = [
        {"drone": name, "line": {"from_m": [0, 20 * row, 10], "to_m": [20, 20 * row, 10]}}
        for row, name in enumerate(drones)
    ]
    path = folder / "scene.json"
    path.write_text(json.dumps({"separation": {"horizontal_m": 2, "vertical_m": 2}, "trajectories": rows}))
    return path


# Lines and JSON


def test_a_line_is_one_line_on_both_streams(capsys: pytest.CaptureFixture[str]) -> None:
    print_line(EVIL)
    print_line(EVIL, error=True)
    captured = capsys.readouterr()
    check_lines(captured.out, lines=1)
    assert captured.err == captured.out


def test_json_is_the_data_itself_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    value = {EVIL: [EVIL, {"\x7f\x9b": None}]}
    for indent in (None, 2):
        print_json(value, indent=indent)
        output = capsys.readouterr().out
        assert json.loads(output) == value
        check_lines(output, kept=())


def test_messages_of_logging_are_lines(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    handler = logging._StderrHandler(logging.WARNING)  # type: ignore[attr-defined]
    monkeypatch.setattr(logging, "lastResort", handler)
    standard_streams.repair()
    logger = logging.Logger("autopilot")
    logger.addHandler(handler)
    logger.warning("%s: %s", "drone_01", EVIL)
    check_lines(capsys.readouterr().err, lines=1)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logger.exception("failed")
    output = capsys.readouterr().err
    assert output.startswith("failed\nTraceback ")
    assert all(is_plain(line) for line in output.split("\n"))


@pytest.mark.parametrize("severity", ["error", "warning", "info"])
def test_messages_of_nodes_are_lines(severity: str) -> None:
    said: list[tuple[str, str]] = []
    logger = SimpleNamespace(
        **{name: lambda text, name=name: said.append((name, text)) for name in ("error", "warning", "info")}
    )
    log(SimpleNamespace(get_logger=lambda: logger), severity, EVIL)  # type: ignore[arg-type]
    ((name, text),) = said
    assert name == severity
    check_lines(text, lines=1)


def test_the_refusal_of_a_node_is_one_line(shown: Any) -> None:
    assert refused([f"/bin/{FILE_NAME}"], StartRefused(f"mission {EVIL}: cannot be read")) == 2
    check_lines(shown(), lines=1)


def test_a_prompt_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from chimera_ros.commands import keys

    prompts: list[str] = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: prompts.append(prompt) or "x")
    assert keys._ask(f"passphrase of the authority in {EVIL}: ") == b"x"
    check_lines(prompts[0], lines=1)


# Tables and colours


def printed(renderable: Any, **options: Any) -> str:
    output = io.StringIO()
    Console(file=output, width=400, **options).print(renderable)
    return output.getvalue()


def test_texts_and_cells_are_lines_without_markup() -> None:
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL, "bold"))
    for item in (EVIL, Text(EVIL), Text.assemble(EVIL, (EVIL, "red")), Text().append(EVIL, "red"), table):
        output = printed(item)
        assert all(is_plain(line) for line in output.split("\n")), ascii(output)
        assert "任务" in output and "[red]b[/red] :bomb:" in output
        assert "\nGO" not in output


def test_a_style_is_the_only_escape_sequence() -> None:
    coloured = printed(Text(EVIL, "red"), force_terminal=True, color_system="standard")
    assert coloured.startswith("\x1b[31m") and coloured.endswith("\x1b[0m\n")
    check_lines(coloured.removeprefix("\x1b[31m").removesuffix("\x1b[0m\n"), lines=1)


def view_of_evil() -> Any:
    status = StatusAggregator(["drone_01"], now=0.0)
    row = {"drone": EVIL[:20], "state": EVIL, "age_s": 0.1}
    status.feed({"process": "telemetry_logger", "drones": [row], "records": f"/{EVIL}"}, 1.0)
    state = {
        "degraded": EVIL,
        "provider": EVIL,
        "put_out": [{"name": EVIL, "why": EVIL}],
    }
    security = {"suite": EVIL, "rejected": {EVIL: 1}, "state": state}
    leader = {"phase": EVIL, "failure": EVIL, "waiting": [{"drone": EVIL, "reason": EVIL}], "events": [EVIL]}
    moderation = {"calls": 1, "winner": {EVIL: 1}, "unused": {EVIL: 2}}
    status.feed(
        {"process": "leader", "alarms": [EVIL], "security": security, "moderation": moderation, **leader}, 1.0
    )
    status.process_exited(f"follower_0{EVIL}", EVIL, 1.0)
    return status


@pytest.mark.parametrize("make_console", [Console, rich.console.Console])
def test_the_live_table_shows_no_text_of_a_process_raw(make_console: Any) -> None:
    view = view_of_evil().view(1.2)
    output = io.StringIO()
    console = make_console(file=output, width=1000, height=50)
    console.print(render_view(view, EVIL, 1000, 50))
    check_lines(output.getvalue(), kept=("任务", "[red]b[/red] :bomb:"))
    plain = io.StringIO()
    with LiveTable(EVIL, make_console(file=plain, width=80)) as table:
        table.update(view, 1.0)
        table.print_above(EVIL)
    check_lines(plain.getvalue(), lines=2)
    check_lines(plain_line(view), kept=("任务", "[red]b[/red] :bomb:"), lines=1)


@pytest.mark.parametrize("make_console", [Console, rich.console.Console])
def test_the_summary_of_a_flight_shows_no_text_raw(make_console: Any) -> None:
    report = build_report(
        view_of_evil().totals(),
        drones=1,
        mission=EVIL,
        duration_s=1.0,
        failure=EVIL,
        cpu_percent={EVIL: 1.0},
        records=f"/{EVIL}",
        pictures=(f"/{EVIL}",),
    )
    report = replace(report, drones_lost=(EVIL,))
    output = io.StringIO()
    make_console(file=output, width=3000).print(render_report(report))
    check_lines(output.getvalue())
    assert output.getvalue().count("[red]b[/red] :bomb:") >= 6


def test_a_report_holds_text_as_it_is_in_plain_json(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = build_report(view_of_evil().totals(), drones=1, mission=EVIL, duration_s=1.0, records=f"/{EVIL}")
    write_report(report, path)
    text = path.read_text(encoding="utf-8")
    assert "任务" in text
    assert all(is_plain(line) for line in text.split("\n"))
    assert json.loads(text)["mission"] == EVIL
    assert json.loads(text)["records"] == f"/{EVIL}"


def test_the_last_lines_of_a_child_are_lines(tmp_path: Path) -> None:
    child = ChildLog(tmp_path / "child.log", 10_000)
    child.feed(EVIL.encode("utf-8", "surrogateescape") + b"\n")
    child.close()
    assert child.last_lines()
    for text in child.last_lines():
        assert is_plain(printed(Text(text)).removesuffix("\n"))


# Commands


def test_the_answer_of_a_swarm_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = (True, EVIL)
    operator = SimpleNamespace(order=lambda: answer, stop=lambda: answer, close=lambda: None)
    monkeypatch.setattr(command, "_Operator", lambda _: operator)
    monkeypatch.setattr(command, "ros_faults", lambda: [])
    for accepted, order in ((True, "hold"), (False, "hold"), (False, "rotate"), (False, "stop")):
        answer = (accepted, f"refused: {EVIL}")
        assert main(["command", order]) == (0 if accepted else 1)
        captured = capsys.readouterr()
        check_lines(captured.out if accepted else captured.err, lines=1)
        assert not (captured.err if accepted else captured.out)
    assert main(["command", "hold", "--json"]) == 1
    output = capsys.readouterr().out
    check_lines(output, kept=(), lines=1)
    assert json.loads(output)["reason"] == f"refused: {EVIL}"


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL],
        ["check", FILE_NAME],
        ["check", "antipodal_swap", "--drones", EVIL],
        ["check", "antipodal_swap", EVIL],
        ["check", f"--{EVIL}"],
        ["preflight", "antipodal_swap", f"--{EVIL}"],
        ["moderate", FILE_NAME],
        ["moderate", FILE_NAME, "--seed", EVIL],
        ["log", EVIL],
        ["log", "show", FILE_NAME],
        ["log", "plot", FILE_NAME],
        ["log", "verify", FILE_NAME],
        ["log", "verify-disclosure", FILE_NAME],
        ["log", "verify-totals", FILE_NAME, FILE_NAME],
        ["keys", "list", "--keystore", FILE_NAME],
        ["keys", "enroll", EVIL, "drone", "--keystore", FILE_NAME],
        ["keys", "create", FILE_NAME, "--passphrase-file", FILE_NAME],
        ["keys", EVIL],
        ["command", EVIL],
        ["command", "hold", "--namespace", EVIL],
        ["command", "hold", "--operator", EVIL],
        ["command", "evict", EVIL],
        ["command", "stop", EVIL],
        ["command", "rotate", "--reason", EVIL],
        ["command", "formation", EVIL],
        ["sitl", "--fault", EVIL],
        ["sitl", "--param", EVIL],
        ["sitl", "--personality", EVIL],
        ["sitl", "--datum", EVIL],
        ["sitl", "--spawn", FILE_NAME],
        ["swarm", "--mission", FILE_NAME],
        ["swarm", "--autopilot", EVIL],
        ["swarm", "--entropy", EVIL],
        ["swarm", "--wind", EVIL],
        ["bench", EVIL],
        ["bench", "secure", "--into", FILE_NAME, "--markdown"],
        ["doctor", EVIL],
    ],
)
def test_an_argument_comes_back_in_one_line(arguments: list[str], shown: Any) -> None:
    assert main(arguments) in (1, 2)
    output = shown()
    check_lines(output, kept=("任务",) if "任务" in output else (), lines=1)


def test_a_long_argument_does_not_hide_the_sentence_about_it(shown: Any) -> None:
    for arguments in (["check", "x" * 100_000], ["log", "show", "x/" * 50_000], ["y" * 100_000]):
        assert main(arguments) in (1, 2)
        assert len(shown()) < 9000


def test_settings_of_the_environment_come_back_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: Any
) -> None:
    evil = EVIL.replace("\0", "")
    monkeypatch.setenv("ROS_DOMAIN_ID", evil)
    assert main(["command", "hold"]) == 2
    check_lines(shown(), kept=(), lines=1)
    monkeypatch.setenv("CHIMERA_KEYSTORE", evil)
    assert main(["keys", "list"]) == 1
    check_lines(shown(), kept=("任务",), lines=1)
    monkeypatch.setenv("CHIMERA_HOME", f"{evil} 50%")
    for name in ("command", "swarm", "keys", "log"):
        assert main([name, "--help"]) == 0
        check_lines(shown(), kept=())


def test_a_folder_of_any_name_is_shown_in_one_line(tmp_path: Path, shown: Any) -> None:
    folder = tmp_path / FILE_NAME
    recorder = FlightRecorder(folder)
    recorder.write("a", "p/msg/T", "uint8 x", b"\0\1\0\0\7", 10**18, 10**18, "m")
    recorder.close()
    assert main(["log", "show", str(folder)]) == 0
    check_lines(shown(), kept=("任务",))
    rows = [{"t": t, "enu": [[0, 0, t], [5, 0, t]]} for t in range(4)]
    (folder / "tracks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["log", "plot", str(folder)]) == 0
    check_lines(shown(), kept=("任务", ":bomb:"), lines=1)
    assert (folder / "tracks.png").read_bytes().startswith(b"\x89PNG")
    keys = str(folder / "keys")
    for arguments in (
        ["create", keys, "--no-passphrase"],
        ["enroll", "drone_01", "drone", "--keystore", keys],
    ):
        assert main(["keys", *arguments]) == 0
        check_lines(shown(), kept=("任务",))
    assert main(["keys", "list", "--keystore", keys, "--json"]) == 0
    check_lines(shown(), kept=())


def test_names_in_a_record_are_lines_without_markup(tmp_path: Path, shown: Any) -> None:
    name = EVIL.replace("\udcff", "")
    recorder = FlightRecorder(tmp_path)
    recorder.write(name, f"p/msg/{name}", "uint8 x", b"\0\1\0\0\7", 10**18, 10**18, name)
    recorder.close()
    assert main(["log", "show", str(tmp_path)]) == 0
    check_lines(shown(), kept=())
    assert main(["log", "show", str(tmp_path), "--json"]) == 0
    output = shown()
    check_lines(output, kept=())
    assert json.loads(output)[0]["topics"][0]["senders"] == [name]


def test_a_mission_or_drone_has_a_name_that_is_shown_as_it_is(tmp_path: Path, shown: Any) -> None:
    good = "任务 👨‍👩‍👧 é [red] :bomb: $x{1$"
    assert main(["check", str(mission_file(tmp_path, title=good)), "--drones", "3"]) == 0
    assert f"GO: {good} with 3 drones" in shown()
    assert main(["moderate", str(scene_file(tmp_path, good, "b")), "--backend", "none", "--json"]) == 0
    assert json.loads(shown())["trajectories"][0]["drone"] == good
    for char in "\x1b\n\x07\x9b\u202e\u2066\u200b\u2028":
        assert main(["check", str(mission_file(tmp_path, title=f"a{char}b")), "--drones", "3"]) == 2
        check_lines(shown(), kept=("printable characters",), lines=1)
        assert main(["moderate", str(scene_file(tmp_path, f"a{char}b")), "--backend", "none"]) == 2
        check_lines(shown(), kept=("printable characters",), lines=1)


def test_findings_of_doctor_and_rows_of_a_benchmark_are_lines(shown: Any) -> None:
    doctor._print([Check(EVIL, EVIL, MISSING, EVIL, EVIL)], False)
    check_lines(shown())
    row = {"name": EVIL, "value": 1.0, "unit": EVIL, "target": {"op": EVIL, "value": 2.0}, "met": False}
    report = {"benchmark": EVIL, "machine": {"cpu": EVIL}, "results": [row]}
    bench_table.show(report)
    check_lines(shown(), kept=("任务",))
    lines = bench_table.markdown({**report, "results": [{**row, "target": None}]}, "chimera bench x")
    assert all(is_plain(line) for line in lines)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("$[a] *b.yaml", None), ("m" * 240 + ".yaml", "m" * 100), ("-- 任务.yaml", "_任务")],
)
def test_the_folder_of_a_run_has_a_plain_name(name: str, stem: str | None, tmp_path: Path) -> None:
    parser = OneSentenceParser()
    add_arguments(parser)
    arguments = ["--mission", str(mission_file(tmp_path, name)), "--drones", "1", "--standbys", "0"]
    made = read_options(parser.parse_args(arguments))[1].name
    assert is_plain(made) and len(made.encode()) <= 120
    assert not set(made) & set(" $[]*?'\"\\;|&<>")
    assert stem is None or made.endswith(f"_{stem}")


def test_a_name_that_no_parameter_can_hold_is_refused_before_the_start(tmp_path: Path, shown: Any) -> None:
    good = mission_file(tmp_path)
    for option in ("--record", "--keystore", "--connect"):
        assert main(["swarm", "--mission", str(good), option, "a\udcff\x1bb"]) == 2
        check_lines(shown(), kept=(f"{option} is ", "UTF-8"), lines=1)
    assert main(["swarm", "--mission", str(mission_file(tmp_path, "m\udcff.yaml"))]) == 2
    check_lines(shown(), kept=("--mission is ", "UTF-8"), lines=1)
    assert list(tmp_path.glob("runs*")) == []


# A new way around


def test_no_module_shows_text_past_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    structure = importlib.import_module("check_structure")
    assert list(structure.unguarded_sinks(structure.modules())) == []
    around = """
import argparse, sys, rich
import rich.console as rc
from rich.text import Text
from rich.console import Console as C
from matplotlib.figure import Figure
from getpass import getpass
print("x")
sys.stderr.write("x")
rc.Console()
C(stderr=True)
Text("x")
Text.from_markup("x")
rich.print("x")
Figure()
self.node.get_logger().error("x")
argparse.ArgumentParser()
getpass("x")
def fine(p: argparse.ArgumentParser, t: Text) -> C: ...
"""
    found = list(structure.unguarded_sinks({"chimera_ros/new.py": ast.parse(around)}))
    assert sorted(int(text.split(":")[1]) for text in found) == list(range(8, 19))
