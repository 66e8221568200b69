"""`chimera check FILE`: GO, NO-GO or UNDECIDED for a mission file, and a plot of its plan.

UNDECIDED: path moderation found no solution within its work budget, which does not show that there is none.
No clock is read: the verdict depends neither on the machine nor on its load.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.swarm import DRONES, drone_name

if TYPE_CHECKING:
    from chimera_ros.flight.planning.mission import Mission
    from chimera_ros.flight.planning.planner import MissionPlan


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera check`."""
    parser.add_argument("mission", metavar="FILE", help="mission file, or the name of a shipped one")
    add_drones(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the planned tracks")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_drones(parser: argparse.ArgumentParser) -> None:
    """Declares the option --drones."""
    parser.add_argument(
        "--drones",
        type=int,
        default=DRONES.default,
        metavar="N",
        help=f"number of drones: {DRONES} (default {DRONES.default})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Checks the mission; 0 for GO, 1 for NO-GO and UNDECIDED, 2 if the file is wrong."""
    mission, plan = plan_file(arguments.mission, arguments.drones)
    picture = None
    if arguments.plot is not None and plan.phases:
        picture = _plot(mission, plan, arguments.plot)
    if arguments.json:
        print(json.dumps(summary(mission, plan) | {"picture": picture}, indent=2))
    else:
        _print(mission, plan)
        if picture:
            print(f"picture     {picture}")
    return 0 if plan.ok else 1


def plan_file(text: str, drones: int) -> tuple[Mission, MissionPlan]:
    """Reads a mission and plans it for this number of drones. Raises CommandFailed."""
    from chimera_ros.commands.swarm_setup import find_mission
    from chimera_ros.flight.planning.mission_file import MissionError, load_mission
    from chimera_ros.flight.planning.planner import plan_mission
    from chimera_ros.moderation.for_flight import local_moderate

    if drones not in DRONES:
        raise CommandFailed(f"--drones is {drones}; allowed are {DRONES}", MISUSE)
    path = find_mission(text)
    try:
        mission = load_mission(path)
        names = [drone_name(i) for i in range(1, drones + 1)]
        return mission, plan_mission(mission, names, moderate=local_moderate(time.monotonic))
    except MissionError as error:
        raise CommandFailed(str(error), MISUSE) from error
    except OSError as error:
        raise CommandFailed(f"mission {path} cannot be read: {error.strerror or error}", MISUSE) from error


def verdict(plan: MissionPlan) -> str:
    """GO, NO-GO, or UNDECIDED if a solution was not found but may exist."""
    return "GO" if plan.ok else "UNDECIDED" if plan.verdict.undecided else "NO-GO"


def summary(mission: Mission, plan: MissionPlan) -> dict[str, object]:
    """The verdict as plain data."""
    smallest = plan.min_separation_m
    return {
        "mission": mission.name,
        "drones": len(plan.drones),
        "go": plan.ok,
        "verdict": verdict(plan).lower(),
        "reasons": list(plan.verdict.reasons),
        "duration_s": round(plan.duration_s, 1),
        "min_separation_m": round(smallest, 3) if math.isfinite(smallest) else None,
        "asked_separation_m": mission.separation_m,
        "battery_used": round(plan.battery_used, 4),
        "phases": [
            {"title": phase.title, "kind": phase.kind, "duration_s": round(phase.duration_s, 1)}
            for phase in plan.phases
        ],
    }


def _print(mission: Mission, plan: MissionPlan) -> None:
    print(f"{verdict(plan)}: {mission.name} with {len(plan.drones)} drones")
    for reason in plan.verdict.reasons:
        print(f"  - {reason}")
    if not plan.phases:
        return
    smallest = plan.min_separation_m
    apart = f"{smallest:.2f} m" if math.isfinite(smallest) else "one drone only"
    print(f"duration    {plan.duration_s:.0f} s")
    print(f"separation  {apart} (required {mission.separation_m:g} m)")
    print(f"battery     {100.0 * plan.battery_used:.0f} % at most")
    for phase in plan.phases:
        print(f"  {phase.duration_s:6.1f} s  {phase.title}")


def _plot(mission: Mission, plan: MissionPlan, path: Path) -> str:
    from chimera_ros.records.tracks import Tracks, TracksFailed, draw_tracks

    time_s, position_enu_m = plan.tracks()
    try:
        draw_tracks(
            Tracks(time_s, position_enu_m),
            path,
            title=f"{mission.name} (plan)",
            asked_separation_m=mission.separation_m,
        )
    except TracksFailed as error:
        raise CommandFailed(str(error)) from error
    return str(path)
