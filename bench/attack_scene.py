"""Environment of the attack benchmark: a real swarm, what its operator sees, a stranger, a captured member.

The swarm is the one that `chimera swarm` starts: crypto node, leader, followers, logger and simulated
vehicles in processes of their own. The attackers live in the benchmark's process. Nothing is asked of the
attackers' side to judge an attack: counters and alarms come from the status lines of the swarm's processes,
positions from the simulation, acceptance from an honest observer that is a member of the swarm.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import rclpy
from chimera_ros.msg import Certificate, DroneTelemetry, SecureEnvelope, TrustUpdate
from harness import make_keystore
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from chimera_ros.commands.swarm_setup import add_arguments, prepare
from chimera_ros.crypto.trust.identity import MemberIdentity
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.launcher import supervisor as child
from chimera_ros.launcher.spec import SwarmSpec
from chimera_ros.ros import SecureSession, Spinner, names
from chimera_ros.ros.control_topics import encode_control
from chimera_ros.swarm import drone_name

DRONES = 4
CAPTURED = drone_name(DRONES + 1)  # a member with good keys that no autopilot of ours flies
REVOKED = drone_name(DRONES + 2)
OBSERVER = "monitor_0"
SECOND_CRYPTO = "crypto_2"
NAMESPACE = "/chimera"
START_LIMIT_S = 90.0
ALARMS_KEPT = 2000

HOLD = """\
mission: under_attack
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-120, 120], north_m: [-120, 120], height_m: [1.5, 60]}
battery: {endurance_s: 3600, reserve: 0.2}
steps:
  - takeoff: {height_m: 10, wave: 5, interval_s: 1}
  - hold: {seconds: 1500}
  - land
"""

_TOUR_STEPS = """\
  - formation: {shape: grid, spacing_m: 4, center_m: [0, 0, 12]}
  - formation: {shape: circle, spacing_m: 5, center_m: [0, 8, 14]}
  - rotate: {angle_deg: 120}
  - goto: {by_m: [25, 0, 3]}
  - formation: {shape: line, spacing_m: 4, center_m: [0, 0, 12], heading_deg: 45}
"""


def tour(rounds: int) -> str:
    """A mission that keeps moving, one round takes about a minute."""
    return HOLD.replace("  - hold: {seconds: 1500}\n", _TOUR_STEPS * rounds)


class Stranger:
    """Somebody on the network without keys: receives and sends raw bytes on any topic."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: dict[tuple[str, bool], Any] = {}
        self.heard: dict[str, deque[bytes]] = {}

    def listen(self, channel: str, message_type: type[Any] = SecureEnvelope, latched: bool = False) -> None:
        """Record a topic from now on."""
        if channel in self.heard:
            return
        kept = self.heard[channel] = deque(maxlen=4000)
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        # Best effort matches every writer, but only reliable readers get latched samples.
        trust = ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT
        quality = QoSProfile(depth=500, durability=durability, reliability=trust)
        self._node.create_subscription(
            message_type, names.topic(channel, NAMESPACE), lambda data: kept.append(data), quality, raw=True
        )

    def publisher(self, channel: str, message_type: type[Any] = SecureEnvelope, latched: bool = False) -> Any:
        """The publisher for a topic."""
        key = (channel, latched)
        if key not in self._publishers:
            durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
            quality = QoSProfile(depth=500, durability=durability)
            self._publishers[key] = self._node.create_publisher(
                message_type, names.topic(channel, NAMESPACE), quality
            )
        return self._publishers[key]


class Scene:
    """See the module. Use it as a context manager; every wait keeps swarm, observer and attackers running."""

    def __init__(self, mission: str, folder: Path, keystore: Path, log: Callable[[str], None]) -> None:
        self.log = log
        self.folder = folder
        self.keystore = keystore
        mission_path = folder / "mission.yaml"
        mission_path.write_text(mission)
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        options = ["--drones", str(DRONES), "--mission", str(mission_path), "--keystore", str(keystore)]
        options += ["--record", str(folder / "run"), "--first-port", "29540", "--gcs-port", "0"]
        options += ["--rotation", "60", "--json", "--shards", "2"]
        self.prepared = prepare(parser.parse_args(options))
        self.statuses: dict[str, dict[str, Any]] = {}
        self.alarms: deque[tuple[float, str]] = deque(maxlen=ALARMS_KEPT)
        self.exits: list[str] = []
        self.flown = [drone_name(number) for number in range(1, DRONES + 1)]
        self.on_step: Callable[[], None] | None = None
        self.earlier: list[bytes] = []  # telemetry packets of an earlier flight
        self.lie_rounds = 1
        self.notes: dict[str, tuple[float, str]] = {}  # figures that attacks print besides their verdict
        self.telemetry: dict[str, deque[tuple[float, DroneTelemetry]]] = {}  # the newest of each drone
        self.heard: Counter[str] = Counter()  # how many in all
        self._nodes: list[Node] = []
        self._seen: set[tuple[str, int, str]] = set()
        self._supervisor = child.Supervisor(self.prepared.log_dir)
        self.sessions: dict[str, SecureSession] = {}

    # ---- starting and ending ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        self.spinner = Spinner()
        for spec in self.prepared.processes:
            argv = spec.argv
            if spec.name == "telemetry_logger":  # it also watches the captured member
                argv = tuple(a.replace(f"swarm_size:={DRONES}", f"swarm_size:={DRONES + 1}") for a in argv)
            self._supervisor.start(child.ChildSpec(spec.name, argv, spec.env))
        self.stranger = Stranger(self.node("stranger"))
        self.stranger.listen(names.CRYPTO_TRUST, TrustUpdate, latched=True)
        self.rejoin_observer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in self.sessions.values():
            session.close()
        self._supervisor.close()
        self.spinner.close()
        for node in self._nodes:
            node.destroy_node()
        rclpy.try_shutdown()

    def node(self, name: str) -> Node:
        """A plain node in the benchmark's process."""
        node = rclpy.create_node(name, namespace=NAMESPACE, start_parameter_services=False)
        self.spinner.add(node)
        self._nodes.append(node)
        return node

    def join(self, member: str) -> SecureSession:
        """Join the swarm in the name of an enrolled member."""
        session = SecureSession(self.node(f"{member}_bench"), member=member, keystore=self.keystore)
        self.sessions[member] = session
        return session

    def leave(self, member: str) -> None:
        """Close a session that `join` opened."""
        self.sessions.pop(member).close()

    def rejoin_observer(self) -> None:
        """The observer's process starts (again)."""
        self.observer = self.join(OBSERVER)
        for number in range(1, DRONES + 2):
            drone = drone_name(number)
            kept = self.telemetry.setdefault(drone, deque(maxlen=4000))
            self.observer.create_subscription(
                DroneTelemetry,
                names.telemetry(drone),
                lambda message, sender, kept=kept, drone=drone: self._hear(drone, message, kept),
            )

    def _hear(self, drone: str, message: DroneTelemetry, kept: deque[tuple[float, DroneTelemetry]]) -> None:
        self.heard[drone] += 1
        kept.append((time.monotonic(), message))

    def captured(self) -> SecureSession:
        """The captured member's session: its keys are the attacker's."""
        if CAPTURED not in self.sessions:
            session = self.join(CAPTURED)
            self.wait(lambda: session.ready, 30.0, "for the captured member to join")
        return self.sessions[CAPTURED]

    def operate(self, *command: str) -> subprocess.CompletedProcess[str]:
        """`chimera …` as an operator types it, while everything else goes on."""
        argv = [sys.executable, "-m", "chimera_ros.cli", *command, "--keystore", str(self.keystore)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            self.until(lambda: process.poll() is not None, 30.0)
            process.kill()
            output = process.stdout.read() if process.stdout else ""
        return subprocess.CompletedProcess(argv, process.returncode, output)

    def show_certificate(self, identity: MemberIdentity) -> None:
        """Publish a certificate, as its owner would."""
        publisher = self.stranger.publisher(names.CRYPTO_CERTIFICATES, Certificate, latched=True)
        self.wait(lambda: publisher.get_subscription_count() >= 2, 15.0, "for readers of certificates")
        message = ControlMessage(ControlKind.CERTIFICATE, (identity.certificate_der,))
        publisher.publish(encode_control(message))
        self.spin(1.0)

    def rotate(self) -> None:
        """Ask for a new epoch, as an operator does."""
        done = self.operate("command", "rotate")
        if done.returncode != 0:
            raise SystemExit(f"chimera command rotate ended with {done.returncode}: {done.stdout}")

    def fly(self) -> None:
        """Wait until all drones hover under the mission."""
        self.log("starting the swarm")
        self.wait(lambda: self._airborne() == DRONES, START_LIMIT_S, "for all drones to fly")

    def land(self) -> None:
        """Let the leader land everyone."""
        self._supervisor.kill("leader", signal.SIGUSR1)
        self.wait(lambda: bool(self.statuses.get("leader", {}).get("finished")), 90.0, "for the landing")

    def _airborne(self) -> int:
        return sum(1 for place in self.places() if place[2] > 8.0)

    # ---- time ------------------------------------------------------------------------------------------

    def spin(self, seconds: float) -> None:
        """Let everything run for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._step(min(left, 0.05))

    def wait(self, condition: Callable[[], bool], limit_s: float, what: str) -> float:
        """Let everything run until the condition holds; returns how long it took. Raises SystemExit."""
        began = time.monotonic()
        if not self.until(condition, limit_s):
            raise SystemExit(
                f"waited {limit_s:.0f} s in vain {what}; the logs are in {self.prepared.log_dir}"
            )
        return time.monotonic() - began

    def until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let everything run until the condition holds, or the time is over; says which."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() >= end:
                return condition()
            self._step(0.02)
        return True

    def _step(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.spinner.spin(lambda: time.monotonic() > end)
        for event in self._supervisor.poll(0.0):
            if isinstance(event, child.StatusReceived):
                self._take(event)
            elif isinstance(event, child.Exited) and not event.expected:
                self.exits.append(f"{event.process} {event.reason}")
        if self.on_step is not None:
            self.on_step()

    def _take(self, event: child.StatusReceived) -> None:
        self.statuses[event.process] = event.status
        security = event.status.get("security") or {}
        texts = [*event.status.get("alarms", ()), *security.get("alarms", ())]
        # The same text may come again with every line: it counts once per process and life.
        for text in texts:
            if (event.process, event.pid, text) not in self._seen:
                self._seen.add((event.process, event.pid, text))
                self.alarms.append((time.monotonic(), f"{event.process}: {text}"))

    # ---- what an operator sees -------------------------------------------------------------------------

    def counters(self) -> Counter[str]:
        """Refusals by reason over all processes of the swarm and the observer."""
        total: Counter[str] = Counter()
        securities = [status.get("security") or {} for status in self.statuses.values()]
        securities.append(self.observer.status())
        for security in securities:
            for group in ("rejected", "control", "shell"):
                for reason, count in (security.get(group) or {}).items():
                    total[f"{group}.{reason}"] += count
        for status in self.statuses.values():
            for drone, doubts in (status.get("doubts") or {}).items():
                for doubt, count in doubts.items():
                    total[f"doubt.{drone}.{doubt}"] += count
        return total

    def places(self) -> list[tuple[float, float, float]]:
        """True positions of the vehicles, from the simulation."""
        vehicles = self.statuses.get("sitl", {}).get("vehicles") or []
        return [tuple(vehicle["enu"]) for vehicle in vehicles]

    def epoch(self) -> int:
        """The epoch that the observer sends under; 0 without."""
        return self.observer.epoch() or 0

    def cpu_s(self) -> float:
        """Processor time that the swarm's processes have used so far."""
        return sum(_cpu_s(pid) for name in self._supervisor.running() if (pid := self._supervisor.pid(name)))


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def prepare_keystore(folder: Path) -> Path:
    """A keystore with the swarm's members, an observer, the captured drone and one that will be revoked."""
    spec = SwarmSpec(drones=DRONES, mission=Path("none"), keystore=folder)
    members = dict(spec.members()) | {OBSERVER: "monitor", CAPTURED: "drone", REVOKED: "drone"}
    members[SECOND_CRYPTO] = "crypto"  # its key is stolen before it ever runs
    return make_keystore(folder / "keys", members)
