"""`chimera preflight`: GO or NO-GO for machine, mission, ports, folders, keys and ROS domain, with reasons.

It takes the options of `chimera swarm` and calls the checks of its start; nothing is made or started.
"""

from __future__ import annotations

import argparse

from chimera_ros.command_line import some_text, unwritable_folder
from chimera_ros.commands.doctor_checks import MISSING, run_checks
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.mission import DEFAULT_MISSION, plan_file
from chimera_ros.commands.start_checks import domain_reasons, keystore_reasons
from chimera_ros.commands.swarm_setup import (
    add_start_options,
    ask_key_passphrase,
    folder_faults,
    machine_faults,
    port_faults,
    read_options,
)
from chimera_ros.launcher.spec import SwarmSpec
from chimera_ros.terminal.lines import print_json, print_line


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera preflight`."""
    parser.add_argument(
        "mission",
        nargs="?",
        type=some_text,
        default=DEFAULT_MISSION,
        metavar="FILE",
        help=f"mission file, or the name of a shipped one (default {DEFAULT_MISSION})",
    )
    add_start_options(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints GO (0) or NO-GO (1) with reasons; 2 if an option is wrong."""
    ask_key_passphrase(arguments)
    spec, _ = read_options(arguments)
    areas = {
        "machine": _machine(spec),
        "mission": _mission(spec),
        "ports": port_faults(spec),
        "folders": folder_faults(spec.record, arguments.report),
        "keys": keystore_reasons(spec) if arguments.keystore is not None else _simulation_keys(spec),
        "ROS domain": domain_reasons(spec),
    }
    go = not any(areas.values())
    if arguments.json:
        print_json({"go": go, "reasons": areas}, indent=2)
        return 0 if go else 1
    print_line("GO" if go else "NO-GO")
    for area, reasons in areas.items():
        print_line(f"  {area}: {'ok' if not reasons else ''}")
        for reason in reasons:
            print_line(f"    - {reason}")
    return 0 if go else 1


def _machine(spec: SwarmSpec) -> list[str]:
    """What `chimera doctor` finds missing, and what only this swarm lacks."""
    found = [check for check in run_checks() if check.status == MISSING]
    reasons = [f"{check.name}: {check.detail}; {check.advice}" for check in found]
    known = " ".join(reasons)
    return reasons + [fault for fault in machine_faults(spec) if fault not in known]


def _mission(spec: SwarmSpec) -> list[str]:
    try:
        _, plan = plan_file(spec.mission, spec.drones, embedded=spec.embedded)
    except CommandFailed as error:
        return [str(error)]
    return list(plan.verdict.reasons) if not plan.ok else []


def _simulation_keys(spec: SwarmSpec) -> list[str]:
    """The keystore of simulations is made and completed by the start."""
    why = unwritable_folder(spec.keystore)
    if why:
        return [f"keystore {spec.keystore} cannot be made or completed: {why}"]
    return keystore_reasons(spec, simulated=True)
