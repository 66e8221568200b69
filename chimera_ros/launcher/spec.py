"""Description of the processes of a swarm, shared by `chimera swarm` and `launch/swarm.launch.py`.

`processes()` turns a `SwarmSpec` into `ProcessSpec`s; the command line spawns them as Python modules, launch
as executables of the package. Nothing here starts a process.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from chimera_ros.crypto.entropy.source_names import DEFAULT_SOURCES, SOURCE_NAMES
from chimera_ros.swarm import (
    DRONES_PER_SHARD,
    FIRST_PORT,
    GCS_PORT,
    LEADER_MEMBER,
    LOGGER_MEMBER,
    MAX_DRONES,
    MAX_STANDBYS,
    MODERATOR_MEMBER,
    MOST_SHARDS,
    OPERATOR_MEMBER,
    crypto_name,
    drone_name,
)


@dataclass(frozen=True, slots=True)
class SwarmSpec:
    """What the user asked for, complete and checked for range.

    Raises:
        ValueError: one sentence saying which field, what it was and what is allowed.
    """

    drones: int
    mission: Path
    keystore: Path
    namespace: str = "/chimera"
    autopilot: str = "embedded"  # embedded, px4 or ardupilot
    connect: str | None = None  # MAVSDK URL template; None is the autopilot's usual one
    shards: int | None = None  # follower processes; None chooses one per five drones, four at most
    seed: int = 1
    wind_m_s: float = 0.0
    first_port: int = FIRST_PORT
    gcs_port: int = GCS_PORT
    record: Path | None = None  # directory for MCAP files; None records nothing
    tracks: Path | None = None  # where the embedded SITL writes true tracks
    allow_arm: bool = False  # motors of anything but the embedded SITL may start
    allow_kill: bool = False
    rotation_s: float = 60.0
    entropy: tuple[str, ...] = DEFAULT_SOURCES  # sources mixed into seeds
    qkd_eavesdropper: float = 0.0  # fraction of the simulated photons that somebody intercepts
    standbys: int = 1  # crypto nodes beside the first
    ready_timeout_s: float = 60.0  # how long the leader waits for every drone
    leader_module: str = "chimera_ros.nodes.leader"
    faults: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not 1 <= self.drones <= MAX_DRONES:
            raise ValueError(f"--drones is {self.drones}; allowed are 1 to {MAX_DRONES}")
        if self.autopilot not in ("embedded", "px4", "ardupilot"):
            raise ValueError(f"--autopilot is {self.autopilot!r}; allowed are embedded, px4, ardupilot")
        if self.shards is not None and not 1 <= self.shards <= self.drones:
            raise ValueError(
                f"--shards is {self.shards}; allowed are 1 to the number of drones, {self.drones}"
            )
        if not (math.isfinite(self.wind_m_s) and 0.0 <= self.wind_m_s <= 15.0):
            raise ValueError(f"--wind is {self.wind_m_s}; allowed are 0 to 15 m/s")
        if not 1024 <= self.first_port <= 65535 - self.drones:
            raise ValueError(
                f"the first MAVLink port is {self.first_port}; allowed are 1024 to {65535 - self.drones}"
            )
        if not 5.0 <= self.ready_timeout_s <= 600.0:
            raise ValueError(f"--ready-timeout is {self.ready_timeout_s}; allowed are 5 to 600 s")
        for name in self.entropy:
            if name not in SOURCE_NAMES:
                raise ValueError(f"--entropy names {name!r}; allowed are {', '.join(SOURCE_NAMES)}")
        if not 0.0 <= self.qkd_eavesdropper <= 1.0:
            raise ValueError(f"--qkd-eavesdropper is {self.qkd_eavesdropper}; allowed are 0 to 1")
        if not 2.0 <= self.rotation_s <= 3600.0:
            raise ValueError(f"--rotation is {self.rotation_s}; allowed are 2 to 3600 s")

        if not 0 <= self.standbys <= MAX_STANDBYS:
            raise ValueError(f"--standbys is {self.standbys}; allowed are 0 to {MAX_STANDBYS}")

    @property
    def connect_template(self) -> str:
        """MAVSDK URL template for the followers."""
        if self.connect:
            return self.connect
        if self.autopilot == "embedded":
            return f"udpin://127.0.0.1:{{{self.first_port}+i}}"
        if self.autopilot == "px4":
            return "udpin://127.0.0.1:{14540+i}"
        return "tcpout://127.0.0.1:{5760+10*i}"

    def shard_drones(self) -> list[list[int]]:
        """Drone numbers (from 1) per follower process, neighbours together, sizes alike to within one."""
        count = self.shards or min(math.ceil(self.drones / DRONES_PER_SHARD), MOST_SHARDS)
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
        """(name, role) of every member the keystore must hold."""
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

    def argv(self, python: str = sys.executable) -> list[str]:
        """Command line for this machine's Python."""
        return [python, "-m", self.module, *self.arguments]


def _node(
    spec: SwarmSpec, name: str, module: str, executable: str, parameters: dict[str, object]
) -> ProcessSpec:
    arguments = ["--ros-args", "-r", f"__ns:={spec.namespace}", "-r", f"__node:={name}"]
    common: dict[str, object] = {"keystore": str(spec.keystore)}
    for key, value in {**common, **parameters}.items():
        arguments += ["-p", f"{key}:={_literal(value)}"]
    return ProcessSpec(name=name, module=module, executable=executable, arguments=tuple(arguments))


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(_literal(item) for item in value) + "]"
    # Quoted, so that YAML does not take a path or URL such as {14540+i} for a mapping or number.
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def sitl_process(spec: SwarmSpec, datum: tuple[float, float, float], spawn_file: Path) -> ProcessSpec:
    """The embedded SITL; `datum`: latitude, longitude (deg), AMSL altitude (m); `spawn_file`: JSON, ENU m."""
    arguments = [
        *("--drones", str(spec.drones)),
        *("--first-port", str(spec.first_port)),
        *("--gcs-port", str(spec.gcs_port)),
        *("--seed", str(spec.seed)),
        *("--wind", str(spec.wind_m_s)),
        f"--datum={datum[0]!r},{datum[1]!r},{datum[2]!r}",
        *("--spawn", str(spawn_file)),
    ]
    if spec.tracks is not None:
        arguments += ["--tracks", str(spec.tracks)]
    for fault in spec.faults:
        arguments += ["--fault", fault]
    return ProcessSpec("sitl", "chimera_ros.sitl.main", "sitl", tuple(arguments), is_node=False)


def processes(spec: SwarmSpec) -> list[ProcessSpec]:
    """ROS processes of the swarm, in the order in which to start them."""
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
                    "allow_arm": spec.allow_arm or spec.autopilot == "embedded",
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
