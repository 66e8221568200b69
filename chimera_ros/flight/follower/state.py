"""State shared by the parts of one follower core: mode, vehicle, operator stop, acknowledgements."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from math import isfinite

from ..effects import FollowerEffect, SendAck
from ..messages import MAX_REASON, AckStatus, CommandAck, CommandKind, ReasonCode, SwarmCommand
from ..vehicle import Vec3, VehicleState
from .config import FollowerConfig

_ACKS_KEPT = 128  # acknowledgements kept for duplicate commands

# autopilot modes without pilot input: from these a command may start offboard again
AUTO_MODES = frozenset(
    ("hold", "offboard", "land", "return", "takeoff", "guided", "loiter", "brake", "rtl", "mission")
)


class FollowerMode(Enum):
    """Mode of the follower core."""

    GROUND = "ground"
    ARMING = "arming"
    CLIMBING = "climbing"
    ENGAGING = "engaging"  # setpoints are sent, offboard is requested
    FLYING = "flying"  # in offboard
    LANDING = "landing"
    LANDED = "landed"
    YIELDED = "yielded"  # the autopilot or a pilot has taken over
    KILLED = "killed"


DISENGAGED = (FollowerMode.GROUND, FollowerMode.LANDED)  # the core does not control the vehicle


class Drone:
    """State of one drone; ENU metres in `map`, monotonic seconds."""

    def __init__(self, config: FollowerConfig) -> None:
        self.config = config
        self.vehicle = VehicleState(config.drone)
        self.mode = FollowerMode.GROUND
        self.mode_since = 0.0
        self.blockers: tuple[str, ...] = ()
        self.home: Vec3 | None = None  # where it took off
        self.hover_z = 0.0
        self.term = 0
        self.newest_id = 0  # newest motion command accepted in this term
        self.command_id = 0
        self.plan_id = 0
        self.task: SwarmCommand | None = None  # accepted, and neither COMPLETED nor FAILED yet
        self.acks: OrderedDict[tuple[int, int], CommandAck] = OrderedDict()
        self.stop: tuple[str, str] | None = None  # level and operator of the latched stop
        self.cancelled = False  # the take-off was cancelled before lift-off
        self.battery_low = False
        self.reason = ""
        self.reason_code = ReasonCode.NONE

    def set_mode(self, mode: FollowerMode, now: float) -> None:
        """Enters a mode."""
        self.mode, self.mode_since = mode, now

    def set_reason(self, code: ReasonCode, reason: str) -> None:
        """Sets why the drone left its task: the code for programs, the text for people."""
        self.reason_code, self.reason = code, reason

    def clear_reason(self) -> None:
        """Resets code and text."""
        self.set_reason(ReasonCode.NONE, "")

    def autopilot_lost(self, now: float) -> bool:
        """True if no autopilot data came for `autopilot_timeout_s`."""
        return not self.vehicle.connected or now - self.vehicle.stamp_s > self.config.autopilot_timeout_s

    def not_ready(self, now: float) -> tuple[ReasonCode, str]:
        """Why this drone cannot arm now; NONE and no text if it can."""
        v = self.vehicle
        if not isfinite(v.stamp_s):
            why = "no autopilot data yet"
        elif self.autopilot_lost(now):
            why = "no data from the autopilot"
        elif self.mode not in DISENGAGED:
            why = "flying or busy"
        elif v.in_air:
            why = "in the air, but not controlled by this follower"
        elif self.stop is not None:
            return ReasonCode.OPERATOR_STOP, f"operator {self.stop[1]} ordered {self.stop[0]}"
        elif self.blockers:
            why = self.blockers[0]
        elif v.blockers:
            why = v.blockers[0]
        elif not all(map(isfinite, v.position_enu_m)):
            why = "the position is not known"
        elif v.battery_fraction < self.config.envelope.min_battery_fraction:
            why = f"battery at {v.battery_fraction * 100:.0f} %"
        else:
            why = ""
        return ReasonCode.NOT_READY if why else ReasonCode.NONE, why

    def pilot_in_control(self) -> bool:
        """True if it is in the air, not controlled by this core, and in a pilot's mode."""
        uncontrolled = self.mode is FollowerMode.YIELDED or (self.mode in DISENGAGED and self.vehicle.in_air)
        return uncontrolled and self.vehicle.mode not in AUTO_MODES

    # ---- acknowledgements -----------------------------------------------------------------------

    def acknowledge(self, cmd: SwarmCommand, status: AckStatus, reason: str) -> SendAck:
        """Acknowledges a command and keeps the acknowledgement for duplicates."""
        ack = CommandAck(self.config.drone, cmd.command_id, 0, cmd.term, status, reason[:MAX_REASON])
        self.acks[(cmd.term, cmd.command_id)] = ack
        while len(self.acks) > _ACKS_KEPT:
            self.acks.popitem(last=False)
        return SendAck(ack)

    def complete(self) -> list[FollowerEffect]:
        """Completes the present task."""
        cmd, self.task = self.task, None
        return [] if cmd is None else [self.acknowledge(cmd, AckStatus.COMPLETED, "")]

    def fail(self, reason: str, stopped: bool = False) -> list[FollowerEffect]:
        """Fails the present task; LAND and RETURN continue unless an operator has stopped them."""
        cmd = self.task
        if cmd is None or (cmd.kind in (CommandKind.LAND, CommandKind.RETURN) and not stopped):
            return []
        self.task = None
        return [self.acknowledge(cmd, AckStatus.FAILED, reason)]
