"""Steering of one drone: the setpoint at every moment, from plans, legs and return, inside the geofence.

`PathGuidance` gives the smooth reference, `Avoider` shifts it away from neighbours, the geofence bounds it.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from dataclasses import dataclass
from enum import Enum
from math import isnan, nan

from ..effects import SendSetpoint
from ..geometry import distance, flat_distance, plus
from ..messages import NO_POSITION, CommandAck
from ..trajectory import MotionLimits, Path
from ..vehicle import Setpoint, Vec3, VehicleState
from .avoidance import Avoider
from .config import FollowerConfig
from .guidance import PathGuidance
from .state import FollowerMode

_PLANS_KEPT = 4
_LOOKAHEAD_STEP_S, _LOOKAHEAD_STEPS = 0.2, 60  # for a leg that swings out
_OUTSIDE_M = 0.05  # tolerance of the geofence for rounding


class PathProgress(Enum):
    """Progress of what is being flown."""

    UNDER_WAY = "under way"
    STANDING = "standing"  # nothing left to fly
    AT_PAD = "at pad"  # end of a return: to be landed
    TOO_FAR = "too far"  # a scheduled plan does not begin at the reference: it is not flown


@dataclass(slots=True)
class AcceptedPlan:
    """A trajectory that was accepted, with its acknowledgement."""

    path: Path
    start_ns: int
    ack: CommandAck


@dataclass(slots=True)
class _Return:
    height_m: float
    stage: int = 0  # 0 climb or descend, 1 transit, 2 descend, 3 land
    ready_s: float = 0.0  # the next stage starts no earlier


class Steering:
    """The reference of one drone and the legs that follow."""

    def __init__(self, config: FollowerConfig) -> None:
        self._config = config
        self.avoider = Avoider(config.drone, config.avoid_m)
        self.plans: OrderedDict[int, AcceptedPlan] = OrderedDict()
        self.scheduled: AcceptedPlan | None = None  # starts at its start time
        self.streaming = False  # setpoints are being sent
        self.setpoint: Vec3 = NO_POSITION
        self._guidance = PathGuidance(
            MotionLimits(
                config.speed_m_s,
                config.climb_m_s,
                config.descent_m_s,
                config.acceleration_m_s2,
                config.jerk_m_s3,
            )
        )
        self._return: _Return | None = None
        self._leg_after_brake: tuple[Vec3, float, float] | None = None  # goal, speed, yaw of a leg
        self._last_s: float | None = None

    @property
    def moving(self) -> bool:
        """True while something is left to fly."""
        return self._guidance.moving or self._leg_after_brake is not None

    @property
    def returning(self) -> bool:
        """True during a return."""
        return self._return is not None

    @property
    def goal_enu_m(self) -> Vec3:
        """Where the drone will hold at the end."""
        return self._guidance.goal_enu_m if self._leg_after_brake is None else self._leg_after_brake[0]

    def reference_at(self, swarm_ns: int) -> tuple[Vec3, Vec3]:
        """Reference position and velocity at a swarm time: by the active plan, else at rest at the goal."""
        if self._leg_after_brake is None and self._return is None:
            on_plan = self._guidance.on_plan(swarm_ns)
            if on_plan is not None:
                return on_plan
        return self.goal_enu_m, (0.0, 0.0, 0.0)

    # ---- motion ----------------------------------------------------------------------------------

    def engage(self, point_enu_m: Vec3, yaw_enu_rad: float) -> SendSetpoint:
        """Resets the reference to rest at a point; setpoints start."""
        self.clear_next()
        self._guidance.engage(point_enu_m, yaw_enu_rad)
        self.avoider.reset()
        self.streaming = True
        return SendSetpoint(Setpoint(point_enu_m, yaw_enu_rad=yaw_enu_rad))

    def accept(self, plan_id: int, plan: AcceptedPlan) -> None:
        """Keeps an accepted plan, the newest `_PLANS_KEPT`."""
        self.plans[plan_id] = plan
        while len(self.plans) > _PLANS_KEPT:
            self.plans.popitem(last=False)

    def clear_next(self) -> None:
        """Cancels what was to follow; the present path continues."""
        self._return = self.scheduled = self._leg_after_brake = None

    def brake(self, now: float, swarm_ns: int) -> None:
        """Stops along the path and cancels what was to follow."""
        self.clear_next()
        self._guidance.brake(now, swarm_ns)

    def pause(self, now: float, swarm_ns: int) -> None:
        """Stops along the path; a return continues."""
        self.scheduled = self._leg_after_brake = None
        self._guidance.brake(now, swarm_ns)

    def leg(
        self, goal_enu_m: Vec3, now: float, swarm_ns: int, speed_m_s: float = 0.0, yaw_enu_rad: float = nan
    ) -> float:
        """Starts a straight leg to a goal; returns its duration, s.

        A leg from a fast path swings out: where that would leave the geofence, the drone first brakes along
        its path, which lies inside.
        """
        turned = copy(self._guidance)
        took = turned.leg(goal_enu_m, now, swarm_ns, speed_m_s, yaw_enu_rad)
        if self._guidance.moving and self._leaves_fence(copy(turned), now, swarm_ns):
            self._guidance.brake(now, swarm_ns)
            self._leg_after_brake = (goal_enu_m, speed_m_s, yaw_enu_rad)
        else:
            self._guidance, self._leg_after_brake = turned, None
        return took

    def start_return(self, home_enu_m: Vec3, height_m: float, now: float, swarm_ns: int) -> None:
        """Starts a return: climb or descend vertically, transit at `height_m`, descend, then `AT_PAD`."""
        self.plans.clear()
        self.clear_next()
        p = self._guidance.at(now, swarm_ns)[0]
        self._return = back = _Return(height_m)
        if flat_distance(p, home_enu_m) < 1.0:  # above its own pad: no transit
            back.stage = 1
            back.ready_s = now
            return
        column = p if self._guidance.moving else self._guidance.goal_enu_m
        took = self.leg(self._config.envelope.fence.clamp((column[0], column[1], height_m)), now, swarm_ns)
        back.ready_s = now + max(took + 1.0, self._config.return_climb_s)

    # ---- time ------------------------------------------------------------------------------------

    def advance(self, home_enu_m: Vec3 | None, now: float, swarm_ns: int) -> PathProgress:
        """Starts the next leg or plan when its time has come."""
        if self._leg_after_brake is not None and not self._guidance.moving:
            (goal, speed, yaw), self._leg_after_brake = self._leg_after_brake, None
            self._guidance.leg(goal, now, swarm_ns, speed, yaw)
        if self.scheduled is not None:
            return self._start_plan(self.scheduled, now, swarm_ns)
        if self._return is not None:
            if now >= self._return.ready_s and not self.moving and home_enu_m is not None:
                return self._return_stage(self._return, home_enu_m, now, swarm_ns)
            return PathProgress.UNDER_WAY
        return PathProgress.UNDER_WAY if self.moving else PathProgress.STANDING

    def steer(self, vehicle: VehicleState, mode: FollowerMode, now: float, swarm_ns: int) -> SendSetpoint:
        """The setpoint for now: the reference, shifted away from neighbours, inside the geofence."""
        p, v, a, yaw = self._guidance.at(now, swarm_ns)
        dt = 0.05 if self._last_s is None else min(max(now - self._last_s, 0.0), 0.2)
        self._last_s = now
        if mode is FollowerMode.FLYING:
            own = vehicle.position_enu_m
            shift = self.avoider.shift(own if not isnan(own[0]) else p, vehicle.velocity_enu_m_s, now, dt)
            if shift != (0.0, 0.0, 0.0):
                p = plus(p, shift)
        if mode is not FollowerMode.ENGAGING:  # ENGAGING begins wherever the drone is
            p, v, a = self._config.envelope.fence.contain(p, v, a)
        self.setpoint = p
        return SendSetpoint(Setpoint(p, v, a, yaw))

    def stop_setpoints(self, now: float) -> None:
        """No setpoint is sent in this cycle."""
        self.streaming, self.setpoint, self._last_s = False, NO_POSITION, now

    # ---- inside ----------------------------------------------------------------------------------

    def _start_plan(self, plan: AcceptedPlan, now: float, swarm_ns: int) -> PathProgress:
        if swarm_ns < plan.start_ns:
            return PathProgress.UNDER_WAY
        self.scheduled = None
        here = self._guidance.at(now, swarm_ns)[0]
        begins = plan.path.evaluate((swarm_ns - plan.start_ns) * 1e-9)[0]
        # the reference may have moved since the plan was accepted
        if distance(here, begins) > self._config.join_m + 0.5:
            self.brake(now, swarm_ns)
            return PathProgress.TOO_FAR
        self._leg_after_brake = None
        self._guidance.plan(plan.path, plan.start_ns, now, swarm_ns)
        return PathProgress.UNDER_WAY

    def _return_stage(self, back: _Return, home: Vec3, now: float, swarm_ns: int) -> PathProgress:
        back.stage += 1
        x, y, z = home
        clamp = self._config.envelope.fence.clamp
        if back.stage == 1:
            took = self.leg(clamp((x, y, back.height_m)), now, swarm_ns)
            back.ready_s = now + max(took + 1.0, self._config.return_transit_s)
            return PathProgress.UNDER_WAY
        if back.stage == 2:
            took = self.leg(clamp((x, y, z + self._config.approach_m)), now, swarm_ns)
            back.ready_s = now + took + 0.5
            return PathProgress.UNDER_WAY
        return PathProgress.AT_PAD

    def _leaves_fence(self, guidance: PathGuidance, now: float, swarm_ns: int) -> bool:
        fence = self._config.envelope.fence
        for step in range(1, _LOOKAHEAD_STEPS + 1):
            p = guidance.at(now + step * _LOOKAHEAD_STEP_S, swarm_ns + int(step * _LOOKAHEAD_STEP_S * 1e9))[0]
            if distance(p, fence.clamp(p)) > _OUTSIDE_M:
                return True
        return False
