"""A flight of `chimera swarm` whose processes are acted by this script: no middleware, no keys, seconds.

    acted_flight.py OPTIONS   the command, with the JSON object OPTIONS; what the processes do is its "acts"
    acted_flight.py ACT ...   one of the processes

The leader "flies" by writing a height to a file, which the simulator reports and tracks. SIGUSR1 lands, and
so does the end of the supervisor: nobody reads status lines then. The others end after the landing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

TICK_S = 0.05
HEIGHT_M = 5.0


def say(**fields: Any) -> bool:
    """One status line; False if the supervisor has ended."""
    try:
        os.write(int(os.environ["CHIMERA_STATUS_FD"]), json.dumps(fields).encode() + b"\n")
    except OSError:
        return False
    return True


def height_m(folder: Path) -> float:
    """Height of all drones."""
    try:
        return float((folder / "height").read_text() or 0)
    except OSError:
        return 0.0


def leader(folder: Path, mission_s: str = "60", landing_s: str = "0.5") -> None:
    """Fly for so long, or until SIGUSR1, then land."""
    landing = finished = False

    def land(*_: object) -> None:
        nonlocal landing
        landing = True

    signal.signal(signal.SIGUSR1, land)
    (folder / "height").write_text(str(HEIGHT_M))
    end = time.monotonic() + float(mission_s)
    while True:
        if not finished and (landing or time.monotonic() > end):
            time.sleep(float(landing_s))
            (folder / "height").write_text("0")
            time.sleep(3 * TICK_S)  # the simulator has seen it
            finished = True
        phase = "over" if finished else "cruise"
        if not say(process="leader", phase=phase, finished=finished, completed=not landing):
            if finished:
                return
            landing = True
        time.sleep(TICK_S)


def sitl(folder: Path) -> None:
    """Report and track the height."""
    (folder / "record").mkdir(exist_ok=True)
    with (folder / "record" / "tracks.jsonl").open("w") as tracks:
        began = time.monotonic()
        while True:
            height = height_m(folder)
            positions = [[0.0, 0.0, height], [4.0, 0.0, height]]
            tracks.write(json.dumps({"t": time.monotonic() - began, "enu": positions}) + "\n")
            tracks.flush()
            vehicles = [{"enu": enu} for enu in positions]
            if not say(process="sitl", real_time_factor=1.0, vehicles=vehicles) and height == 0.0:
                return
            time.sleep(TICK_S)


def follower(folder: Path, text: str = "", dies_s: str = "inf") -> None:
    """Print a text; end after a time, if one is given."""
    print(text, flush=True)
    (folder / "follower_started").touch()
    end = time.monotonic() + float(dies_s)
    while time.monotonic() < end:
        if not say(process="follower_0", drones=["drone_01", "drone_02"]) and height_m(folder) == 0.0:
            return
        time.sleep(TICK_S)
    sys.exit("the last words")


def deaf(folder: Path) -> None:
    """Neither ends at a signal nor notices anything."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    (folder / "deaf_started").touch()
    time.sleep(600)


ACTS = {"leader": leader, "sitl": sitl, "follower": follower, "deaf": deaf}


def command(options: dict[str, Any]) -> int:
    """`chimera swarm` with acted processes."""
    from chimera_ros import cli
    from chimera_ros.commands import swarm
    from chimera_ros.commands.swarm_setup import Prepared
    from chimera_ros.launcher.spec import SwarmSpec
    from chimera_ros.launcher.supervisor import ChildSpec

    folder = Path(options["folder"])
    run_dir = folder / options.get("record", "record")
    run_dir.mkdir(parents=True, exist_ok=True)
    (folder / "members").mkdir(exist_ok=True)  # of a keystore, which a flight locks
    mission = folder / "mission.yaml"
    acts = {"sitl": ["sitl"], "leader": ["leader"]} | options.get("acts", {})
    processes = tuple(
        ChildSpec(name, (sys.executable, __file__, act, str(folder), *words))
        for name, (act, *words) in acts.items()
    )
    swarm.prepare = lambda _arguments: Prepared(  # type: ignore[assignment]
        spec=SwarmSpec(
            drones=2,
            mission=mission,
            keystore=folder,
            record=run_dir,
            tracks=run_dir / "tracks.jsonl" if options.get("picture") else None,
        ),
        processes=processes,
        pads=((0.0, 0.0, 0.0), (4.0, 0.0, 0.0)),
        mission_name=options.get("mission", "acted"),
        separation_m=2.0,
        planned_s=10.0,
        run_dir=run_dir,
        report=Path(options["report"]) if "report" in options else None,
        duration_s=options.get("duration_s"),
        json=options.get("json", False),
    )
    return cli.main(["swarm"])


if __name__ == "__main__":
    if sys.argv[1] in ACTS:
        ACTS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
    else:
        sys.exit(command(json.loads(sys.argv[1])))
