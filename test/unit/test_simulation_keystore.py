"""A keystore of simulations, its authority's key unencrypted in it, arms the embedded SITL only."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chimera_ros.autopilot.config import VehicleConfig
from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.commands.command import check_keystore
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.swarm_setup import add_arguments, read_options
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.launcher.spec import processes

ARMED = [
    ["--autopilot", "px4", "--arm"],
    ["--autopilot", "ardupilot", "--arm"],
    ["--connect", "udpin://127.0.0.1:{14540+i}", "--arm"],
]


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--drones", "1", *words])


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    Keystore(tmp_path / "keys", durable=False).create("chimera", wall_ns=time.time_ns())
    return tmp_path / "keys"


@pytest.mark.parametrize("words", ARMED)
def test_arming_other_vehicles_is_refused(words: list[str], keys: Path) -> None:
    for chosen in ([], ["--keystore", str(keys)]):
        with pytest.raises(
            CommandFailed, match=r"--arm is refused with .*a keystore for simulations"
        ) as refused:
            read_options(options(*words, *chosen))
        assert refused.value.status == 2
    (keys / "authority.key").unlink()
    read_options(options(*words, "--keystore", str(keys)))


def test_an_encrypted_authority_key_is_allowed(tmp_path: Path) -> None:
    Keystore(tmp_path / "keys", durable=False).create("chimera", wall_ns=time.time_ns(), passphrase=b"x")
    read_options(options(*ARMED[0], "--keystore", str(tmp_path / "keys")))


def test_simulations_arm_as_before(keys: Path) -> None:
    for words in ([], ["--arm"], ["--keystore", str(keys)], ["--autopilot", "px4"]):
        spec, _ = read_options(options(*words))
        follower = next(item for item in processes(spec) if item.executable == "follower")
        assert follower.parameters["allow_arm"] is spec.embedded


def test_another_vehicle_than_the_embedded_one_needs_arm(keys: Path) -> None:
    """`--connect` may lead to any vehicle, whatever `--autopilot` says."""
    spec, _ = read_options(options("--connect", "udpin://127.0.0.1:{14540+i}", "--keystore", str(keys)))
    follower = next(item for item in processes(spec) if item.executable == "follower")
    assert follower.parameters["allow_arm"] is False


@pytest.mark.parametrize(
    ("kind", "url", "embedded"),
    [
        ("embedded", "udpin://127.0.0.1:15540", True),
        ("embedded", "udpin://0.0.0.0:15540", False),
        ("embedded", "serial:///dev/ttyACM0:57600", False),
        ("px4", "udpin://127.0.0.1:15540", False),
    ],
)
def test_what_counts_as_the_embedded_sitl(kind: str, url: str, embedded: bool) -> None:
    assert VehicleConfig("drone_01", url, 1, kind=AutopilotKind(kind)).is_embedded_sitl is embedded


def test_commands_with_it_stay_on_this_machine(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = argparse.Namespace(order="land", keystore=keys, namespace="/chimera")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    with pytest.raises(CommandFailed, match="is a keystore for simulations"):
        check_keystore(order)
    check_keystore(argparse.Namespace(order="stop", keystore=keys, namespace="/chimera"))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    check_keystore(order)
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    (keys / "authority.key").unlink()
    check_keystore(order)


def test_tools_with_keys_leave_no_core_dump(keys: Path) -> None:
    code = (
        "import ctypes, resource, sys; from chimera_ros import cli; "
        f"cli.main(['keys', 'list', '--keystore', {str(keys)!r}]); "
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0] in (0, 1), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True 0"


@pytest.mark.parametrize(
    "url", ["udpin://0.0.0.0:{14540+i}", "tcpin://192.0.2.1:{5760+i}", "udpin://[::]:{14540+i}"]
)
def test_arming_is_refused_where_other_machines_reach_the_port(url: str, keys: Path) -> None:
    (keys / "authority.key").unlink()
    words = ["--autopilot", "px4", "--connect", url, "--keystore", str(keys)]
    read_options(options(*words))
    with pytest.raises(CommandFailed, match="MAVLink is not signed") as refused:
        read_options(options(*words, "--arm"))
    assert refused.value.status == 2
    for private in (
        "serial:///dev/ttyACM{i}:57600",
        "udpin://127.0.0.1:{14540+i}",
        "udpin://[::1]:{14540+i}",
    ):
        read_options(options("--autopilot", "px4", "--connect", private, "--keystore", str(keys), "--arm"))
