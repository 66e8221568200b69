"""Whole swarms: 20 drones against the targets, 40 and 80 to find the limit. All records on."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness import Result, emit

MISSION = "antipodal_swap"
LIMIT_S = 600.0


def main() -> int:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 drones only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--drones", type=int, nargs="+", help="other sizes")
    arguments = parser.parse_args()
    rows: list[Result] = []
    for drones in arguments.drones or ([20] if arguments.quick else [20, 40, 80]):
        rows += measure(drones)
    emit("swarm", rows, as_json=arguments.json)
    return 0


def measure(drones: int) -> list[Result]:
    """Fly one swarm by the command line, as a user would, and return its rows."""
    with tempfile.TemporaryDirectory() as folder:
        report_path = Path(folder) / "report.json"
        command = [sys.executable, "-m", "chimera_ros.cli", "swarm", "--drones", str(drones)]
        command += ["--mission", MISSION, "--record", folder, "--report", str(report_path)]
        command += ["--first-port", "25540", "--gcs-port", "0"]
        # Its progress lines go to our standard error: standard output is the result's.
        subprocess.run(command, stdout=sys.stderr, timeout=LIMIT_S, check=False)
        if not report_path.exists():
            raise SystemExit(f"the swarm of {drones} wrote no report")
        return rows(drones, json.loads(report_path.read_text()))


def rows(drones: int, report: dict[str, Any]) -> list[Result]:
    """The rows of one report; only the swarm of 20 has targets, beyond completing without a collision."""
    aim = drones <= 20
    processes = {name: value for name, value in report["cpu_percent"].items() if name != "total"}
    busiest = max(processes, key=lambda name: processes[name], default="none")
    name = f"{drones} drones"
    asked_m = report["asked_separation_m"]
    found = [
        Result(f"{name}: mission completed", float(report["completed"]), "", (">=", 1.0)),
        Result(f"{name}: collisions", float(report["collisions"]), "", ("<=", 0.0)),
        Result(f"{name}: real-time factor", report["real_time_factor"], "", (">=", 0.99) if aim else None),
        Result(f"{name}: smallest separation", report["min_separation_m"], "m", (">=", asked_m)),
        Result(
            f"{name}: all processes", report["cpu_percent"].get("total"), "%", ("<=", 100.0) if aim else None
        ),
        Result(f"{name}: busiest process ({busiest})", processes.get(busiest), "%", None),
        Result(f"{name}: memory, PSS", report["pss_mb"], "MiB", ("<=", 1536.0) if aim else None),
        Result(f"{name}: memory, RSS", report["rss_mb"], "MiB", None),
        Result(
            f"{name}: start to first drone in the air",
            report["time_to_first_takeoff_s"],
            "s",
            ("<=", 20.0) if aim else None,
        ),
        Result(f"{name}: tracking error p99", report["tracking_error_m"]["p99"], "m", None),
        Result(f"{name}: command latency p50", report["command_latency_ms"]["p50"], "ms", None),
        Result(f"{name}: command latency p99", report["command_latency_ms"]["p99"], "ms", None),
        Result(f"{name}: rekey p50", report["epochs"]["rekey_ms"]["p50"], "ms", None),
        Result(f"{name}: messages rejected", float(sum(report["messages"]["rejected"].values())), "", None),
        Result(f"{name}: drones lost", float(len(report["drones_lost"])), "", ("<=", 0.0)),
    ]
    return found


if __name__ == "__main__":
    sys.exit(main())
