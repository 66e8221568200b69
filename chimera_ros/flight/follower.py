"""The heart of a follower: events in, effects out. One `FollowerCore` per drone; no clock, no socket.

House rules, in the order in which they win:
1. The drone's own envelope: nothing outside it is accepted, whoever signed it.
2. A certified operator's stop: latched until the drone has landed.
3. The vehicle: when the autopilot (or a pilot) takes over, the core stops steering until told otherwise.
4. Its own losses: leader, battery, vehicle (see docs/missions.md for every consequence).
5. The leader's commands: newest term, newest id, within the deadline; a duplicate gets the same answer again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite, isnan, nan

from .avoidance import Avoider
from .effects import Alarm, FollowerEffect, GiveOrder, GiveSetpoint, SendAck
from .follower_config import FollowerConfig
from .guidance import Guidance, distance, flat_distance, plus
from .trajectory import MotionLimits, Path
from .types import (
    MAX_REASON,
    NOWHERE,
    OPERATOR,
    TAKEN,
    AckStatus,
    CommandAck,
    CommandKind,
    DroneState,
    DroneTelemetry,
    LeaderHeartbeat,
    SwarmCommand,
    Trajectory,
)
from .vehicle import Order, OrderKind, OrderResult, Setpoint, Vec3, VehicleState

__all__ = ["FollowerConfig", "FollowerCore", "Mode"]

_ANSWERS = 128  # answers kept for duplicates
_PLANS = 4  # accepted plans kept
_LATE_NS = 500_000_000  # how late FOLLOW may join a plan: its start is slow enough
_AHEAD_NS = 120_000_000_000  # how far ahead a plan may start
_ORDER_TRIES = 3
# modes in which nobody but the autopilot flies: from these a command may take up steering again
_AUTOMATIC = frozenset(
    ("hold", "offboard", "land", "return", "takeoff", "guided", "loiter", "brake", "rtl", "mission")
)

# modes in which a drone stays up when its follower dies, until the battery is empty
_ORPHAN_MODES = frozenset(("hold", "offboard", "takeoff", "guided", "loiter", "brake"))


class Mode(Enum):
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


@dataclass(slots=True)
class _Plan:
    path: Path
    start_ns: int
    ack: CommandAck


@dataclass(slots=True)
class _Return:
    height_m: float
    began_s: float
    stage: int = 0  # 0 climb, 1 cross, 2 descend, 3 land
    ready_s: float = 0.0


class FollowerCore:
    """One drone's decisions. Methods return effects; `now` is monotonic seconds, `swarm_ns` swarm time."""

    def __init__(self, config: FollowerConfig) -> None:
        self.config = config
        self.mode = Mode.GROUND
        self.term = 0
        self.plan_id = 0
        self.command_id = 0
        self.avoider = Avoider(config.drone, config.avoid_m)
        self._guidance = Guidance(
            MotionLimits(
                config.speed_m_s,
                config.climb_m_s,
                config.descent_m_s,
                config.acceleration_m_s2,
                config.jerk_m_s3,
            )
        )
        self._vehicle = VehicleState(config.drone)
        self._blockers: tuple[str, ...] = ()
        self._home: Vec3 | None = None
        self._hover_z = 0.0
        self._answers: OrderedDict[tuple[int, int], CommandAck] = OrderedDict()
        self._plans: OrderedDict[int, _Plan] = OrderedDict()
        self._armed_plan: int | None = None
        self._newest_id = 0  # newest motion command obeyed in this term
        self._task: SwarmCommand | None = None  # the command whose COMPLETED or FAILED is still owed
        self._return: _Return | None = None
        self._goto: SwarmCommand | None = None
        self._orders: dict[int, tuple[OrderKind, float]] = {}  # id -> kind, given up at
        self._next_order = 1
        self._tries = 0
        self._heartbeat_s: float | None = None
        self._leader_lost = False
        self._vehicle_lost = False
        self._battery_low = False
        self._stop: tuple[str, str] | None = None  # operator's level and name
        self._reason = ""
        self._mode_since = 0.0
        self._not_offboard_since: float | None = None
        self._last_tick: float | None = None
        self._setpoint: Vec3 = NOWHERE
        self._retry_land_s = 0.0
        self._orphan_since: float | None = None
        self._ns = 0

    # ---- events ----------------------------------------------------------------------------------

    def on_command(self, cmd: SwarmCommand, sender: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """A verified command from `sender`; nothing happens when it is not addressed to this drone."""
        if cmd.targets and self.config.drone not in cmd.targets:
            return []
        self._ns = swarm_ns
        key = (cmd.term, cmd.command_id)
        if key in self._answers:
            return [SendAck(self._answers[key])]
        if cmd.term < self.term:
            return [self._answer(cmd, AckStatus.REFUSED, f"term {cmd.term} is over, {self.term} is in force")]
        if swarm_ns > cmd.deadline_ns:
            late = (swarm_ns - cmd.deadline_ns) * 1e-9
            return [self._answer(cmd, AckStatus.REFUSED, f"the command expired {late:.2f} s ago")]
        self._enter_term(cmd.term)
        if cmd.kind is CommandKind.ARM_CHECK:
            why = self._not_ready(now)
            return [self._answer(cmd, AckStatus.REFUSED if why else AckStatus.COMPLETED, why)]
        if cmd.command_id < self._newest_id:
            return [self._answer(cmd, AckStatus.REFUSED, f"the newer command {self._newest_id} is in force")]
        if self._stop is not None and cmd.kind not in (CommandKind.LAND, CommandKind.HOLD):
            level, operator = self._stop
            return [
                self._answer(
                    cmd, AckStatus.REFUSED, f"operator {operator} ordered {level}; only land is left"
                )
            ]
        if self._battery_low and cmd.kind not in (CommandKind.LAND, CommandKind.RETURN):
            return [self._answer(cmd, AckStatus.REFUSED, f"{self._reason}; only land and return are left")]
        if self.mode is Mode.YIELDED and self._vehicle.mode not in _AUTOMATIC:
            return [self._answer(cmd, AckStatus.REFUSED, f"a pilot flies in mode {self._vehicle.mode}")]
        handler = {
            CommandKind.TAKEOFF: self._takeoff,
            CommandKind.LAND: self._land,
            CommandKind.HOLD: self._hold,
            CommandKind.RETURN: self._go_home,
            CommandKind.GOTO: self._fly_to,
            CommandKind.FOLLOW: self._follow,
        }[cmd.kind]
        refusal, effects = handler(cmd, now, swarm_ns)
        if refusal:
            return [self._answer(cmd, AckStatus.REFUSED, refusal)]
        self._newest_id = self.command_id = cmd.command_id
        if (cmd.term, cmd.command_id) in self._answers:  # done already: the handler has answered
            return effects
        return [self._answer(cmd, AckStatus.ACCEPTED, ""), *effects]

    def on_trajectory(
        self, trajectory: Trajectory, sender: str, now: float, swarm_ns: int
    ) -> list[FollowerEffect]:
        """A verified part of a plan: kept when it fits the envelope and joins on; flown only after FOLLOW."""
        if trajectory.drone != self.config.drone:
            return []
        known = self._plans.get(trajectory.plan_id)
        if known is not None and known.ack.term == trajectory.term:
            return [SendAck(known.ack)]
        path: Path | None = None
        try:
            path = Path(trajectory.knots)
            why = self._refuses_plan(trajectory, path, swarm_ns)
        except ValueError as error:
            why = str(error)
        status = AckStatus.REFUSED if why else AckStatus.ACCEPTED
        ack = CommandAck(self.config.drone, 0, trajectory.plan_id, trajectory.term, status, why[:MAX_REASON])
        if path is not None and not why:
            self._enter_term(trajectory.term)
            self._plans[trajectory.plan_id] = _Plan(path, trajectory.start_ns, ack)
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return [SendAck(ack)]

    def on_heartbeat(
        self, heartbeat: LeaderHeartbeat, sender: str, now: float, swarm_ns: int
    ) -> list[FollowerEffect]:
        """The leader lives. An older term's heartbeat does not count."""
        if heartbeat.term < self.term:
            return []
        self._enter_term(heartbeat.term)
        self._heartbeat_s = now
        if self._leader_lost:
            self._leader_lost = False
            if self._return is None:
                self._reason = ""
                return [Alarm(f"{self.config.drone}: the leader is heard again, holding until it commands")]
        return []

    def on_neighbour(self, telemetry: DroneTelemetry, now: float) -> None:
        """Another drone's telemetry, for avoidance."""
        self.avoider.hear(telemetry, self._vehicle.position_enu_m, now)

    def on_stop(self, level: str, operator: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """A verified stop order of an operator: hold, land or kill; latched until landed, and only ever
        raised.
        """
        effects: list[FollowerEffect] = [Alarm(f"{self.config.drone}: operator {operator} ordered {level}")]
        if level == "kill" and not self.config.allow_kill:
            effects.append(
                Alarm(f"{self.config.drone}: kill is not enabled for this flight, landing instead")
            )
            level = "land"
        rank = {"hold": 0, "land": 1, "kill": 2}
        if level not in rank:
            return [
                Alarm(f"{self.config.drone}: operator {operator} ordered {level!r}, not hold, land or kill")
            ]
        if self._stop is not None and rank[self._stop[0]] > rank[level]:
            return effects
        self._ns = swarm_ns
        self._stop = (level, operator)
        if self.mode in (Mode.GROUND, Mode.LANDED, Mode.KILLED) and level != "kill":
            return effects
        self._reason = f"{OPERATOR}{operator} ordered {level}"
        if level == "kill":
            self._set_mode(Mode.KILLED, now)
            return [*effects, self._order(OrderKind.KILL, now, 2.0)]
        if level == "land":
            return [*effects, *self._land_here(now)]
        return [*effects, *self._stand(now, swarm_ns)]

    def on_vehicle(self, state: VehicleState, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """The newest that the bridge knows of the vehicle; consequences follow at the next tick."""
        self._vehicle = state
        return []

    def on_order_result(self, result: OrderResult, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """The outcome of an order; one that was given up or never given is ignored."""
        if self._orders.pop(result.order_id, None) is None:
            return []
        return self._order_done(result.kind, result.ok, result.reason, now, swarm_ns)

    def set_blockers(self, blockers: Sequence[str]) -> None:
        """The shell's own reasons why this drone must not arm: no epoch, clock offset not measured, ..."""
        self._blockers = tuple(blockers)

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Called at 20 Hz: watches losses, advances what is being done, and gives the setpoint."""
        effects: list[FollowerEffect] = []
        self._ns = swarm_ns
        if self._orders:
            for order_id, (kind, until) in list(self._orders.items()):
                if now > until and self._orders.pop(order_id, None) is not None:
                    effects += self._order_done(kind, False, f"no answer to {kind.value}", now, swarm_ns)
        mode = self.mode
        if mode is not Mode.GROUND and mode is not Mode.LANDED:
            effects += self._watch(now, swarm_ns)
        elif mode is Mode.GROUND:
            effects += self._watch_orphan(now)
        if self.mode is Mode.CLIMBING:
            effects += self._climb(now)
        elif self.mode is Mode.FLYING:
            effects += self._fly(now, swarm_ns)
        if self.mode in (Mode.ENGAGING, Mode.FLYING) or (
            self.mode is Mode.LANDING and any(kind is OrderKind.LAND for kind, _ in self._orders.values())
        ):
            effects.append(self._steer(now, swarm_ns))
        else:
            self._setpoint = NOWHERE
        self._last_tick = now
        return effects

    def telemetry(
        self, now: float, swarm_ns: int, epoch: int = 0, clock_offset_s: float = 0.0
    ) -> DroneTelemetry:
        """What to publish now; the position is the newest measured."""
        v = self._vehicle
        known = isfinite(v.stamp_s)
        age = min(max(now - v.stamp_s, 0.0), 1.0) if known else 0.0
        why = self._not_ready(now)
        error = nan
        if not isnan(self._setpoint[0]) and not isnan(v.position_enu_m[0]):
            vel = v.velocity_enu_m_s
            ahead = plus(v.position_enu_m, (vel[0] * age, vel[1] * age, vel[2] * age))
            error = distance(ahead, self._setpoint)
        return DroneTelemetry(
            drone=self.config.drone,
            stamp_ns=swarm_ns - int(age * 1e9),
            state=self.state_at(now),
            armed=v.armed,
            in_air=v.in_air,
            ready=not why,
            reason=(self._reason or (why if self.mode in (Mode.GROUND, Mode.LANDED) else ""))[:MAX_REASON],
            position_enu_m=v.position_enu_m,
            velocity_enu_m_s=v.velocity_enu_m_s,
            orientation=v.orientation_xyzw,
            reference_enu_m=self._setpoint,
            tracking_error_m=error,
            battery_fraction=v.battery_fraction,
            clock_offset_s=clock_offset_s,
            plan_id=self.plan_id,
            command_id=self.command_id,
            epoch=epoch,
        )

    def state_at(self, now: float) -> DroneState:
        """The state as others see it."""
        if not isfinite(self._vehicle.stamp_s):
            return DroneState.UNKNOWN
        if self._silent(now):
            return DroneState.LOST
        if self.mode is Mode.FLYING:
            if self._return is not None:
                return DroneState.FAILSAFE if self._battery_low else DroneState.RETURNING
            if self._guidance.moving:
                return DroneState.FOLLOWING
            return DroneState.HOLDING
        if self.mode in (Mode.GROUND, Mode.LANDED) and self._vehicle.in_air:
            return DroneState.FAILSAFE  # this core was restarted in flight, or somebody else took off
        if self.mode is Mode.GROUND and self._vehicle.armed:
            return DroneState.ARMED
        return {
            Mode.GROUND: DroneState.GROUNDED,
            Mode.ARMING: DroneState.ARMED if self._vehicle.armed else DroneState.GROUNDED,
            Mode.CLIMBING: DroneState.TAKING_OFF,
            Mode.ENGAGING: DroneState.TAKING_OFF,
            Mode.LANDING: DroneState.LANDING,
            Mode.LANDED: DroneState.LANDED,
        }.get(self.mode, DroneState.FAILSAFE)

    @property
    def home_enu_m(self) -> Vec3 | None:
        """Where this drone took off; None before its first take-off."""
        return self._home

    # ---- commands: each returns (why refused, effects) -------------------------------------------

    def _takeoff(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> tuple[str, list[FollowerEffect]]:
        if self.mode not in (Mode.GROUND, Mode.LANDED) or self._vehicle.in_air:
            return "already in the air or busy", []
        why = self._not_ready(now)
        if why:
            return f"cannot arm: {why}", []
        home = self._vehicle.position_enu_m
        hover = (home[0], home[1], cmd.target_enu_m[2])
        why = self.config.envelope.refuses_point(hover, home)
        if not why and hover[2] < home[2] + 0.5:
            why = f"take-off height {hover[2]:.1f} m is not above my pad"
        if why:
            return why, []
        self._home, self._hover_z = home, hover[2]
        self.avoider.ground_m = home[2]
        self._begin(cmd)
        self._set_mode(Mode.ARMING, now)
        return "", [self._order(OrderKind.ARM, now, 6.0)]

    def _land(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> tuple[str, list[FollowerEffect]]:
        if self.mode in (Mode.GROUND, Mode.LANDED) and not self._vehicle.in_air:
            return "", [self._answer(cmd, AckStatus.COMPLETED, "on the ground")]
        self._begin(cmd)
        return "", self._land_here(now)

    def _hold(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> tuple[str, list[FollowerEffect]]:
        if not self._vehicle.in_air and self.mode in (Mode.GROUND, Mode.LANDED, Mode.KILLED):
            return "", [self._answer(cmd, AckStatus.COMPLETED, "on the ground")]
        if self.mode is Mode.LANDING:
            return "landing already", []
        if self.mode in (Mode.GROUND, Mode.LANDED):
            return "in the air, but not under my control", []
        self._begin(cmd)
        return "", self._stand(now, swarm_ns)

    def _go_home(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> tuple[str, list[FollowerEffect]]:
        if self.mode is not Mode.FLYING:
            return "not flying under my own control", []
        height = cmd.target_enu_m[2] if cmd.target_enu_m[2] > 0.0 else self.config.return_height_m
        if self._home is None:
            return "I do not know my pad", []
        why = self.config.envelope.refuses_point((self._home[0], self._home[1], height), None)
        if why:
            return why, []
        self._begin(cmd)
        self._start_return(now, swarm_ns, height)
        return "", []

    def _fly_to(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> tuple[str, list[FollowerEffect]]:
        if self.mode is not Mode.FLYING:
            return "not flying under my own control", []
        if not (isfinite(cmd.speed_m_s) and cmd.speed_m_s >= 0.0):
            return "the speed is not a number from 0", []
        if cmd.speed_m_s > self.config.envelope.max_speed_m_s:
            return f"{cmd.speed_m_s:.1f} m/s are above my {self.config.envelope.max_speed_m_s:.1f} m/s", []
        why = self.config.envelope.refuses_point(cmd.target_enu_m, self._home)
        if why:
            return why, []
        self._begin(cmd)
        self._goto = cmd
        self._guidance.leg(cmd.target_enu_m, now, swarm_ns, cmd.speed_m_s, cmd.yaw_enu_rad)
        return "", []

    def _follow(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> tuple[str, list[FollowerEffect]]:
        plan = self._plans.get(cmd.plan_id)
        if plan is None or plan.ack.term != cmd.term:
            return f"I have no accepted plan {cmd.plan_id}", []
        if self.mode is not Mode.FLYING or self._return is not None:
            return "not flying under my own control", []
        if swarm_ns > plan.start_ns + _LATE_NS:
            return f"plan {cmd.plan_id} began {(swarm_ns - plan.start_ns) * 1e-9:.2f} s ago without me", []
        self._begin(cmd, keep_plans=True)
        self._armed_plan = cmd.plan_id
        self.plan_id = cmd.plan_id
        return "", []

    def _refuses_plan(self, trajectory: Trajectory, path: Path, swarm_ns: int) -> str:
        if trajectory.term < self.term:
            return f"term {trajectory.term} is over, {self.term} is in force"
        if self._stop is not None:
            return f"operator {self._stop[1]} ordered {self._stop[0]}"
        if self.mode is not Mode.FLYING or self._return is not None:
            return "not flying under my own control"
        if not swarm_ns - _LATE_NS < trajectory.start_ns < swarm_ns + _AHEAD_NS:
            ahead_s = (trajectory.start_ns - swarm_ns) * 1e-9
            return f"the plan starts {ahead_s:.1f} s from now; allowed are 0 to 120 s"
        gap = distance(path.knots[0].position_enu_m, self._guidance.goal_enu_m)
        if gap > self.config.join_m:
            return f"the plan begins {gap:.1f} m from where I am; {self.config.join_m:.1f} m are allowed"
        return self.config.envelope.refuses_path(path, self._home)

    # ---- doing -----------------------------------------------------------------------------------

    def _begin(self, cmd: SwarmCommand, keep_plans: bool = False) -> None:
        """A new motion command replaces whatever was being done."""
        self._task, self._goto, self._return, self._armed_plan = cmd, None, None, None
        if not keep_plans:
            self._plans.clear()
        if self._stop is None:
            self._reason = ""

    def _stand(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Hover here: brake along the path; take up again what the autopilot had taken over."""
        self._return, self._goto, self._armed_plan = None, None, None
        if self.mode is Mode.FLYING:
            self._guidance.brake(now, swarm_ns)
        elif self.mode is Mode.YIELDED and self._vehicle.in_air and self._vehicle.mode in _AUTOMATIC:
            return self._engage(self._vehicle.position_enu_m, now)
        return []

    def _engage(self, point: Vec3, now: float) -> list[FollowerEffect]:
        self._guidance.engage(point, self._vehicle.yaw_enu_rad)
        self.avoider.reset()
        self._tries = 0
        self._set_mode(Mode.ENGAGING, now)
        setpoint = GiveSetpoint(Setpoint(point, yaw_enu_rad=self._vehicle.yaw_enu_rad))
        return [setpoint, self._order(OrderKind.START_OFFBOARD, now, 5.0)]

    def _land_here(self, now: float) -> list[FollowerEffect]:
        self._return, self._goto, self._armed_plan = None, None, None
        self._plans.clear()
        if self.mode in (Mode.ARMING, Mode.GROUND) and not self._vehicle.in_air:
            self._set_mode(Mode.LANDING, now)  # may be about to arm: LANDING ends when it is disarmed
            return [self._order(OrderKind.DISARM, now, 5.0)]
        if self.mode is Mode.LANDING:
            return []
        if self.mode is Mode.FLYING:
            self._guidance.brake(now, self._ns)
        self._tries = 0
        self._set_mode(Mode.LANDING, now)
        return [self._order(OrderKind.LAND, now, 5.0)]

    def _start_return(self, now: float, swarm_ns: int, height: float) -> None:
        assert self._home is not None
        self._plans.clear()
        self._armed_plan, self._goto = None, None
        p = self._guidance.at(now, swarm_ns)[0]
        self._return = _Return(height, now)
        if flat_distance(p, self._home) < 1.0:  # above its own pad: nothing to cross
            self._return.stage = 1
            self._return.ready_s = now
            return
        column = self._guidance.goal_enu_m if not self._guidance.moving else p
        took = self._guidance.leg(
            self.config.envelope.fence.clamp((column[0], column[1], height)), now, swarm_ns
        )
        self._return.ready_s = now + max(took + 1.0, self.config.return_climb_s)

    def _fly(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Advances what flies: plan start, return stages, completion."""
        effects: list[FollowerEffect] = []
        if self._armed_plan is not None:
            plan = self._plans[self._armed_plan]
            if swarm_ns >= plan.start_ns:
                self._guidance.plan(plan.path, plan.start_ns, now, swarm_ns)
                self._armed_plan = None
        elif self._return is not None:
            if now >= self._return.ready_s and not self._guidance.moving:
                effects += self._return_stage(self._return, now, swarm_ns)
        elif self._task is not None and not self._guidance.moving:
            effects += self._complete()
        return effects

    def _return_stage(self, back: _Return, now: float, swarm_ns: int) -> list[FollowerEffect]:
        assert self._home is not None
        back.stage += 1
        x, y, z = self._home
        clamp = self.config.envelope.fence.clamp
        if back.stage == 1:
            took = self._guidance.leg(clamp((x, y, back.height_m)), now, swarm_ns)
            back.ready_s = now + max(took + 1.0, self.config.return_transit_s)
            return []
        if back.stage == 2:
            took = self._guidance.leg(clamp((x, y, z + self.config.approach_m)), now, swarm_ns)
            back.ready_s = now + took + 0.5
            return []
        return self._land_here(now)

    def _climb(self, now: float) -> list[FollowerEffect]:
        v = self._vehicle
        reported = not any(kind is OrderKind.TAKEOFF for kind, _ in self._orders.values())
        there = abs(v.position_enu_m[2] - self._hover_z) < 0.8 and abs(v.velocity_enu_m_s[2]) < 0.6
        if reported and v.in_air and there:
            return self._engage(v.position_enu_m, now)
        if now - self._mode_since > self.config.takeoff_timeout_s:
            why = f"did not reach {self._hover_z:.1f} m within {self.config.takeoff_timeout_s:.0f} s"
            return [*self._fail(why), *self._land_here(now)]
        return []

    def _steer(self, now: float, swarm_ns: int) -> FollowerEffect:
        p, v, a, yaw = self._guidance.at(now, swarm_ns)
        dt = 0.05 if self._last_tick is None else min(max(now - self._last_tick, 0.0), 0.2)
        fence = self.config.envelope.fence
        if self.mode is Mode.FLYING:
            own = self._vehicle.position_enu_m
            shift = self.avoider.shift(
                own if not isnan(own[0]) else p, self._vehicle.velocity_enu_m_s, now, dt
            )
            if shift != (0.0, 0.0, 0.0):
                p = plus(p, shift)
            p = fence.clamp(p)
        self._setpoint = p
        return GiveSetpoint(Setpoint(p, v, a, yaw))

    # ---- watching --------------------------------------------------------------------------------

    def _watch(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Losses and take-overs; only called while not on the ground."""
        effects: list[FollowerEffect] = []
        v, cfg = self._vehicle, self.config
        if self._silent(now):
            if not self._vehicle_lost:
                self._vehicle_lost = True
                self._guidance.brake(now, swarm_ns)
                self._armed_plan = None
                effects.append(Alarm(f"{cfg.drone}: its autopilot is silent, holding the reference"))
                effects += self._fail("the autopilot fell silent")
                self._retry_land_s = now + cfg.blind_land_s
            elif now > self._retry_land_s and self.mode is not Mode.KILLED:
                # it may still hear: better down where it is than hovering unseen
                self._retry_land_s = now + 5.0
                effects.append(self._order(OrderKind.LAND, now, 3.0))
            return effects
        if self._vehicle_lost:
            self._vehicle_lost = False
            effects.append(Alarm(f"{cfg.drone}: its autopilot is heard again"))
        if self.mode is Mode.LANDING:
            return effects + self._watch_landing(now)
        if (
            self.mode in (Mode.FLYING, Mode.YIELDED, Mode.KILLED, Mode.ENGAGING)
            and not v.armed
            and not v.in_air
        ):
            if now - self._mode_since > 1.0 or self.mode is Mode.KILLED:
                if self.mode is not Mode.KILLED:
                    self._reason = "the vehicle disarmed outside of a landing"
                    effects.append(Alarm(f"{cfg.drone}: {self._reason}"))
                    effects += self._fail(self._reason)
                self._touch_down(now)
            return effects
        if self.mode is not Mode.FLYING:
            return effects
        if v.offboard:
            self._not_offboard_since = None
        else:
            since = self._not_offboard_since = (
                now if self._not_offboard_since is None else self._not_offboard_since
            )
            if now - since > cfg.offboard_grace_s and now - self._mode_since > cfg.offboard_grace_s:
                self._reason = f"{TAKEN} for {v.mode}"
                self._set_mode(Mode.YIELDED, now)
                self._return = self._goto = self._armed_plan = None
                return [
                    *effects,
                    Alarm(f"{cfg.drone}: {self._reason}, not steering any more"),
                    *self._fail(self._reason),
                ]
        effects += self._watch_battery(now, swarm_ns)
        if self.mode is Mode.FLYING and self._heartbeat_s is not None:
            effects += self._watch_leader(now - self._heartbeat_s, now, swarm_ns)
        return effects

    def _watch_orphan(self, now: float) -> list[FollowerEffect]:
        """A drone that hovers although this process never took it up: its former follower has died."""
        v = self._vehicle
        # Modes in which a pilot holds the sticks are left alone.
        if not v.in_air or v.mode not in _ORPHAN_MODES or self._home is not None or self._silent(now):
            self._orphan_since = None
            return []
        if self._orphan_since is None:
            self._orphan_since = now
        if now - self._orphan_since < self.config.orphan_land_s:
            return []
        return [Alarm("found hovering without a follower: landing in place"), *self._land_here(now)]

    def _watch_landing(self, now: float) -> list[FollowerEffect]:
        v = self._vehicle
        if not v.in_air and not v.armed and not any(k is OrderKind.ARM for k, _ in self._orders.values()):
            effects = self._complete()
            self._touch_down(now)
            return effects
        if not v.in_air and v.armed and now - self._mode_since > 4.0 and now > self._retry_land_s:
            self._retry_land_s = now + 5.0
            return [self._order(OrderKind.DISARM, now, 4.0)]
        if v.in_air and v.mode != "land" and now - self._mode_since > 6.0 and now > self._retry_land_s:
            self._retry_land_s = now + 5.0
            return [self._order(OrderKind.LAND, now, 4.0)]
        return []

    def _watch_battery(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        level, envelope = self._vehicle.battery_fraction, self.config.envelope
        if level < envelope.critical_battery_fraction:  # NaN compares false
            self._reason = f"battery at {level * 100:.0f} %, landing here"
            return [
                Alarm(f"{self.config.drone}: {self._reason}"),
                *self._fail(self._reason),
                *self._land_here(now),
            ]
        if level < envelope.min_battery_fraction and not self._battery_low and self._stop is None:
            self._battery_low = True
            self._reason = f"battery at {level * 100:.0f} %, returning"
            effects = [Alarm(f"{self.config.drone}: {self._reason}"), *self._fail(self._reason)]
            if self._return is None and self._home is not None:
                self._start_return(now, swarm_ns, self.config.return_height_m)
            return effects
        return []

    def _watch_leader(self, silence: float, now: float, swarm_ns: int) -> list[FollowerEffect]:
        cfg = self.config
        if silence > cfg.heartbeat_hold_s and not self._leader_lost:
            self._leader_lost = True
            if self._return is None and self._stop is None:
                self._reason = f"no leader heard for {silence:.1f} s, holding"
                effects = [Alarm(f"{cfg.drone}: {self._reason}"), *self._fail(self._reason)]
                effects += self._stand(now, swarm_ns)
                return effects
        if silence > cfg.heartbeat_return_s and self._return is None and self._home is not None:
            self._reason = f"no leader heard for {silence:.0f} s, returning"
            self._start_return(now, swarm_ns, cfg.return_height_m)
            return [Alarm(f"{cfg.drone}: {self._reason}")]
        return []

    # ---- orders ----------------------------------------------------------------------------------

    def _order(self, kind: OrderKind, now: float, deadline_s: float, height_m: float = 0.0) -> GiveOrder:
        order = Order(self._next_order, kind, height_m, deadline_s)
        self._next_order += 1
        self._orders[order.order_id] = (kind, now + deadline_s + 1.0)
        return GiveOrder(order)

    def _order_done(
        self, kind: OrderKind, ok: bool, reason: str, now: float, swarm_ns: int
    ) -> list[FollowerEffect]:
        if kind is OrderKind.ARM:
            if self.mode is not Mode.ARMING:
                return [self._order(OrderKind.DISARM, now, 4.0)] if ok and self.mode is Mode.LANDING else []
            if not ok:
                self._set_mode(Mode.GROUND, now)
                self._reason = f"arming failed: {reason}"
                return self._fail(self._reason)
            assert self._home is not None
            self._set_mode(Mode.CLIMBING, now)
            limit = self.config.takeoff_timeout_s  # its result comes when the height is reached
            return [self._order(OrderKind.TAKEOFF, now, limit, self._hover_z - self._home[2])]
        if kind is OrderKind.TAKEOFF and not ok and self.mode is Mode.CLIMBING:
            self._reason = f"take-off failed: {reason}"
            return [*self._fail(self._reason), *self._land_here(now)]
        if kind is OrderKind.START_OFFBOARD and self.mode is Mode.ENGAGING:
            if ok:
                self._not_offboard_since = None
                self._set_mode(Mode.FLYING, now)
                if self._stop is not None and self._stop[0] == "land":
                    return self._land_here(now)
                if self._home is not None and flat_distance(self._home, self._guidance.goal_enu_m) < 2.0:
                    # settle exactly above the pad, where the leader's plan begins
                    self._guidance.leg((self._home[0], self._home[1], self._hover_z), now, swarm_ns)
                return []
            self._tries += 1
            if self._tries < _ORDER_TRIES:
                return [self._order(OrderKind.START_OFFBOARD, now, 5.0)]
            return [*self._fail(f"offboard refused: {reason}"), *self._land_here(now)]
        if kind is OrderKind.LAND and not ok and self.mode is Mode.LANDING:
            self._tries += 1
            if self._tries < 10 * _ORDER_TRIES:
                return [self._order(OrderKind.LAND, now, 5.0)]
            self._reason = f"the autopilot refuses to land: {reason}"
            return [Alarm(f"{self.config.drone}: {self._reason}")]
        if kind is OrderKind.KILL and not ok:
            return [Alarm(f"{self.config.drone}: kill failed: {reason}")]
        return []

    # ---- small things ----------------------------------------------------------------------------

    def _answer(self, cmd: SwarmCommand, status: AckStatus, reason: str) -> SendAck:
        ack = CommandAck(self.config.drone, cmd.command_id, 0, cmd.term, status, reason[:MAX_REASON])
        self._answers[(cmd.term, cmd.command_id)] = ack
        while len(self._answers) > _ANSWERS:
            self._answers.popitem(last=False)
        return SendAck(ack)

    def _complete(self) -> list[FollowerEffect]:
        cmd, self._task = self._task, None
        return [] if cmd is None else [self._answer(cmd, AckStatus.COMPLETED, "")]

    def _fail(self, reason: str) -> list[FollowerEffect]:
        cmd, self._task = self._task, None
        if cmd is None or cmd.kind in (CommandKind.LAND, CommandKind.RETURN):
            self._task = cmd
            return []
        return [self._answer(cmd, AckStatus.FAILED, reason)]

    def _enter_term(self, term: int) -> None:
        if term > self.term:
            self.term, self._newest_id = term, 0
            self._plans.clear()
            self._armed_plan = None

    def _set_mode(self, mode: Mode, now: float) -> None:
        self.mode, self._mode_since = mode, now

    def _touch_down(self, now: float) -> None:
        self._set_mode(Mode.LANDED, now)
        self._return = self._goto = self._armed_plan = self._task = None
        self._plans.clear()
        self._stop = None
        self._battery_low = False
        self._orders.clear()
        self.avoider.reset()

    def _silent(self, now: float) -> bool:
        return not self._vehicle.connected or now - self._vehicle.stamp_s > self.config.vehicle_lost_s

    def _not_ready(self, now: float) -> str:
        """Why this drone could not arm now; empty when it could."""
        v = self._vehicle
        if not isfinite(v.stamp_s):
            return "no autopilot heard yet"
        if self._silent(now):
            return "the autopilot is silent"
        if self.mode not in (Mode.GROUND, Mode.LANDED):
            return "flying or busy"
        if v.in_air:
            return "in the air, but not under my control"
        if self._stop is not None:
            return f"operator {self._stop[1]} ordered {self._stop[0]}"
        if self._blockers:
            return self._blockers[0]
        if v.blockers:
            return v.blockers[0]
        if not all(map(isfinite, v.position_enu_m)):
            return "its position is not known"
        if v.battery_fraction < self.config.envelope.min_battery_fraction:
            return f"battery at {v.battery_fraction * 100:.0f} %"
        return ""
