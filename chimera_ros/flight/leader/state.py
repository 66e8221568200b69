"""Configuration and state shared by the parts of the leader core."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from ..messages import DroneState, DroneTelemetry
from ..vehicle import Vec3

Routine = Generator[None, None, None]  # advanced once per tick; ends when its task is done

ON_GROUND = (DroneState.UNKNOWN, DroneState.GROUNDED, DroneState.ARMED, DroneState.LANDED)
FLYING = (DroneState.TAKING_OFF, DroneState.HOLDING, DroneState.FOLLOWING)


@dataclass(frozen=True, slots=True)
class LeaderConfig:
    """Parameters of one leader core; seconds unless the name says otherwise."""

    leader: str
    term: int = 1
    ready_timeout_s: float = 60.0  # all drones must report ready within this
    telemetry_timeout_s: float = 1.5  # a drone in flight without telemetry for this long is lost
    lead_s: float = 1.2  # from handing out trajectories to their common start, plus ...
    lead_per_drone_s: float = 0.012  # ... this for every drone
    retry_s: float = 0.25  # unacknowledged messages are retransmitted
    command_deadline_s: float = 5.0
    takeoff_timeout_s: float = 60.0
    landing_timeout_s: float = 120.0
    settle_s: float = 8.0  # how long a drone may take to reach its goal after a move
    settle_m: float = 1.0  # a drone is at its goal when its position is this near, and ...
    join_m: float = 0.5  # ... its reference this near
    clear_timeout_s: float = 60.0  # how long at most the others hold for a lost drone to come down
    descent_m_s: float = 0.5  # assumed slowest descent of a drone without telemetry
    attempts: int = 3  # per move, before the mission fails
    burst: int = 16  # trajectories sent per tick
    moderate: bool = False  # the shell can call path moderation
    moderation_grace_s: float = 0.1  # beyond the call's deadline, before the leader continues without
    # From a checked re-plan in flight to the common switch to it, plus lead_per_drone_s for each drone.
    replan_lead_s: float = 0.7
    replan_interval_s: float = 2.0  # from a re-plan to the next conflict prediction


class ReplanRequired(Exception):
    """After a loss the present step's goals cannot be reached: the rest of the mission must be re-planned."""


class MissionFailed(Exception):
    """The mission cannot continue; the text is one sentence without the full stop."""


@dataclass(slots=True)
class LeaderState:
    """Time of the present tick (monotonic seconds, swarm nanoseconds) and state of the mission."""

    now: float = 0.0
    swarm_ns: int = 0
    phase: str = "waiting"
    stopping: bool = False  # supervised landing or return, or an operator's stop
    operator_stop: bool = False  # an operator's stop holds the swarm; land is the only step accepted
    completed: bool = False
    failure: str | None = None
    ended_s: float | None = None  # when the mission ended


@dataclass(slots=True)
class TrackedDrone:
    """One drone as the leader tracks it; times are the leader's monotonic seconds."""

    name: str
    telemetry: DroneTelemetry | None = None
    received_s: float = -1e9
    lost: str = ""  # why it is lost; empty: it is not
    lost_s: float = 0.0
    timed_out: bool = False  # lost by a telemetry time-out alone: it may recover
    recovering_since: float | None = None  # telemetry is back since
    recoveries: int = 0
    in_flight: bool = False  # seen taking off or in the air, and not yet landed by order
    landing_ordered: bool = False
    fault_since: float | None = None  # reports a failsafe, or a landing or return without an order, since


def to_vec3(row: Sequence[float] | np.ndarray) -> Vec3:
    """A row of an array as a tuple of floats."""
    return float(row[0]), float(row[1]), float(row[2])


def name_list(names: Sequence[str]) -> str:
    """The first five names and how many more, for a sentence."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
