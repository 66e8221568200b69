"""`chimera doctor`: check of this machine for what is installed, what is missing, and how to install it."""

from __future__ import annotations

import argparse
import dataclasses

from chimera_ros.commands.doctor_checks import ADVICE, MISSING, OK, Check, run_checks
from chimera_ros.launcher import shared_memory
from chimera_ros.terminal.lines import print_json, print_line

_STYLES = {OK: "green", MISSING: "bold red", ADVICE: "yellow", "optional": "dim"}


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera doctor`."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument(
        "--clean",
        action="store_true",
        help="first remove shared memory left by dead Fast DDS processes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Checks the machine. Exit status 0 if nothing required is missing, else 1."""
    removed = shared_memory.remove(shared_memory.dead_segments()) if arguments.clean else []
    checks = run_checks()
    fit = all(check.status != MISSING for check in checks)
    if arguments.json:
        findings = [dataclasses.asdict(check) for check in checks]
        print_json({"ok": fit, "removed": removed, "checks": findings}, indent=2)
        return 0 if fit else 1
    if arguments.clean:
        print_line(f"removed {len(removed)} Fast DDS files left by dead processes")
    _print(checks, fit)
    return 0 if fit else 1


def _print(checks: list[Check], fit: bool) -> None:
    from chimera_ros.terminal.styled import Console, Text

    console = Console()
    width = max(len(check.name) for check in checks)
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            console.print(Text(group, style="bold"))
        line = Text.assemble(
            "  ",
            (f"{check.status:<8}", _STYLES.get(check.status, "")),
            f"  {check.name:<{width}}  {check.detail}",
        )
        console.print(line, soft_wrap=True)
        if check.advice:
            console.print(Text(f"{'':<12}{check.advice}", style="yellow"), soft_wrap=True)
    missing = sum(check.status == MISSING for check in checks)
    verdict = "a swarm can fly here" if fit else f"no swarm can fly here yet: {missing} missing, see above"
    console.print(Text(verdict, style="bold green" if fit else "bold red"))
