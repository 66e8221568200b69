"""`chimera check FILE`: GO, NO-GO or UNDECIDED for a mission file, and a plot of its plan.

UNDECIDED: path moderation found no solution within its work budget, which does not show that there is none.
No clock is read: the verdict depends neither on the machine nor on its load.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.command_line import output_file, some_text, whole
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.mission import find_mission, plan_file
from chimera_ros.swarm import DRONES
from chimera_ros.terminal.lines import print_json, print_line

if TYPE_CHECKING:
    from chimera_ros.flight.planning.mission import Mission
    from chimera_ros.flight.planning.planner import MissionPlan


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera check`."""
    parser.add_argument(
        "mission", type=some_text, metavar="FILE", help="mission file, or the name of a shipped one"
    )
    parser.add_argument(
        "--drones",
        type=whole,
        default=DRONES.default,
        metavar="N",
        help=f"number of drones: {DRONES} (default {DRONES.default})",
    )
    parser.add_argument(
        "--autopilot",
        choices=[kind.value for kind in AutopilotKind],
        default=AutopilotKind.EMBEDDED.value,
        help="kind of autopilot whose limits are checked too, where they are known (default: embedded SITL)",
    )
    parser.add_argument("--plot", type=output_file, metavar="FILE.png", help="draw the planned tracks")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Checks the mission; 0 for GO, 1 for NO-GO and UNDECIDED, 2 if the file is wrong."""
    if arguments.drones not in DRONES:
        raise CommandFailed(f"--drones is {arguments.drones}; allowed are {DRONES}", MISUSE)
    embedded = arguments.autopilot == AutopilotKind.EMBEDDED
    mission, plan = plan_file(find_mission(arguments.mission), arguments.drones, embedded=embedded)
    picture = None
    if arguments.plot is not None and plan.phases:
        picture = _plot(mission, plan, arguments.plot)
    if arguments.json:
        print_json(summary(mission, plan) | {"picture": picture}, indent=2)
    else:
        _print(mission, plan)
        if picture:
            print_line(f"picture     {picture}")
    return 0 if plan.ok else 1


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
    print_line(f"{verdict(plan)}: {mission.name} with {len(plan.drones)} drones")
    for reason in plan.verdict.reasons:
        print_line(f"  - {reason}")
    if not plan.phases:
        return
    smallest = plan.min_separation_m
    apart = f"{smallest:.2f} m" if math.isfinite(smallest) else "one drone only"
    print_line(f"duration    {plan.duration_s:.0f} s")
    print_line(f"separation  {apart} (required {mission.separation_m:g} m)")
    print_line(f"battery     {100.0 * plan.battery_used:.0f} % at most")
    for phase in plan.phases:
        print_line(f"  {phase.duration_s:6.1f} s  {phase.title}")


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
