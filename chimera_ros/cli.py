"""The `chimera` command: dispatches to the module of the sub-command, and imports only that one.

A module declares its options in `register(parser)` and runs in `run(arguments) -> int`. Exit status: 0 for
success, 1 for failure, 2 for misuse, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from chimera_ros import __version__, core_dumps
from chimera_ros.command_line import OneSentenceParser
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.guard import guarded
from chimera_ros.formats.text import excerpt


@dataclass(frozen=True, slots=True)
class SubCommand:
    """A sub-command: its module, and its line in the overview."""

    module: str
    summary: str


COMMANDS = {
    "swarm": SubCommand(
        "chimera_ros.commands.swarm", "fly a swarm: start, monitor and land it, write a report"
    ),
    "sitl": SubCommand("chimera_ros.commands.sitl", "simulate PX4-like vehicles over MAVLink"),
    "command": SubCommand("chimera_ros.commands.command", "send a signed command to a running swarm"),
    "keys": SubCommand("chimera_ros.commands.keys", "manage a keystore: enroll, renew, revoke, list members"),
    "check": SubCommand("chimera_ros.commands.check", "check a mission file and plot its plan"),
    "moderate": SubCommand(
        "chimera_ros.commands.moderate", "resolve the conflicts of trajectories in a JSON file"
    ),
    "preflight": SubCommand("chimera_ros.commands.preflight", "check machine, keys and mission: GO or NO-GO"),
    "log": SubCommand("chimera_ros.commands.log", "show, plot and verify the records of a flight"),
    "bench": SubCommand(
        "chimera_ros.commands.bench", "measure latency, throughput, rekeying and whole swarms"
    ),
    "doctor": SubCommand(
        "chimera_ros.commands.doctor", "check this machine: what is installed, what is missing"
    ),
}

HOLD_KEYS = frozenset({"swarm", "command", "keys", "preflight", "log"})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `chimera` with these arguments (default: those of the process); returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        return guarded(f"chimera {name}", lambda: _run(name, arguments[1:]))
    return guarded("chimera", lambda: _overview(arguments))


def parser_of(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The options of a sub-command, which its module declares."""
    parser = OneSentenceParser(prog=f"chimera {name}", description=_sentence(COMMANDS[name].summary))
    module.register(parser)
    return parser


def _run(name: str, argv: list[str]) -> int:
    command = COMMANDS[name]
    if name in HOLD_KEYS:
        core_dumps.forbid()
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        raise CommandFailed(
            f"{error.name} is not installed; run `chimera doctor` to see what is missing and how to get it"
        ) from error
    return int(module.run(parser_of(name, module).parse_args(argv)))


def _overview(arguments: list[str]) -> int:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = OneSentenceParser(
        prog="chimera",
        usage="chimera COMMAND [options]",
        description="Fly a drone swarm whose every message is protected by post-quantum cryptography.",
        epilog=f"commands:\n{lines}\n\n`chimera COMMAND --help` shows the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"chimera_ros {__version__}")
    _, rest = parser.parse_known_args(arguments)
    if not rest:
        parser.print_help()
        return 0 if arguments else MISUSE
    known = ", ".join(COMMANDS)
    raise CommandFailed(f"there is no command '{excerpt(rest[0])}'; the commands are: {known}", MISUSE)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


if __name__ == "__main__":
    sys.exit(main())
