"""Mission of a command: its file is found, read, planned and checked in the same way as at a swarm's start.

`check`, `preflight` and `swarm` all call `plan_file`, so they give the same verdict.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.swarm import drone_name

if TYPE_CHECKING:
    from chimera_ros.flight.limits import OwnLimits
    from chimera_ros.flight.planning.mission import Mission
    from chimera_ros.flight.planning.planner import MissionPlan

DEFAULT_MISSION = "antipodal_swap"


def plan_file(
    path: Path, drones: int, *, embedded: bool, own: OwnLimits | None = None
) -> tuple[Mission, MissionPlan]:
    """Reads a mission and plans it; the plan's verdict is GO only if followers accept it, too.

    With the `embedded` SITL the limits of the vehicles are known. `own` are those of the followers, None the
    usual ones.

    Raises:
        CommandFailed: the file is missing or invalid.
    """
    from chimera_ros.flight.limits import UNLIMITED, USUAL
    from chimera_ros.flight.planning.mission_file import MissionError, load_mission
    from chimera_ros.flight.planning.planner import PlanVerdict, plan_mission
    from chimera_ros.flight.planning.start_check import CHARGED, start_faults
    from chimera_ros.moderation.for_flight import local_moderate
    from chimera_ros.sitl.config import VEHICLE_LIMITS

    try:
        mission = load_mission(path)
    except MissionError as error:
        raise CommandFailed(str(error), MISUSE) from error
    names = [drone_name(i) for i in range(1, drones + 1)]
    charges = dict.fromkeys(names, CHARGED)
    plan = plan_mission(mission, names, battery=charges, moderate=local_moderate(time.monotonic))
    vehicle = VEHICLE_LIMITS if embedded else UNLIMITED
    faults = start_faults(mission, plan, vehicle, own or USUAL) if plan.ok else ()
    return mission, replace(plan, verdict=PlanVerdict(False, faults)) if faults else plan


def mission_folder() -> Path:
    """Folder of the shipped missions: in the source tree, or in the installed share directory."""
    beside = Path(__file__).resolve().parents[2] / "config" / "missions"
    if beside.is_dir():
        return beside
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [sys.prefix]
    for prefix in prefixes:
        folder = Path(prefix) / "share" / "chimera_ros" / "config" / "missions"
        if folder.is_dir():
            return folder
    return beside


def find_mission(text: str) -> Path:
    """A mission file by path, or a shipped one by name.

    Raises:
        CommandFailed: there is no such file.
    """
    shipped = mission_folder() / f"{text}.yaml"
    for path in (Path(text), shipped if "/" not in text else None):
        try:
            if path is not None and path.is_file():
                return path
        except OSError as error:
            raise CommandFailed(f"mission {text}: {error.strerror or error}", MISUSE) from None
    names = ", ".join(sorted(p.stem for p in mission_folder().glob("*.yaml")))
    raise CommandFailed(
        f"there is no mission file {text}; give a path or one of the shipped missions: {names}", MISUSE
    )
