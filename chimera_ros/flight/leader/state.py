"""What the parts of the leader core share: its configuration, where it stands, and what it calls a drone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ..messages import DroneState, DroneTelemetry
from ..vehicle import Vec3

Routine = Generator[None, None, None]

ON_GROUND = (DroneState.UNKNOWN, DroneState.GROUNDED, DroneState.ARMED, DroneState.LANDED)
FLYING = (DroneState.TAKING_OFF, DroneState.HOLDING, DroneState.FOLLOWING)


@dataclass(frozen=True, slots=True)
class LeaderConfig:
    """How the leader goes about it; seconds unless the name says otherwise."""

    leader: str
    term: int = 1
    ready_timeout_s: float = 60.0  # all drones must report ready within this
    silent_s: float = 1.5  # a drone in flight not heard for this long is lost
    lead_s: float = 1.2  # from handing out trajectories to their common start, plus ...
    lead_per_drone_s: float = 0.012  # ... this for every drone
    retry_s: float = 0.25  # what is not acknowledged is sent again
    command_deadline_s: float = 5.0
    takeoff_timeout_s: float = 60.0
    landing_timeout_s: float = 120.0
    settle_s: float = 8.0  # how long a drone may take to reach its place after a move
    settle_m: float = 1.0  # from its measured position, and ...
    join_m: float = 0.5  # ... from its reference
    clear_s: float = 60.0  # how long at most the others wait until a lost drone is down
    fall_m_s: float = 0.5  # how fast a silent drone comes down at least
    attempts: int = 3  # per move, before the mission fails
    burst: int = 16  # trajectories sent per tick
    moderate: bool = False  # the shell can ask path moderation
    moderation_grace_s: float = 0.1  # beyond the deadline given, before the leader goes on alone
    turn_lead_s: float = (
        0.7  # from a checked new plan in flight to the moment at which all turn to it, plus ...
    )
    turn_again_s: float = 2.0  # ... lead_per_drone_s for each; and so long until the next look ahead


class ReplanRequired(Exception):
    """After a loss there is no way to the present step's places: the rest of the mission must be planned
    anew.
    """


class MissionFailed(Exception):
    """The mission cannot go on; the text is one sentence without the full stop."""


@dataclass(slots=True)
class LeaderState:
    """Where the leader stands: its time (monotonic seconds, swarm nanoseconds) and its mission."""

    now: float = 0.0
    ns: int = 0
    phase: str = "waiting"
    stopping: bool = False  # landing under supervision, or stopped by an operator
    completed: bool = False
    failure: str | None = None
    ended_s: float | None = None  # finished since


@dataclass(slots=True)
class TrackedDrone:
    """What the leader knows of one drone; times are its own monotonic seconds."""

    name: str
    telemetry: DroneTelemetry | None = None
    heard_s: float = -1e9
    lost: str = ""  # why it no longer takes part
    lost_s: float = 0.0  # since when
    silent: bool = False  # lost because it was not heard: it may be found again
    found_s: float | None = None
    finds: int = 0  # how often it was found again
    flew: bool = False  # has been seen on its way up or in the air, and not yet down by order
    down_ordered: bool = False
    odd_since: float | None = None


def to_vec3(row: Sequence[float] | np.ndarray) -> Vec3:
    """A place as plain numbers."""
    return float(row[0]), float(row[1]), float(row[2])


def abbreviated(names: Sequence[str]) -> str:
    """The first few names, for sentences."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
