"""What the parts of one follower core share: what is known of the drone, and what is owed to the leader."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from math import isfinite

from ..effects import FollowerEffect, SendAck
from ..messages import MAX_REASON, AckStatus, CommandAck, CommandKind, ReasonCode, SwarmCommand
from ..vehicle import Vec3, VehicleState
from .config import FollowerConfig

_ANSWERS = 128  # answers kept for duplicates

# modes in which nobody but the autopilot flies: from these a command may take up steering again
AUTO_MODES = frozenset(
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


DISENGAGED = (FollowerMode.GROUND, FollowerMode.LANDED)


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
        self.reason_code = ReasonCode.NONE

    def set_mode(self, mode: FollowerMode, now: float) -> None:
        """Changes what it is busy with."""
        self.mode, self.mode_since = mode, now

    def set_reason(self, code: ReasonCode, reason: str) -> None:
        """Sets why it left its task: the code for programs, the text for people."""
        self.reason_code, self.reason = code, reason

    def clear_reason(self) -> None:
        """Nothing is wrong any more."""
        self.set_reason(ReasonCode.NONE, "")

    def silent(self, now: float) -> bool:
        """Whether its autopilot is not heard."""
        return not self.vehicle.connected or now - self.vehicle.stamp_s > self.config.vehicle_lost_s

    def not_ready(self, now: float) -> tuple[ReasonCode, str]:
        """Why this drone could not arm now; NONE and no text when it could."""
        v = self.vehicle
        if not isfinite(v.stamp_s):
            why = "no autopilot heard yet"
        elif self.silent(now):
            why = "the autopilot is silent"
        elif self.mode not in DISENGAGED:
            why = "flying or busy"
        elif v.in_air:
            why = "in the air, but not under my control"
        elif self.stop is not None:
            return ReasonCode.OPERATOR_STOP, f"operator {self.stop[1]} ordered {self.stop[0]}"
        elif self.blockers:
            why = self.blockers[0]
        elif v.blockers:
            why = v.blockers[0]
        elif not all(map(isfinite, v.position_enu_m)):
            why = "its position is not known"
        elif v.battery_fraction < self.config.envelope.min_battery_fraction:
            why = f"battery at {v.battery_fraction * 100:.0f} %"
        else:
            why = ""
        return ReasonCode.NOT_READY if why else ReasonCode.NONE, why

    def flown_by_a_pilot(self) -> bool:
        """In the air, not steered by this core, in a mode that is none of the autopilot's own."""
        loose = self.mode is FollowerMode.YIELDED or (self.mode in DISENGAGED and self.vehicle.in_air)
        return loose and self.vehicle.mode not in AUTO_MODES

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
