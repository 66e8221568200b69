"""Executables of the nodes, started bare or with nonsense: one sentence on what they need, status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chimera_ros.cli import main

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0  # on a loaded machine
NODES = ("crypto", "leader", "follower", "telemetry_logger", "path_moderation")
MISSION = ROOT / "config" / "missions" / "antipodal_swap.yaml"


def start(
    node: str, *words: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, list[str]]:
    """Exit status and lines of standard error."""
    done = subprocess.run(
        [sys.executable, "-m", f"chimera_ros.nodes.{node}", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    # rcl adds lines of its own to some errors.
    return done.returncode, [line for line in done.stderr.splitlines() if " [rcl" not in line]


@pytest.mark.parametrize("node", NODES)
def test_started_bare_a_node_says_what_it_needs(node: str) -> None:
    needs = ["keystore", "mission"] if node in ("leader", "follower") else ["keystore"]
    status, lines = start(node)
    assert status == 2
    (line,) = lines
    assert line.startswith(f"{node} cannot start: parameter")
    assert all(f"{name} (" in line and f"-p {name}:=VALUE" in line for name in needs)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("startup") / "keys"
    assert main(["keys", "create", str(path), "--no-passphrase"]) == 0
    return path


@pytest.mark.parametrize(
    ("node", "words", "said"),
    [
        (
            "crypto",
            "-p keystore:=/no/such/folder",
            "parameter keystore is '/no/such/folder'; there is no such",
        ),
        (
            "crypto",
            "-p rotation_s:=abc",
            "parameter rotation_s is 'abc'; allowed is a number from 2.0 to 3600",
        ),
        ("crypto", "-p rotation_s:=.nan", "parameter rotation_s is nan"),
        ("crypto", "-p rotation_s:=1e400", "parameter rotation_s is '1e400'"),
        ("crypto", "-p entropy:=os", "parameter entropy is 'os'; allowed is a list, each item one of os"),
        ("crypto", "-p entropy:=[os,dice]", "parameter entropy is ('os', 'dice')"),
        ("crypto", "-p autostart:=3", "parameter autostart is 3; allowed is true or false"),
        (
            "crypto",
            "-p rotation:=5",
            "there is no parameter rotation; the parameters are keystore, key_passphrase_file, member",
        ),
        (
            "crypto",
            "--params-file /no/such/file",
            "Couldn't parse params file: '--params-file /no/such/file'",
        ),
        ("crypto", "--params-file {missing}", "Couldn't parse params file"),
        ("crypto", "--params-file {own}", "there is no parameter rotation"),
        ("crypto", "--nonsense", "these are no ROS arguments: ['--nonsense']"),
        ("crypto", "-p", "Couldn't parse trailing -p flag"),
        ("crypto", "-p keystore", "Couldn't parse parameter override rule"),
        ("crypto", "-p keystore:=[1", "Couldn't parse parameter override rule"),
        ("crypto", "-r __ns:=/a//b", "Couldn't parse remap rule"),
        ("crypto", "--log-level loud", "Couldn't parse log level"),
        (
            "follower",
            "-p mission:=/no/such/mission",
            "parameter mission is '/no/such/mission'; there is no such",
        ),
        ("follower", "-p mission:={mission} -p drones:=[0]", "parameter drones is (0,)"),
        (
            "follower",
            "-p mission:={mission} -p drones:=[1,1]",
            "parameter drones is [1, 1]; it names at least",
        ),
        (
            "follower",
            "-p mission:={mission} -p connect:=nonsense",
            "parameter connect: nonsense: a connection",
        ),
        ("follower", "-p mission:={mission} -p autopilot:=kite", "parameter autopilot is 'kite'"),
        ("leader", "-p mission:={mission} -p drones:=245", "parameter drones is 245"),
        ("telemetry_logger", "-p swarm_size:=0", "parameter swarm_size is 0"),
        ("path_moderation", "-p backend:=abacus", "parameter backend: 'abacus' is no backend"),
    ],
)
def test_wrong_parameters_and_arguments_are_one_sentence(
    node: str, words: str, said: str, store: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.yaml"
    missing.write_text("rotation_s: [")
    own = tmp_path / "own.yaml"
    own.write_text(f"/chimera/crypto:\n  ros__parameters:\n    keystore: {store}\n    rotation: 5\n")
    filled = words.format(missing=missing, own=own, mission=MISSION)
    given = [] if "keystore" in words or "params-file" in words else ["-p", f"keystore:={store}"]
    status, lines = start(node, "--ros-args", *given, *filled.split())
    assert status == 2, lines
    (line,) = lines
    assert line.startswith(f"{node} cannot start: ")
    assert said in line


@pytest.mark.parametrize("words", [["--help"], ["mission.yaml"], ["--keystore", "keys"]])
def test_other_arguments_than_those_of_ros_are_refused(words: list[str]) -> None:
    status, lines = start("crypto", *words)
    assert status == 2
    assert lines == [
        f"crypto cannot start: '{words[0]}' is not a ROS argument; "
        "parameters are given as --ros-args -p NAME:=VALUE"
    ]


def test_a_files_section_for_all_nodes_may_name_parameters_of_others(store: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared.yaml"
    shared.write_text(
        f"/**:\n  ros__parameters:\n    keystore: {store}\n    control_hz: 20.0\n    drones: [1]\n"
    )
    status, lines = start("crypto", "--ros-args", "--params-file", str(shared))
    assert status == 1  # the keystore lacks this member
    assert "crypto_0" in lines[-1] and "control_hz" not in lines[-1]


@pytest.mark.parametrize("node", NODES)
def test_a_keystore_that_lacks_the_member_is_told_in_its_own_sentence(node: str, store: Path) -> None:
    words = ["-p", f"mission:={MISSION}"] if node in ("leader", "follower") else []
    status, lines = start(node, "--ros-args", "-p", f"keystore:={store}", *words)
    assert status == 1
    assert lines[-1].startswith(f"{node} cannot start: ")
    assert str(store) in lines[-1] and ".py:" not in lines[-1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROS_DOMAIN_ID", "abc", "ROS_DOMAIN_ID is 'abc'; allowed are whole numbers from 0 to 232"),
        ("ROS_DOMAIN_ID", "233", "ROS_DOMAIN_ID is '233'"),
        ("RMW_IMPLEMENTATION", "rmw_nothing_cpp", "RMW_IMPLEMENTATION is 'rmw_nothing_cpp'"),
        ("ROS_STATIC_PEERS", "@@;;", "Unable to resolve peer"),
    ],
)
def test_an_environment_in_which_ros_cannot_start_is_one_sentence(name: str, value: str, said: str) -> None:
    status, lines = start("crypto", env={name: value})
    assert status == 2
    assert " cannot start: " in lines[-1] and said in lines[-1]


def test_a_deleted_working_folder_is_no_reason_not_to_start(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'rmdir "$PWD" && exec {sys.executable} -m chimera_ros.nodes.crypto'
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=gone,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    assert done.returncode == 2
    assert "parameter keystore" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_traceback(closed: str) -> None:
    script = f"exec {sys.executable} -m chimera_ros.nodes.crypto {closed}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["-r", "-p", "--params-file", "--log-level", "--remap"])
def test_no_argument_steers_the_terminal(option: str) -> None:
    for value in ("__ns:=/\x1b[31m\nGO", "x\x9b2J:=1"):
        status, lines = start("leader", "--ros-args", option, value)
        assert status == 2
        (line,) = lines
        assert line.startswith("leader cannot start: the argument '") and line.isprintable()
