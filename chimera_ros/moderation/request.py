"""What is asked of the ladder and what it answers: names and knots, nothing of ROS, files or solvers."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import nan

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.moderation_call import ModerationStatus
from chimera_ros.flight.trajectory import MotionLimits
from chimera_ros.flight.types import TrajectoryKnot

from .conflicts import Separation

MAX_DRONES = 1024
SHORTEST_S, LONGEST_S = 0.02, 60.0  # deadlines

Knots = tuple[TrajectoryKnot, ...]


@dataclass(frozen=True, slots=True)
class Request:
    """Trajectories that begin together, to be made conflict-free: by drone a name and knots (ENU m).

    `deadline_s` counts from the call; `fence` None is none.
    """

    names: tuple[str, ...]
    knots: tuple[Knots, ...]
    separation: Separation
    limits: MotionLimits = field(default_factory=MotionLimits)
    fence: Fence | None = None
    deadline_s: float = 0.25
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Clash:
    """Two drones nearer than allowed: when (s after the start) and how near (m) at their closest."""

    first: str
    second: str
    t_s: float
    horizontal_m: float
    vertical_m: float

    def sentence(self) -> str:
        """For people."""
        return (
            f"{self.first} and {self.second} come within {self.horizontal_m:.2f} m "
            f"(and {self.vertical_m:.2f} m in height) at {self.t_s:.1f} s"
        )


@dataclass(frozen=True, slots=True)
class Rung:
    """A step of the ladder that was tried: its name, how long it took, and what came of it."""

    name: str
    ms: float
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A verified answer, or why there is none.

    `knots` are verified: conflict-free with CONFLICT_FREE, a hold (or nothing) with INFEASIBLE, nothing with
    FAILED. `cost` is metres of extra way plus delay as metres, thin margins included; gains are how much more
    the same stage of another solver would have cost, NaN where that found nothing conflict-free. `backend`
    names what executed quantum circuits, empty where none was. `proven`: nothing cheaper exists among the
    manoeuvres looked at.
    """

    status: ModerationStatus
    reason: str = ""
    winner: str = ""
    knots: tuple[Knots, ...] = ()
    before: tuple[Clash, ...] = ()
    remaining: tuple[Clash, ...] = ()
    cost: float = nan
    gain_over_greedy: float = nan
    gain_over_annealing: float = nan
    proven: bool = False
    backend: str = ""
    qubits: int = 0
    shots: int = 0
    rungs: tuple[Rung, ...] = ()
    total_ms: float = 0.0
