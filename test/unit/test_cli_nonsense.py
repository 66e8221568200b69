"""Every argument of every sub-command, given nonsense: one sentence, the right exit status, no traceback.

The parsers are walked, so that a new option is tested as soon as it is declared. What a command would start
(a flight, a simulation, an operator's node, a benchmark) is replaced by nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chimera_ros import cli
from chimera_ros.command_line import number, output_file, some_path, some_text, whole
from chimera_ros.formats.display import MAX_LINE

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 30.0  # of one run, on a loaded machine
NUMBERS = (whole, number)
TRACKS = [{"t": t / 5, "enu": [[0.0, 0.0, t / 10], [5.0, 0.0, t / 10]]} for t in range(20)]

# Text that no option takes as a number, and of these what none takes as a path either.
NO_NUMBERS = (
    *("empty", "letters", "nan", "inf", "-inf", "overflow", "digits", "underscore", "hexadecimal"),
    *("escape", "newline", "missing", "folder", "device", "locked", "long", "bytes"),
)
NO_PATHS = ("empty", "digits", "long")
# Positional arguments of each verb, and the options without which it does nothing. {} is the folder `good`.
GOOD: dict[tuple[str, ...], dict[str, list[str]]] = {
    ("swarm",): {"": ["--drones=1", "--gcs-port=0", "--first-port=PORT", "--record={}/run"]},
    ("sitl",): {"": ["--drones=2", "--gcs-port=0", "--first-port=PORT"]},
    ("check",): {"mission": ["hover.yaml"], "": ["--drones=1"]},
    ("moderate",): {"scene": ["scene.json"], "": ["--backend=none"]},
    ("preflight",): {"mission": ["hover.yaml"], "": ["--drones=1", "--gcs-port=0", "--first-port=PORT"]},
    ("doctor",): {},
    ("bench",): {"names": ["moderation"]},
    ("command", "takeoff"): {"": ["--height=5"]},
    ("command", "land"): {},
    ("command", "rtl"): {},
    ("command", "hold"): {},
    ("command", "goto"): {"east": ["1"], "north": ["2"], "up": ["3"]},
    ("command", "formation"): {"shape": ["grid"]},
    ("command", "stop"): {"drones": ["drone_01"]},
    ("command", "evict"): {"member": ["drone_01"]},
    ("command", "rotate"): {},
    ("keys", "create"): {"directory": ["new"], "": ["--no-passphrase"]},
    ("keys", "enroll"): {"name": ["drone_02"], "role": ["drone"], "": ["--keystore={}/keys"]},
    ("keys", "renew"): {"name": ["drone_01"], "": ["--keystore={}/keys"]},
    ("keys", "revoke"): {"name": ["drone_01"], "": ["--keystore={}/keys"]},
    ("keys", "policy"): {"file": ["policy.yaml"], "": ["--keystore={}/keys"]},
    ("keys", "fallback"): {"": ["--keystore={}/keys"]},
    ("keys", "list"): {"": ["--keystore={}/keys"]},
    ("keys", "show"): {"name": ["drone_01"], "": ["--keystore={}/keys"]},
    ("log", "show"): {"path": ["flight"]},
    ("log", "plot"): {"path": ["flight"]},
    ("log", "verify"): {"path": ["flight"], "": ["--keystore={}/keys"]},
    ("log", "disclose"): {
        "path": ["flight"],
        "": ["--keystore={}/keys", "--channel=drone_01/telemetry", "--counter=1", "--output={}/out.json"],
    },
    ("log", "verify-disclosure"): {"path": ["scene.json"], "": ["--keystore={}/keys"]},
    ("log", "totals"): {"path": ["flight"], "": ["--keystore={}/keys"]},
    ("log", "verify-totals"): {"path": ["scene.json"], "": ["--keystore={}/keys"]},
}  # fmt: skip
WRITES_KEYS = ("create", "enroll", "renew", "revoke", "policy", "fallback")
EXCLUSIVE = {"--authority": "--keystore", "--time": "--counter"}  # argparse refuses them together


def leaves(name: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """The parsers of a sub-command that have no verbs below them."""
    module = importlib.import_module(cli.COMMANDS[name].module)
    open_ = [((name,), cli.parser_of(name, module))]
    while open_:
        verb, parser = open_.pop()
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not below:
            yield verb, parser
        open_ += [((*verb, word), each) for action in below for word, each in action.choices.items()]


def arguments() -> list[Any]:
    """(verb, action) of every argument that takes a value."""
    return [
        pytest.param(verb, action, id=f"{'-'.join(verb)}{action.option_strings[-1:] or [f'-{action.dest}']}")
        for name in cli.COMMANDS
        for verb, parser in leaves(name)
        for action in parser._actions
        if action.nargs != 0
    ]


def verbs() -> list[Any]:
    return [pytest.param(verb, id="-".join(verb)) for name in cli.COMMANDS for verb, _ in leaves(name)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a keystore, a mission, a scene, a policy, and the record of a flight."""
    folder = tmp_path_factory.mktemp("good")
    store = str(folder / "keys")
    assert cli.main(["keys", "create", store, "--no-passphrase"]) == 0
    for name, role in (("operator_0", "operator"), ("drone_01", "drone")):
        assert cli.main(["keys", "enroll", name, role, "--keystore", store]) == 0
    (folder / "hover.yaml").write_text(
        "mission: hover\ndatum: {lat_deg: 47, lon_deg: 8, amsl_m: 400}\nseparation_m: 2\n"
        "fence: {east_m: [-50, 50], north_m: [-50, 50], height_m: [1, 40]}\n"
        "steps: [{takeoff: {height_m: 5}}, land]\n"
    )
    lines = [{"from_m": [-50, y, 40], "to_m": [50, y, 40]} for y in (-20, 20)]
    scene = {
        "separation": {"horizontal_m": 5, "vertical_m": 4},
        "limits": {"speed_m_s": 8, "climb_m_s": 4, "descent_m_s": 3, "acceleration_m_s2": 4},
        "fence": {"east_m": [-100, 100], "north_m": [-100, 100], "height_m": [5, 80]},
        "trajectories": [{"drone": f"d{i}", "line": line} for i, line in enumerate(lines)],
    }
    (folder / "scene.json").write_text(json.dumps(scene))
    policy = (ROOT / "config" / "policy.yaml").read_text()
    (folder / "policy.yaml").write_text(policy.replace("version: 1", "version: 2"))
    (folder / "flight").mkdir()
    (folder / "flight" / "tracks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRACKS))
    from chimera_ros.records.mcap_log import FlightRecorder

    recorder = FlightRecorder(folder / "flight")
    recorder.write("drone_01/telemetry", "chimera_ros/msg/Test", "uint8 x", b"\0" * 8, 1, 1, "drone_01")
    recorder.close()
    return folder


@pytest.fixture
def values(tmp_path: Path) -> dict[str, str]:
    """Nonsense by name."""
    folder = tmp_path / "nonsense"
    folder.mkdir()
    (folder / "locked").write_text("{}")
    (folder / "locked").chmod(0)
    (folder / "null").symlink_to(os.devnull)  # a link: what replaces it must not replace the device
    return {
        "empty": "",
        "letters": "abc",
        "nan": "nan",
        "inf": "inf",
        "-inf": "-inf",
        "-1": "-1",
        "0": "0",
        "overflow": "1e400",
        "digits": "9" * 5000,
        "underscore": "1_0",
        "hexadecimal": "0x10",
        "escape": "\x1b[31mred\x07",
        "newline": "a\nchimera: all is well",
        "missing": str(folder / "missing" / "deeper"),
        "folder": str(folder),
        "device": str(folder / "null"),
        "locked": str(folder / "locked"),
        "long": "x" * 100_000,
        "bytes": os.fsdecode(b"caf\xe9\xff"),
    }


@contextlib.contextmanager
def without_override() -> Iterator[None]:
    """File permissions hold for this thread, although it may be root's (capabilities(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        yield
        return
    effective = sets[0]
    sets[0] = effective & ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] = effective
        libc.capset(header, sets)


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from chimera_ros.commands import bench, command, preflight, swarm, swarm_setup
    from chimera_ros.sitl import main as sitl

    class Operator:
        def __init__(self, _arguments: object) -> None: ...

        def order(self) -> tuple[bool, str]:
            return True, "accepted"

        def close(self) -> None: ...

        stop = order

    class Flight:
        def __init__(self, *_: object) -> None: ...

        def run(self) -> int:
            return 0

    class Trial(contextlib.nullcontext):  # type: ignore[type-arg]
        def __enter__(self) -> Trial:
            return self

        def fault(self) -> str:
            return ""

    report = {"benchmark": "x", "machine": {}, "results": []}
    monkeypatch.setattr(command, "_Operator", Operator)
    monkeypatch.setattr(swarm, "Flight", Flight)
    monkeypatch.setattr(swarm_setup, "RosTrial", Trial)
    monkeypatch.setattr(preflight, "run_checks", list)
    monkeypatch.setattr(sitl, "run", lambda *_: None)
    monkeypatch.setattr(bench, "run_one", lambda *_args, **_options: report)
    monkeypatch.setattr(sys, "stdin", open(os.devnull))  # noqa: SIM115  # restored with the attribute
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


def command_line(
    verb: tuple[str, ...], good: Path, replaced: str = "", by: list[str] | None = None
) -> list[str]:
    """A good command line of this verb; the argument `replaced` (a dest) stands for `by`."""
    words = list(verb)
    for dest, filled in GOOD[verb].items():
        if dest:
            words += by if dest == replaced and by is not None else filled
        else:
            words += [word.format(good) for word in filled]
    return words


@pytest.fixture
def run(
    good: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path, mavlink_port: int
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in a copy of the good folder where it changes keys; checks what holds for all."""

    def run(verb: tuple[str, ...], words: list[str]) -> tuple[int, str, str]:
        folder = good
        if verb[0] == "keys" and verb[-1] in WRITES_KEYS:
            folder = tmp_path / "copy"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder)
            words = [word.replace(str(good), str(folder)) for word in words]
        words = [word.replace("PORT", str(mavlink_port)) for word in words]
        with contextlib.chdir(folder):
            began = time.monotonic()
            status = cli.main(words)
            took_s = time.monotonic() - began
        out, err = capfd.readouterr()
        shown = [word[:60] for word in words]
        assert took_s < LIMIT_S, shown
        assert status in (0, 1, 2), (status, shown, err)
        assert "Traceback" not in err and "internal error" not in err, (shown, err)
        assert all(line.isprintable() for line in err.splitlines()), (shown, err)
        assert "\x1b" not in out and "\x07" not in out, (shown, out)
        if status == 2 or (status == 1 and not out):
            assert err.count("\n") == 1 and err.endswith("\n"), (shown, err)
            assert 20 < len(err) <= MAX_LINE + 200, (shown, len(err))
        return status, out, err

    return run


@pytest.mark.parametrize("verb", verbs())
def test_what_the_others_vary_is_good(verb: tuple[str, ...], good: Path, run: Any) -> None:
    assert verb in GOOD, f"add a good command line of {' '.join(verb)} to GOOD"
    status, _, err = run(verb, command_line(verb, good))
    assert status == 0 or verb[0] == "log", err


@pytest.mark.parametrize(("verb", "action"), arguments())
def test_nonsense_is_one_sentence(
    verb: tuple[str, ...], action: argparse.Action, values: dict[str, str], good: Path, run: Any
) -> None:
    count = action.nargs if isinstance(action.nargs, int) else 1
    for name, value in values.items():
        if action.option_strings:
            option = action.option_strings[-1]
            words = command_line(verb, good)
            if option in EXCLUSIVE:
                words = [word for word in words if not word.startswith(EXCLUSIVE[option])]
            words += [f"{option}={value}"] if count == 1 else [option, *[value] * count]
        else:
            words = command_line(verb, good, action.dest, [value] * count)
            if value.startswith("-"):
                words = [word for word in words if word != value] + ["--", value]
        with without_override():
            status, _, err = run(verb, words)
        what = f"{action.dest} {name}: status {status}, {err}"
        if name == "empty" or (action.type in NUMBERS and name in NO_NUMBERS) or action.choices is not None:
            assert status == 2, what
        if action.type in (some_path, output_file) and name in NO_PATHS:
            assert status == 2, what
        if status == 2:
            assert action.dest.strip("_") in err.replace("-", "_").lower() or value[:20] in err or err, what


@pytest.mark.parametrize("verb", verbs())
def test_words_that_do_not_belong_are_one_sentence(verb: tuple[str, ...], good: Path, run: Any) -> None:
    for extra in (
        ["--nonsense"],
        ["--nonsense=1"],
        ["-q"],
        ["--drones"],
        ["surplus", "words", "at", "the", "end"],
    ):
        status, _, err = run(verb, [*command_line(verb, good), *extra])
        assert status in (0, 2) or (verb == ("command", "stop")), err
        if extra[0].startswith("--n"):
            assert status == 2
    status, out, _ = run(verb, [*verb, "--help"])
    assert status == 0 and out.startswith("usage: chimera")


@pytest.mark.parametrize(
    "words",
    [
        "command",
        "keys",
        "log",
        "command goto",
        "keys enroll",
        "check",
        "log disclose",
        "fly",
        "\x1b[31m",
        "-x",
    ],
)
def test_what_is_missing_is_one_sentence(words: str, run: Any) -> None:
    status, _, err = run(tuple(words.split()[:1]), words.split())
    assert status == 2, err


@pytest.mark.parametrize("executable", ["describe", "sitl"])
def test_executables_of_the_package_refuse_as_the_command_does(
    executable: str, values: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    """Launch runs them without `chimera`."""
    module = importlib.import_module(
        {"describe": "chimera_ros.commands.describe", "sitl": "chimera_ros.sitl.main"}[executable]
    )
    for value in values.values():
        for words in ([f"--drones={value}.5"], [f"--fault={value}"], [f"--nonsense={value}"], [value or "x"]):
            assert module.main(words) == 2, words
            out, err = capfd.readouterr()
            assert out == ""
            assert err.count("\n") == 1 and err[:-1].isprintable(), (words, err)


def test_no_argument_is_without_a_type() -> None:
    """Without one, argparse accepts an empty text."""
    bare = [
        f"{' '.join(verb)} {action.option_strings or action.dest}"
        for name in cli.COMMANDS
        for verb, parser in leaves(name)
        for action in parser._actions
        if action.nargs != 0 and action.type is None and action.choices is None
    ]
    assert bare == []
    assert some_text("x") == "x"
