"""Failsafes of a follower: loss of autopilot, battery or leader, take-over, and an unattended hover.

docs/missions.md lists every failsafe with its time limit and its action.
"""

from __future__ import annotations

from ..effects import FlightAlarm, FollowerEffect
from ..messages import ReasonCode
from ..vehicle import OrderKind
from .orders import Orders
from .state import Drone, FollowerMode
from .steering import Steering

# autopilot modes in which a vehicle without a follower hovers until the battery is empty
_HOVER_MODES = frozenset(("hold", "offboard", "takeoff", "guided", "loiter", "brake"))
# modes that only a pilot selects: a landing that a pilot has taken over is not resumed
_PILOT_MODES = frozenset(("manual", "altctl", "posctl", "acro", "stabilized", "rattitude"))


class Failsafes:
    """Detects the failsafe conditions of one drone and triggers their actions."""

    def __init__(self, drone: Drone, steering: Steering, orders: Orders) -> None:
        self._drone, self._steering, self._orders = drone, steering, orders
        self._heartbeat_s: float | None = None
        self._leader_lost = False
        self._autopilot_lost = False
        self._override_since: float | None = None
        self._unattended_since: float | None = None
        self._retry_s = 0.0

    def on_heartbeat(self, now: float) -> list[FollowerEffect]:
        """A heartbeat of the current leader term."""
        self._heartbeat_s = now
        drone = self._drone
        if not self._leader_lost:
            return []
        self._leader_lost = False
        if self._steering.returning or drone.reason_code is not ReasonCode.LEADER_LOST:
            return []
        drone.clear_reason()
        return [
            FlightAlarm(f"{drone.config.drone}: leader heartbeat received again, holding until commanded")
        ]

    def tick(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Evaluates all failsafe conditions that apply in the present mode."""
        mode = self._drone.mode
        if mode is FollowerMode.GROUND:
            return self._unattended(now, swarm_ns)
        return [] if mode is FollowerMode.LANDED else self._busy(now, swarm_ns)

    def _busy(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone, v = self._drone, self._drone.vehicle
        name = drone.config.drone
        if drone.autopilot_lost(now):
            return self._autopilot_timeout(now, swarm_ns)
        effects: list[FollowerEffect] = []
        if self._autopilot_lost:
            self._autopilot_lost = False
            effects.append(FlightAlarm(f"{name}: autopilot data received again"))
        if drone.mode is FollowerMode.LANDING:
            return effects + self._landing(now)
        watched = (FollowerMode.FLYING, FollowerMode.YIELDED, FollowerMode.KILLED, FollowerMode.ENGAGING)
        if drone.mode in watched and not v.armed and not v.in_air:
            if now - drone.mode_since > 1.0 or drone.mode is FollowerMode.KILLED:
                if drone.mode is not FollowerMode.KILLED:
                    drone.set_reason(ReasonCode.DISARMED, "the vehicle disarmed outside of a landing")
                    effects.append(FlightAlarm(f"{name}: {drone.reason}"))
                    effects += drone.fail(drone.reason)
                self._orders.on_landed(now)
            return effects
        if drone.mode is not FollowerMode.FLYING:
            return effects
        if self._override_persists(not v.offboard, now):
            return effects + self._yield(now)
        effects += self._battery(now, swarm_ns)
        if drone.mode is FollowerMode.FLYING:
            effects += self._leader(now, swarm_ns)
        return effects

    # ---- the vehicle -----------------------------------------------------------------------------

    def _autopilot_timeout(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone = self._drone
        if not self._autopilot_lost:
            self._autopilot_lost = True
            self._steering.pause(now, swarm_ns)
            self._retry_s = now + drone.config.blind_land_s
            alarm = FlightAlarm(f"{drone.config.drone}: no data from the autopilot, holding the reference")
            return [alarm, *drone.fail("no data from the autopilot")]
        if now > self._retry_s and drone.mode is not FollowerMode.KILLED:
            # it may still receive: landing in place is safer than an unobserved hover
            self._retry_s = now + 5.0
            return [self._orders.send(OrderKind.LAND, now, 3.0)]
        return []

    def _override_persists(self, sign: bool, now: float) -> bool:
        """True if the sign of a take-over has persisted for `offboard_grace_s`."""
        if not sign:
            self._override_since = None
            return False
        since = self._override_since = now if self._override_since is None else self._override_since
        return now - max(since, self._drone.mode_since) > self._drone.config.offboard_grace_s

    def _yield(self, now: float) -> list[FollowerEffect]:
        drone = self._drone
        drone.set_reason(ReasonCode.OFFBOARD_LEFT, f"the autopilot left offboard for {drone.vehicle.mode}")
        drone.set_mode(FollowerMode.YIELDED, now)
        self._override_since = None
        self._steering.clear_next()
        alarm = FlightAlarm(f"{drone.config.drone}: {drone.reason}, setpoints stopped")
        return [alarm, *drone.fail(drone.reason)]

    def _landing(self, now: float) -> list[FollowerEffect]:
        drone, v, orders = self._drone, self._drone.vehicle, self._orders
        if not v.in_air and not v.armed and not orders.pending(OrderKind.ARM):
            effects = drone.complete()
            orders.on_landed(now)
            return effects
        # An operator's landing takes precedence over a pilot, a leader's does not.
        if self._override_persists(v.in_air and v.mode in _PILOT_MODES and drone.stop is None, now):
            return self._yield(now)
        if self._override_since is not None or now <= self._retry_s:
            return []
        if not v.in_air and v.armed and now - drone.mode_since > 4.0:
            self._retry_s = now + 5.0
            return [orders.send(OrderKind.DISARM, now, 4.0)]
        left_land_mode = v.in_air and v.mode != "land" and now - drone.mode_since > 6.0
        if left_land_mode and not orders.pending(OrderKind.LAND):
            self._retry_s = now + 5.0
            return [orders.send(OrderKind.LAND, now, 4.0)]
        return []

    def _unattended(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """A vehicle that hovers when this process starts: its former follower has died."""
        drone, v = self._drone, self._drone.vehicle
        # A pilot's modes are excluded, and a hover under an operator's stop.
        hovers = v.in_air and v.mode in _HOVER_MODES and drone.home is None
        if not hovers or drone.autopilot_lost(now) or drone.stop is not None:
            self._unattended_since = None
            return []
        if self._unattended_since is None:
            self._unattended_since = now
        if now - self._unattended_since < drone.config.unattended_land_s:
            return []
        alarm = FlightAlarm(f"{drone.config.drone}: found hovering without a follower: landing in place")
        return [alarm, *self._orders.land_in_place(now, swarm_ns)]

    # ---- battery and leader ----------------------------------------------------------------------

    def _battery(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone, envelope = self._drone, self._drone.config.envelope
        level = drone.vehicle.battery_fraction
        if level < envelope.critical_battery_fraction:  # NaN compares false
            drone.set_reason(ReasonCode.BATTERY_CRITICAL, f"battery at {level * 100:.0f} %, landing in place")
            alarm = FlightAlarm(f"{drone.config.drone}: {drone.reason}")
            return [alarm, *drone.fail(drone.reason), *self._orders.land_in_place(now, swarm_ns)]
        if level < envelope.min_battery_fraction and not drone.battery_low and drone.stop is None:
            drone.battery_low = True
            drone.set_reason(ReasonCode.BATTERY_LOW, f"battery at {level * 100:.0f} %, returning")
            effects = [FlightAlarm(f"{drone.config.drone}: {drone.reason}"), *drone.fail(drone.reason)]
            if not self._steering.returning and drone.home is not None:
                self._steering.start_return(drone.home, drone.config.return_height_m, now, swarm_ns)
            return effects
        return []

    def _leader(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone, cfg = self._drone, self._drone.config
        silence_s = now - (drone.mode_since if self._heartbeat_s is None else self._heartbeat_s)
        held = drone.stop is not None  # by an operator; only the battery failsafe takes precedence
        if silence_s > cfg.heartbeat_hold_s and not self._leader_lost:
            self._leader_lost = True
            if not self._steering.returning and not held:
                drone.set_reason(
                    ReasonCode.LEADER_LOST, f"no leader heartbeat for {silence_s:.1f} s, holding"
                )
                alarm = FlightAlarm(f"{cfg.drone}: {drone.reason}")
                return [alarm, *drone.fail(drone.reason), *self._orders.hold(now, swarm_ns)]
        if (
            silence_s > cfg.heartbeat_return_s
            and not self._steering.returning
            and not held
            and drone.home is not None
        ):
            drone.set_reason(ReasonCode.LEADER_LOST, f"no leader heartbeat for {silence_s:.0f} s, returning")
            self._steering.start_return(drone.home, cfg.return_height_m, now, swarm_ns)
            return [FlightAlarm(f"{cfg.drone}: {drone.reason}")]
        return []
