"""The drones that one follower process hosts, as one plain object: routes what arrives, measures what leaves.

One follower process may host several drones. What concerns all of them (a command to everybody, the leader's
heartbeat, a neighbour's telemetry) arrives once and is handed to each core; effects come back with the drone's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .effects import FollowerEffect, GiveSetpoint
from .follower import FollowerCore
from .histogram import Histogram
from .types import DroneState, DroneTelemetry, LeaderHeartbeat, SwarmCommand, Trajectory
from .vehicle import OrderResult, VehicleState

Effects = list[tuple[str, FollowerEffect]]


class Shard:
    """Several `FollowerCore`s behind one door; `now` is monotonic seconds, `swarm_ns` swarm time."""

    def __init__(self, cores: Mapping[str, FollowerCore]) -> None:
        self.cores = dict(cores)
        self.tracking_m = Histogram(smallest=1e-3)
        # From the leader's sealing of a command to the setpoint that it caused, milliseconds.
        self.latency_ms = Histogram(smallest=1e-2)

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
        return [(trajectory.drone, effect) for effect in core.on_trajectory(trajectory, sender, now, swarm_ns)]

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

    def on_stop(self, level: str, operator: str, targets: Sequence[str], now: float, swarm_ns: int) -> Effects:
        """Hands an operator's stop to the hosted drones it names; no names means all."""
        return [
            (drone, effect)
            for drone, core in self.cores.items()
            if not targets or drone in targets
            for effect in core.on_stop(level, operator, now, swarm_ns)
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

    def note_latency(self, effects: Effects, sent_ns: int, handed_ns: int) -> None:
        """Counts how old a command was when the setpoint it caused had been handed over."""
        if any(isinstance(effect, GiveSetpoint) for _, effect in effects):
            self.latency_ms.add((handed_ns - sent_ns) * 1e-6)

    def note_tracking(self, telemetry: DroneTelemetry) -> None:
        """Counts the tracking error of a drone that follows a trajectory."""
        if telemetry.state == DroneState.FOLLOWING:
            self.tracking_m.add(telemetry.tracking_error_m)
