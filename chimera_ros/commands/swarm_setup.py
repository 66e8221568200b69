"""Preparation of `chimera swarm`: options, machine, mission, ports, keystore and folders, before any process.

Each check is a function of its own, which `chimera preflight` calls as well. Nothing is made until all have
passed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chimera_ros import key_passphrase, private_files
from chimera_ros.autopilot.connect import ConnectError, VehicleUrl, expand_all, require_free_port
from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.command_line import number, ros_namespace, some_path, some_text, unwritable_folder, whole
from chimera_ros.commands.errors import FAILURE, MISUSE, CommandFailed
from chimera_ros.commands.machine import RosTrial, busy_ports, environment, loopback_fault, ros_faults
from chimera_ros.commands.mission import DEFAULT_MISSION, find_mission, plan_file
from chimera_ros.commands.run_folder import make_run_folder
from chimera_ros.commands.start_checks import DomainListener, check_identities, place_suffix
from chimera_ros.crypto.entropy.source_names import DEFAULT_SOURCES, SOURCE_NAMES
from chimera_ros.crypto.errors import ProviderError
from chimera_ros.crypto.primitives import providers
from chimera_ros.crypto.trust import default_policy
from chimera_ros.flight.limits import OwnLimits
from chimera_ros.formats.display import file_stem
from chimera_ros.launcher.spec import SwarmSpec, processes, sitl_process
from chimera_ros.launcher.supervisor import ChildSpec
from chimera_ros.ros.environment import home_of
from chimera_ros.sitl.config import (
    FAULT_GRAMMAR,
    FAULT_KINDS,
    OWN_PORT_OFFSET,
    Fault,
    SitlMisuse,
    check_faults,
    check_gcs_port,
)
from chimera_ros.swarm import (
    DRONES,
    DURATION_S,
    EAVESDROPPER,
    FIRST_PORT,
    GCS_PORT,
    MAX_SHARDS,
    NAMESPACE,
    READY_TIMEOUT_S,
    ROTATION_S,
    SEED,
    STANDBYS,
    WIND_M_S,
    Range,
    drone_name,
)
from chimera_ros.terminal.lines import print_line

SWARM_NAME = "chimera"
LONGEST_FLIGHT_NS = 12 * 3600 * 1_000_000_000  # least remaining validity of a simulation's fallback secret
_NOT_FOR_ROS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


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
    parser.add_argument(
        "--mission",
        type=some_text,
        default=DEFAULT_MISSION,
        metavar="FILE",
        help="mission file, or the name of a shipped one",
    )
    add_start_options(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of the summary")


def add_start_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that the start depends on, beside the mission."""
    add = parser.add_argument

    def add_range(option: str, allowed: Range[int] | Range[float], metavar: str, text: str) -> None:
        """A number; `SwarmSpec` checks it."""
        default = allowed.default
        text = f"{text}: {allowed} (default {default:g})"
        kind = whole if isinstance(default, int) else number
        add(option, type=kind, default=default, metavar=metavar, help=text)

    add_range("--drones", DRONES, "N", "number of drones")
    add(
        "--autopilot",
        choices=[kind.value for kind in AutopilotKind],
        default=AutopilotKind.EMBEDDED.value,
        help="default: embedded SITL",
    )
    add(
        "--namespace",
        type=ros_namespace,
        default=NAMESPACE,
        metavar="NS",
        help=f"ROS namespace of the swarm (default {NAMESPACE})",
    )
    add(
        "--connect",
        type=some_text,
        metavar="TEMPLATE",
        help="MAVSDK URL per drone, e.g. udpin://127.0.0.1:{14540+i}",
    )
    add("--report", type=some_path, metavar="FILE", help="also write the report here, as JSON")
    add("--record", type=some_path, metavar="DIR", help="folder for records (default runs/TIME_MISSION)")
    add("--no-record", action="store_true", help="record neither messages nor tracks")
    add("--duration", type=number, metavar="S", help=f"land the swarm in any case after S: {DURATION_S}")
    add(
        "--seed",
        type=whole,
        default=SEED.default,
        metavar="N",
        help=f"seed of the simulation: {SEED} (default 1)",
    )
    add(
        "--shards",
        type=whole,
        metavar="K",
        help=f"follower processes (default one per five drones, {MAX_SHARDS} at most)",
    )
    add_range("--wind", WIND_M_S, "M_PER_S", "mean wind of the embedded SITL")
    add_range("--rotation", ROTATION_S, "S", "time between key rotations")
    add(
        "--entropy",
        type=_sources,
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
        type=some_path,
        metavar="DIR",
        help="identities (default: a keystore for simulations, made once)",
    )
    add("--key-passphrase-file", type=some_path, metavar="FILE", help=key_passphrase.OPTION_HELP)
    add_range("--first-port", FIRST_PORT, "PORT", "first MAVLink port of the embedded SITL")
    add_range("--gcs-port", GCS_PORT, "PORT", "ground-station port of the embedded SITL (0: none)")
    add("--arm", action="store_true", help="allow arming of other vehicles than the embedded SITL")
    add("--allow-kill", action="store_true", help="allow an operator's stop to cut motors in flight")
    add(
        "--fault",
        type=some_text,
        action="append",
        default=[],
        metavar=FAULT_GRAMMAR,
        help=f"give drone N (from 1) of the embedded SITL a fault, for tests; KIND is one of {FAULT_KINDS}",
    )


def _sources(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def prepare(arguments: argparse.Namespace, own: OwnLimits | None = None) -> Prepared:
    """Check everything that could end the start, then make folders and keys.

    `own` are the limits of followers that are configured with other than the usual ones.

    Raises:
        CommandFailed: one sentence: what is wrong, where, and what is allowed.
    """
    spec, run_dir = read_options(arguments)
    simulated = arguments.keystore is None
    _first(machine_faults(spec) + folder_faults(spec.record, arguments.report), MISUSE)
    listener = DomainListener(spec)
    with RosTrial() as trial:
        mission, plan = plan_file(spec.mission, spec.drones, embedded=spec.embedded, own=own)
        if not plan.ok:
            raise CommandFailed(f"mission {spec.mission} is refused: {' '.join(plan.verdict.reasons)}")
        _first(trial_faults(trial), MISUSE)
        check_identities(spec, listener)
        _first(port_faults(spec), FAILURE)
    ensure_keystore(spec, simulated=simulated)
    spawn = make_run_folder(run_dir, plan.pads, recorded=spec.record is not None)

    specs = list(processes(spec))
    if spec.embedded:
        assert mission.datum is not None
        specs.insert(0, sitl_process(spec, mission.datum, spawn))
    return Prepared(
        spec=spec,
        processes=tuple(
            ChildSpec(
                s.name,
                tuple(s.argv()),
                environment() | s.environment,
                pass_fds=key_passphrase.inherited(spec.key_passphrase_file) if s.is_node else (),
            )
            for s in specs
        ),
        pads=plan.pads,
        mission_name=mission.name,
        separation_m=mission.separation_m,
        planned_s=plan.duration_s,
        run_dir=run_dir,
        report=arguments.report,
        duration_s=arguments.duration,
        json=arguments.json,
    )


def read_options(arguments: argparse.Namespace) -> tuple[SwarmSpec, Path]:
    """The options, checked each and against each other, and the run's folder. Nothing is made.

    Raises:
        CommandFailed: one of them is wrong.
    """
    if arguments.duration is not None and arguments.duration not in DURATION_S:
        raise CommandFailed(f"--duration is {arguments.duration:g}; allowed are {DURATION_S}", MISUSE)
    mission = _absolute("--mission", find_mission(arguments.mission))
    default = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}_{file_stem(mission.stem)}"
    run_dir = _absolute("--record", arguments.record or default)
    autopilot = AutopilotKind(arguments.autopilot)
    embedded = autopilot is AutopilotKind.EMBEDDED and arguments.connect is None
    try:
        spec = SwarmSpec(
            drones=arguments.drones,
            mission=mission,
            namespace=arguments.namespace,
            keystore=_absolute("--keystore", arguments.keystore or simulation_keystore(arguments.namespace)),
            autopilot=autopilot,
            connect=arguments.connect,
            shards=arguments.shards,
            seed=arguments.seed,
            wind_m_s=arguments.wind,
            first_port=arguments.first_port,
            gcs_port=arguments.gcs_port,
            record=None if arguments.no_record else run_dir,
            tracks=run_dir / "tracks.jsonl" if embedded and not arguments.no_record else None,
            allow_arm=arguments.arm,
            allow_kill=arguments.allow_kill,
            rotation_s=arguments.rotation,
            entropy=arguments.entropy,
            qkd_eavesdropper=arguments.qkd_eavesdropper,
            standbys=arguments.standbys,
            ready_timeout_s=arguments.ready_timeout,
            faults=tuple(arguments.fault),
            key_passphrase_file=_passphrase_file(arguments.key_passphrase_file),
        )
        vehicles(spec)
        _first(arming_faults(spec, simulated=arguments.keystore is None), MISUSE)
        check_faults([Fault.parse(text) for text in spec.faults], spec.drones)
        if spec.embedded:
            check_gcs_port(spec.gcs_port, spec.first_port, spec.drones)
        elif spec.faults:
            raise SitlMisuse("--fault is for the embedded SITL, which is not started with these options")
    except (ValueError, SitlMisuse) as error:
        raise CommandFailed(str(error), MISUSE) from None
    return spec, run_dir


def vehicles(spec: SwarmSpec) -> list[VehicleUrl]:
    """Where each drone's autopilot is reached. Raises ConnectError."""
    return expand_all(spec.connect_template, range(spec.drones))


def arming_faults(spec: SwarmSpec, *, simulated: bool) -> list[str]:
    """Why motors of other vehicles than the embedded SITL may not start with these options."""
    from chimera_ros.crypto.keystore.keystore import Keystore

    if not spec.allow_arm or spec.embedded:
        return []
    exposed = [url.text for url in vehicles(spec) if url.open_to_network]
    if exposed:
        return [
            f"--arm is refused with {exposed[0]}: MAVLink is not signed, so that whoever reaches this port "
            "could forge the vehicle; listen on 127.0.0.1 and bring the vehicle there with mavlink-router, "
            'or use a serial line (docs/operations.md, "The link to the autopilot")'
        ]
    if not (simulated or Keystore(spec.keystore).simulation_only):
        return []
    return [
        f"--arm is refused with {spec.keystore}, a keystore for simulations: the authority's key lies in it "
        "without a passphrase, and whoever reads it can enrol operators; make one with "
        "`chimera keys create DIR`, keep its authority.key elsewhere, and give --keystore DIR"
    ]


def machine_faults(spec: SwarmSpec) -> list[str]:
    """Why the swarm's processes could not run on this machine, before it is tried."""
    found = [str(fault) for fault in ros_faults(participants=len(processes(spec)) + 1)]
    down = loopback_fault()
    if down:
        found.append(f"loopback does not work ({down}); run: sudo ip link set lo up")
    try:
        providers.find(os.environ.get(providers.VARIABLE, "").strip() or "auto")
    except ProviderError as error:
        found.append(str(error))
    return found


def trial_faults(trial: RosTrial) -> list[str]:
    """Why no ROS node starts on this machine; empty if one does."""
    why = trial.fault()
    return [f"ROS 2 does not start with this environment: {why}"] if why else []


def folder_faults(record: Path | None, report: Path | None) -> list[str]:
    """Why the requested files could not be written; without records the folder of the run is no condition."""
    found = []
    why = unwritable_folder(record) if record is not None else ""
    if why:
        found.append(
            f"folder {record} cannot be written: {why}; choose another with --record, or fly without records "
            "with --no-record"
        )
    if report is not None:
        why = f"{report} is a folder" if report.is_dir() else unwritable_folder(report.parent)
        if why:
            found.append(f"--report {report} cannot be written: {why}")
    return found


def port_faults(spec: SwarmSpec) -> list[str]:
    """Which MAVLink ports of followers and vehicles are in use; the first of them."""
    for index, url in enumerate(vehicles(spec)):
        try:
            require_free_port(url, drone_name(index + 1))
        except ConnectError as error:
            return [str(error)]
        own = spec.first_port + OWN_PORT_OFFSET + index
        if spec.embedded and busy_ports([own]):
            return [
                f"UDP port {own} (MAVLink of {drone_name(index + 1)}) is in use; is another swarm running? "
                "Choose other ports with --first-port"
            ]
    return []


def _first(faults: list[str], status: int) -> None:
    if faults:
        raise CommandFailed(faults[0], status)


def _passphrase_file(given: Path | None) -> str:
    return "" if given is None else str(_absolute("--key-passphrase-file", given))


def ask_key_passphrase(arguments: argparse.Namespace) -> None:
    """Ask on the terminal for the passphrase of encrypted keys, where neither an option nor systemd gives it.

    The swarm's processes inherit it as a file in memory.

    Raises:
        CommandFailed: it is needed and this is no terminal.
    """
    if arguments.keystore is None or arguments.key_passphrase_file is not None:
        return
    from chimera_ros.crypto.keystore.key_file import is_encrypted

    try:
        keys = sorted(arguments.keystore.glob("members/*/identity.key"))
        if any(map(is_encrypted, keys)) and key_passphrase.find("") is None:
            typed = key_passphrase.ask(f"passphrase of the members' keys in {arguments.keystore}: ")
            arguments.key_passphrase_file = key_passphrase.as_inherited_file(typed)
    except key_passphrase.PassphraseError as error:
        raise CommandFailed(str(error), MISUSE) from None


def _absolute(option: str, given: Path) -> Path:
    """The path as the swarm's processes get it."""
    try:
        absolute = given.absolute()
    except FileNotFoundError:
        raise CommandFailed(
            f"{option} {given} is relative to the working folder, which no longer exists; change to another",
            MISUSE,
        ) from None
    if _NOT_FOR_ROS.search(str(absolute)):
        raise CommandFailed(
            f"{option} is {absolute}; ROS parameters hold text in UTF-8 without control characters only",
            MISUSE,
        )
    return absolute


def simulation_keystore(namespace: str = NAMESPACE) -> Path:
    """The keystore that simulations in one ROS domain and namespace share: made on first use, and again when
    the shipped policy changes.
    """
    home = home_of(os.environ)
    base = os.environ.get("CHIMERA_HOME") or (home and os.path.join(home, ".chimera"))
    if not base:
        raise CommandFailed("HOME is not set; set it, or CHIMERA_HOME, or name a keystore", MISUSE)
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
            private_files.make_folder(spec.keystore.parent)
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
            print_line(
                f"chimera swarm: keystore {spec.keystore} has no valid fallback secret: without a crypto "
                f"node nothing is sent; make one with: chimera keys fallback --keystore {spec.keystore}",
                error=True,
            )
        trust = keystore.load_trust(wall_ns=wall_ns)
        passphrase = key_passphrase.find(spec.key_passphrase_file)
        for name, _ in spec.members():
            keystore.load_identity(name, wall_ns=wall_ns, passphrase=passphrase, trust=trust)
    except (CryptoError, key_passphrase.PassphraseError) as error:
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
