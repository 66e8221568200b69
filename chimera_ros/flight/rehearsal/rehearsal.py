"""A mission rehearsed in memory: the real leader and follower cores, ideal vehicles, a lossy wire, stepped
time.

Needs no autopilot, no ROS and no clock, so it is reproducible by seed and runs much faster than real time.
The wire loses, delays, reorders and duplicates; nothing here is cryptography.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf, isnan
from typing import Any

import numpy as np

from ..effects import (
    Alarm,
    AskModeration,
    FollowerEffect,
    GiveOrder,
    GiveSetpoint,
    MissionEvent,
    SendAck,
    SendCommand,
    SendTrajectory,
)
from ..follower.core import FollowerConfig, FollowerCore
from ..leader.core import LeaderConfig, LeaderCore
from ..limits import FlightEnvelope
from ..messages import CommandAck, DroneTelemetry
from ..moderation_call import Moderate, ModerationCall
from ..planning.mission import Mission
from ..planning.separation import line_separations
from ..vehicle import Order, OrderKind, OrderResult, Setpoint, Vec3, VehicleState

STEP_S = 0.05
SWARM_START_NS = 1_800_000_000_000_000_000


class IdealVehicle:
    """A point mass with a PD controller and acceleration limit, climbing and landing by itself like an
    autopilot.
    """

    def __init__(
        self, drone: str, pad_enu_m: Vec3, battery: float = 1.0, drain_per_s: float = 1.0 / 900.0
    ) -> None:
        self.drone = drone
        self.position = pad_enu_m
        self.velocity: Vec3 = (0.0, 0.0, 0.0)
        self.pad_z = pad_enu_m[2]
        self.mode = "hold"
        self.armed = False
        self.battery, self.drain_per_s = battery, drain_per_s
        self.alive = True
        self.blockers: tuple[str, ...] = ()
        self.refuse: dict[OrderKind, str] = {}
        self.orders: list[OrderKind] = []
        self.setpoint: Setpoint | None = None
        self._hover: Vec3 = pad_enu_m
        self._setpoint_s = -inf
        self.linked = True  # somebody holds the MAVLink connection

    @property
    def in_air(self) -> bool:
        return self.position[2] > self.pad_z + 0.05

    def order(self, order: Order) -> OrderResult:
        self.orders.append(order.kind)
        why = self.refuse.get(order.kind, "")
        if order.kind is OrderKind.DISARM and self.in_air:
            why = "in the air"
        if order.kind is OrderKind.START_OFFBOARD and self.setpoint is None:
            why = "no setpoint"
        if not why:
            self._obey(order)
        return OrderResult(order.order_id, order.kind, not why, why)

    def _obey(self, order: Order) -> None:
        kind = order.kind
        if kind is OrderKind.ARM:
            self.armed = True
        elif kind in (OrderKind.DISARM, OrderKind.KILL):
            self.armed = False
        elif kind is OrderKind.TAKEOFF:
            x, y, z = self.position
            self.mode, self._hover = "takeoff", (x, y, z + order.height_m)
        elif kind is OrderKind.LAND:
            self.mode = "land"
        elif kind is OrderKind.START_OFFBOARD:
            self.mode = "offboard"
        else:
            self.mode, self._hover = "hold", self.position

    def give(self, setpoint: Setpoint, now: float) -> None:
        self.setpoint, self._setpoint_s = setpoint, now

    def step(self, now: float, dt: float) -> None:
        """Moves on; without link, or without fresh setpoints for 1 s, it lands as a failsafe does."""
        if not self.armed:
            if self.in_air:  # motors stopped: it falls
                self.position = (
                    self.position[0],
                    self.position[1],
                    max(self.pad_z, self.position[2] - 5.0 * dt),
                )
            self.velocity = (0.0, 0.0, 0.0)
            return
        self.battery -= self.drain_per_s * dt
        if (self.mode == "offboard" and now - self._setpoint_s > 1.0) or not self.linked:
            self.mode = "land"
        goal, feed, push = self._hover, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        if self.mode == "offboard" and self.setpoint is not None:
            s = self.setpoint
            goal, feed, push = s.position_enu_m, s.velocity_enu_m_s, s.acceleration_enu_m_s2
        elif self.mode == "land":
            goal = (self.position[0], self.position[1], max(self.position[2] - 0.5, self.pad_z - 0.3))
        elif self.mode == "takeoff":
            goal = (self._hover[0], self._hover[1], min(self._hover[2], self.position[2] + 1.0))
        acc = [
            max(
                -6.0,
                min(6.0, 6.0 * (goal[k] - self.position[k]) + 4.5 * (feed[k] - self.velocity[k]) + push[k]),
            )
            for k in range(3)
        ]
        v = tuple(self.velocity[k] + acc[k] * dt for k in range(3))
        x, y, z = (self.position[k] + v[k] * dt for k in range(3))
        if z <= self.pad_z:
            z, v = self.pad_z, (0.0, 0.0, 0.0)
            if self.mode == "land":
                self.armed = False
        self.position, self.velocity = (x, y, z), (v[0], v[1], v[2])

    def state(self, now: float) -> VehicleState:
        return VehicleState(
            self.drone, now, True, self.armed, self.in_air, self.mode == "offboard", self.mode, self.position,
            self.velocity, battery_fraction=self.battery, blockers=self.blockers,
        )  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What a rehearsal has shown; metres and seconds."""

    completed: bool
    failure: str | None
    duration_s: float
    min_separation_m: float  # in the air, between any two
    nearest: tuple[str, str] | None
    max_tracking_error_m: float
    avoidances: int
    events: list[MissionEvent] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    lost: tuple[str, ...] = ()


class Rehearsal:
    """A swarm in memory. Step it by hand, or `run` it to the end; `at` schedules a misfortune."""

    def __init__(
        self,
        mission: Mission,
        drones: Sequence[str],
        seed: int = 1,
        loss: float = 0.0,
        leader: LeaderConfig | None = None,
        moderate: Moderate | None = None,
        envelope: FlightEnvelope | None = None,
        **follower: Any,
    ) -> None:
        self.mission = mission
        self.names = tuple(drones)
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        envelope = envelope or FlightEnvelope(fence=mission.fence)
        pads = mission.pad_positions(len(drones))
        self.vehicles = {
            n: IdealVehicle(n, p, drain_per_s=1.0 / mission.battery.endurance_s)
            for n, p in zip(drones, pads, strict=True)
        }
        self.cores = {
            n: FollowerCore(FollowerConfig.for_swarm(n, i, len(drones), envelope, **follower))
            for i, n in enumerate(drones)
        }
        leader = leader or LeaderConfig("leader", moderate=moderate is not None)
        self.leader: LeaderCore | None = LeaderCore(leader, mission, drones, moderate)
        self.moderate = moderate  # in flight; None is a service that is down
        self.moderation_ticks = 2  # that an answer takes
        self.core_of_leader = self.leader
        self.deaf: set[str] = set()  # drones whose radio is dead
        self.dead: set[str] = set()  # drones whose follower process is dead
        self.outcome = Outcome(False, None, 0.0, inf, None, 0.0, 0)
        self._wire: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self._tick = 0
        self._plans: list[tuple[float, Callable[[Rehearsal], None]]] = []

    @property
    def swarm_ns(self) -> int:
        return SWARM_START_NS + int(self.now * 1e9)

    def at(self, time_s: float, what: Callable[[Rehearsal], None]) -> None:
        """Calls `what(rehearsal)` at a time."""
        self._plans.append((time_s, what))

    def run(self, limit_s: float = 600.0) -> Outcome:
        """Until the leader has finished, at most `limit_s`."""
        while self.now < limit_s and not self.core_of_leader.finished:
            self.step()
        core = self.core_of_leader
        self.outcome.completed, self.outcome.failure = core.completed, core.failure
        self.outcome.duration_s, self.outcome.lost = self.now, core.lost
        self.outcome.avoidances = sum(c.avoider.activations for c in self.cores.values())
        return self.outcome

    def run_until(self, condition: Callable[[Rehearsal], bool], limit_s: float = 600.0) -> bool:
        """Steps until a condition holds; False when the limit came first."""
        while self.now < limit_s:
            if condition(self):
                return True
            self.step()
        return False

    def step(self) -> None:
        """One tick of 50 ms for everyone."""
        self._tick += 1
        self.now = self._tick * STEP_S
        for due, what in [p for p in self._plans if p[0] <= self.now]:
            self._plans.remove((due, what))
            what(self)
        for deliver in self._wire.pop(self._tick, ()):
            deliver()
        for name, vehicle in self.vehicles.items():
            vehicle.linked = vehicle.linked and name not in self.dead
            vehicle.step(self.now, STEP_S)
            if name in self.dead:
                continue
            core = self.cores[name]
            if vehicle.alive:
                self.act(name, core.on_vehicle(vehicle.state(self.now), self.now, self.swarm_ns))
            self.act(name, core.tick(self.now, self.swarm_ns))
        if self._tick % 2 == 0:
            self._talk()
        if self.leader is not None:
            for effect in self.leader.tick(self.now, self.swarm_ns):
                self._leader_effect(effect)
        self._measure()

    def act(self, name: str, effects: Sequence[FollowerEffect]) -> None:
        """Carries out a follower's effects."""
        vehicle = self.vehicles[name]
        for effect in effects:
            if isinstance(effect, GiveSetpoint) and vehicle.alive:
                vehicle.give(effect.setpoint, self.now)
            elif isinstance(effect, GiveOrder) and vehicle.alive:
                result = vehicle.order(effect.order)
                self._later(partial(self._hear_result, name, result), 2)
            elif isinstance(effect, SendAck):
                self._send(name, partial(self._hear_ack, effect.ack))
            elif isinstance(effect, Alarm):
                self.outcome.alarms.append(effect.text)

    def _hear_ack(self, ack: CommandAck) -> None:
        if self.leader is not None:
            self.leader.on_ack(ack, self.now, self.swarm_ns)

    def _hear_telemetry(self, report: DroneTelemetry) -> None:
        if self.leader is not None:
            self.leader.on_telemetry(report, self.now, self.swarm_ns)

    def _hear_result(self, name: str, result: OrderResult) -> None:
        self.act(name, self.cores[name].on_order_result(result, self.now, self.swarm_ns))

    def _leader_effect(self, effect: object) -> None:
        if isinstance(effect, MissionEvent):
            self.outcome.events.append(effect)
        elif isinstance(effect, SendCommand):
            for name in effect.command.targets or self.names:
                self._to_core(name, "on_command", effect.command)
        elif isinstance(effect, SendTrajectory):
            self._to_core(effect.trajectory.drone, "on_trajectory", effect.trajectory)
        elif isinstance(effect, AskModeration):
            self._moderate(effect.call)

    def _moderate(self, call: ModerationCall) -> None:
        if self.moderate is None:
            self.core_of_leader.on_moderation_failed(call.call_id, "the service is not there")
            return
        answer = self.moderate(call)
        self._later(lambda: self.core_of_leader.on_moderation(answer, self.now), self.moderation_ticks)

    def _to_core(self, name: str, method: str, message: object) -> None:
        core = self.cores[name]
        self._send(
            name,
            lambda: self.act(name, getattr(core, method)(message, "leader", self.now, self.swarm_ns)),
        )

    def _talk(self) -> None:
        for name, core in self.cores.items():
            if name in self.dead or name in self.deaf:
                continue
            report = core.telemetry(self.now, self.swarm_ns)
            self._send(name, partial(self._hear_telemetry, report))
            for other, peer in self.cores.items():
                if other != name and other not in self.deaf and self.random.random() >= self.loss:
                    peer.on_neighbour(report, self.now)
        if self.leader is not None:
            beat = self.leader.heartbeat(self.now)
            for name in self.names:
                self._to_core(name, "on_heartbeat", beat)

    def _send(self, drone: str, deliver: Callable[[], Any]) -> None:
        """Between leader and a drone, either way: lost, late, doubled."""
        if drone in self.deaf or drone in self.dead or self.random.random() < self.loss:
            return
        self._later(deliver, self.random.choice((1, 1, 2)) if self.loss else 1)
        if self.random.random() < self.loss / 2:
            self._later(deliver, self.random.choice((1, 2, 3)))

    def _later(self, deliver: Callable[[], Any], ticks: int) -> None:
        self._wire[self._tick + ticks].append(deliver)

    def _measure(self) -> None:
        flying = [v for v in self.vehicles.values() if v.in_air]
        if len(flying) > 1:
            points = np.array([v.position for v in flying])
            gaps = line_separations(points, points)
            index = int(gaps.argmin())
            if gaps.flat[index] < self.outcome.min_separation_m:
                first, second = divmod(index, len(flying))
                self.outcome.min_separation_m = float(gaps.flat[index])
                self.outcome.nearest = (flying[first].drone, flying[second].drone)
        for core in self.cores.values():
            error = core.telemetry(self.now, self.swarm_ns).tracking_error_m
            if not isnan(error):
                self.outcome.max_tracking_error_m = max(self.outcome.max_tracking_error_m, error)
