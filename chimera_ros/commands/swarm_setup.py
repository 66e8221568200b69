"""Preparation of `chimera swarm`: options, mission, plan, keystore, folders and ports, before any process."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.start_checks import DomainListener, check_identities, place_suffix
from chimera_ros.crypto.entropy.source_names import DEFAULT_SOURCES, SOURCE_NAMES
from chimera_ros.crypto.trust import default_policy
from chimera_ros.launcher.spec import SwarmSpec, processes, sitl_process
from chimera_ros.launcher.supervisor import ChildSpec
from chimera_ros.sitl.config import OWN_PORT_OFFSET
from chimera_ros.swarm import (
    DRONES,
    EAVESDROPPER,
    FIRST_PORT,
    GCS_PORT,
    MAX_SHARDS,
    NAMESPACE,
    READY_TIMEOUT_S,
    ROTATION_S,
    STANDBYS,
    WIND_M_S,
    Range,
    drone_name,
)

DEFAULT_MISSION = "antipodal_swap"
SWARM_NAME = "chimera"
LONGEST_FLIGHT_NS = 12 * 3600 * 1_000_000_000  # least remaining validity of a simulation's fallback secret


@dataclass(frozen=True, slots=True)
class Prepared:
    """A swarm that can be started: all is checked, folders and keys exist."""

    spec: SwarmSpec
    processes: tuple[ChildSpec, ...]
    pads: tuple[tuple[float, float, float], ...]
    mission_name: str
    separation_m: float
    planned_s: float
    run_dir: Path
    report: Path | None
    duration_s: float | None
    json: bool

    @property
    def log_dir(self) -> Path:
        """Folder of the processes' output."""
        return self.run_dir / "log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chimera swarm`."""
    add = parser.add_argument

    def add_range(option: str, allowed: Range[int] | Range[float], metavar: str, text: str) -> None:
        """A number; `SwarmSpec` checks it."""
        default = allowed.default
        text = f"{text}: {allowed} (default {default:g})"
        add(option, type=type(default), default=default, metavar=metavar, help=text)

    add_range("--drones", DRONES, "N", "number of drones")
    add(
        "--mission",
        default=DEFAULT_MISSION,
        metavar="FILE",
        help="mission file, or the name of a shipped one",
    )
    add(
        "--autopilot",
        choices=[kind.value for kind in AutopilotKind],
        default=AutopilotKind.EMBEDDED.value,
        help="default: embedded SITL",
    )
    add("--connect", metavar="TEMPLATE", help="MAVSDK URL per drone, e.g. udpin://127.0.0.1:{14540+i}")
    add("--report", type=Path, metavar="FILE", help="also write the report here, as JSON")
    add("--record", type=Path, metavar="DIR", help="folder for records (default runs/TIME_MISSION)")
    add("--no-record", action="store_true", help="record no MCAP files")
    add("--duration", type=float, metavar="S", help="land the swarm after S seconds in any case")
    add("--seed", type=int, default=1, metavar="N", help="seed of the simulation (default 1)")
    add(
        "--shards",
        type=int,
        metavar="K",
        help=f"follower processes (default one per five drones, {MAX_SHARDS} at most)",
    )
    add_range("--wind", WIND_M_S, "M_PER_S", "mean wind of the embedded SITL")
    add_range("--rotation", ROTATION_S, "S", "time between key rotations")
    add(
        "--entropy",
        type=lambda text: tuple(text.split(",")),
        default=DEFAULT_SOURCES,
        metavar="NAMES",
        help=f"entropy sources of seeds: of {','.join(SOURCE_NAMES)} (default {','.join(DEFAULT_SOURCES)})",
    )
    add_range(
        "--qkd-eavesdropper", EAVESDROPPER, "FRACTION", "share of simulated photons that are intercepted"
    )
    add_range("--standbys", STANDBYS, "N", "standby crypto nodes")
    add_range("--ready-timeout", READY_TIMEOUT_S, "S", "time for every drone to become ready")
    add(
        "--keystore",
        type=Path,
        metavar="DIR",
        help="identities (default: a keystore for simulations, made once)",
    )
    add_range("--first-port", FIRST_PORT, "PORT", "first MAVLink port of the embedded SITL")
    add_range("--gcs-port", GCS_PORT, "PORT", "ground-station port of the embedded SITL (0: none)")
    add("--arm", action="store_true", help="allow arming of other vehicles than the embedded SITL")
    add("--allow-kill", action="store_true", help="allow an operator's stop to cut motors in flight")
    add(
        "--fault",
        action="append",
        default=[],
        metavar="N:KIND[@S]",
        help="give drone N a fault in the embedded SITL, for tests (see chimera sitl --help)",
    )
    add("--json", action="store_true", help="print the report as JSON instead of the summary")


def prepare(arguments: argparse.Namespace) -> Prepared:
    """Check all options, then make folders and keys.

    Raises:
        CommandFailed: one sentence: what is wrong, where, and what is allowed.
    """
    from chimera_ros.flight.planning.mission_file import MissionError, load_mission
    from chimera_ros.flight.planning.planner import plan_mission
    from chimera_ros.moderation.for_flight import local_moderate

    if arguments.duration is not None and not arguments.duration > 0:
        raise CommandFailed(f"--duration is {arguments.duration}; allowed are seconds above 0", MISUSE)
    mission_path = find_mission(arguments.mission)
    run_dir = arguments.record or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}_{mission_path.stem}"
    run_dir = run_dir.absolute()
    autopilot = AutopilotKind(arguments.autopilot)
    embedded = autopilot is AutopilotKind.EMBEDDED and arguments.connect is None
    try:
        spec = SwarmSpec(
            drones=arguments.drones,
            mission=mission_path.absolute(),
            keystore=(arguments.keystore or simulation_keystore()).absolute(),
            autopilot=autopilot,
            connect=arguments.connect,
            shards=arguments.shards,
            seed=arguments.seed,
            wind_m_s=arguments.wind,
            first_port=arguments.first_port,
            gcs_port=arguments.gcs_port,
            record=None if arguments.no_record else run_dir,
            tracks=run_dir / "tracks.jsonl" if embedded else None,
            allow_arm=arguments.arm,
            allow_kill=arguments.allow_kill,
            rotation_s=arguments.rotation,
            entropy=arguments.entropy,
            qkd_eavesdropper=arguments.qkd_eavesdropper,
            standbys=arguments.standbys,
            ready_timeout_s=arguments.ready_timeout,
            faults=tuple(arguments.fault),
        )
        listener = DomainListener(spec)
        mission = load_mission(mission_path)
    except (ValueError, MissionError) as error:
        raise CommandFailed(str(error), MISUSE) from None
    except OSError as error:
        raise CommandFailed(f"mission {mission_path}: {error.strerror}", MISUSE) from None
    if mission.datum is None and embedded:
        raise CommandFailed(
            f"mission {mission_path}: the embedded SITL needs a datum with latitude and longitude", MISUSE
        )
    pads = tuple(mission.pad_positions(spec.drones))
    names = [drone_name(i) for i in range(1, spec.drones + 1)]
    plan = plan_mission(mission, names, pads, moderate=local_moderate(time.monotonic))
    if not plan.ok:
        raise CommandFailed(f"mission {mission_path} is refused: {'; '.join(plan.verdict.reasons)}")
    check_identities(spec, listener)
    if embedded:
        check_ports(spec)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "log").mkdir(exist_ok=True)
        spawn = run_dir / "spawn.json"
        spawn.write_text(json.dumps([list(pad) for pad in pads]))
    except OSError as error:
        raise CommandFailed(f"folder {run_dir}: {error.strerror}; choose another with --record") from None
    ensure_keystore(spec, simulated=arguments.keystore is None)

    specs = list(processes(spec))
    if embedded:
        assert mission.datum is not None
        specs.insert(0, sitl_process(spec, mission.datum, spawn))
    return Prepared(
        spec=spec,
        processes=tuple(ChildSpec(s.name, tuple(s.argv()), environment() | s.environment) for s in specs),
        pads=pads,
        mission_name=mission.name,
        separation_m=mission.separation_m,
        planned_s=plan.duration_s,
        run_dir=run_dir,
        report=arguments.report,
        duration_s=arguments.duration,
        json=arguments.json,
    )


def environment() -> dict[str, str]:
    """Environment of the swarm's processes: discovery on this host only, unless set otherwise."""
    return {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
        # One thread each: numpy's pools cost more than they give on matrices this small.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        "PYTHONUNBUFFERED": "1",
    }


def mission_folder() -> Path:
    """Folder of the shipped missions: beside the source, or in the installed share folder."""
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
    path = Path(text)
    if path.is_file():
        return path
    shipped = mission_folder() / f"{text}.yaml"
    if "/" not in text and shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in mission_folder().glob("*.yaml")))
    raise CommandFailed(
        f"there is no mission file {text}; give a path or one of the shipped missions: {names}", MISUSE
    )


def simulation_keystore(namespace: str = NAMESPACE) -> Path:
    """The keystore that simulations in one ROS domain and namespace share: made on first use, and again when
    the shipped policy changes.
    """
    base = os.environ.get("CHIMERA_HOME") or os.path.join(os.path.expanduser("~"), ".chimera")
    policy = hashlib.sha256(default_policy.TEXT.encode()).hexdigest()[:8]
    return Path(base) / f"simulation_keystore_{policy}{place_suffix(namespace)}"


def ensure_keystore(spec: SwarmSpec, *, simulated: bool) -> None:
    """Create or complete the simulation's keystore; check that any other one holds every member.

    Raises:
        CommandFailed: a key is missing, expired, world-readable or of another swarm, and what to do.
    """
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.keystore import Keystore

    keystore = Keystore(spec.keystore)
    wall_ns = time.time_ns()
    try:
        if not keystore.exists():
            if not simulated:
                raise CommandFailed(
                    f"there is no keystore in {spec.keystore}; "
                    f"make one with: chimera keys create {spec.keystore}",
                    MISUSE,
                )
            spec.keystore.parent.mkdir(parents=True, exist_ok=True)
            _make(lambda: keystore.create(SWARM_NAME, wall_ns=wall_ns), keystore.exists)
        enrolled = {member.name for member in keystore.list()}
        missing = [(name, role) for name, role in spec.members() if name not in enrolled]
        if missing and not simulated:
            names = ", ".join(name for name, _ in missing[:5]) + (" …" if len(missing) > 5 else "")
            raise CommandFailed(
                f"keystore {spec.keystore} lacks {len(missing)} of the swarm's members ({names}); "
                f"add each with: chimera keys enroll NAME ROLE --keystore {spec.keystore}",
                MISUSE,
            )
        for name, role in missing:
            pem = spec.keystore / "members" / name / "identity.pem"
            _make(partial(keystore.enroll, name, role, wall_ns=wall_ns), pem.exists)
        secret = keystore.fallback()
        if simulated and (secret is None or not secret.valid_at(wall_ns + LONGEST_FLIGHT_NS)):
            keystore.renew_fallback(wall_ns)
        elif secret is None or not secret.valid_at(wall_ns):
            print(
                f"chimera swarm: keystore {spec.keystore} has no valid fallback secret: without a crypto "
                f"node nothing is sent; make one with: chimera keys fallback --keystore {spec.keystore}",
                file=sys.stderr,
            )
        trust = keystore.load_trust(wall_ns=wall_ns)
        for name, _ in spec.members():
            keystore.load_identity(name, wall_ns=wall_ns, trust=trust)
    except CryptoError as error:
        raise CommandFailed(str(error)) from None
    except OSError as error:
        raise CommandFailed(f"keystore {spec.keystore}: {error.strerror or error}") from None


def _make(make: Callable[[], object], made: Callable[[], bool]) -> None:
    """Call `make`; another swarm that started at the same moment may have made it already."""
    from chimera_ros.crypto.errors import KeystoreError

    try:
        make()
    except KeystoreError:
        if not made():
            raise


def check_ports(spec: SwarmSpec) -> None:
    """Check that the MAVLink ports of followers and vehicles are free.

    Raises:
        CommandFailed: a port is in use.
    """
    for index in range(spec.drones):
        # The follower listens on the first, the vehicle on the second.
        for port in (spec.first_port + index, spec.first_port + OWN_PORT_OFFSET + index):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise CommandFailed(
                        f"UDP port {port} (MAVLink of {drone_name(index + 1)}) is in use; "
                        "is another swarm running? Choose other ports with --first-port"
                    ) from None
