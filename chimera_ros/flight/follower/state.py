"""What the parts of one follower core share: what is known of the drone, and what is owed to the leader."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from math import isfinite

from ..effects import FollowerEffect, SendAck
from ..messages import MAX_REASON, AckStatus, CommandAck, CommandKind, SwarmCommand
from ..vehicle import Vec3, VehicleState
from .config import FollowerConfig

_ANSWERS = 128  # answers kept for duplicates

# modes in which nobody but the autopilot flies: from these a command may take up steering again
AUTOMATIC = frozenset(
    ("hold", "offboard", "land", "return", "takeoff", "guided", "loiter", "brake", "rtl", "mission")
)


class FollowerMode(Enum):
    """What the core itself is busy with."""

    GROUND = "ground"
    ARMING = "arming"
    CLIMBING = "climbing"
    ENGAGING = "engaging"  # setpoints run, offboard is asked for
    FLYING = "flying"
    LANDING = "landing"
    LANDED = "landed"
    YIELDED = "yielded"  # the autopilot or a pilot has taken over
    KILLED = "killed"


IDLE = (FollowerMode.GROUND, FollowerMode.LANDED)


class Drone:
    """One drone's mode, vehicle, latched orders and answers. Heights and places are ENU metres in `map`."""

    def __init__(self, config: FollowerConfig) -> None:
        self.config = config
        self.vehicle = VehicleState(config.drone)
        self.mode = FollowerMode.GROUND
        self.mode_since = 0.0
        self.blockers: tuple[str, ...] = ()
        self.home: Vec3 | None = None  # where it took off
        self.hover_z = 0.0
        self.term = 0
        self.newest_id = 0  # newest motion command obeyed in this term
        self.command_id = 0
        self.plan_id = 0
        self.task: SwarmCommand | None = None  # the command whose COMPLETED or FAILED is still owed
        self.answers: OrderedDict[tuple[int, int], CommandAck] = OrderedDict()
        self.stop: tuple[str, str] | None = None  # operator's level and name
        self.cancelled = False  # told to land before it had left the ground
        self.battery_low = False
        self.reason = ""

    def set_mode(self, mode: FollowerMode, now: float) -> None:
        """Changes what it is busy with."""
        self.mode, self.mode_since = mode, now

    def silent(self, now: float) -> bool:
        """Whether its autopilot is not heard."""
        return not self.vehicle.connected or now - self.vehicle.stamp_s > self.config.vehicle_lost_s

    def not_ready(self, now: float) -> str:
        """Why this drone could not arm now; empty when it could."""
        v = self.vehicle
        if not isfinite(v.stamp_s):
            return "no autopilot heard yet"
        if self.silent(now):
            return "the autopilot is silent"
        if self.mode not in IDLE:
            return "flying or busy"
        if v.in_air:
            return "in the air, but not under my control"
        if self.stop is not None:
            return f"operator {self.stop[1]} ordered {self.stop[0]}"
        if self.blockers:
            return self.blockers[0]
        if v.blockers:
            return v.blockers[0]
        if not all(map(isfinite, v.position_enu_m)):
            return "its position is not known"
        if v.battery_fraction < self.config.envelope.min_battery_fraction:
            return f"battery at {v.battery_fraction * 100:.0f} %"
        return ""

    def flown_by_a_pilot(self) -> bool:
        """In the air, not steered by this core, in a mode that is none of the autopilot's own."""
        loose = self.mode is FollowerMode.YIELDED or (self.mode in IDLE and self.vehicle.in_air)
        return loose and self.vehicle.mode not in AUTOMATIC

    # ---- answers ---------------------------------------------------------------------------------

    def answer(self, cmd: SwarmCommand, status: AckStatus, reason: str) -> SendAck:
        """Answers a command and remembers the answer for duplicates."""
        ack = CommandAck(self.config.drone, cmd.command_id, 0, cmd.term, status, reason[:MAX_REASON])
        self.answers[(cmd.term, cmd.command_id)] = ack
        while len(self.answers) > _ANSWERS:
            self.answers.popitem(last=False)
        return SendAck(ack)

    def complete(self) -> list[FollowerEffect]:
        """The present task is done."""
        cmd, self.task = self.task, None
        return [] if cmd is None else [self.answer(cmd, AckStatus.COMPLETED, "")]

    def fail(self, reason: str, stopped: bool = False) -> list[FollowerEffect]:
        """The present task will not be done; LAND and RETURN go on, unless an operator has stopped them."""
        cmd = self.task
        if cmd is None or (cmd.kind in (CommandKind.LAND, CommandKind.RETURN) and not stopped):
            return []
        self.task = None
        return [self.answer(cmd, AckStatus.FAILED, reason)]
