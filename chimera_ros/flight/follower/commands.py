"""Command handling of a follower: the leader's commands and trajectories, and an operator's stop.

A command is executed once, if its term and id are the newest, its deadline has not passed and the flight
envelope allows it; a duplicate is answered with the stored acknowledgement.
"""

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

_LATE_NS = 500_000_000  # FOLLOW joins a plan that started at most this long ago: it has hardly moved
_AHEAD_NS = 120_000_000_000  # a plan starts at most this far ahead
_JOIN_M_S = 0.5  # largest step from the reference velocity to that of a new plan; guidance blends it
_STOP_RANK = {"hold": 0, "land": 1, "kill": 2}

Outcome = tuple[str, list[FollowerEffect]]  # why refused or empty, effects

SLOWEST_M_S = 0.05  # a slower leg would last so long that float time loses its resolution


class Commands:
    """Accepts, refuses and starts everything that one drone is commanded to do."""

    def __init__(self, drone: Drone, steering: Steering, orders: Orders) -> None:
        self._drone, self._steering, self._orders = drone, steering, orders
        self._handlers = {
            CommandKind.TAKEOFF: self._takeoff,
            CommandKind.LAND: self._land,
            CommandKind.HOLD: self._hold,
            CommandKind.RETURN: self._return,
            CommandKind.GOTO: self._goto,
            CommandKind.FOLLOW: self._follow,
        }

    def enter_term(self, term: int) -> None:
        """Enters a newer leader term: plans of an older one are dropped."""
        drone = self._drone
        if term > drone.term:
            drone.term, drone.newest_id = term, 0
            self._steering.plans.clear()
            if self._steering.scheduled is not None:
                self._steering.scheduled = drone.task = None

    # ---- leader commands -------------------------------------------------------------------------

    def on_command(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Executes or refuses a command that is addressed to this drone."""
        drone = self._drone
        key = (cmd.term, cmd.command_id)
        if key in drone.acks:
            return [SendAck(drone.acks[key])]
        if cmd.term < drone.term:
            return self._refuse(cmd, f"term {cmd.term} is over, {drone.term} is in force")
        if swarm_ns > cmd.deadline_ns:
            return self._refuse(cmd, f"the command expired {(swarm_ns - cmd.deadline_ns) * 1e-9:.2f} s ago")
        self.enter_term(cmd.term)
        if cmd.kind is CommandKind.ARM_CHECK:
            _, why = drone.not_ready(now)
            return [drone.acknowledge(cmd, AckStatus.REFUSED if why else AckStatus.COMPLETED, why)]
        why = self._refusal(cmd)
        if why:
            return self._refuse(cmd, why)
        why, effects = self._handlers[cmd.kind](cmd, now, swarm_ns)
        if why:
            return self._refuse(cmd, why)
        drone.newest_id = drone.command_id = cmd.command_id
        if key in drone.acks:  # complete already: the handler has acknowledged it
            return effects
        return [drone.acknowledge(cmd, AckStatus.ACCEPTED, ""), *effects]

    def _refuse(self, cmd: SwarmCommand, why: str) -> list[FollowerEffect]:
        return [self._drone.acknowledge(cmd, AckStatus.REFUSED, why)]

    def _refusal(self, cmd: SwarmCommand) -> str:
        """Why a command of this kind is refused now; empty if it is not."""
        drone = self._drone
        if cmd.command_id < drone.newest_id:
            return f"the newer command {drone.newest_id} is in force"
        if drone.stop is not None and cmd.kind not in (CommandKind.LAND, CommandKind.HOLD):
            return f"operator {drone.stop[1]} ordered {drone.stop[0]}; only land and hold are accepted"
        if drone.battery_low and cmd.kind not in (CommandKind.LAND, CommandKind.RETURN):
            return f"{drone.reason}; only land and return are accepted"
        if drone.pilot_in_control():
            return f"a pilot flies in mode {drone.vehicle.mode}"
        return ""

    def _begin(self, cmd: SwarmCommand) -> None:
        """Starts a motion command, which replaces the present task."""
        self._drone.task = cmd
        self._steering.clear_next()
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
            why = f"take-off height {hover[2]:.1f} m is not 0.5 m above the pad"
        if why:
            return why, []
        self._begin(cmd)
        return "", self._orders.take_off(home, hover[2], now)

    def _land(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        v = drone.vehicle
        if drone.mode in DISENGAGED and not v.in_air and not (v.armed and v.mode in AUTO_MODES):
            return "", [drone.acknowledge(cmd, AckStatus.COMPLETED, "on the ground")]
        self._begin(cmd)
        return "", self._orders.land_in_place(now, swarm_ns)

    def _hold(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        v = drone.vehicle
        if not v.in_air and drone.mode in (*DISENGAGED, FollowerMode.KILLED):
            return "", [drone.acknowledge(cmd, AckStatus.COMPLETED, "on the ground")]
        if drone.mode is FollowerMode.LANDING:
            return "landing already", []
        if drone.mode in DISENGAGED:
            return "in the air, but not controlled by this follower", []
        if drone.mode is FollowerMode.YIELDED and not all(map(isfinite, v.position_enu_m)):
            return "the position is not known", []
        self._begin(cmd)
        return "", self._orders.hold(now, swarm_ns)

    def _return(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        if drone.mode is not FollowerMode.FLYING:
            return "not in offboard flight", []
        height = cmd.target_enu_m[2] if cmd.target_enu_m[2] > 0.0 else drone.config.return_height_m
        if drone.home is None:
            return "the home position is not known", []
        why = drone.config.envelope.refuses_point((drone.home[0], drone.home[1], height), None)
        if why:
            return why, []
        self._begin(cmd)
        self._steering.start_return(drone.home, height, now, swarm_ns)
        return "", []

    def _goto(self, cmd: SwarmCommand, now: float, swarm_ns: int) -> Outcome:
        drone = self._drone
        envelope = drone.config.envelope
        if drone.mode is not FollowerMode.FLYING:
            return "not in offboard flight", []
        if not (isfinite(cmd.speed_m_s) and cmd.speed_m_s >= 0.0):
            return "the speed is not a finite number from 0", []
        if cmd.speed_m_s > envelope.max_speed_m_s:
            return f"{cmd.speed_m_s:.1f} m/s are above the limit of {envelope.max_speed_m_s:.1f} m/s", []
        if 0.0 < cmd.speed_m_s < SLOWEST_M_S:
            return f"{cmd.speed_m_s:.1g} m/s are below the minimum of {SLOWEST_M_S} m/s", []
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
            return f"no accepted plan {cmd.plan_id}", []
        if drone.mode is not FollowerMode.FLYING or self._steering.returning:
            return "not in offboard flight, or returning", []
        if swarm_ns > plan.start_ns + _LATE_NS:
            return f"plan {cmd.plan_id} started {(swarm_ns - plan.start_ns) * 1e-9:.2f} s ago", []
        self._begin(cmd)
        self._steering.scheduled = plan
        drone.plan_id = cmd.plan_id
        return "", []

    # ---- trajectories ----------------------------------------------------------------------------

    def on_trajectory(self, trajectory: Trajectory, swarm_ns: int) -> list[FollowerEffect]:
        """Accepts a trajectory that fits the envelope and joins the reference; FOLLOW starts it."""
        accepted = self._steering.plans.get(trajectory.plan_id)
        if accepted is not None and accepted.ack.term == trajectory.term:
            return [SendAck(accepted.ack)]
        path: Path | None = None
        try:
            path = Path(trajectory.knots)
            why = self._trajectory_refusal(trajectory, path, swarm_ns)
        except ValueError as error:
            why = str(error)
        status = AckStatus.REFUSED if why else AckStatus.ACCEPTED
        name = self._drone.config.drone
        ack = CommandAck(name, 0, trajectory.plan_id, trajectory.term, status, why[:MAX_REASON])
        if path is not None and not why:
            self.enter_term(trajectory.term)
            self._steering.accept(trajectory.plan_id, AcceptedPlan(path, trajectory.start_ns, ack))
        return [SendAck(ack)]

    def _trajectory_refusal(self, trajectory: Trajectory, path: Path, swarm_ns: int) -> str:
        drone = self._drone
        if trajectory.term < drone.term:
            return f"term {trajectory.term} is over, {drone.term} is in force"
        if drone.stop is not None:
            return f"operator {drone.stop[1]} ordered {drone.stop[0]}"
        if drone.mode is not FollowerMode.FLYING or self._steering.returning:
            return "not in offboard flight, or returning"
        if not swarm_ns - _LATE_NS < trajectory.start_ns < swarm_ns + _AHEAD_NS:
            ahead_s = (trajectory.start_ns - swarm_ns) * 1e-9
            return f"the plan starts in {ahead_s:.1f} s; allowed are 0 to 120 s"
        join_m = drone.config.join_m
        place, velocity = self._steering.reference_at(trajectory.start_ns)
        gap = distance(path.knots[0].position_enu_m, place)
        if gap > join_m:
            return f"the plan begins {gap:.1f} m from the reference; {join_m:.1f} m are allowed"
        jump = distance(path.knots[0].velocity_enu_m_s, velocity)
        if jump > _JOIN_M_S:
            return (
                f"the plan begins {jump:.1f} m/s off the reference velocity; {_JOIN_M_S:.1f} m/s are allowed"
            )
        return drone.config.envelope.refuses_path(path, drone.home)

    # ---- operator stop ---------------------------------------------------------------------------

    def on_stop(self, level: str, operator: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """An operator's stop: hold, land or kill. Latched until landed; its level is only raised."""
        drone = self._drone
        name = drone.config.drone
        if level not in _STOP_RANK:
            return [FlightAlarm(f"{name}: operator {operator} ordered {level!r}, not hold, land or kill")]
        effects: list[FollowerEffect] = [FlightAlarm(f"{name}: operator {operator} ordered {level}")]
        if level == "kill" and not drone.config.allow_kill:
            effects.append(FlightAlarm(f"{name}: kill is not enabled for this flight, landing instead"))
            level = "land"
        if drone.stop is not None and _STOP_RANK[drone.stop[0]] > _STOP_RANK[level]:
            return effects
        drone.stop = (level, operator)
        in_air = drone.vehicle.in_air
        if drone.mode in (*DISENGAGED, FollowerMode.KILLED) and not in_air and level != "kill":
            return effects
        drone.set_reason(ReasonCode.OPERATOR_STOP, f"operator {operator} ordered {level}")
        effects += drone.fail(drone.reason, stopped=True)
        if level == "kill":
            return effects + self._orders.kill(now)
        # a hold before lift-off cancels the take-off
        if level == "land" or (drone.mode is FollowerMode.ARMING and not in_air):
            return effects + self._orders.land_in_place(now, swarm_ns)
        if drone.mode in DISENGAGED:  # in the air, but not controlled by this core
            if drone.vehicle.mode in AUTO_MODES:
                effects.append(self._orders.send(OrderKind.HOLD, now, 4.0))
            return effects
        return effects + self._orders.hold(now, swarm_ns)
