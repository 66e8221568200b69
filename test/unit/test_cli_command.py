"""`chimera command` before any swarm is there: whom it may stop, and refusals in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chimera_ros.cli import main
from chimera_ros.commands import command
from chimera_ros.commands.command import check_drones, enrolled_drones
from chimera_ros.commands.errors import MISUSE, CommandFailed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "keys"
    assert main(["keys", "create", str(path), "--no-passphrase"]) == 0
    for name, role in (("operator_0", "operator"), ("drone_01", "drone")):
        assert main(["keys", "enroll", name, role, "--keystore", str(path)]) == 0
    return path


def test_a_stop_needs_nobody_elses_certificate(store: Path, tmp_path: Path) -> None:
    station = tmp_path / "station"
    shutil.copytree(store, station)
    assert enrolled_drones(station) == {"drone_01"}
    (station / "members" / "drone_01" / "identity.pem").write_bytes(b"damaged")
    assert enrolled_drones(station) == frozenset()
    shutil.rmtree(station / "members" / "drone_01")
    assert enrolled_drones(station) == frozenset()
    check_drones(["drone_01"], frozenset())
    check_drones(["drone_01"], frozenset({"drone_01"}))


@pytest.mark.parametrize(("name", "known"), [("drone_1", {"drone_01"}), ("../x", set()), ("x" * 49, set())])
def test_names_of_nobody_are_refused(name: str, known: set[str]) -> None:
    with pytest.raises(CommandFailed) as caught:
        check_drones([name], frozenset(known))
    assert caught.value.status == MISUSE


@pytest.mark.parametrize(
    ("domain", "namespace", "said"),
    [
        ("1", "bad name", "is no namespace"),
        ("1", "/x//y", "is no namespace"),
        ("1", "/1x", "is no namespace"),
        ("none", "/chimera", "ROS_DOMAIN_ID is 'none'; allowed are whole numbers from 0 to 232"),
        ("233", "/chimera", "ROS_DOMAIN_ID is '233'"),
    ],
)
def test_settings_that_ros_refuses_are_named_in_one_sentence(
    store: Path,
    domain: str,
    namespace: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", domain)
    assert main(["command", "hold", "--keystore", str(store), "--namespace", namespace]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["goto", "1", "2"], "the following arguments are required: UP"),
        (["goto"], "required: EAST, NORTH, UP"),
        (["goto", "1", "2", "x"], "argument UP: 'x' is not a finite number"),
        (["goto", "nan", "1", "2"], "argument EAST: 'nan' is not a finite number"),
        (["goto", "1", "2", "30000"], "goto.center_m: must be a number from -20000 to 20000, not '30000.0'"),
        (["goto", "--by", "1", "2"], "required: UP"),
        (["takeoff", "--height", "0.1"], "takeoff.height_m: must be a number from 1 to"),
        (["hold", "--seconds", "-1"], "hold.seconds: must be a number from 0 to"),
        (["formation", "grid", "--spacing", "0"], "formation.spacing_m: must be a number from"),
        (["formation", "grid", "--center", "1", "2"], "argument --center: expected 3 arguments"),
        (["stop", "drone_9"], "the keystore has no drone 'drone_9'"),
        (["stop", "a b"], "'a b' is no member name"),
        (["evict", ""], "'' is no member name"),
        (["rotate", "--reason", "x" * 49], "1 to 48 printable characters"),
        (["hold", "--operator", "Bob"], "'Bob' is no member name"),
        (["fly"], "invalid choice: 'fly'"),
    ],
)
def test_orders_that_nobody_would_accept_are_refused_before_ros_starts(
    store: Path,
    order: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_start(_: object) -> None:
        raise AssertionError("ROS was started")

    monkeypatch.setattr("chimera_ros.commands.command._Operator.__init__", no_start)
    assert main(["command", *order, "--keystore", str(store)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_processes_with_keys_leave_no_core_dump(tmp_path: Path) -> None:
    code = """
import os, resource
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
from chimera_ros import core_dumps
core_dumps.disable()
assert resource.getrlimit(resource.RLIMIT_CORE)[0] <= 1
if not os.fork():
    os.abort()
assert not os.WCOREDUMP(os.wait()[1])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=False, timeout=60)
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


class Tries(command._Operator):
    """An operator in a swarm; `answers` holds, per try, what happens: it is called with all tries so far."""

    def __init__(self, *answers: Callable[[list[Callable[[Any], None]]], None]) -> None:
        self._arguments = Namespace(order="land", operator="operator_0")
        self._session: Any = self
        self.ready = True
        self.tries: list[Callable[[Any], None]] = []
        self._answers = list(answers)

    def start(self) -> None: ...

    def epoch(self) -> None: ...

    def create_client(self, *_: object) -> Any:
        return self

    def service_is_ready(self) -> bool:
        return True

    def call_async(self, _: object, timeout_s: float, on_done: Callable[[Any], None]) -> None:
        self.tries.append(on_done)
        if self._answers:
            self._answers.pop(0)(self.tries)

    def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        return condition()


def fails(tries: list[Callable[[Any], None]]) -> None:
    tries[-1](Namespace(response=None, failure="operator_0 has not joined the swarm yet"))


def answers_the_first(tries: list[Callable[[Any], None]]) -> None:
    tries[0](Namespace(response=Namespace(accepted=True, reason=""), failure=None))


def test_an_order_takes_the_answer_to_any_of_its_tries() -> None:
    operator = Tries(lambda _: None, lambda _: None, answers_the_first)
    assert operator.order() == (True, "accepted")
    assert len(operator.tries) == 3


def test_an_order_that_could_not_be_sent_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Tries(fails, answers_the_first)
    assert operator.order() == (True, "accepted")
    monkeypatch.setattr(command, "REPLY_S", 0.01)
    said = Tries(*[fails] * 100_000).order()
    assert said == (False, "no response from leader/steps: operator_0 has not joined the swarm yet")
