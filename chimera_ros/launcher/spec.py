"""Description of the processes of a swarm, shared by `chimera swarm` and `launch/swarm.launch.py`.

`processes()` turns a `SwarmSpec` into `ProcessSpec`s; the command line starts them as Python modules, launch
as executables of the package. Nothing here starts a process.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from chimera_ros.autopilot.kinds import AutopilotKind, usual_connect
from chimera_ros.crypto.entropy.source_names import DEFAULT_SOURCES, SOURCE_NAMES
from chimera_ros.flight.datum import Datum
from chimera_ros.formats.display import escaped
from chimera_ros.swarm import (
    DRONES,
    DRONES_PER_SHARD,
    EAVESDROPPER,
    FIRST_PORT,
    GCS_PORT,
    LEADER_MEMBER,
    LOGGER_MEMBER,
    MAX_SHARDS,
    MODERATOR_MEMBER,
    NAMESPACE,
    OPERATOR_MEMBER,
    READY_TIMEOUT_S,
    ROTATION_S,
    SEED,
    STANDBYS,
    WIND_M_S,
    crypto_name,
    drone_name,
)


@dataclass(frozen=True, slots=True)
class SwarmSpec:
    """Options of a swarm, complete and checked against the ranges of `swarm.py`.

    Raises:
        ValueError: one sentence that names the option, its value and what is allowed.
    """

    drones: int
    mission: Path
    keystore: Path
    namespace: str = NAMESPACE
    autopilot: AutopilotKind = AutopilotKind.EMBEDDED
    connect: str | None = None  # MAVSDK URL template; None is the autopilot's usual one
    shards: int | None = None  # follower processes; None chooses one per five drones, four at most
    seed: int = 1
    wind_m_s: float = WIND_M_S.default
    first_port: int = FIRST_PORT.default
    gcs_port: int = GCS_PORT.default
    record: Path | None = None  # directory for MCAP files; None records nothing
    tracks: Path | None = None  # where the embedded SITL writes true tracks
    allow_arm: bool = False  # motors of anything but the embedded SITL may start
    allow_kill: bool = False
    rotation_s: float = ROTATION_S.default
    entropy: tuple[str, ...] = DEFAULT_SOURCES  # sources mixed into seeds
    qkd_eavesdropper: float = EAVESDROPPER.default  # fraction of the simulated photons that are intercepted
    standbys: int = STANDBYS.default  # crypto nodes beside the first
    ready_timeout_s: float = READY_TIMEOUT_S.default  # until every drone is ready
    leader_module: str = "chimera_ros.nodes.leader"
    faults: tuple[str, ...] = field(default=())
    key_passphrase_file: str = ""  # of encrypted member keys; empty: systemd's credential, if any

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("--drones", self.drones, DRONES),
            ("--wind", self.wind_m_s, WIND_M_S),
            ("--seed", self.seed, SEED),
            ("--first-port", self.first_port, replace(FIRST_PORT, high=FIRST_PORT.high - (self.drones - 1))),
            ("--gcs-port", self.gcs_port, GCS_PORT),
            ("--ready-timeout", self.ready_timeout_s, READY_TIMEOUT_S),
            ("--qkd-eavesdropper", self.qkd_eavesdropper, EAVESDROPPER),
            ("--rotation", self.rotation_s, ROTATION_S),
            ("--standbys", self.standbys, STANDBYS),
        ):
            if value not in allowed:
                raise ValueError(f"{option} is {value}; allowed are {allowed}")
        if self.autopilot not in tuple(AutopilotKind):
            raise ValueError(f"--autopilot is {self.autopilot!r}; allowed are {', '.join(AutopilotKind)}")
        if self.shards is not None and not 1 <= self.shards <= self.drones:
            raise ValueError(
                f"--shards is {self.shards}; allowed are 1 to the number of drones, {self.drones}"
            )
        for option, text in (
            ("--mission", str(self.mission)),
            ("--keystore", str(self.keystore)),
            ("--record", str(self.record)),
            ("--connect", str(self.connect)),
            ("--key-passphrase-file", self.key_passphrase_file),
        ):
            if text.encode(errors="ignore").decode() != text:
                raise ValueError(f"{option} is {text}; allowed are names in UTF-8, as ROS parameters are")
        for name in self.entropy:
            if name not in SOURCE_NAMES:
                raise ValueError(f"--entropy names {name!r}; allowed are {', '.join(SOURCE_NAMES)}")

    @property
    def embedded(self) -> bool:
        """True if the embedded SITL is started with the swarm."""
        return self.autopilot == AutopilotKind.EMBEDDED and self.connect is None

    @property
    def connect_template(self) -> str:
        """MAVSDK URL template for the followers."""
        return self.connect or usual_connect(self.autopilot, self.first_port)

    def shard_drones(self) -> list[list[int]]:
        """Drone numbers (from 1) per follower process: contiguous, sizes equal to within one."""
        count = self.shards or min(math.ceil(self.drones / DRONES_PER_SHARD), MAX_SHARDS)
        base, extra = divmod(self.drones, count)
        shards, first = [], 1
        for index in range(count):
            size = base + (index < extra)
            shards.append(list(range(first, first + size)))
            first += size
        return shards

    def crypto_members(self) -> list[str]:
        """Names of the crypto nodes, by rank."""
        return [crypto_name(rank) for rank in range(1 + self.standbys)]

    def members(self) -> list[tuple[str, str]]:
        """(name, role) of every member that the keystore must hold."""
        fixed = [
            *((member, "crypto") for member in self.crypto_members()),
            (LEADER_MEMBER, "leader"),
            (LOGGER_MEMBER, "logger"),
            (MODERATOR_MEMBER, "moderator"),
            (OPERATOR_MEMBER, "operator"),
        ]
        return fixed + [(drone_name(i), "drone") for i in range(1, self.drones + 1)]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: `python -m module …`, or the package's executable with the same arguments."""

    name: str
    module: str
    executable: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    is_node: bool = True
    parameters: dict[str, object] = field(default_factory=dict)  # of a node; `arguments` hold them too

    def argv(self, python: str = sys.executable) -> list[str]:
        """Command line for this machine's Python."""
        return [python, "-m", self.module, *self.arguments]


def _node(
    spec: SwarmSpec, name: str, module: str, executable: str, parameters: dict[str, object]
) -> ProcessSpec:
    arguments = ["--ros-args", "-r", f"__ns:={spec.namespace}", "-r", f"__node:={name}"]
    parameters = {"keystore": str(spec.keystore), **parameters}
    if spec.key_passphrase_file:
        parameters["key_passphrase_file"] = spec.key_passphrase_file
    for key, value in parameters.items():
        arguments += ["-p", f"{key}:={_literal(value)}"]
    return ProcessSpec(name, module, executable, tuple(arguments), parameters=parameters)


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    # Quoted, so that YAML does not take a path or URL such as {14540+i} for a mapping or number.
    return '"' + escaped(str(value).replace("\\", "\\\\").replace('"', '\\"')) + '"'


def sitl_process(spec: SwarmSpec, datum: Datum, spawn: Path | str) -> ProcessSpec:
    """The embedded SITL; `spawn` is a file of JSON with ENU metres, or the JSON itself."""
    arguments = [
        *("--drones", str(spec.drones)),
        *("--first-port", str(spec.first_port)),
        *("--gcs-port", str(spec.gcs_port)),
        *("--seed", str(spec.seed)),
        *("--wind", str(spec.wind_m_s)),
        f"--datum={datum.latitude_deg!r},{datum.longitude_deg!r},{datum.altitude_amsl_m!r}",
        *("--spawn", str(spawn)),
    ]
    if spec.tracks is not None:
        arguments += ["--tracks", str(spec.tracks)]
    for fault in spec.faults:
        arguments += ["--fault", fault]
    return ProcessSpec("sitl", "chimera_ros.sitl.main", "sitl", tuple(arguments), is_node=False)


def processes(spec: SwarmSpec) -> list[ProcessSpec]:
    """ROS nodes of the swarm, in the order in which to start them."""
    nodes = [
        _node(
            spec,
            "crypto" if rank == 0 else member,
            "chimera_ros.nodes.crypto",
            "crypto",
            {"member": member, "rotation_s": float(spec.rotation_s), "entropy": list(spec.entropy)},
        )
        for rank, member in enumerate(spec.crypto_members())
    ]
    for index, numbers in enumerate(spec.shard_drones()):
        nodes.append(
            _node(
                spec,
                f"follower_{index}",
                "chimera_ros.nodes.follower",
                "follower",
                {
                    "drones": numbers,
                    "mission": str(spec.mission),
                    "swarm_size": spec.drones,
                    "connect": spec.connect_template,
                    "autopilot": spec.autopilot,
                    "allow_arm": spec.allow_arm or spec.embedded,
                    "allow_kill": spec.allow_kill,
                },
            )
        )
    logger: dict[str, object] = {"member": LOGGER_MEMBER, "swarm_size": spec.drones}
    if spec.record is not None:
        logger["record"] = str(spec.record)
    nodes.append(
        _node(spec, "telemetry_logger", "chimera_ros.nodes.telemetry_logger", "telemetry_logger", logger)
    )
    nodes.append(
        _node(
            spec,
            "path_moderation",
            "chimera_ros.nodes.path_moderation",
            "path_moderation",
            {"member": MODERATOR_MEMBER},
        )
    )
    leader: dict[str, object] = {"member": LEADER_MEMBER, "mission": str(spec.mission), "drones": spec.drones}
    leader["ready_timeout_s"] = float(spec.ready_timeout_s)
    if "qkd" in spec.entropy:
        leader |= {"qkd": True, "qkd_eavesdropper": float(spec.qkd_eavesdropper)}
    nodes.append(_node(spec, "leader", spec.leader_module, "leader", leader))
    return nodes
