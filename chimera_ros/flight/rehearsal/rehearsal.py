"""Rehearsal: a mission in memory with the leader and follower cores, ideal vehicles and a simulated network.

Time is stepped; without autopilot, ROS and clock it is reproducible by seed and faster than real time. The
network loses, delays, reorders and duplicates messages. Cryptography is not simulated.
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
    FlightAlarm,
    FollowerEffect,
    MissionEvent,
    RequestModeration,
    SendAck,
    SendCommand,
    SendOrder,
    SendSetpoint,
    SendTrajectory,
)
from ..follower.core import FollowerConfig, FollowerCore
from ..leader.core import LeaderConfig, LeaderCore
from ..limits import FlightEnvelope
from ..messages import CommandAck, DroneTelemetry
from ..moderation_call import Moderate, ModerationRequest
from ..planning.mission import Mission
from ..planning.separation import line_separations
from ..vehicle import OrderResult
from .ideal_vehicle import IdealVehicle

STEP_S = 0.05
SWARM_START_NS = 1_800_000_000_000_000_000


@dataclass(slots=True)
class RehearsalOutcome:
    """Outcome of a rehearsal; metres and seconds."""

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
    """A swarm in memory: `step` or `run` it; `at` schedules a fault."""

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
        self.moderate = moderate  # in flight; None: the service is down
        self.moderation_ticks = 2  # latency of an answer
        self.core_of_leader = self.leader
        self.radio_lost: set[str] = set()  # drones whose radio is dead
        self.dead: set[str] = set()  # drones whose follower process is dead
        self.outcome = RehearsalOutcome(False, None, 0.0, inf, None, 0.0, 0)
        self._wire: dict[int, list[Callable[[], None]]] = defaultdict(list)
        self._tick = 0
        self._scheduled: list[tuple[float, Callable[[Rehearsal], None]]] = []

    @property
    def swarm_ns(self) -> int:
        return SWARM_START_NS + int(self.now * 1e9)

    def at(self, time_s: float, what: Callable[[Rehearsal], None]) -> None:
        """Schedules a call `what(rehearsal)`."""
        self._scheduled.append((time_s, what))

    def run(self, limit_s: float = 600.0) -> RehearsalOutcome:
        """Steps until the leader has finished, `limit_s` at most."""
        while self.now < limit_s and not self.core_of_leader.finished:
            self.step()
        core = self.core_of_leader
        self.outcome.completed, self.outcome.failure = core.completed, core.failure
        self.outcome.duration_s, self.outcome.lost = self.now, core.lost
        self.outcome.avoidances = sum(c.avoider.activations for c in self.cores.values())
        return self.outcome

    def run_until(self, condition: Callable[[Rehearsal], bool], limit_s: float = 600.0) -> bool:
        """Steps until a condition holds; False if `limit_s` passes first."""
        while self.now < limit_s:
            if condition(self):
                return True
            self.step()
        return False

    def step(self) -> None:
        """One tick of 50 ms for every core and vehicle."""
        self._tick += 1
        self.now = self._tick * STEP_S
        for due, what in [p for p in self._scheduled if p[0] <= self.now]:
            self._scheduled.remove((due, what))
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
                self.apply(name, core.on_vehicle(vehicle.state(self.now), self.now, self.swarm_ns))
            self.apply(name, core.tick(self.now, self.swarm_ns))
        if self._tick % 2 == 0:
            self._exchange()
        if self.leader is not None:
            for effect in self.leader.tick(self.now, self.swarm_ns):
                self._leader_effect(effect)
        self._measure()

    def apply(self, name: str, effects: Sequence[FollowerEffect]) -> None:
        """Applies a follower's effects."""
        vehicle = self.vehicles[name]
        for effect in effects:
            if isinstance(effect, SendSetpoint) and vehicle.alive:
                vehicle.set_setpoint(effect.setpoint, self.now)
            elif isinstance(effect, SendOrder) and vehicle.alive:
                result = vehicle.order(effect.order)
                self._later(partial(self._deliver_result, name, result), 2)
            elif isinstance(effect, SendAck):
                self._send(name, partial(self._deliver_ack, effect.ack))
            elif isinstance(effect, FlightAlarm):
                self.outcome.alarms.append(effect.text)

    def _deliver_ack(self, ack: CommandAck) -> None:
        if self.leader is not None:
            self.leader.on_ack(ack, self.now, self.swarm_ns)

    def _deliver_telemetry(self, report: DroneTelemetry) -> None:
        if self.leader is not None:
            self.leader.on_telemetry(report, self.now, self.swarm_ns)

    def _deliver_result(self, name: str, result: OrderResult) -> None:
        self.apply(name, self.cores[name].on_order_result(result, self.now, self.swarm_ns))

    def _leader_effect(self, effect: object) -> None:
        if isinstance(effect, MissionEvent):
            self.outcome.events.append(effect)
        elif isinstance(effect, SendCommand):
            for name in effect.command.targets or self.names:
                self._to_core(name, "on_command", effect.command)
        elif isinstance(effect, SendTrajectory):
            self._to_core(effect.trajectory.drone, "on_trajectory", effect.trajectory)
        elif isinstance(effect, RequestModeration):
            self._moderate(effect.call)

    def _moderate(self, call: ModerationRequest) -> None:
        if self.moderate is None:
            self.core_of_leader.on_moderation_failed(call.call_id, "the service is not available")
            return
        answer = self.moderate(call)
        self._later(lambda: self.core_of_leader.on_moderation(answer, self.now), self.moderation_ticks)

    def _to_core(self, name: str, method: str, message: object) -> None:
        core = self.cores[name]
        self._send(
            name,
            lambda: self.apply(name, getattr(core, method)(message, "leader", self.now, self.swarm_ns)),
        )

    def _exchange(self) -> None:
        for name, core in self.cores.items():
            if name in self.dead or name in self.radio_lost:
                continue
            report = core.telemetry(self.now, self.swarm_ns)
            self._send(name, partial(self._deliver_telemetry, report))
            for other, peer in self.cores.items():
                if other != name and other not in self.radio_lost and self.random.random() >= self.loss:
                    peer.on_neighbour(report, self.now)
        if self.leader is not None:
            beat = self.leader.heartbeat(self.now)
            for name in self.names:
                self._to_core(name, "on_heartbeat", beat)

    def _send(self, drone: str, deliver: Callable[[], Any]) -> None:
        """Delivers between leader and drone, either way, with loss, delay and duplicates."""
        if drone in self.radio_lost or drone in self.dead or self.random.random() < self.loss:
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
