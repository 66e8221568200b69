"""Shard: the followers that one process hosts, and the dispatch of messages to them.

A message for several drones (a command without targets, the leader's heartbeat, a neighbour's telemetry)
arrives once and is passed to each core; effects are returned with the drone's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..effects import FollowerEffect
from ..messages import DroneTelemetry, LeaderHeartbeat, SwarmCommand, Trajectory
from ..vehicle import OrderResult, VehicleState
from .core import FollowerCore

Effects = list[tuple[str, FollowerEffect]]


class Shard:
    """Several `FollowerCore`s by name; `now` is monotonic seconds, `swarm_ns` swarm time."""

    def __init__(self, cores: Mapping[str, FollowerCore]) -> None:
        self.cores = dict(cores)

    def on_command(self, command: SwarmCommand, sender: str, now: float, swarm_ns: int) -> Effects:
        """Passes a command to its targets; each is ticked at once, not only in its next control cycle."""
        effects: Effects = []
        for drone in command.targets or tuple(self.cores):
            core = self.cores.get(drone)
            if core is None:
                continue
            effects += [(drone, effect) for effect in core.on_command(command, sender, now, swarm_ns)]
            effects += [(drone, effect) for effect in core.tick(now, swarm_ns)]
        return effects

    def on_trajectory(self, trajectory: Trajectory, sender: str, now: float, swarm_ns: int) -> Effects:
        """Passes a trajectory to its drone, if that is hosted here."""
        core = self.cores.get(trajectory.drone)
        if core is None:
            return []
        return [
            (trajectory.drone, effect) for effect in core.on_trajectory(trajectory, sender, now, swarm_ns)
        ]

    def on_heartbeat(self, heartbeat: LeaderHeartbeat, sender: str, now: float, swarm_ns: int) -> Effects:
        """Passes the leader's heartbeat to every drone."""
        return [
            (drone, effect)
            for drone, core in self.cores.items()
            for effect in core.on_heartbeat(heartbeat, sender, now, swarm_ns)
        ]

    def on_neighbour(self, telemetry: DroneTelemetry, now: float) -> None:
        """Passes telemetry to every drone but its sender."""
        for drone, core in self.cores.items():
            if drone != telemetry.drone:
                core.on_neighbour(telemetry, now)

    def on_stop(
        self, level: str, operator: str, targets: Sequence[str], now: float, swarm_ns: int
    ) -> Effects:
        """Passes an operator's stop to its targets that are hosted here."""
        return [
            (drone, effect)
            for drone in targets
            if drone in self.cores
            for effect in self.cores[drone].on_stop(level, operator, now, swarm_ns)
        ]

    def on_order_result(self, drone: str, result: OrderResult, now: float, swarm_ns: int) -> Effects:
        """Passes the result of an order to its drone."""
        return [(drone, effect) for effect in self.cores[drone].on_order_result(result, now, swarm_ns)]

    def step(self, drone: str, state: VehicleState, now: float, swarm_ns: int) -> Effects:
        """One control cycle of one drone: newest vehicle state in, setpoint and other effects out."""
        core = self.cores[drone]
        effects: Effects = [(drone, effect) for effect in core.on_vehicle(state, now, swarm_ns)]
        effects += [(drone, effect) for effect in core.tick(now, swarm_ns)]
        return effects
