"""What a follower asks of its autopilot: arm, climb, steer, land; and what follows from answers."""

from __future__ import annotations

from math import isfinite

from ..effects import FlightAlarm, FollowerEffect, SendOrder
from ..geometry import flat_distance
from ..messages import ReasonCode
from ..vehicle import Order, OrderKind, Vec3
from .state import AUTO_MODES, DISENGAGED, Drone, FollowerMode
from .steering import Steering

_TRIES = 3


class Orders:
    """The orders of one drone that are under way."""

    def __init__(self, drone: Drone, steering: Steering) -> None:
        self._drone, self._steering = drone, steering
        self._open: dict[int, tuple[OrderKind, float]] = {}  # id -> kind, given up at
        self._next = 1
        self._tries = 0

    def give(self, kind: OrderKind, now: float, deadline_s: float, height_m: float = 0.0) -> SendOrder:
        """Hands an order to the autopilot."""
        order = Order(self._next, kind, height_m, deadline_s)
        self._next += 1
        self._open[order.order_id] = (kind, now + deadline_s + 1.0)
        return SendOrder(order)

    def waits_for(self, kind: OrderKind) -> bool:
        """Whether an order of this kind is still without an answer."""
        return any(given is kind for given, _ in self._open.values())

    def answered(self, order_id: int) -> bool:
        """Takes an order as answered; False when it was given up or never given."""
        return self._open.pop(order_id, None) is not None

    def give_up(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Orders that were never answered count as failed."""
        effects: list[FollowerEffect] = []
        for order_id, (kind, until) in list(self._open.items()):
            if now > until and self._open.pop(order_id, None) is not None:
                effects += self.done(kind, False, f"no answer to {kind.value}", now, swarm_ns)
        return effects

    def done(self, kind: OrderKind, ok: bool, reason: str, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """What follows from the outcome of an order."""
        drone, name = self._drone, self._drone.config.drone
        if kind is OrderKind.ARM:
            return self._armed(ok, reason, now)
        if kind is OrderKind.TAKEOFF and not ok and drone.mode is FollowerMode.CLIMBING:
            drone.set_reason(ReasonCode.ORDER_FAILED, f"take-off failed: {reason}")
            return [*drone.fail(drone.reason), *self.land_here(now, swarm_ns)]
        if kind is OrderKind.START_OFFBOARD and drone.mode is FollowerMode.ENGAGING:
            if ok:
                self._engaged(now, swarm_ns)
                return []
            self._tries += 1
            if self._tries < _TRIES:
                return [self.give(OrderKind.START_OFFBOARD, now, 5.0)]
            return [*drone.fail(f"offboard refused: {reason}"), *self.land_here(now, swarm_ns)]
        if kind is OrderKind.LAND and not ok and drone.mode is FollowerMode.LANDING:
            if self.waits_for(OrderKind.LAND):  # overtaken by a newer one
                return []
            self._tries += 1
            if self._tries < 10 * _TRIES:
                return [self.give(OrderKind.LAND, now, 5.0)]
            drone.set_reason(ReasonCode.ORDER_FAILED, f"the autopilot refuses to land: {reason}")
            return [FlightAlarm(f"{name}: {drone.reason}")]
        if kind is OrderKind.KILL and not ok:
            effects: list[FollowerEffect] = [FlightAlarm(f"{name}: kill failed: {reason}")]
            self._tries += 1
            if (
                drone.mode is FollowerMode.KILLED
                and self._tries < _TRIES
                and not self.waits_for(OrderKind.KILL)
            ):
                effects.append(self.give(OrderKind.KILL, now, 2.0))
            return effects
        return []

    def _armed(self, ok: bool, reason: str, now: float) -> list[FollowerEffect]:
        drone = self._drone
        if drone.mode is not FollowerMode.ARMING:
            return (
                [self.give(OrderKind.DISARM, now, 4.0)] if ok and drone.mode is FollowerMode.LANDING else []
            )
        if not ok:
            drone.set_mode(FollowerMode.GROUND, now)
            drone.set_reason(ReasonCode.ORDER_FAILED, f"arming failed: {reason}")
            return drone.fail(drone.reason)
        assert drone.home is not None
        drone.set_mode(FollowerMode.CLIMBING, now)
        limit = drone.config.takeoff_timeout_s  # its result comes when the height is reached
        return [self.give(OrderKind.TAKEOFF, now, limit, drone.hover_z - drone.home[2])]

    def _engaged(self, now: float, swarm_ns: int) -> None:
        drone = self._drone
        drone.set_mode(FollowerMode.FLYING, now)
        home = drone.home
        if drone.stop is None and home is not None and flat_distance(home, self._steering.goal_enu_m) < 2.0:
            # settle exactly above the pad, where the leader's plan begins
            self._steering.leg((home[0], home[1], drone.hover_z), now, swarm_ns)

    # ---- doing -----------------------------------------------------------------------------------

    def take_off(self, home_enu_m: Vec3, hover_z_m: float, now: float) -> list[FollowerEffect]:
        """Arms; the climb follows when that is done."""
        drone = self._drone
        drone.home, drone.hover_z, drone.cancelled = home_enu_m, hover_z_m, False
        self._steering.avoider.ground_m = home_enu_m[2]
        drone.set_mode(FollowerMode.ARMING, now)
        return [self.give(OrderKind.ARM, now, 6.0)]

    def climb(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """While the autopilot climbs: takes up steering at the height, gives up after too long."""
        drone = self._drone
        v, limit = drone.vehicle, drone.config.takeoff_timeout_s
        there = abs(v.position_enu_m[2] - drone.hover_z) < 0.8 and abs(v.velocity_enu_m_s[2]) < 0.6
        if v.in_air and there and not self.waits_for(OrderKind.TAKEOFF):
            return self._engage(now)
        if now - drone.mode_since > limit:
            why = f"did not reach {drone.hover_z:.1f} m within {limit:.0f} s"
            return [*drone.fail(why), *self.land_here(now, swarm_ns)]
        return []

    def stand(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Hover here: brake along the path; take up again what the autopilot had taken over."""
        drone = self._drone
        if drone.mode is FollowerMode.FLYING:
            self._steering.brake(now, swarm_ns)
            return []
        self._steering.drop()
        v = drone.vehicle
        if drone.mode is FollowerMode.YIELDED and v.in_air and v.mode in AUTO_MODES:
            return self._engage(now)
        return []

    def _engage(self, now: float) -> list[FollowerEffect]:
        v = self._drone.vehicle
        if not all(map(isfinite, v.position_enu_m)):
            return []
        self._tries = 0
        self._drone.set_mode(FollowerMode.ENGAGING, now)
        setpoint = self._steering.engage(v.position_enu_m, v.yaw_enu_rad)
        return [setpoint, self.give(OrderKind.START_OFFBOARD, now, 5.0)]

    def land_here(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Lands in place; on the ground: calls off a take-off, disarms."""
        drone = self._drone
        self._steering.drop()
        self._steering.plans.clear()
        if drone.mode in (FollowerMode.ARMING, *DISENGAGED) and not drone.vehicle.in_air:
            drone.cancelled = True
            drone.set_mode(FollowerMode.LANDING, now)  # may be about to arm: LANDING ends when it is disarmed
            return [self.give(OrderKind.DISARM, now, 5.0)]
        if drone.mode is FollowerMode.LANDING:
            return []
        if drone.mode is FollowerMode.FLYING:
            self._steering.brake(now, swarm_ns)
        self._tries = 0
        drone.set_mode(FollowerMode.LANDING, now)
        return [self.give(OrderKind.LAND, now, 5.0)]

    def kill(self, now: float) -> list[FollowerEffect]:
        """Stops the motors wherever it is."""
        self._tries = 0
        self._steering.drop()
        self._drone.set_mode(FollowerMode.KILLED, now)
        return [self.give(OrderKind.KILL, now, 2.0)]

    def touched_down(self, now: float) -> None:
        """It is down and disarmed: nothing is latched any more, unless it never left the ground."""
        drone = self._drone
        drone.set_mode(FollowerMode.LANDED, now)
        self._steering.drop()
        self._steering.plans.clear()
        self._steering.avoider.reset()
        self._open.clear()
        drone.task = None
        drone.battery_low = False
        if not drone.cancelled:
            drone.stop = None
