"""What a shell, container or service manager leaves to a command: variables, streams, folder, loopback."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chimera_ros import cli
from chimera_ros.commands import doctor_checks, machine, preflight, swarm, swarm_setup
from chimera_ros.commands.machine import RosTrial, loopback_fault
from chimera_ros.crypto.primitives import providers
from chimera_ros.ros.environment import MAX_DOMAIN, environment_faults

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0  # on a loaded machine

# Variable, values that keep a swarm from flying, and what is said of it.
BAD = [
    (
        "ROS_DOMAIN_ID",
        ("abc", "233", "-1", "1e400", "9" * 5000, " 5", "5abc", "0x10", "010", "+5", "٣", "1_0", "\x1b[0m"),
        "allowed are whole numbers from 0 to 232",
    ),
    (
        "ROS_AUTOMATIC_DISCOVERY_RANGE",
        ("OFF", "off", "subnet", "nan", "\n", "x" * 9999),
        "allowed are SUBNET, LOCALHOST, SYSTEM_DEFAULT",
    ),
    ("RMW_IMPLEMENTATION", ("rmw_nothing_cpp", "../x", "x" * 9999, "\x07"), "unset it to use rmw_fastrtps"),
    ("FASTDDS_DEFAULT_PROFILES_FILE", ("/no/such.xml", "/", "/dev/null", __file__), "a file of Fast DDS"),
    ("FASTRTPS_DEFAULT_PROFILES_FILE", ("/no/such.xml", "x" * 9999), "a file of Fast DDS"),
    ("FASTDDS_ENVIRONMENT_FILE", ("/no/such.json", "/"), "a file of Fast DDS"),
    ("FASTDDS_BUILTIN_TRANSPORTS", ("", "NONE", "shm", "udpv4", "\x1b"), "LARGE_DATA"),
]
CASES = [
    pytest.param(name, value, said, id=f"{name}-{value[:20]!a}")
    for name, values, said in BAD
    for value in values
]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what this test run's caller has set."""
    for name, _, _ in BAD:
        if name not in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE"):  # conftest's own
            monkeypatch.delenv(name, raising=False)


def test_nothing_is_wrong_here() -> None:
    assert environment_faults(os.environ) == []
    assert environment_faults({}, participants=33) == []  # HOME comes from the user database
    assert loopback_fault() == ""


@pytest.mark.parametrize("name", [name for name, _, _ in BAD if name != "FASTDDS_BUILTIN_TRANSPORTS"])
def test_empty_is_unset(name: str) -> None:
    assert environment_faults({**os.environ, name: ""}) == []


@pytest.mark.parametrize(("name", "value", "said"), CASES)
def test_every_command_names_the_variable_before_anything_starts(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def must_not_start(*_: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(swarm.Flight, "run", must_not_start)
    monkeypatch.setattr(RosTrial, "__enter__", must_not_start)
    monkeypatch.setenv(name, value)
    for words, status in (
        (["swarm", "--drones", "1", "--first-port", "34540", "--gcs-port", "0"], 2),
        (["command", "hold"], 2),
        (["command", "stop"], 2),
        (["preflight", "--drones", "1", "--first-port", "34540", "--gcs-port", "0"], 1),
        (["doctor"], 1),
    ):
        assert cli.main(words) == status, words
        out, err = capsys.readouterr()
        text = err if status == 2 else out
        assert name in text and said in text, (words, text)
        assert len(err.splitlines()) == (1 if status == 2 else 0)
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text) < 20_000
    assert not list(Path.cwd().iterdir())


def test_a_domain_has_ports_for_so_many_processes() -> None:
    for domain, most in ((0, 29_063), (101, 16_438), (MAX_DOMAIN, 63)):
        environ = {"ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
        assert environment_faults(environ, most) == []
        (fault,) = environment_faults(environ, most + 1)
        assert f"enough for {most} processes, not for {most + 1}; choose a lower one" in str(fault)


def test_a_swarm_with_more_processes_than_its_domain_has_ports_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(MAX_DOMAIN))
    assert cli.main(["swarm", "--drones", "70", "--shards", "70"]) == 2
    assert f"ROS_DOMAIN_ID is {MAX_DOMAIN}" in capsys.readouterr().err


def test_a_swarm_with_more_processes_than_discovery_on_loopback_reaches_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured with 40 processes: 33 saw all, the rest did not see each other; with SUBNET all do."""
    monkeypatch.setattr(swarm.Flight, "run", lambda _: 0)
    ports = ["--gcs-port", "0", "--first-port", "34540"]
    spec, _ = swarm_setup.read_options(options("--drones", "40", "--shards", "27", *ports))
    assert swarm_setup.machine_faults(spec) == []  # 32 processes and an operator's
    spec, _ = swarm_setup.read_options(options("--drones", "40", "--shards", "28", *ports))
    (fault,) = swarm_setup.machine_faults(spec)
    assert "33 processes find each other then, not 34; start fewer (--shards)" in fault
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert swarm_setup.machine_faults(spec) == []


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    swarm_setup.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROS_DOMAIN_ID", "232", ""),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET", ""),
        ("HOME", None, ""),
        ("TMPDIR", "/no/such/folder", ""),
        ("ROS_STATIC_PEERS", "@@;;", "Unable to resolve peer @@"),
        ("ROS_DOMAIN_ID", "233", "port"),  # ends the process without an exception
        ("RMW_IMPLEMENTATION", "rmw_nothing_cpp", "rmw_nothing_cpp"),
        ("PYTHONHOME", "/no/such/folder", ""),
    ],
)
def test_a_trial_start_finds_what_no_list_foresees(
    name: str, value: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(name)
        monkeypatch.delenv("ROS_LOG_DIR")
    else:
        monkeypatch.setenv(name, value)
    with RosTrial() as trial:
        found = trial.fault()
    assert "\x1b" not in found and "\n" not in found
    assert said in found if said else name == "PYTHONHOME" or not found
    assert found or name != "PYTHONHOME"


def test_a_trial_that_fails_keeps_the_swarm_on_the_ground(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mavlink_port: int
) -> None:
    monkeypatch.setenv("ROS_STATIC_PEERS", "@@;;")
    options = ["--drones", "1", "--gcs-port", "0", "--first-port", str(mavlink_port)]
    assert cli.main(["swarm", *options]) == 2
    assert "ROS 2 does not start with this environment: " in capsys.readouterr().err
    assert not list(Path.cwd().iterdir())
    assert cli.main(["preflight", *options]) == 1
    assert "trial start: error creating node: Unable to resolve peer @@" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CHIMERA_CRYPTO_PROVIDER", "enigma", "'enigma' is no crypto provider"),
        ("CHIMERA_HOME", "/dev/null", "/dev/null is not a folder"),
        ("CHIMERA_HOME", "/proc/x", "cannot be made"),
        ("CHIMERA_HOME", "x" * 5000, "File name too long"),
        ("CHIMERA_HOME", "a\x1b[31m", "control characters"),
    ],
)
def test_our_own_variables_are_looked_at_too(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(providers, "_chosen", None)
    monkeypatch.setattr(swarm.Flight, "run", lambda _: 0)
    monkeypatch.setattr(preflight, "run_checks", list)
    monkeypatch.setenv(name, value)
    options = ["--drones", "1", "--gcs-port", "0"]
    status = cli.main(["preflight", *options])
    out, err = capsys.readouterr()
    assert (status, said in out + err) in ((1, True), (2, True)), out + err
    assert cli.main(["swarm", *options]) in (1, 2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error[:-1].isprintable()


def shell(
    script: str, *words: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `chimera` words with `script`, in which "$@" is the command line."""
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "chimera_ros.cli", *words]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    return subprocess.run(
        command, capture_output=True, text=True, env=environ, cwd=cwd, check=False, timeout=LIMIT_S
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["check", "antipodal_swap", "--drones", "1"], 0),
        (["check", "antipodal_swap", "--drones", "0"], 2),
        (["keys", "list", "--keystore", "none"], 1),
        (["moderate", "-"], 2),
        (["sitl", "--drones", "0"], 2),
        (["--help"], 0),
    ],
)
def test_closed_streams_are_no_traceback(closed: str, words: list[str], status: int) -> None:
    done = shell(f'"$@" {closed} < /dev/null' if "<" not in closed else f'"$@" {closed}', *words)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    if status and "2>" not in closed:
        assert done.stderr.count("\n") == 1


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    done = shell('"$@" <&- >&- 2>&-', "check", "antipodal_swap", "--drones", "1", "--plot", str(picture))
    assert done.returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert b"GO" not in picture.read_bytes()[-300:]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["check", "antipodal_swap", "--drones", "1"], 0, ""),
        (["doctor", "--json"], 0, ""),
        (["swarm", "--drones", "1"], 2, "the working folder, which no longer exists"),
        (["swarm", "--drones", "1", "--record", "here"], 2, "the working folder, which no longer exists"),
        (["preflight", "--drones", "1"], 2, "the working folder, which no longer exists"),
        (["keys", "create", "store", "--no-passphrase"], 1, "No such file or directory"),
        (["keys", "list"], 1, "authority.pem is missing"),
        (["log", "show", "here"], 2, "does not exist"),
        (["check", "antipodal_swap", "--drones", "1", "--plot", "plan.png"], 2, "cannot be written"),
    ],
)
def test_a_deleted_working_folder_is_one_sentence(
    words: list[str], status: int, said: str, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = shell('rmdir "$PWD" && exec "$@"', *words, cwd=gone)
    assert done.returncode == status, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    if status:
        assert done.stderr.count("\n") == 1


def test_a_stop_does_not_need_the_working_folder(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    store = str(tmp_path / "keys")
    assert cli.main(["keys", "create", store, "--no-passphrase"]) == 0
    assert cli.main(["keys", "enroll", "operator_0", "operator", "--keystore", store]) == 0
    done = shell('rmdir "$PWD" && exec "$@"', "command", "stop", "--keystore", store, cwd=gone)
    assert done.returncode == 1
    assert "no drone has acknowledged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "env",
    [
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "xx_YY.latin1"},
        {"TMPDIR": "/no/such/folder"},
        {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
        {"TERM": "nonsense", "COLUMNS": "abc"},
        {"OMP_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": ""},
        {"PYTHONWARNINGS": "error"},
    ],
    ids=str,
)
def test_a_poor_environment_is_enough(env: dict[str, str], mavlink_port: int) -> None:
    options = ("--drones", "1", "--gcs-port", "0", "--first-port", str(mavlink_port))
    words = " ".join(f"{name}={value}" for name, value in env.items())  # bash itself reads some of them
    done = shell(f'exec env {words} "$@" < /dev/null', "preflight", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_no_home_is_enough_where_the_user_has_one(mavlink_port: int) -> None:
    options = ("--drones", "1", "--gcs-port", "0", "--first-port", str(mavlink_port))
    done = shell('unset HOME ROS_LOG_DIR; "$@" < /dev/null', "preflight", *options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_home_at_all_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HOME", "ROS_LOG_DIR", "ROS_HOME", "CHIMERA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user that no database knows
    assert cli.main(["swarm", "--drones", "1"]) == 2
    assert "HOME is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("ROS_LOG_DIR", "/dev/null"), ("ROS_LOG_DIR", "/proc/x"), ("ROS_HOME", "/dev/null"), ("HOME", "/proc")],
)
def test_log_files_that_cannot_be_written_are_advice_and_no_condition(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, mavlink_port: int
) -> None:
    monkeypatch.delenv("ROS_LOG_DIR")
    monkeypatch.setenv(name, value)
    assert machine.ros_faults() == []
    (row,) = [check for check in doctor_checks.run_checks() if check.name == "log files"]
    assert row.status == doctor_checks.ADVICE and value in row.detail and "ROS_LOG_DIR" in row.advice
    options = ["--drones", "1", "--gcs-port", "0", "--first-port", str(mavlink_port)]
    assert cli.main(["preflight", *options]) == 0


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare: loopback down is NOT tested")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["swarm", "--drones", "1"], 2, "loopback does not work (Network is unreachable)"),
        (["preflight", "--drones", "1"], 1, "loopback: Network is unreachable; MAVLink and DDS need it"),
        (["doctor", "--json"], 1, "sudo ip link set lo up"),
        (["sitl", "--drones", "1"], 1, "Network is unreachable"),
    ],
)
def test_loopback_that_is_down_is_named(words: list[str], status: int, said: str) -> None:
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here: loopback down is NOT tested")
    done = shell('exec unshare -rn "$@" < /dev/null', *words)
    assert done.returncode == status, done.stdout + done.stderr
    assert said in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_doctor_looks_at_the_domain_and_starts_a_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["checks"]}
    assert (
        rows["trial start"]["status"] == rows["environment"]["status"] == rows["loopback"]["status"] == "ok"
    )
    monkeypatch.setenv("ROS_DOMAIN_ID", "150")
    (row,) = [each for each in doctor_checks.run_checks() if each.name == "ROS domain"]
    assert row.status == doctor_checks.ADVICE and "0 to 101" in row.advice
