"""Rotating the keys of 20 members in four processes while each sends telemetry at 20 Hz; evictions.

Time is from the crypto node's decision to the moment in which the last (honest) member sends under the new
epoch, on one monotonic clock. Every process receives every member; a message that any of them misses counts
as lost. Each evicted member is represented by a process that keeps every key it ever had and tries them all
on every packet. Larger swarms are simulated in one process (rekey_sizes.py).
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from harness import (
    Child,
    Orders,
    OtherLoad,
    Progress,
    Result,
    emit,
    make_keystore,
    percentile,
    private_domain,
)
from rekey_evict import captives, captured, evict_members
from rekey_sizes import measure_size

MEMBERS = 20
PROCESSES = 4  # five members each, as `chimera swarm` hosts its drones
TELEMETRY_HZ = 20.0
OPERATOR = "operator_0"
DRONES = [f"drone_{number:02d}" for number in range(1, MEMBERS + 1)]


def main() -> int:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rotations", type=int, help="how many (default 1000, with --quick 30)")
    parser.add_argument("--evictions", type=int, help="how many (default 100, with --quick 8)")
    parser.add_argument("--role", choices=("crypto", "shard", "captured"), help=argparse.SUPPRESS)
    parser.add_argument("--keystore", help=argparse.SUPPRESS)
    parser.add_argument("--members", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "crypto":
        crypto(arguments.keystore)
    elif arguments.role == "shard":
        shard(arguments.keystore, arguments.members)
    elif arguments.role == "captured":
        captured(*_start(arguments.keystore, [OPERATOR]), arguments.keystore, DRONES)
    else:
        rotations = arguments.rotations or (30 if arguments.quick else 1000)
        evictions = arguments.evictions or (8 if arguments.quick else 100)
        with private_domain(), tempfile.TemporaryDirectory() as folder:
            members = {"crypto_0": "crypto", OPERATOR: "operator", **dict.fromkeys(DRONES, "drone")}
            members |= dict.fromkeys(captives(evictions), "drone")
            load = OtherLoad()
            results = measure(make_keystore(Path(folder) / "keys", members), rotations, evictions)
            results += measure_size(200, 250.0, 3)
            if not arguments.quick:
                results += measure_size(1000, 1000.0, 3)
            results += [load.own(), load.result()]
        emit("rekey", results, as_json=arguments.json)
    return 0


def measure(keystore: Path, rotations: int, evictions: int) -> list[Result]:
    """Start the processes, rotate, evict members, return the rows."""
    script = [str(Path(__file__)), "--keystore", str(keystore)]
    key_server = Child(*script, "--role", "crypto")
    size = MEMBERS // PROCESSES
    shards = [
        Child(*script, "--role", "shard", "--members", *DRONES[first : first + size])
        for first in range(0, MEMBERS, size)
    ]
    try:
        for child in shards:
            child.wait_for("ready", 90.0)
        for child in shards:
            child.request(part="traffic")
        for child in shards:
            child.wait_for("flowing", 60.0)
        key_server.request(part="rotate", rotations=rotations, members=MEMBERS + 1)
        decided = key_server.wait_for("decided", 60.0 + 6.0 * rotations)
        time.sleep(1.0)  # the last messages under the last epoch
        for child in shards:
            child.request(part="pause")
        sent: dict[str, int] = {}
        for child in shards:
            sent.update(child.wait_for("sent", 20.0)["sent"])
        time.sleep(0.5)
        for child in shards:
            child.request(part="report")
        reports = [child.wait_for("heard", 20.0) for child in shards]
        rows = _rows(decided, reports, sent, rotations)
        for child in shards:
            child.request(part="traffic")
        captor = Child(*script, "--role", "captured")
        try:
            rows += evict_members(key_server, shards, captor, evictions, MEMBERS)
        finally:
            captor.close()
    finally:
        for child in (*shards, key_server):
            child.close()
    return rows


def _rows(
    decided: dict[str, Any], reports: list[dict[str, Any]], sent: dict[str, int], rotations: int
) -> list[Result]:
    switched: dict[int, list[int]] = defaultdict(list)
    for report in reports:
        for epoch, at_ns in report["switched"]:
            switched[epoch].append(at_ns)
    durations = []
    incomplete = 0
    for epoch, at_ns in decided["decided"]:
        if len(switched[epoch]) == MEMBERS:
            durations.append((max(switched[epoch]) - at_ns) * 1e-6)
        else:
            incomplete += 1
    lost = counted = 0
    for report in reports:
        for name, (first, received) in report["heard"].items():
            lost += sent[name] - first + 1 - received
            counted += received
    refused = sum(sum(report["rejected"].values()) for report in reports)
    return [
        Result("decision to last member switched, p50", percentile(durations, 50), "ms", ("<", 25.0)),
        Result("decision to last member switched, p99", percentile(durations, 99), "ms", ("<", 58.0)),
        Result("messages lost", float(lost), "", ("<=", 0.0)),
        Result("decision to last member switched, largest", max(durations, default=None), "ms"),
        Result("rotations", float(rotations), ""),
        Result("rotations that not every member followed", float(incomplete), "", ("<=", 0.0)),
        Result("decision to switch sent, p50", percentile(decided["rekey_ms"], 50), "ms"),
        Result("messages received meanwhile", float(counted), ""),
        Result("messages refused", float(refused), ""),
        Result("members", float(MEMBERS), ""),
        Result("processes", float(PROCESSES + 1), ""),
    ]


# The processes -----------------------------------------------------------------------------------------


def _start(keystore: str, members: list[str]) -> tuple[Any, Any, Any]:
    import rclpy

    from chimera_ros.ros import SecureSession, Spinner

    rclpy.init()
    node = rclpy.create_node(f"{members[0]}_bench", namespace="/chimera", start_parameter_services=False)
    spinner = Spinner()
    spinner.add(node)
    return node, SecureSession(node, members=members, keystore=keystore), spinner


def crypto(keystore: str) -> None:
    """The crypto node: rotates as soon as every member's next package is here."""
    node, session, spinner = _start(keystore, ["crypto_0"])
    orders = Orders()
    gc.freeze()

    def step() -> bool:
        order = orders.take()
        if order is not None and order["part"] == "rotate":
            rotate(order["rotations"], order["members"])
        elif order is not None:
            evict(order["member"])
        return orders.closed

    def evict(name: str) -> None:
        settled = time.monotonic() + 0.5

        def ready() -> bool:
            status = session.status()["key_server"]
            complete = status["packages_ready"] and status["switched"] and name in status["members"]
            return (time.monotonic() > settled and complete) or orders.closed

        spinner.spin(ready)
        at_ns = time.monotonic_ns()
        verdict = session.evict(name, OPERATOR, bytes(32))
        if not verdict.accepted:
            raise SystemExit(f"eviction refused: {verdict.reason}")
        orders.answer(evicted=(verdict.epoch, at_ns))

    def rotate(rotations: int, members: int) -> None:
        decided: list[tuple[int, int]] = []
        before = session.status()["key_server"]["rekeys"]
        progress = Progress("rotations", rotations)
        for number in range(rotations):
            progress.at(number)
            settled = time.monotonic() + 0.5

            def ready(settled: float = settled) -> bool:
                status = session.status()["key_server"]
                return (
                    time.monotonic() > settled
                    and status["packages_ready"]
                    and status["switched"]
                    and len(status["members"]) == members
                ) or orders.closed

            spinner.spin(ready)
            at_ns = time.monotonic_ns()
            session.rotate()
            epoch = session.status()["key_server"]["epoch"]
            decided.append((epoch, at_ns))
            spinner.spin(lambda epoch=epoch: session.epoch() == epoch or orders.closed)
        status = session.status()["key_server"]
        orders.answer(decided=decided, rekey_ms=status["rekey_ms"][-(status["rekeys"] - before) :])

    ticker = node.create_timer(0.02, lambda: None)  # orders are looked for at least this often
    spinner.spin(step)
    ticker.cancel()
    session.close()


def shard(keystore: str, members: list[str]) -> None:
    """Several members: each sends telemetry, the process receives everybody's."""
    from chimera_ros.msg import DroneTelemetry

    node, session, spinner = _start(keystore, members)
    orders = Orders()
    switched: list[tuple[int, int]] = []
    session.on_switched(lambda member, epoch: switched.append((epoch, time.monotonic_ns())))
    heard: dict[str, list[int]] = {}
    numbers = dict.fromkeys(members, 0)
    ready = False

    def on_telemetry(message: Any, sender: str) -> None:
        number = message.command_id
        if sender not in heard:
            heard[sender] = [number, 0]
        heard[sender][1] += 1

    for name in DRONES:
        session.create_subscription(DroneTelemetry, f"{name}/telemetry", on_telemetry)
    publishers = {
        name: session.create_publisher(DroneTelemetry, f"{name}/telemetry", member=name) for name in members
    }
    message = DroneTelemetry(reason="x" * 60)

    def send() -> None:
        for name, publisher in publishers.items():
            message.drone = name
            message.command_id = numbers[name] + 1
            if publisher.publish(message):
                numbers[name] += 1

    timer = node.create_timer(1.0 / TELEMETRY_HZ, send)
    timer.cancel()
    flow_reported = False

    def step() -> bool:
        nonlocal ready, flow_reported
        if (
            not ready
            and session.ready
            and all(node.count_subscribers(f"{name}/telemetry") == PROCESSES for name in DRONES)
        ):
            ready = True
            gc.freeze()
            orders.answer(ready=True)
        if not flow_reported and len(heard) == MEMBERS:
            flow_reported = True
            orders.answer(flowing=True)
        order = orders.take()
        if order is None:
            return orders.closed
        if order["part"] == "traffic":
            timer.reset()
        elif order["part"] == "pause":
            timer.cancel()
            orders.answer(sent=numbers)
        else:
            orders.answer(heard=heard, switched=switched, rejected=session.status()["rejected"])
        return orders.closed

    ticker = node.create_timer(0.02, lambda: None)
    spinner.spin(step)
    ticker.cancel()
    session.close()


if __name__ == "__main__":
    sys.exit(main())
