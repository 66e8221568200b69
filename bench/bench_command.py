"""Command latency and rate: a leader sends signed commands to 20 drones that hover in the embedded SITL.

Latency is from the leader's sealing to the setpoint handed to MAVSDK, as each follower measures it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from harness import Result, emit

from chimera_ros.commands.swarm_setup import add_arguments, prepare
from chimera_ros.launcher.supervisor import ChildSpec, StatusReceived, Supervisor
from chimera_ros.records.histogram import Histogram

MISSION = """
mission: command_bench
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 30]}
steps:
  - takeoff: {height_m: 6, wave: 20}
  - hold: {seconds: 500}
  - land
"""
DRONES = 20
STEADY_HZ = 120  # each signed by itself
LEADER_HZ = 20  # the leader's own tick: what is due at one tick leaves under one signature
LIMIT_S = 150.0


def main() -> int:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    seconds = 10 if arguments.quick else 30
    phases = [["steady", STEADY_HZ, seconds, STEADY_HZ], ["sustained", 520, seconds, LEADER_HZ]]
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), phases)
    emit("command", results, as_json=arguments.json)
    return 0


def measure(folder: Path, phases: list[list[object]]) -> list[Result]:
    """Fly 20 drones up, run the phases, return the rows."""
    mission = folder / "mission.yaml"
    mission.write_text(MISSION)
    options = argparse.ArgumentParser()
    add_arguments(options)
    prepared = prepare(
        options.parse_args(
            [
                *("--drones", str(DRONES), "--mission", str(mission), "--record", str(folder / "run")),
                *("--no-record", "--first-port", "25540", "--gcs-port", "0"),
            ]
        )
    )
    newest: dict[str, dict[str, object]] = {}
    marks: dict[str, dict[str, list[list[float]]]] = {}
    outcome: list[dict[str, float]] = []
    usage = None
    with Supervisor(prepared.log_dir) as supervisor:
        for spec in prepared.processes:
            supervisor.start(_as_bench_leader(spec, phases) if spec.name == "leader" else spec)
        phase, until = "wait", time.monotonic() + LIMIT_S
        while phase != "done":
            if time.monotonic() > until:
                leader = newest.get("leader", {})
                raise SystemExit(
                    f"the benchmark did not end within {LIMIT_S:g} s: phase {phase}, "
                    f"leader {leader.get('phase')}, failure {leader.get('failure')}"
                )
            for event in supervisor.poll(0.2):
                if not isinstance(event, StatusReceived):
                    raise SystemExit(
                        f"process {event.process} has ended: {supervisor.last_lines(event.process)}"
                    )
                status = event.status
                newest[str(status["process"])] = status
                if status["process"] == "bench":
                    outcome = status["results"]
                    if status["phase"] != phase:
                        phase = str(status["phase"])
                        marks[phase] = _buckets(newest)
                        if phase == phases[0][0]:
                            supervisor.restart_measuring()
        usage = supervisor.usage()
        supervisor.stop()
    return _rows(phases, marks, outcome, usage.cpu_percent["total"])


def _as_bench_leader(spec: ChildSpec, phases: list[list[object]]) -> ChildSpec:
    argv = tuple("bench.command_leader" if word == "chimera_ros.nodes.leader" else word for word in spec.argv)
    return ChildSpec(spec.name, argv, {**spec.env, "CHIMERA_BENCH_PHASES": json.dumps(phases)}, spec.cwd)


def _buckets(newest: dict[str, dict[str, object]]) -> dict[str, list[list[float]]]:
    return {
        name: status["latency_ms"]["histogram"]  # type: ignore[index]
        for name, status in newest.items()
        if isinstance(status.get("latency_ms"), dict)
    }


def _between(before: dict[str, list[list[float]]], after: dict[str, list[list[float]]]) -> Histogram:
    """What the followers counted between two marks."""
    found = Histogram()
    for name, rows in after.items():
        earlier = {bound: count for bound, count in before.get(name, [])}
        for bound, count in rows:
            found.add(bound * 0.999, int(count - earlier.get(bound, 0)))
    return found


def _rows(
    phases: list[list[object]],
    marks: dict[str, dict[str, list[list[float]]]],
    outcome: list[dict[str, float]],
    cpu_percent: float,
) -> list[Result]:
    names = [str(phase[0]) for phase in phases] + ["done"]
    rows = []
    for index, (name, rate_hz, _, _) in enumerate(phases):
        latency = _between(marks[str(name)], marks[names[index + 1]])
        result = outcome[index]
        accepted_hz = result["accepted"] / result["seconds"]
        steady = name == "steady"
        text = f"{rate_hz} commands/s"
        rows += [
            Result(f"{text}: latency p50", latency.percentile(50), "ms", ("<", 3.0) if steady else None),
            Result(f"{text}: latency p99", latency.percentile(99), "ms", ("<", 15.0) if steady else None),
            Result(f"{text}: accepted by drones", accepted_hz, "1/s", None if steady else (">=", 500.0)),
            Result(f"{text}: share lost", 1.0 - result["accepted"] / max(1.0, result["sent"]), "", None),
        ]
    rows.append(Result("all processes together", cpu_percent, "% of a core", None))
    return rows


if __name__ == "__main__":
    sys.exit(main())
