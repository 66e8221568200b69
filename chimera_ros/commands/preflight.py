"""`chimera preflight`: GO or NO-GO for machine, keys and mission together, with reasons."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chimera_ros.commands.check import add_drones, plan_file
from chimera_ros.commands.doctor_checks import MISSING, run_checks
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.start_checks import domain_reasons, keystore_reasons
from chimera_ros.commands.swarm_setup import simulation_keystore


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera preflight`."""
    parser.add_argument(
        "mission", nargs="?", default="antipodal_swap", metavar="FILE", help="mission file or name"
    )
    add_drones(parser)
    parser.add_argument("--keystore", type=Path, metavar="DIR", help="also check this keystore")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Prints GO (0) or NO-GO (1) with reasons."""
    areas = {
        "machine": _machine(),
        "mission": _mission(arguments.mission, arguments.drones),
    }
    if arguments.keystore is not None:
        areas["keys"] = keystore_reasons(arguments.keystore, arguments.drones)
    areas["ROS domain"] = domain_reasons(arguments.keystore or simulation_keystore(), arguments.drones)
    go = not any(areas.values())
    if arguments.json:
        print(json.dumps({"go": go, "reasons": areas}, indent=2))
        return 0 if go else 1
    print("GO" if go else "NO-GO")
    for area, reasons in areas.items():
        print(f"  {area}: {'ok' if not reasons else ''}")
        for reason in reasons:
            print(f"    - {reason}")
    return 0 if go else 1


def _machine() -> list[str]:
    found = [check for check in run_checks() if check.status == MISSING]
    return [f"{check.name}: {check.detail}; {check.advice}" for check in found]


def _mission(text: str, drones: int) -> list[str]:
    try:
        _, plan = plan_file(text, drones)
    except CommandFailed as error:
        return [str(error)]
    return list(plan.verdict.reasons) if not plan.ok else []
