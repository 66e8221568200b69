"""`chimera preflight`: GO or NO-GO for machine, keys and mission together, with reasons."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from chimera_ros.commands.check import add_drones, plan_file
from chimera_ros.commands.doctor_checks import MISSING, run_checks
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.terminal.lines import print_json, print_line


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
        areas["keys"] = _keys(arguments.keystore, arguments.drones)
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


def _machine() -> list[str]:
    found = [check for check in run_checks() if check.status == MISSING]
    return [f"{check.name}: {check.detail}; {check.advice}" for check in found]


def _mission(text: str, drones: int) -> list[str]:
    try:
        _, plan = plan_file(text, drones)
    except CommandFailed as error:
        return [str(error)]
    return list(plan.verdict.reasons) if not plan.ok else []


def _keys(path: Path, drones: int) -> list[str]:
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.keystore import Keystore
    from chimera_ros.swarm import CRYPTO_MEMBER, LEADER_MEMBER, LOGGER_MEMBER, MODERATOR_MEMBER, drone_name

    keystore = Keystore(path)
    now_ns = time.time_ns()
    names = [CRYPTO_MEMBER, LEADER_MEMBER, LOGGER_MEMBER, MODERATOR_MEMBER]
    names += [drone_name(i) for i in range(1, drones + 1)]
    reasons = []
    try:
        keystore.load_trust(wall_ns=now_ns)
    except (CryptoError, OSError) as error:
        return [str(error)]
    for name in names:
        try:
            keystore.load_identity(name, wall_ns=now_ns)
        except (CryptoError, OSError) as error:
            reasons.append(str(error))
    return reasons
