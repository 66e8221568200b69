"""Follower core: one drone's decisions. Events in, effects out; no clock, no socket.

Precedence, highest first:
1. The drone's flight envelope: nothing outside it is accepted, whoever signed it.
2. A certified operator's stop: latched until the drone has landed.
3. The vehicle: when the autopilot or a pilot takes over, setpoints stop until a new command.
4. Failsafes: loss of leader, battery, autopilot (docs/missions.md has every consequence).
5. The leader's commands: newest term, newest id, within the deadline; a duplicate gets the same answer.

The core passes events to its parts, which share one `Drone` (state.py): `Commands` accepts or refuses,
`Failsafes` detects losses, `Orders` operates the autopilot, `Steering` computes the setpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isnan, nan

from ..effects import FollowerEffect
from ..geometry import distance, plus
from ..messages import (
    MAX_REASON,
    DroneState,
    DroneTelemetry,
    LeaderHeartbeat,
    ReasonCode,
    SwarmCommand,
    Trajectory,
)
from ..vehicle import OrderKind, OrderResult, Vec3, VehicleState
from .avoidance import Avoider
from .commands import Commands
from .config import FollowerConfig
from .failsafes import Failsafes
from .orders import Orders
from .state import DISENGAGED, Drone, FollowerMode
from .steering import PathProgress, Steering

__all__ = ["FollowerConfig", "FollowerCore", "FollowerMode"]


class FollowerCore:
    """One drone. Methods return effects; `now` is monotonic seconds, `swarm_ns` swarm time."""

    def __init__(self, config: FollowerConfig) -> None:
        self.config = config
        self._drone = Drone(config)
        self._steering = Steering(config)
        self._orders = Orders(self._drone, self._steering)
        self._commands = Commands(self._drone, self._steering, self._orders)
        self._failsafes = Failsafes(self._drone, self._steering, self._orders)

    # ---- events ----------------------------------------------------------------------------------

    def on_command(self, cmd: SwarmCommand, sender: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """A verified command from `sender`; ignored if it is not addressed to this drone."""
        if cmd.targets and self.config.drone not in cmd.targets:
            return []
        return self._commands.on_command(cmd, now, swarm_ns)

    def on_trajectory(
        self, trajectory: Trajectory, sender: str, now: float, swarm_ns: int
    ) -> list[FollowerEffect]:
        """A verified trajectory from `sender`; ignored if it is not this drone's."""
        if trajectory.drone != self.config.drone:
            return []
        return self._commands.on_trajectory(trajectory, swarm_ns)

    def on_heartbeat(
        self, heartbeat: LeaderHeartbeat, sender: str, now: float, swarm_ns: int
    ) -> list[FollowerEffect]:
        """A leader's heartbeat; one of an older term is ignored.

        A newer term begins with a command or trajectory only: heartbeats are not signed, so a captured member
        could end the leader's term with one.
        """
        if heartbeat.term < self._drone.term:
            return []
        return self._failsafes.on_heartbeat(now)

    def on_neighbour(self, telemetry: DroneTelemetry, now: float) -> None:
        """A neighbour's telemetry, for collision avoidance."""
        self.avoider.on_telemetry(telemetry, self._drone.vehicle.position_enu_m, now)

    def on_stop(self, level: str, operator: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """An operator's verified stop: hold, land or kill."""
        return self._commands.on_stop(level, operator, now, swarm_ns)

    def on_vehicle(self, state: VehicleState, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """The newest vehicle state of the bridge; it is evaluated at the next tick."""
        self._drone.vehicle = state
        return []

    def on_order_result(self, result: OrderResult, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """The outcome of an order; that of an expired or unknown one is ignored."""
        if not self._orders.close(result.order_id):
            return []
        return self._orders.on_result(result.kind, result.ok, result.reason, now, swarm_ns)

    def set_blockers(self, blockers: Sequence[str]) -> None:
        """The shell's reasons why this drone must not arm: no epoch, clock offset not measured, ..."""
        self._drone.blockers = tuple(blockers)

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """One control cycle, at 20 Hz: failsafes, progress of the task, setpoint."""
        drone, steering = self._drone, self._steering
        effects = self._orders.expire(now, swarm_ns)
        effects += self._failsafes.tick(now, swarm_ns)
        if drone.mode is FollowerMode.CLIMBING:
            effects += self._orders.climb(now, swarm_ns)
        elif drone.mode is FollowerMode.FLYING:
            effects += self._advance(now, swarm_ns)
        # offboard needs setpoints until the autopilot has accepted LAND
        landing = (
            drone.mode is FollowerMode.LANDING and steering.streaming and self._orders.pending(OrderKind.LAND)
        )
        if drone.mode in (FollowerMode.ENGAGING, FollowerMode.FLYING) or landing:
            effects.append(steering.steer(drone.vehicle, drone.mode, now, swarm_ns))
        else:
            steering.stop_setpoints(now)
        return effects

    def _advance(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone = self._drone
        progress = self._steering.advance(drone.home, now, swarm_ns)
        if progress is PathProgress.AT_PAD:
            return self._orders.land_in_place(now, swarm_ns)
        if progress is PathProgress.TOO_FAR:
            return drone.fail("the plan does not begin at the reference")
        return drone.complete() if progress is PathProgress.STANDING else []

    def telemetry(
        self, now: float, swarm_ns: int, epoch: int = 0, clock_offset_s: float = 0.0
    ) -> DroneTelemetry:
        """The telemetry to publish now, with the newest measured position."""
        drone, reference = self._drone, self._steering.setpoint
        v = drone.vehicle
        age = min(max(now - v.stamp_s, 0.0), 1.0) if isfinite(v.stamp_s) else 0.0
        code, why = drone.not_ready(now)
        ready = not why
        if drone.reason:
            code, why = drone.reason_code, drone.reason
        elif drone.mode not in DISENGAGED:
            code, why = ReasonCode.NONE, ""
        error = nan
        if not isnan(reference[0]) and not isnan(v.position_enu_m[0]):
            vel = v.velocity_enu_m_s
            ahead = plus(v.position_enu_m, (vel[0] * age, vel[1] * age, vel[2] * age))
            error = distance(ahead, reference)
        return DroneTelemetry(
            drone=self.config.drone,
            stamp_ns=swarm_ns - int(age * 1e9),
            state=self.state_at(now),
            armed=v.armed,
            in_air=v.in_air,
            ready=ready,
            reason=why[:MAX_REASON],
            position_enu_m=v.position_enu_m,
            velocity_enu_m_s=v.velocity_enu_m_s,
            orientation=v.orientation_xyzw,
            reference_enu_m=reference,
            tracking_error_m=error,
            battery_fraction=v.battery_fraction,
            clock_offset_s=clock_offset_s,
            plan_id=drone.plan_id,
            command_id=drone.command_id,
            epoch=epoch,
            reason_code=code,
        )

    def state_at(self, now: float) -> DroneState:
        """The state that telemetry reports."""
        drone = self._drone
        v, mode = drone.vehicle, drone.mode
        if not isfinite(v.stamp_s):
            return DroneState.UNKNOWN
        if drone.autopilot_lost(now):
            return DroneState.LOST
        if mode is FollowerMode.FLYING:
            if self._steering.returning:
                return DroneState.FAILSAFE if drone.battery_low else DroneState.RETURNING
            return DroneState.FOLLOWING if self._steering.moving else DroneState.HOLDING
        if mode in DISENGAGED and v.in_air:
            return DroneState.FAILSAFE  # restarted in flight, or taken off by a pilot
        if mode is FollowerMode.GROUND and v.armed:
            return DroneState.ARMED
        return {
            FollowerMode.GROUND: DroneState.GROUNDED,
            FollowerMode.ARMING: DroneState.ARMED if v.armed else DroneState.GROUNDED,
            FollowerMode.CLIMBING: DroneState.TAKING_OFF,
            FollowerMode.ENGAGING: DroneState.TAKING_OFF,
            FollowerMode.LANDING: DroneState.LANDING,
            FollowerMode.LANDED: DroneState.LANDED,
        }.get(mode, DroneState.FAILSAFE)

    # ---- read-only view -------------------------------------------------------------------------

    @property
    def mode(self) -> FollowerMode:
        """The mode of the core."""
        return self._drone.mode

    @property
    def term(self) -> int:
        """The newest leader term received."""
        return self._drone.term

    @property
    def plan_id(self) -> int:
        """The plan last followed."""
        return self._drone.plan_id

    @property
    def command_id(self) -> int:
        """The command last executed."""
        return self._drone.command_id

    @property
    def avoider(self) -> Avoider:
        """Collision avoidance of this drone."""
        return self._steering.avoider

    @property
    def home_enu_m(self) -> Vec3 | None:
        """Home position: where this drone took off; None before its first take-off."""
        return self._drone.home
