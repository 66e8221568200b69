"""What launch starts is what `chimera swarm` starts; its arguments, its parameter file, its errors."""

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.commands import describe
from chimera_ros.commands.swarm_setup import add_arguments, prepare

ROOT = Path(__file__).parents[2]

# Ports of its own, so that it does not matter whether a swarm flies on this machine.
OPTIONS = ["--drones=7", "--shards=2", "--first-port=27540", "--gcs-port=0", "--record=record"]


def test_describe_names_the_processes_of_chimera_swarm(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    prepared = prepare(parser.parse_args(OPTIONS))
    assert describe.main(OPTIONS) == 0
    described = json.loads(capsys.readouterr().out)["processes"]
    assert [process["name"] for process in described] == [child.name for child in prepared.processes]
    for process, child in zip(described, prepared.processes, strict=True):
        assert tuple(process["arguments"]) == tuple(child.argv[3:])
        assert process["environment"] == dict(child.env)
        assert process["is_node"] == (process["name"] != "sitl")
        given = [word for word in child.argv[3:] if ":=" in word and not word.startswith("__")]
        assert {word.split(":=")[0]: yaml.safe_load(word.split(":=", 1)[1]) for word in given} == (
            process["parameters"]
        )
    assert {process["executable"] for process in described} == {
        "sitl",
        "crypto",
        "follower",
        "telemetry_logger",
        "path_moderation",
        "leader",
    }


def test_describe_says_what_is_wrong(capsys):
    assert describe.main(["--drones=0", *OPTIONS[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "drones:= is 0" in captured.err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--wind=strong", "wind:= "),
        ("--wind=99", "wind:= is 99.0; allowed are 0 to 15 m/s"),
        ("--autopilot=px5", "autopilot:= "),
        ("--first-port=5", "first_port:= is 5; allowed are"),
        ("--qkd-eavesdropper=2", "qkd_eavesdropper:= is 2.0; allowed are"),
        ("--namespace=a-b", "namespace:= "),
        ("--wnd=3", "wnd:="),
        ("--win=3", "win:="),  # no abbreviations
        ("--params-file=/nonexistent.yaml", "params_file:= /nonexistent.yaml: there is no such file"),
    ],
)
def test_errors_name_launch_arguments(capsys, option, said):
    assert describe.main([*OPTIONS, option]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "usage" not in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not Path("record").exists()


def test_commands_in_errors_keep_their_options():
    sentence = "keystore keys lacks drone_01; add each with: chimera keys enroll NAME ROLE --keystore keys"
    assert describe.in_words_of_launch(sentence) == sentence
    assert describe.in_words_of_launch("UDP port 5 is in use; choose others with --first-port") == (
        "UDP port 5 is in use; choose others with first_port:="
    )


# The launch file, which cannot be imported without ROS's launch ----------------------------------------


def launch_constants():
    """Literals of launch/swarm.launch.py by name."""
    found = {}
    for node in ast.parse((ROOT / "launch" / "swarm.launch.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def test_launch_has_the_options_and_defaults_of_chimera_swarm():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = {action.dest: action for action in parser._actions if action.dest != "help"}
    constants = launch_constants()
    launched = {*constants["OPTIONS"], *constants["SWITCHES"]}
    # Launch has no report, ends at a signal, and injects no faults.
    assert set(options) - launched == {"report", "duration", "json", "fault"}
    assert launched <= set(options)
    for name, (default, _) in constants["OPTIONS"].items():
        expected = options[name].default
        if name == "namespace":
            assert default == expected.removeprefix("/")
        elif isinstance(expected, tuple):
            assert default == ",".join(expected)
        elif isinstance(expected, (int, float)):
            assert float(default) == expected
        else:
            assert default == (expected or "")
    for name, (default, _) in constants["SWITCHES"].items():
        assert (default, options[name].default) == ("false", False)


def test_launch_offers_every_autopilot():
    source = (ROOT / "launch" / "swarm.launch.py").read_text()
    choices = ", ".join(f'"{kind.value}"' for kind in AutopilotKind)
    assert f'"autopilot": ({choices})' in source


# Parameter files ---------------------------------------------------------------------------------------


def described(capsys, tmp_path, content, *options):
    """What `describe` prints with a parameter file."""
    file = tmp_path / "params.yaml"
    file.write_text(content)
    status = describe.main([*OPTIONS, f"--params-file={file}", *options])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if captured.out else captured.err


def parameters_of(description, name):
    return next(each["parameters"] for each in description["processes"] if each["name"] == name)


def test_a_parameter_file_is_left_what_no_argument_sets(capsys, tmp_path):
    content = (
        "/**: {ros__parameters: {rotation_s: 30, ready_timeout_s: 44.0, control_hz: 25.0, of_others: 1}}"
    )
    status, description = described(capsys, tmp_path, content, "--ready-timeout=50")
    assert status == 0
    assert "rotation_s" not in parameters_of(description, "crypto")
    assert parameters_of(description, "leader")["ready_timeout_s"] == 50.0
    assert description["notes"] == ["params_file: ready_timeout_s has no effect, launch sets it itself"]


def test_what_a_parameter_file_sets_in_vain_is_named(capsys, tmp_path):
    content = "/chimera/follower_0: {ros__parameters: {allow_arm: true, autostart: false}}"
    status, description = described(capsys, tmp_path, content)
    assert status == 0
    assert description["notes"] == [
        "params_file: allow_arm has no effect, launch sets it itself",
        "params_file: autostart has no effect, launch sets it itself",
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("/**: {ros__parameters: {control_hz: 500.0}}", "parameter control_hz is 500.0; allowed is"),
        ("/**: {ros__parameters: {control_hz: fast}}", "parameter control_hz is 'fast'; allowed is"),
        ("/chimera/leader: {ros__parameters: {control_hx: 20.0}}", "there is no parameter control_hx"),
        ("/**/leader: {ros__parameters: {drones: [1]}}", "parameter drones is"),
        ("/other/leader: {ros__parameters: {drones: 3}}", "it sets no parameter of a node of this swarm"),
        ("leader: {ros__parameters: {drones: 3}}", "for example, /chimera/leader"),
        ("text", "it sets no parameter"),
        ("", "it sets no parameter"),
        ("{{", "params.yaml"),
        ("/**: 3", "params.yaml"),
        ("/**: {ros__parameters: {drones: [1, a]}}", "params.yaml"),
    ],
)
def test_a_wrong_parameter_file_is_refused_before_anything_is_made(capsys, tmp_path, content, said):
    status, text = described(capsys, tmp_path, content)
    assert status == 2
    assert said in text
    assert len(text.splitlines()) == 1
    assert not Path("record").exists()


def test_shipped_parameter_file_and_documents_are_what_is_declared():
    command = [sys.executable, str(ROOT / "tools" / "parameters.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stdout}: run tools/parameters.py"


def test_the_shipped_parameter_file_changes_nothing(capsys, tmp_path):
    status, description = described(capsys, tmp_path, (ROOT / "config" / "params.yaml").read_text())
    assert status == 0, description
    assert description["notes"] == []


def test_a_namespace_has_a_simulation_keystore_of_its_own(capsys):
    stores = set()
    for options in ([], ["--namespace=/alpha"], ["--namespace=/beta"]):
        assert describe.main([*OPTIONS, *options]) == 0
        stores.add(parameters_of(json.loads(capsys.readouterr().out), "leader")["keystore"])
    assert len(stores) == 3


@pytest.mark.parametrize(
    ("height_m", "section", "status"),
    [
        (150, "/**: {ros__parameters: {max_height_m: 200.0}}", 0),
        (150, "/**: {ros__parameters: {control_hz: 20.0}}", 1),
        (150, "/chimera/follower_0: {ros__parameters: {max_height_m: 200.0}}", 1),
        (30, "/chimera/follower_1: {ros__parameters: {max_height_m: 20.0}}", 1),
        (30, "/chimera/follower_1: {ros__parameters: {max_height_m: 50.0}}", 0),
    ],
)
def test_a_mission_is_checked_with_the_limits_of_the_parameter_file(
    capsys, tmp_path, height_m, section, status
):
    """Every follower's: one that is stricter than the others, or was forgotten, refuses in flight."""
    mission = tmp_path / "high.yaml"
    mission.write_text(
        "mission: high\ndatum: {lat_deg: 47, lon_deg: 8, amsl_m: 400}\nseparation_m: 2\n"
        "fence: {east_m: [-50, 50], north_m: [-50, 50], height_m: [1, 300]}\n"
        f"steps: [{{takeoff: {{height_m: 5}}}}, {{goto: {{center_m: [0, 0, {height_m}]}}}}, land]\n"
    )
    found, description = described(capsys, tmp_path, section, f"--mission={mission}")
    assert found == status, description
