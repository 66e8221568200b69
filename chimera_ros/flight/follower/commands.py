"""What a follower obeys: commands and plans of the leader inside its own envelope, and an operator's stop."""

from __future__ import annotations

from math import isfinite

from ..effects import FlightAlarm, FollowerEffect, SendAck
from ..geometry import distance
from ..messages import MAX_REASON, AckStatus, CommandAck, CommandKind, ReasonCode, SwarmCommand, Trajectory
from ..trajectory import Path
from ..vehicle import OrderKind
from .orders import Orders
from .state import AUTO_MODES, DISENGAGED, Drone, FollowerMode
from .steering import AcceptedPlan, Steering

_LATE_NS = 500_000_000  # how late FOLLOW may join a plan: its start is slow enough
_AHEAD_NS = 120_000_000_000  # how far ahead a plan may start
_JOIN_M_S = 0.5  # how much a plan may differ from how the drone moves when it begins; the rest is blended
_RANK = {"hold": 0, "land": 1, "kill": 2}

Outcome = tuple[str, list[FollowerEffect]]  # why refused, effects

SLOWEST_M_S = 0.05  # a slower leg would last beyond what time in floats can tell apart


class Commands:
    """Decides on every order that reaches one drone."""

    def __init__(self, drone: Drone, steering: Steering, orders: Orders) -> None:
        self._drone, self._steering, self._orders = drone, steering, orders
        self._handlers = {
            CommandKind.TAKEOFF: self._takeoff,
            CommandKind.LAND: self._land,
            CommandKind.HOLD: self._hold,
            CommandKind.RETURN: self._go_home,
            CommandKind.GOTO: self._fly_to,
            CommandKind.FOLLOW: self._follow,
        }

    def enter_term(self, term: int) -> None:
        """A newer leader: what an older one had planned no longer starts."""
        drone = self._drone
        if term > drone.term:
            drone.term, drone.newest_id = term, 0
            self._steering.plans.clear()
            if self._steering.armed is not None:
                self._steering.armed = drone.task = None

    # ---- the leader's ----------------------------------------------------------------------------

    def obey(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """A command that names this drone: the newest term and id, within the deadline, once."""
        drone = self._drone
        key = (cmd.term, cmd.command_id)
        if key in drone.answers:
            return [SendAck(drone.answers[key])]
        if cmd.term < drone.term:
            return self._refuse(cmd, f"term {cmd.term} is over, {drone.term} is in force")
        if swarm_ns > cmd.deadline_ns:
            return self._refuse(cmd, f"the command expired {(swarm_ns - cmd.deadline_ns) * 1e-9:.2f} s ago")
        self.enter_term(cmd.term)
        if cmd.kind is CommandKind.ARM_CHECK:
            _, why = drone.not_ready(now)
            return [drone.answer(cmd, AckStatus.REFUSED if why else AckStatus.COMPLETED, why)]
        why = self._forbidden(cmd)
        if why:
            return self._refuse(cmd, why)
        why, effects = self._handlers[cmd.kind](cmd, now, swarm_ns)
        if why:
            return self._refuse(cmd, why)
        drone.newest_id = drone.command_id = cmd.command_id
        if key in drone.answers:  # done already: the handler has answered
            return effects
        return [drone.answer(cmd, AckStatus.ACCEPTED, ""), *effects]

    def _refuse(self, cmd: SwarmCommand, why: str) -> list[FollowerEffect]:
        return [self._drone.answer(cmd, AckStatus.REFUSED, why)]

    def _forbidden(self, cmd: SwarmCommand) -> str:
        """Why nothing of this kind is obeyed now."""
        drone = self._drone
        if cmd.command_id < drone.newest_id:
            return f"the newer command {drone.newest_id} is in force"
        if drone.stop is not None and cmd.kind not in (CommandKind.LAND, CommandKind.HOLD):
            return f"operator {drone.stop[1]} ordered {drone.stop[0]}; only land is left"
        if drone.battery_low and cmd.kind not in (CommandKind.LAND, CommandKind.RETURN):
            return f"{drone.reason}; only land and return are left"
        if drone.flown_by_a_pilot():
            return f"a pilot flies in mode {drone.vehicle.mode}"
        return ""

    def _begin(self, cmd: SwarmCommand) -> None:
        """A new motion command replaces whatever was being done."""
        self._drone.task = cmd
        self._steering.drop()
        if cmd.kind is not CommandKind.FOLLOW:
            self._steering.plans.clear()
        if self._drone.stop is None:
            self._drone.clear_reason()

    def _takeoff(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        if drone.mode not in DISENGAGED or drone.vehicle.in_air:
            return "already in the air or busy", []
        _, why = drone.not_ready(now)
        if why:
            return f"cannot arm: {why}", []
        home = drone.vehicle.position_enu_m
        hover = (home[0], home[1], cmd.target_enu_m[2])
        why = drone.config.envelope.refuses_point(hover, home)
        if not why and hover[2] < home[2] + 0.5:
            why = f"take-off height {hover[2]:.1f} m is not above my pad"
        if why:
            return why, []
        self._begin(cmd)
        return "", self._orders.take_off(home, hover[2], now)

    def _land(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        v = drone.vehicle
        if drone.mode in DISENGAGED and not v.in_air and not (v.armed and v.mode in AUTO_MODES):
            return "", [drone.answer(cmd, AckStatus.COMPLETED, "on the ground")]
        self._begin(cmd)
        return "", self._orders.land_here(now, swarm_ns)

    def _hold(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        v = drone.vehicle
        if not v.in_air and drone.mode in (*DISENGAGED, FollowerMode.KILLED):
            return "", [drone.answer(cmd, AckStatus.COMPLETED, "on the ground")]
        if drone.mode is FollowerMode.LANDING:
            return "landing already", []
        if drone.mode in DISENGAGED:
            return "in the air, but not under my control", []
        if drone.mode is FollowerMode.YIELDED and not all(map(isfinite, v.position_enu_m)):
            return "my position is not known", []
        self._begin(cmd)
        return "", self._orders.stand(now, swarm_ns)

    def _go_home(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        if drone.mode is not FollowerMode.FLYING:
            return "not flying under my own control", []
        height = cmd.target_enu_m[2] if cmd.target_enu_m[2] > 0.0 else drone.config.return_height_m
        if drone.home is None:
            return "I do not know my pad", []
        why = drone.config.envelope.refuses_point((drone.home[0], drone.home[1], height), None)
        if why:
            return why, []
        self._begin(cmd)
        self._steering.start_return(drone.home, height, now, swarm_ns)
        return "", []

    def _fly_to(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        envelope = drone.config.envelope
        if drone.mode is not FollowerMode.FLYING:
            return "not flying under my own control", []
        if not (isfinite(cmd.speed_m_s) and cmd.speed_m_s >= 0.0):
            return "the speed is not a number from 0", []
        if cmd.speed_m_s > envelope.max_speed_m_s:
            return f"{cmd.speed_m_s:.1f} m/s are above my {envelope.max_speed_m_s:.1f} m/s", []
        if 0.0 < cmd.speed_m_s < SLOWEST_M_S:
            return f"{cmd.speed_m_s:.1g} m/s are below {SLOWEST_M_S} m/s", []
        why = envelope.refuses_point(cmd.target_enu_m, drone.home)
        if why:
            return why, []
        self._begin(cmd)
        self._steering.leg(cmd.target_enu_m, now, swarm_ns, cmd.speed_m_s, cmd.yaw_enu_rad)
        return "", []

    def _follow(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        plan = self._steering.plans.get(cmd.plan_id)
        if plan is None or plan.ack.term != cmd.term:
            return f"I have no accepted plan {cmd.plan_id}", []
        if drone.mode is not FollowerMode.FLYING or self._steering.returning:
            return "not flying under my own control", []
        if swarm_ns > plan.start_ns + _LATE_NS:
            return f"plan {cmd.plan_id} began {(swarm_ns - plan.start_ns) * 1e-9:.2f} s ago without me", []
        self._begin(cmd)
        self._steering.armed = plan
        drone.plan_id = cmd.plan_id
        return "", []

    # ---- plans -----------------------------------------------------------------------------------

    def take_plan(self, trajectory: Trajectory, swarm_ns: int) -> list[FollowerEffect]:
        """A part of a plan: kept when it fits the envelope and joins on; flown only after FOLLOW."""
        known = self._steering.plans.get(trajectory.plan_id)
        if known is not None and known.ack.term == trajectory.term:
            return [SendAck(known.ack)]
        path: Path | None = None
        try:
            path = Path(trajectory.knots)
            why = self._refuses_plan(trajectory, path, swarm_ns)
        except ValueError as error:
            why = str(error)
        status = AckStatus.REFUSED if why else AckStatus.ACCEPTED
        name = self._drone.config.drone
        ack = CommandAck(name, 0, trajectory.plan_id, trajectory.term, status, why[:MAX_REASON])
        if path is not None and not why:
            self.enter_term(trajectory.term)
            self._steering.keep(trajectory.plan_id, AcceptedPlan(path, trajectory.start_ns, ack))
        return [SendAck(ack)]

    def _refuses_plan(self, trajectory: Trajectory, path: Path, swarm_ns: int) -> str:
        drone = self._drone
        if trajectory.term < drone.term:
            return f"term {trajectory.term} is over, {drone.term} is in force"
        if drone.stop is not None:
            return f"operator {drone.stop[1]} ordered {drone.stop[0]}"
        if drone.mode is not FollowerMode.FLYING or self._steering.returning:
            return "not flying under my own control"
        if not swarm_ns - _LATE_NS < trajectory.start_ns < swarm_ns + _AHEAD_NS:
            ahead_s = (trajectory.start_ns - swarm_ns) * 1e-9
            return f"the plan starts {ahead_s:.1f} s from now; allowed are 0 to 120 s"
        join_m = drone.config.join_m
        place, velocity = self._steering.planned(trajectory.start_ns)
        gap = distance(path.knots[0].position_enu_m, place)
        if gap > join_m:
            return f"the plan begins {gap:.1f} m from where I am; {join_m:.1f} m are allowed"
        jump = distance(path.knots[0].velocity_enu_m_s, velocity)
        if jump > _JOIN_M_S:
            return f"the plan begins {jump:.1f} m/s off how I move; {_JOIN_M_S:.1f} m/s are allowed"
        return drone.config.envelope.refuses_path(path, drone.home)

    # ---- an operator's ---------------------------------------------------------------------------

    def stop(self, level: str, operator: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Hold, land or kill; latched until landed, and only ever raised."""
        drone = self._drone
        name = drone.config.drone
        if level not in _RANK:
            return [FlightAlarm(f"{name}: operator {operator} ordered {level!r}, not hold, land or kill")]
        effects: list[FollowerEffect] = [FlightAlarm(f"{name}: operator {operator} ordered {level}")]
        if level == "kill" and not drone.config.allow_kill:
            effects.append(FlightAlarm(f"{name}: kill is not enabled for this flight, landing instead"))
            level = "land"
        if drone.stop is not None and _RANK[drone.stop[0]] > _RANK[level]:
            return effects
        drone.stop = (level, operator)
        in_air = drone.vehicle.in_air
        if drone.mode in (*DISENGAGED, FollowerMode.KILLED) and not in_air and level != "kill":
            return effects
        drone.set_reason(ReasonCode.OPERATOR_STOP, f"operator {operator} ordered {level}")
        effects += drone.fail(drone.reason, stopped=True)
        if level == "kill":
            return effects + self._orders.kill(now)
        # a hold before it has left the ground calls the take-off off
        if level == "land" or (drone.mode is FollowerMode.ARMING and not in_air):
            return effects + self._orders.land_here(now, swarm_ns)
        if drone.mode in DISENGAGED:  # in the air, but not steered by this core
            if drone.vehicle.mode in AUTO_MODES:
                effects.append(self._orders.give(OrderKind.HOLD, now, 4.0))
            return effects
        return effects + self._orders.stand(now, swarm_ns)
