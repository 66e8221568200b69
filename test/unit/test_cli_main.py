"""The `chimera` command: fast help, exit statuses, one sentence and no traceback."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chimera_ros import cli
from chimera_ros.commands.errors import CommandFailed

ROOT = Path(__file__).resolve().parents[2]


def install(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """Puts a sub-command `try` in the place of a real one."""
    module = SimpleNamespace(register=lambda parser: parser.add_argument("--n", type=int, default=0), run=run)
    monkeypatch.setitem(sys.modules, "chimera_ros.commands.try_it", module)  # type: ignore[arg-type]
    monkeypatch.setitem(cli.COMMANDS, "try", cli.SubCommand("chimera_ros.commands.try_it", "a test"))


def children_s() -> float:
    """Processor time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from chimera_ros.cli import main; main(['--help']); "
        "print([m for m in ('rich', 'numpy', 'rclpy', 'cryptography', 'matplotlib') if m in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    took_s = []
    for _ in range(3):
        began = children_s()
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
        )
        took_s.append(children_s() - began)
    assert done.stdout.splitlines()[-1] == "[]"
    assert min(took_s) < 0.5  # 0.06 s on an idle machine
    for name in cli.COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_exit_statuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert cli.main(["--version"]) == 0
    assert cli.main(["fly"]) == 2
    assert "there is no command 'fly'; the commands are: swarm" in capsys.readouterr().err
    install(monkeypatch, lambda arguments: arguments.n)
    assert cli.main(["try", "--n", "0"]) == 0
    assert cli.main(["try", "--n", "1"]) == 1
    assert cli.main(["try", "--n", "many"]) == 2
    assert cli.main(["try", "--help"]) == 0


def test_an_expected_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise CommandFailed("the port 15540 is busy; choose another", 1)

    install(monkeypatch, fail)
    assert cli.main(["try"]) == 1
    assert capsys.readouterr().err == "chimera try: the port 15540 is busy; choose another\n"


def test_an_interrupt_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    install(monkeypatch, interrupt)
    assert cli.main(["try"]) == 130
    assert capsys.readouterr().err == "chimera try: interrupted\n"


def test_a_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "try", cli.SubCommand("no_such_library", "a test"))
    assert cli.main(["try"]) == 1
    assert "no_such_library is not installed; run `chimera doctor`" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_traceback() -> None:
    script = f"{sys.executable} -m chimera_ros.cli doctor | head -1"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=env, check=False)
    assert done.stderr == ""


def test_check_says_go_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.png"
    assert cli.main(["check", "antipodal_swap", "--drones", "5", "--plot", str(picture), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["go"], value["drones"], value["picture"]) == (True, 5, str(picture))
    assert value["min_separation_m"] >= value["asked_separation_m"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_check_names_the_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mission = tmp_path / "bad.yaml"
    mission.write_text("name: bad\nseparation_m: -3\n")
    assert cli.main(["check", str(mission)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"chimera check: {mission}:")
    assert error.count("\n") == 1
    assert cli.main(["check", "no_such_mission"]) != 0
    assert "antipodal_swap" in capsys.readouterr().err
    assert cli.main(["check", "antipodal_swap", "--drones", "0"]) == 2


@pytest.mark.parametrize(
    ("encoding", "output"), [("ascii", None), ("utf-8", "/dev/full"), ("latin-1", "/dev/full")]
)
def test_an_output_that_takes_no_text_is_told_in_one_sentence(
    tmp_path: Path, encoding: str, output: str | None
) -> None:
    store = os.fsdecode(os.fsencode(tmp_path) + b"/k\xff")
    assert cli.main(["keys", "create", store, "--no-passphrase"]) == 0
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "chimera_ros.cli", "keys", "list", "--keystore", store]
    with open(output or os.devnull, "wb") as stdout:
        done = subprocess.run(command, env=env, stdout=stdout, stderr=subprocess.PIPE, check=False)
    if output is None:
        assert (done.returncode, done.stderr) == (0, b"")
    else:
        assert (done.returncode, done.stderr) == (1, b"chimera keys: No space left on device\n")
