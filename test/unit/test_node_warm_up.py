"""First calls in flight: after a node's warm-up none of them imports a module or starts a thread.

Each node's process is imitated in a process of its own (this file, run as a script): the node's module is
imported, its warm-up runs, and then each kind of work of the control path is done for the first time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0
NODES = ("leader", "follower", "path_moderation", "telemetry_logger")


def first_calls(name: str, node: Any, folder: Path) -> dict[str, Any]:
    """The first calls of a node, by name."""
    from chimera_ros.msg import SwarmCommands, Trajectory
    from chimera_ros.msg import TrajectoryKnot as KnotMessage
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from rclpy.serialization import deserialize_message, serialize_message

    from chimera_ros.flight.messages import CommandKind, TrajectoryKnot
    from chimera_ros.flight.messages import SwarmCommand as Command
    from chimera_ros.flight.trajectory import Path as FlightPath
    from chimera_ros.records.status_line import encode_status
    from chimera_ros.ros import convert

    command = Command(1, 1, CommandKind.HOLD)

    def commands() -> None:
        message = SwarmCommands(commands=[convert.command_to_msg(command)])
        received = deserialize_message(serialize_message(message), SwarmCommands)
        assert convert.command_from_msg(received.commands[0]).kind is CommandKind.HOLD

    def trajectory() -> None:
        message = Trajectory(drone="drone_01", knots=[KnotMessage()])
        deserialize_message(serialize_message(message), Trajectory)
        knots = (TrajectoryKnot(0.0, (0.0, 0.0, 5.0)), TrajectoryKnot(5.0, (5.0, 0.0, 5.0)))
        FlightPath(knots).evaluate(1.0)
        FlightPath(knots).bounds()

    def diagnostics() -> None:
        status = DiagnosticStatus(values=[KeyValue(key="a", value="b")])
        serialize_message(DiagnosticArray(status=[status]))

    calls: dict[str, Any] = {
        "diagnostics": diagnostics,
        "warning": lambda: node.get_logger().warning("a"),
        "error": lambda: node.get_logger().error("a"),
        "status": lambda: encode_status({"process": "a", "x": 0.5}),
        "command": commands,
        "trajectory": trajectory,
    }
    if name in ("leader", "path_moderation"):
        calls["moderation"] = moderation
    if name == "telemetry_logger":
        calls["record"] = lambda: record(folder)
    return calls


def moderation() -> None:
    """Conflicts that need CP-SAT, with a deadline."""
    from chimera_ros.flight.moderation_call import ModerationRequest
    from chimera_ros.moderation.for_flight import local_moderate
    from chimera_ros.moderation.scenes import antipodal

    scene = antipodal(9, 3)
    names = tuple(map(str, range(9)))
    request = ModerationRequest(names, scene.knots, scene.separation, scene.limits, scene.fence, 0.4)
    local_moderate(time.monotonic)(request)


def record(folder: Path) -> None:
    """A record of one message."""
    from chimera_ros.records.mcap_log import FlightRecorder

    recorder = FlightRecorder(folder / "record", namespace="/swarm")
    recorder.write("a", "std_msgs/msg/Bool", "bool data", b"\0\1\0\0\1", 1, 2, "drone_01")
    recorder.close()


def run_probe(name: str, folder: Path) -> None:
    """In the child: import, warm up, then report what each first call took and brought."""
    import importlib

    import rclpy

    from chimera_ros.moderation.ladder import Moderator
    from chimera_ros.moderation.warm_up import load_solvers
    from chimera_ros.moderation.warm_up import warm_up as warm_up_moderator
    from chimera_ros.nodes.warm_up import warm_up
    from chimera_ros.ros.lifecycle import SwarmNode

    importlib.import_module(f"chimera_ros.nodes.{name}")
    rclpy.init()
    node: SwarmNode[Any] = SwarmNode("probe")
    if name == "leader":
        load_solvers(time.monotonic)
    if name == "path_moderation":
        warm_up_moderator(Moderator(time.monotonic))
    warm_up(node)
    calls = first_calls(name, node, folder)
    out = {}
    for call, work in calls.items():
        modules, threads, began = set(sys.modules), threading.active_count(), time.thread_time()
        work()
        out[call] = {
            "modules": sorted(set(sys.modules) - modules),
            "threads": threading.active_count() - threads,
            "cpu_ms": round(1e3 * (time.thread_time() - began), 2),
        }
    print(json.dumps(out), flush=True)
    os._exit(0)


@pytest.mark.parametrize("name", NODES)
def test_first_calls_import_nothing_and_start_no_thread(name: str, tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), name, str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {call: row for call, row in found.items() if row["modules"] or row["threads"]} == {}
    # of CPU time, which load does not lengthen much: 40 ms without the warm-up
    assert found["warning"]["cpu_ms"] < 20.0


if __name__ == "__main__":
    run_probe(sys.argv[1], Path(sys.argv[2]))
