"""Failover: the active crypto node is killed (SIGKILL) again and again, under 20 Hz telemetry.

Real processes on real middleware, restarted by the supervisor that `chimera swarm` uses. A node counts as
active when every member sends under an epoch that it has announced; times are from the kill.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable
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

from chimera_ros.launcher.supervisor import ChildSpec, Supervisor

DRONES = ("drone_01", "drone_02", "drone_03", "drone_04")
PROCESSES = 2
TELEMETRY_HZ = 20.0
RESTART_S = 0.2
LIMIT_S = 60.0
PAUSE_S = 6.0  # between two kills: the policy's restart_s allows a name one restart in 10 s
QUIET_S = 1.0  # between two rounds, and a random second more, so that kills fall anywhere between two beats


def main() -> int:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, help="how often (default 50, with --quick 5)")
    parser.add_argument("--role", choices=("shard",), help=argparse.SUPPRESS)
    parser.add_argument("--keystore", help=argparse.SUPPRESS)
    parser.add_argument("--members", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "shard":
        shard(arguments.keystore, arguments.members)
    else:
        kills = arguments.kills or (5 if arguments.quick else 50)
        emit("failover", measure(kills), as_json=arguments.json)
    return 0


def measure(kills: int) -> list[Result]:
    """Both scenes: with a standby, and one crypto node alone that is restarted."""
    load = OtherLoad()
    rows: list[Result] = []
    for nodes in (("crypto_0", "crypto_1"), ("crypto_0",)):
        with private_domain(), tempfile.TemporaryDirectory() as folder:
            members = {**dict.fromkeys(nodes, "crypto"), **dict.fromkeys(DRONES, "drone")}
            with Scene(make_keystore(Path(folder) / "keys", members), Path(folder), nodes) as scene:
                rows += scene.run(kills)
    return [*rows, Result("kills in each scene", float(kills), ""), load.own(), load.result()]


class Scene:
    """Crypto nodes under a supervisor, and two processes with two drones each."""

    def __init__(self, keystore: Path, folder: Path, nodes: tuple[str, ...]) -> None:
        self._nodes = nodes
        self._supervisor = Supervisor(folder, on_exit=lambda _: RESTART_S)
        script = [str(Path(__file__)), "--keystore", str(keystore), "--role", "shard", "--members"]
        size = len(DRONES) // PROCESSES
        self._shards = [
            Child(*script, *DRONES[first : first + size]) for first in range(0, len(DRONES), size)
        ]
        for name in nodes:
            self._supervisor.start(_crypto(name, keystore))
        self._random = random.Random(1)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._shards:
            child.close()
        self._supervisor.close(deadline_s=3.0)

    def run(self, kills: int) -> list[Result]:
        """Kill, wait, repeat; then count telemetry."""
        for child in self._shards:
            child.wait_for("ready", 60.0)
            child.request(part="traffic")
        for child in self._shards:
            child.wait_for("flowing", 30.0)
        taken_s: list[float] = []
        back_s: list[float] = []
        rested_at = 0.0
        progress = Progress(f"kills among {len(self._nodes)}", kills)
        for number in range(kills):
            progress.at(number)
            self._until(lambda: self._all_in(self._nodes), "all crypto nodes are in")
            self._wait(max(QUIET_S, rested_at - time.monotonic()) + self._random.random())
            rested_at = time.monotonic() + PAUSE_S
            before = self._views()
            killed = before[0]["issuer"]
            old = {view["crypto"][killed] for view in before}
            epoch = max(view["epoch"] for view in before)
            killed_ns = time.monotonic_ns()
            self._supervisor.kill(killed)
            self._until(lambda epoch=epoch: min(v["epoch"] for v in self._views()) > epoch, "a new epoch")
            taken_s.append((self._first_above(epoch) - killed_ns) * 1e-9)
            if len(self._nodes) > 1:
                self._until(
                    lambda killed=killed, old=old: all(
                        view["crypto"].get(killed, next(iter(old))) not in old for view in self._views()
                    ),
                    f"{killed} is standby again",
                )
                back_s.append((max(view["at_ns"] for view in self._views()) - killed_ns) * 1e-9)
        return self._rows(taken_s, back_s)

    def _rows(self, taken_s: list[float], back_s: list[float]) -> list[Result]:
        self._wait(1.0)
        sent: dict[str, int] = {}
        for child in self._shards:
            child.request(part="pause")
        for child in self._shards:
            sent.update(child.wait_for("sent", 20.0)["sent"])
        self._wait(0.5)
        lost = counted = unsent = refused = 0
        for child in self._shards:
            child.request(part="report")
            report = child.wait_for("heard", 20.0)
            unsent += report["unsent"]
            refused += sum(report["rejected"].values())
            for name, (first, received) in report["heard"].items():
                lost += sent[name] - first + 1 - received
                counted += received
        if back_s:
            rows = [
                Result("standby active, largest", max(taken_s), "s", ("<", 2.0)),
                Result("standby active, p50", percentile(taken_s, 50), "s"),
                Result("killed node is standby again, largest", max(back_s), "s", ("<", 5.0)),
                Result("killed node is standby again, p50", percentile(back_s, 50), "s"),
            ]
        else:
            rows = [
                Result("alone: restarted node active, largest", max(taken_s), "s", ("<", 5.0)),
                Result("alone: restarted node active, p50", percentile(taken_s, 50), "s"),
            ]
        scene = "" if back_s else "alone: "
        return [
            *rows,
            Result(f"{scene}telemetry lost", float(lost), "", ("<=", 0.0)),
            Result(f"{scene}telemetry that could not be sent", float(unsent), "", ("<=", 0.0)),
            Result(f"{scene}telemetry refused", float(refused), ""),
            Result(f"{scene}telemetry received meanwhile", float(counted), ""),
        ]

    # Reports of the shards

    def _views(self) -> list[dict[str, Any]]:
        """The newest epoch that each process's members all send under."""
        views = []
        for child in self._shards:
            reported = [line["view"] for line in list(child.answers) if "view" in line]
            views.append(reported[-1] if reported else {"epoch": 0, "issuer": "", "crypto": {}, "at_ns": 0})
        return views

    def _first_above(self, epoch: int) -> int:
        """When the last process had its first epoch above."""
        return max(
            next(
                line["view"]["at_ns"]
                for line in list(child.answers)
                if line.get("view", {"epoch": 0})["epoch"] > epoch
            )
            for child in self._shards
        )

    def _all_in(self, names: tuple[str, ...]) -> bool:
        views = self._views()
        return len({view["epoch"] for view in views}) == 1 and all(
            set(names) <= view["crypto"].keys() for view in views
        )

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._supervisor.poll(min(left, 0.05))

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"not reached within {LIMIT_S:g} s: {what}; {self._views()}")
            self._supervisor.poll(0.02)


def _crypto(name: str, keystore: Path) -> ChildSpec:
    arguments = ["-r", "__ns:=/chimera", "-r", f"__node:={name}"]
    arguments += ["-p", f'keystore:="{keystore}"', "-p", f"member:={name}"]
    return ChildSpec(name, (sys.executable, "-m", "chimera_ros.nodes.crypto", "--ros-args", *arguments))


# The processes -----------------------------------------------------------------------------------------


def shard(keystore: str, members: list[str]) -> None:
    """Two drones: each sends telemetry, the process receives the others' and reports the epoch in use."""
    import rclpy
    from chimera_ros.msg import DroneTelemetry

    from chimera_ros.ros import SecureSession, Spinner

    rclpy.init()
    node = rclpy.create_node(f"{members[0]}_bench", namespace="/chimera", start_parameter_services=False)
    spinner = Spinner()
    spinner.add(node)
    session = SecureSession(node, members=members, keystore=keystore)
    orders = Orders()
    heard: dict[str, list[int]] = {}
    numbers = dict.fromkeys(members, 0)
    unsent = 0

    def on_switched(_member: str, epoch: int) -> None:
        if {session.epoch(name) for name in members} != {epoch}:
            return
        roster = session.host.roster(members[0])
        announcement = session.host.announcement(epoch)
        assert announcement is not None
        issuer = announcement.head.issuer
        orders.answer(
            view={
                "epoch": epoch,
                "issuer": next(entry.name for entry in roster if entry.fingerprint == issuer),
                "crypto": {e.name: e.incarnation.hex() for e in roster if e.role == "crypto"},
                "at_ns": time.monotonic_ns(),
            }
        )

    session.on_switched(on_switched)

    def on_telemetry(message: Any, sender: str) -> None:
        if sender not in heard:
            heard[sender] = [message.command_id, 0]
        heard[sender][1] += 1

    others = [name for name in DRONES if name not in members]
    for name in others:
        session.create_subscription(DroneTelemetry, f"{name}/telemetry", on_telemetry)
    publishers = {
        name: session.create_publisher(DroneTelemetry, f"{name}/telemetry", member=name) for name in members
    }
    message = DroneTelemetry(reason="x" * 60)

    def send() -> None:
        nonlocal unsent
        for name, publisher in publishers.items():
            message.drone = name
            message.command_id = numbers[name] + 1
            if publisher.publish(message):
                numbers[name] += 1
            else:
                unsent += 1

    timer = node.create_timer(1.0 / TELEMETRY_HZ, send)
    timer.cancel()
    reported: set[str] = set()

    def step() -> bool:
        matched = all(node.count_subscribers(f"{name}/telemetry") == PROCESSES - 1 for name in DRONES)
        if "ready" not in reported and session.ready and matched:
            reported.add("ready")
            gc.freeze()
            orders.answer(ready=True)
        if "flowing" not in reported and len(heard) == len(others):
            reported.add("flowing")
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
            orders.answer(heard=heard, unsent=unsent, rejected=session.status()["rejected"])
        return orders.closed

    ticker = node.create_timer(0.02, lambda: None)  # orders are looked for at least this often
    spinner.spin(step)
    ticker.cancel()
    session.close()


if __name__ == "__main__":
    sys.exit(main())
