"""ROS 2's own tools with a swarm: `ros2 launch` with its arguments and signals, ros2cli, and a bench.

Skips where they are not installed; CHIMERA_REQUIRE_LAUNCH=1 turns that into a failure.
"""

import os
import shutil
import signal
import subprocess
import time
from importlib import util
from pathlib import Path

import pytest

MISSING = [
    name
    for name in ("ros2launch", "ros2lifecycle", "ros2node", "ros2param", "ros2pkg", "ros2topic")
    if util.find_spec(name) is None
]
if MISSING or shutil.which("ros2") is None:
    sentence = (
        f"NOT TESTED: ROS 2's tools with a swarm, because {', '.join(MISSING) or 'ros2'} is not installed; "
        "they come with ROS 2, not from PyPI (tools/check_ros.sh runs this test where there is ROS 2)"
    )
    if os.environ.get("CHIMERA_REQUIRE_LAUNCH") == "1":
        raise ImportError(sentence)
    pytest.skip(sentence, allow_module_level=True)

spec = util.spec_from_file_location("launched_swarm", Path(__file__).with_name("launched_swarm.py"))
launched_swarm = util.module_from_spec(spec)
spec.loader.exec_module(launched_swarm)
Launched = launched_swarm.Launched

pytestmark = pytest.mark.timeout(600)
ECHO = ("topic", "echo", "--no-daemon", "--qos-reliability", "reliable", "--once", "/diagnostics")
NODES = ("crypto", "follower_0", "leader", "path_moderation", "telemetry_logger")


def ros2(*words, limit_s=60.0):
    """Output of a `ros2` command; no daemon is left behind."""
    done = subprocess.run(
        ["ros2", *words], capture_output=True, text=True, timeout=limit_s, stdin=subprocess.DEVNULL
    )
    return done.returncode, done.stdout + done.stderr


def eventually(words, condition, limit_s=60.0):
    """Output of a `ros2` command once it fulfils a condition: discovery takes a while."""
    end = time.monotonic() + limit_s
    while True:
        _, text = ros2(*words)
        if condition(text):
            return text
        assert time.monotonic() < end, f"ros2 {' '.join(words)}:\n{text}"


# Arguments ---------------------------------------------------------------------------------------------


def test_arguments_show_their_defaults_and_choices():
    status, text = ros2("launch", "chimera_ros", "swarm.launch.py", "--show-args")
    assert status == 0
    for word in (
        "'antipodal_swap'",
        "'20'",
        "'os,hardware'",
        "config/params.yaml",
        "'namespace'",
        "'no_record'",
    ):
        assert word in text
    assert "Valid choices are: ('embedded', 'px4', 'ardupilot')" in text


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("wind:=strong", "wind:="),
        ("wind:=99", "wind:= is 99.0; allowed are 0 to 15 m/s"),
        ("wnd:=3", "there is no launch argument wnd:="),
        ("autopilot:=px5", "px5"),
        ("arm:=perhaps", "perhaps"),
        ("log_level:=loud", "loud"),
        ("autostart:=false", "needs expose_services:=true"),
        ("params_file:=/nonexistent.yaml", "params_file:= /nonexistent.yaml: there is no such file"),
        ("namespace:=a-b", "namespace:="),
        ("keystore:=/nonexistent", "chimera keys create /nonexistent"),
        ("first_port:=5", "first_port:= is 5; allowed are"),
        ("entropy:=os,dice", "entropy:="),
        ("mission:=nowhere", "there is no mission file nowhere"),
        ("ready_timeout:=1", "ready_timeout:= is 1"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_created(tmp_path, argument, said):
    status, text = ros2(
        "launch", "chimera_ros", "swarm.launch.py", f"record:={tmp_path / 'record'}", "gcs_port:=0", argument
    )
    assert status == 1
    assert said in text
    assert "usage:" not in text
    assert "process started" not in text
    assert "Traceback" not in text
    assert not (tmp_path / "record").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("/**: {ros__parameters: {control_hz: 500.0}}", "parameter control_hz is 500.0; allowed is"),
        ("/**/follower_0: {ros__parameters: {control_hx: 20.0}}", "there is no parameter control_hx"),
        ("/**: {ros__parameters: {entropy: [dice]}}", "parameter entropy is"),
        ("not a mapping", "params_file:="),
        ("{{", "params_file:="),
    ],
)
def test_a_wrong_parameter_file_is_refused(tmp_path, content, said):
    file = tmp_path / "params.yaml"
    file.write_text(content)
    status, text = ros2(
        "launch", "chimera_ros", "swarm.launch.py", f"record:={tmp_path / 'record'}", f"params_file:={file}"
    )
    assert status == 1
    assert said in text
    assert "process started" not in text
    assert "Traceback" not in text
    assert not (tmp_path / "record").exists()


def test_internal_programs_are_no_executables():
    _, text = ros2("pkg", "executables", "chimera_ros")
    assert {line.split()[1] for line in text.splitlines()} == {
        *("chimera", "crypto", "follower", "leader", "path_moderation", "sitl", "telemetry_logger")
    }


# Ending ------------------------------------------------------------------------------------------------


def end_by_ctrl_c(swarm):
    """The terminal sends SIGINT to all, launch one more to the leader, as it does without a terminal."""
    leader = swarm.process("leader")
    swarm.type(b"\x03")
    leader.send_signal(signal.SIGINT)


def end_by_signal_to_all(swarm):
    """What a service manager does by default."""
    for process in swarm.processes():
        process.send_signal(signal.SIGTERM)


ENDINGS = {
    "SIGINT to launch alone": lambda swarm: swarm.process("launch").send_signal(signal.SIGINT),
    "SIGTERM to launch": lambda swarm: swarm.process("launch").send_signal(signal.SIGTERM),
    "SIGTERM to all": end_by_signal_to_all,
    "SIGKILL of launch": lambda swarm: swarm.process("launch").kill(),
    "closed terminal": lambda swarm: swarm.close_terminal(),
    "SIGQUIT of the terminal": lambda swarm: swarm.type(b"\x1c"),
}


def test_ctrl_c_in_a_terminal_lands_a_moderated_flight(tmp_path):
    with Launched(tmp_path, 5, mission=launched_swarm.MODERATED_MISSION) as swarm:
        swarm.wait(lambda: launched_swarm.swap_begun(swarm.record), "the moderated step")
        end_by_ctrl_c(swarm)
        swarm.wait_landed_and_ended()
        assert "launch ended with status 0" in swarm.output


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_launch_ends_the_drones_land_and_nothing_is_left(tmp_path, ending):
    with Launched(tmp_path, 2) as swarm:
        swarm.wait_airborne()
        ENDINGS[ending](swarm)
        swarm.wait_landed_and_ended()


def test_a_second_ctrl_c_ends_at_once_and_followers_land(tmp_path):
    with Launched(tmp_path, 2) as swarm:
        swarm.wait_airborne()
        swarm.type(b"\x03")
        time.sleep(1.5)  # more than a second: not the same Ctrl-C
        began = time.monotonic()
        swarm.type(b"\x03")
        launched_swarm.wait(lambda: "leader" not in names_of(swarm), "the leader's end", 10.0)
        swarm.wait_landed_and_ended()
        assert time.monotonic() - began < launched_swarm.LIMIT_S


def names_of(swarm):
    return {Path(word).name for process in swarm.processes() for word in process.cmdline()[:2]}


# Names and contents ------------------------------------------------------------------------------------

PARENT = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter
from launch_ros.substitutions import FindPackageShare
from launch.substitutions import PathJoinSubstitution

def generate_launch_description():
    file = PathJoinSubstitution([FindPackageShare("chimera_ros"), "launch", "swarm.launch.py"])
    return LaunchDescription([
        GroupAction([
            PushRosNamespace("fleet"),
            SetParameter("of_others", 1),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(file)),
        ]),
    ])
"""


def test_two_swarms_fly_in_one_domain_and_are_seen_but_not_read(tmp_path):
    """One below a pushed namespace, one in a namespace of its own; each has identities of its own."""
    parent = tmp_path / "parent.launch.py"
    parent.write_text(PARENT)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    first = Launched(folders[0], 1, file=parent, standbys=0)
    with first:
        first.wait_airborne()
        second = Launched(folders[1], 1, namespace="/beta", standbys=0)
        with second:
            second.wait_airborne()
            expected = [f"{namespace}/{name}" for namespace in ("/fleet/chimera", "/beta") for name in NODES]
            eventually(
                ("node", "list", "--no-daemon", "--spin-time", "5"),
                lambda text: set(expected) <= set(text.splitlines()),
            )
            eventually(
                ("topic", "list", "--no-daemon", "--spin-time", "5", "-t"),
                lambda text: (
                    {
                        "/beta/leader/command [chimera_ros/msg/SecureEnvelope]",
                        "/fleet/chimera/drone_01/telemetry [chimera_ros/msg/SecureEnvelope]",
                    }
                    <= set(text.splitlines())
                ),
            )
            for namespace in ("/fleet/chimera", "/beta"):
                text = eventually(
                    (*ECHO, "--filter", f"m.status[0].name == '{namespace}/leader: security'"),
                    lambda text, namespace=namespace: namespace in text,
                )
                assert "message: 'security is on" in text, text
            words = ("param", "list", "/beta/leader", "--no-daemon", "--spin-time", "5")
            _, parameters = ros2(*words, limit_s=launched_swarm.LIMIT_S)
            assert "keystore" not in parameters
            _, managed = ros2("lifecycle", "nodes", "--no-daemon", "--spin-time", "3")
            assert "/beta" not in managed
            status, refused = ros2(
                *("launch", "chimera_ros", "swarm.launch.py", "drones:=1", "namespace:=/beta", "standbys:=0"),
                *(f"record:={tmp_path / 'third'}", f"first_port:={launched_swarm.free_udp_ports(1)}"),
            )
            assert status == 1
            assert "alive already" in refused or "in use" in refused, refused
            assert not (tmp_path / "third").exists()
            second.process("launch").send_signal(signal.SIGINT)
            second.wait_landed_and_ended()
        first.process("launch").send_signal(signal.SIGINT)
        first.wait_landed_and_ended()


# Bench -------------------------------------------------------------------------------------------------


def test_a_swarm_is_started_by_lifecycle_transitions_on_a_bench(tmp_path):
    with Launched(tmp_path, 1, autostart="false", expose_services="true", standbys=0) as swarm:
        states = ("lifecycle", "nodes", "--no-daemon", "--spin-time", "5")
        eventually(states, lambda text: all(f"/chimera/{name}" in text for name in NODES), 120.0)
        _, text = ros2("param", "set", "/chimera/crypto", "rotation_s", "30.0")
        assert "Set parameter successful" in text, text
        _, text = ros2("param", "set", "/chimera/crypto", "rotation_s", "1.0")
        assert "Set parameter successful" not in text, text
        for name in NODES:
            for transition in ("configure", "activate"):
                _, text = ros2("lifecycle", "set", f"/chimera/{name}", transition, limit_s=120.0)
                assert "Transitioning successful" in text, (name, transition, text)
        assert "active" in ros2("lifecycle", "get", "/chimera/leader")[1]
        assert "30.0" in ros2("param", "get", "/chimera/crypto", "rotation_s")[1]
        assert "read-only" in ros2("param", "set", "/chimera/crypto", "rotation_s", "40.0")[1]
        swarm.wait_airborne()
        assert "anyone on this network can change this node" in swarm.output
        swarm.process("launch").send_signal(signal.SIGINT)
        swarm.wait_landed_and_ended()


def test_a_parameter_file_reaches_the_nodes_and_arguments_take_precedence(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(
        "/**: {ros__parameters: {rotation_s: 33.0, control_hz: 25.0, ready_timeout_s: 44.0, unknown_here: 1}}"
    )
    with Launched(
        tmp_path, 1, params_file=file, rotation=31, autostart="false", expose_services="true", standbys=0
    ) as swarm:
        eventually(
            ("lifecycle", "nodes", "--no-daemon", "--spin-time", "5"),
            lambda text: all(f"/chimera/{name}" in text for name in NODES),
            120.0,
        )
        assert "31.0" in ros2("param", "get", "/chimera/crypto", "rotation_s")[1]
        assert "25.0" in ros2("param", "get", "/chimera/follower_0", "control_hz")[1]
        assert "44.0" in ros2("param", "get", "/chimera/leader", "ready_timeout_s")[1]
        swarm.process("launch").send_signal(signal.SIGINT)
        launched_swarm.wait(lambda: not swarm.processes(), "the end")
