"""What a follower watches by itself: autopilot, battery, leader, a drone left without a follower."""

from __future__ import annotations

from ..effects import FlightAlarm, FollowerEffect
from ..messages import ReasonCode
from ..vehicle import OrderKind
from .orders import Orders
from .state import Drone, FollowerMode
from .steering import Steering

# modes in which a drone stays up when its follower dies, until the battery is empty
_ORPHAN_MODES = frozenset(("hold", "offboard", "takeoff", "guided", "loiter", "brake"))
# modes that only a pilot chooses: whoever takes over while the drone lands is left alone
_PILOT_MODES = frozenset(("manual", "altctl", "posctl", "acro", "stabilized", "rattitude"))


class Failsafes:
    """Notices what one drone has lost, and says what follows (docs/missions.md)."""

    def __init__(self, drone: Drone, steering: Steering, orders: Orders) -> None:
        self._drone, self._steering, self._orders = drone, steering, orders
        self._heartbeat_s: float | None = None
        self._leader_lost = False
        self._vehicle_lost = False
        self._taken_since: float | None = None
        self._orphan_since: float | None = None
        self._retry_s = 0.0

    def heartbeat(self, now: float) -> list[FollowerEffect]:
        """The leader of the term in force lives."""
        self._heartbeat_s = now
        drone = self._drone
        if not self._leader_lost:
            return []
        self._leader_lost = False
        if self._steering.returning or drone.reason_code is not ReasonCode.LEADER_LOST:
            return []
        drone.clear_reason()
        return [FlightAlarm(f"{drone.config.drone}: the leader is heard again, holding until it commands")]

    def tick(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Losses and take-overs."""
        mode = self._drone.mode
        if mode is FollowerMode.GROUND:
            return self._orphan(now, swarm_ns)
        return [] if mode is FollowerMode.LANDED else self._busy(now, swarm_ns)

    def _busy(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone, v = self._drone, self._drone.vehicle
        name = drone.config.drone
        if drone.silent(now):
            return self._silent_vehicle(now, swarm_ns)
        effects: list[FollowerEffect] = []
        if self._vehicle_lost:
            self._vehicle_lost = False
            effects.append(FlightAlarm(f"{name}: its autopilot is heard again"))
        if drone.mode is FollowerMode.LANDING:
            return effects + self._landing(now)
        watched = (FollowerMode.FLYING, FollowerMode.YIELDED, FollowerMode.KILLED, FollowerMode.ENGAGING)
        if drone.mode in watched and not v.armed and not v.in_air:
            if now - drone.mode_since > 1.0 or drone.mode is FollowerMode.KILLED:
                if drone.mode is not FollowerMode.KILLED:
                    drone.set_reason(ReasonCode.DISARMED, "the vehicle disarmed outside of a landing")
                    effects.append(FlightAlarm(f"{name}: {drone.reason}"))
                    effects += drone.fail(drone.reason)
                self._orders.touched_down(now)
            return effects
        if drone.mode is not FollowerMode.FLYING:
            return effects
        if self._taken_over(not v.offboard, now):
            return effects + self._yield(now)
        effects += self._battery(now, swarm_ns)
        if drone.mode is FollowerMode.FLYING:
            effects += self._leader(now, swarm_ns)
        return effects

    # ---- the vehicle -----------------------------------------------------------------------------

    def _silent_vehicle(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone = self._drone
        if not self._vehicle_lost:
            self._vehicle_lost = True
            self._steering.pause(now, swarm_ns)
            self._retry_s = now + drone.config.blind_land_s
            alarm = FlightAlarm(f"{drone.config.drone}: its autopilot is silent, holding the reference")
            return [alarm, *drone.fail("the autopilot fell silent")]
        if now > self._retry_s and drone.mode is not FollowerMode.KILLED:
            # it may still hear: better down where it is than hovering unseen
            self._retry_s = now + 5.0
            return [self._orders.give(OrderKind.LAND, now, 3.0)]
        return []

    def _taken_over(self, sign: bool, now: float) -> bool:
        """Whether the sign of a take-over has stayed for long enough."""
        if not sign:
            self._taken_since = None
            return False
        since = self._taken_since = now if self._taken_since is None else self._taken_since
        return now - max(since, self._drone.mode_since) > self._drone.config.offboard_grace_s

    def _yield(self, now: float) -> list[FollowerEffect]:
        drone = self._drone
        drone.set_reason(ReasonCode.OFFBOARD_LEFT, f"the autopilot left offboard for {drone.vehicle.mode}")
        drone.set_mode(FollowerMode.YIELDED, now)
        self._taken_since = None
        self._steering.drop()
        alarm = FlightAlarm(f"{drone.config.drone}: {drone.reason}, not steering any more")
        return [alarm, *drone.fail(drone.reason)]

    def _landing(self, now: float) -> list[FollowerEffect]:
        drone, v, orders = self._drone, self._drone.vehicle, self._orders
        if not v.in_air and not v.armed and not orders.waits_for(OrderKind.ARM):
            effects = drone.complete()
            orders.touched_down(now)
            return effects
        # An operator's order to land stands above a pilot, a leader's does not.
        if self._taken_over(v.in_air and v.mode in _PILOT_MODES and drone.stop is None, now):
            return self._yield(now)
        if self._taken_since is not None or now <= self._retry_s:
            return []
        if not v.in_air and v.armed and now - drone.mode_since > 4.0:
            self._retry_s = now + 5.0
            return [orders.give(OrderKind.DISARM, now, 4.0)]
        lost_its_way = v.in_air and v.mode != "land" and now - drone.mode_since > 6.0
        if lost_its_way and not orders.waits_for(OrderKind.LAND):
            self._retry_s = now + 5.0
            return [orders.give(OrderKind.LAND, now, 4.0)]
        return []

    def _orphan(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """A drone that hovers although this process never took it up: its former follower has died."""
        drone, v = self._drone, self._drone.vehicle
        # Modes in which a pilot holds the sticks are left alone, and what an operator wants to hover.
        hovers = v.in_air and v.mode in _ORPHAN_MODES and drone.home is None
        if not hovers or drone.silent(now) or drone.stop is not None:
            self._orphan_since = None
            return []
        if self._orphan_since is None:
            self._orphan_since = now
        if now - self._orphan_since < drone.config.orphan_land_s:
            return []
        alarm = FlightAlarm(f"{drone.config.drone}: found hovering without a follower: landing in place")
        return [alarm, *self._orders.land_here(now, swarm_ns)]

    # ---- battery and leader ----------------------------------------------------------------------

    def _battery(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        drone, envelope = self._drone, self._drone.config.envelope
        level = drone.vehicle.battery_fraction
        if level < envelope.critical_battery_fraction:  # NaN compares false
            drone.set_reason(ReasonCode.BATTERY_CRITICAL, f"battery at {level * 100:.0f} %, landing here")
            alarm = FlightAlarm(f"{drone.config.drone}: {drone.reason}")
            return [alarm, *drone.fail(drone.reason), *self._orders.land_here(now, swarm_ns)]
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
        silence = now - (drone.mode_since if self._heartbeat_s is None else self._heartbeat_s)
        held = drone.stop is not None  # by an operator, whom nothing but the battery overrules
        if silence > cfg.heartbeat_hold_s and not self._leader_lost:
            self._leader_lost = True
            if not self._steering.returning and not held:
                drone.set_reason(ReasonCode.LEADER_LOST, f"no leader heard for {silence:.1f} s, holding")
                alarm = FlightAlarm(f"{cfg.drone}: {drone.reason}")
                return [alarm, *drone.fail(drone.reason), *self._orders.stand(now, swarm_ns)]
        if (
            silence > cfg.heartbeat_return_s
            and not self._steering.returning
            and not held
            and drone.home is not None
        ):
            drone.set_reason(ReasonCode.LEADER_LOST, f"no leader heard for {silence:.0f} s, returning")
            self._steering.start_return(drone.home, cfg.return_height_m, now, swarm_ns)
            return [FlightAlarm(f"{cfg.drone}: {drone.reason}")]
        return []
