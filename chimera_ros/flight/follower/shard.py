"""The drones that one follower process hosts, as one plain object that routes what arrives.

What concerns several of them (a command to everybody, the leader's heartbeat, a neighbour's telemetry)
arrives once and is handed to each core; effects come back with the drone's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..effects import FollowerEffect
from ..messages import DroneTelemetry, LeaderHeartbeat, SwarmCommand, Trajectory
from ..vehicle import OrderResult, VehicleState
from .core import FollowerCore

Effects = list[tuple[str, FollowerEffect]]


class Shard:
    """Several `FollowerCore`s behind one door; `now` is monotonic seconds, `swarm_ns` swarm time."""

    def __init__(self, cores: Mapping[str, FollowerCore]) -> None:
        self.cores = dict(cores)

    def on_command(self, command: SwarmCommand, sender: str, now: float, swarm_ns: int) -> Effects:
        """Hands a command to the drones it names and lets each react at once, not only at its next tick."""
        effects: Effects = []
        for drone in command.targets or tuple(self.cores):
            core = self.cores.get(drone)
            if core is None:
                continue
            effects += [(drone, effect) for effect in core.on_command(command, sender, now, swarm_ns)]
            effects += [(drone, effect) for effect in core.tick(now, swarm_ns)]
        return effects

    def on_trajectory(self, trajectory: Trajectory, sender: str, now: float, swarm_ns: int) -> Effects:
        """Hands a trajectory to its drone, if that is hosted here."""
        core = self.cores.get(trajectory.drone)
        if core is None:
            return []
        return [
            (trajectory.drone, effect) for effect in core.on_trajectory(trajectory, sender, now, swarm_ns)
        ]

    def on_heartbeat(self, heartbeat: LeaderHeartbeat, sender: str, now: float, swarm_ns: int) -> Effects:
        """Hands the leader's sign of life to every drone."""
        return [
            (drone, effect)
            for drone, core in self.cores.items()
            for effect in core.on_heartbeat(heartbeat, sender, now, swarm_ns)
        ]

    def on_neighbour(self, telemetry: DroneTelemetry, now: float) -> None:
        """Tells every drone but the sender where the sender is."""
        for drone, core in self.cores.items():
            if drone != telemetry.drone:
                core.on_neighbour(telemetry, now)

    def on_stop(
        self, level: str, operator: str, targets: Sequence[str], now: float, swarm_ns: int
    ) -> Effects:
        """Hands an operator's stop to the hosted drones it names."""
        return [
            (drone, effect)
            for drone in targets
            if drone in self.cores
            for effect in self.cores[drone].on_stop(level, operator, now, swarm_ns)
        ]

    def on_order_result(self, drone: str, result: OrderResult, now: float, swarm_ns: int) -> Effects:
        """Hands the outcome of an order to its drone."""
        return [(drone, effect) for effect in self.cores[drone].on_order_result(result, now, swarm_ns)]

    def step(self, drone: str, state: VehicleState, now: float, swarm_ns: int) -> Effects:
        """One control cycle of one drone: newest vehicle state in, setpoint and whatever else out."""
        core = self.cores[drone]
        effects: Effects = [(drone, effect) for effect in core.on_vehicle(state, now, swarm_ns)]
        effects += [(drone, effect) for effect in core.tick(now, swarm_ns)]
        return effects
