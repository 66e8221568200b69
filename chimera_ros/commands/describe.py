"""Processes of `chimera swarm` as JSON, for launch; checked and prepared in the same way.

`launch/swarm.launch.py` runs this program of the package, because `ros2 launch` runs on the system's Python,
which need not have this package's dependencies. Errors name launch arguments, such as `wind:=`.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from array import array
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from chimera_ros.command_line import OneSentenceParser, some_path
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.guard import guarded
from chimera_ros.commands.params_file import read_params_file
from chimera_ros.commands.swarm_setup import Prepared, add_arguments, prepare
from chimera_ros.flight.limits import USUAL, OwnLimits
from chimera_ros.launcher.spec import SwarmSpec, processes
from chimera_ros.terminal.lines import print_json

# Parameters that a parameter file may set: launch gives them only if their argument was given.
TUNABLE: Final = {
    "rotation_s": "--rotation",
    "entropy": "--entropy",
    "ready_timeout_s": "--ready-timeout",
    "qkd_eavesdropper": "--qkd-eavesdropper",
}
SWITCHES: Final = ("autostart", "expose_services")  # set by launch for all nodes
_OPTION = re.compile(r"--([a-z][a-z-]*)")
_ARGPARSE = re.compile(r"\bargument (--[a-z-]+): ")


class _Parser(OneSentenceParser):
    """A parser that raises its errors."""

    def error(self, message: str) -> NoReturn:
        raise CommandFailed(message, MISUSE)


def description(
    prepared: Prepared, given: Collection[str] = (), file: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, object]:
    """Processes in the order in which to start them: name, executable, arguments, parameters, environment.

    given: options on the command line. file: values of a parameter file, by node and name.
    """
    nodes = {spec.name: spec for spec in processes(prepared.spec)}
    without_effect: set[str] = set()
    described = []
    for child in prepared.processes:
        node = nodes.get(child.name)
        values = (file or {}).get(child.name, {})
        parameters = {
            name: value
            for name, value in (node.parameters.items() if node is not None else ())
            if name not in values or name not in TUNABLE or TUNABLE[name] in given
        }
        if node is not None and values:
            without_effect |= _without_effect(node.executable, values, {*parameters, *SWITCHES})
        described.append(
            {
                "name": child.name,
                "executable": node.executable if node is not None else child.name,
                "arguments": list(child.argv[3:]),  # after `python -m module`
                "parameters": parameters,
                "environment": dict(child.env),
                "is_node": node is not None,
            }
        )
    return {
        "run_dir": str(prepared.run_dir),
        "mission": prepared.mission_name,
        "notes": [
            f"params_file: {name} has no effect, launch sets it itself" for name in sorted(without_effect)
        ],
        "processes": described,
    }


def in_words_of_launch(sentence: str) -> str:
    """The sentence with launch arguments for options, except in commands that it quotes."""
    clauses = _ARGPARSE.sub(r"\1 ", sentence).split("; ")
    return "; ".join(clause if "chimera " in clause else _OPTION.sub(_argument, clause) for clause in clauses)


def _argument(option: re.Match[str]) -> str:
    return option[1].replace("-", "_") + ":="


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare a swarm with the options of `chimera swarm`, print its processes; returns the exit status."""
    parser = _Parser(prog="describe", description="print a swarm's processes as JSON", allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument(
        "--params-file", type=some_path, metavar="FILE", help="ROS parameter file to be checked"
    )
    words = list(sys.argv[1:] if argv is None else argv)

    def describe() -> int:
        try:
            arguments = parser.parse_args(words)
            file = _read(arguments) if arguments.params_file is not None else None
            given = {word.split("=")[0] for word in words}
            print_json(description(prepare(arguments, _own_limits(file or {})), given, file))
        except CommandFailed as error:
            raise CommandFailed(in_words_of_launch(str(error)), error.status) from None
        return 0

    return guarded("swarm.launch.py", describe)


def _own_limits(file: Mapping[str, Mapping[str, Any]]) -> OwnLimits:
    """The strictest limits that the file sets for a follower; the mission is checked with these."""
    usual = dataclasses.asdict(USUAL)
    followers = [values for name, values in file.items() if name.startswith("follower_")] or [{}]
    return OwnLimits(
        **{
            name: float(min(values.get(name, default) for values in followers))
            for name, default in usual.items()
        }
    )


def _read(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The parameter file, read for the nodes of this swarm."""
    try:
        spec = SwarmSpec(
            drones=arguments.drones,
            mission=Path(arguments.mission),
            keystore=Path(),
            shards=arguments.shards,
            standbys=arguments.standbys,
        )
    except ValueError as error:
        raise CommandFailed(str(error), MISUSE) from None
    return read_params_file(arguments.params_file, processes(spec), arguments.namespace)


def _without_effect(executable: str, values: Mapping[str, Any], set_by_launch: Collection[str]) -> set[str]:
    """Parameters that a file changes in vain."""
    from chimera_ros.node_parameters import BY_EXECUTABLE

    defaults = {field.name: field.default for field in dataclasses.fields(BY_EXECUTABLE[executable])}
    return {
        name
        for name, value in values.items()
        if name in set_by_launch and _plain(value) != _plain(defaults[name])
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple, array)) else value


if __name__ == "__main__":
    sys.exit(main())
