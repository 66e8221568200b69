"""Autopilot orders of a follower: arm, take off, start offboard, land, kill, and their results.

Every order has a deadline; one without a result by then counts as failed. Refused orders are repeated a
bounded number of times.
"""

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
    """Orders of one drone that wait for a result, and the manoeuvres made of them."""

    def __init__(self, drone: Drone, steering: Steering) -> None:
        self._drone, self._steering = drone, steering
        self._open: dict[int, tuple[OrderKind, float]] = {}  # id -> kind, expiry
        self._next = 1
        self._tries = 0

    def send(self, kind: OrderKind, now: float, deadline_s: float, height_m: float = 0.0) -> SendOrder:
        """Sends an order to the autopilot."""
        order = Order(self._next, kind, height_m, deadline_s)
        self._next += 1
        self._open[order.order_id] = (kind, now + deadline_s + 1.0)
        return SendOrder(order)

    def pending(self, kind: OrderKind) -> bool:
        """True if an order of this kind waits for its result."""
        return any(given is kind for given, _ in self._open.values())

    def close(self, order_id: int) -> bool:
        """Closes an order; False if it is expired or unknown."""
        return self._open.pop(order_id, None) is not None

    def expire(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Fails the orders whose deadline has passed."""
        effects: list[FollowerEffect] = []
        for order_id, (kind, until) in list(self._open.items()):
            if now > until and self._open.pop(order_id, None) is not None:
                effects += self.on_result(kind, False, f"no response to {kind.value}", now, swarm_ns)
        return effects

    def on_result(
        self, kind: OrderKind, ok: bool, reason: str, now: float, swarm_ns: int
    ) -> list[FollowerEffect]:
        """The consequences of an order's result."""
        drone, name = self._drone, self._drone.config.drone
        if kind is OrderKind.ARM:
            return self._on_arm_result(ok, reason, now)
        if kind is OrderKind.TAKEOFF and not ok and drone.mode is FollowerMode.CLIMBING:
            drone.set_reason(ReasonCode.ORDER_FAILED, f"take-off failed: {reason}")
            return [*drone.fail(drone.reason), *self.land_in_place(now, swarm_ns)]
        if kind is OrderKind.START_OFFBOARD and drone.mode is FollowerMode.ENGAGING:
            if ok:
                self._on_offboard_started(now, swarm_ns)
                return []
            self._tries += 1
            if self._tries < _TRIES:
                return [self.send(OrderKind.START_OFFBOARD, now, 5.0)]
            return [*drone.fail(f"offboard refused: {reason}"), *self.land_in_place(now, swarm_ns)]
        if kind is OrderKind.LAND and not ok and drone.mode is FollowerMode.LANDING:
            if self.pending(OrderKind.LAND):  # superseded by a newer one
                return []
            self._tries += 1
            if self._tries < 10 * _TRIES:
                return [self.send(OrderKind.LAND, now, 5.0)]
            drone.set_reason(ReasonCode.ORDER_FAILED, f"the autopilot refuses to land: {reason}")
            return [FlightAlarm(f"{name}: {drone.reason}")]
        if kind is OrderKind.KILL and not ok:
            effects: list[FollowerEffect] = [FlightAlarm(f"{name}: kill failed: {reason}")]
            self._tries += 1
            if (
                drone.mode is FollowerMode.KILLED
                and self._tries < _TRIES
                and not self.pending(OrderKind.KILL)
            ):
                effects.append(self.send(OrderKind.KILL, now, 2.0))
            return effects
        return []

    def _on_arm_result(self, ok: bool, reason: str, now: float) -> list[FollowerEffect]:
        drone = self._drone
        if drone.mode is not FollowerMode.ARMING:
            return (
                [self.send(OrderKind.DISARM, now, 4.0)] if ok and drone.mode is FollowerMode.LANDING else []
            )
        if not ok:
            drone.set_mode(FollowerMode.GROUND, now)
            drone.set_reason(ReasonCode.ORDER_FAILED, f"arming failed: {reason}")
            return drone.fail(drone.reason)
        assert drone.home is not None
        drone.set_mode(FollowerMode.CLIMBING, now)
        limit = drone.config.takeoff_timeout_s  # its result comes at the take-off height
        return [self.send(OrderKind.TAKEOFF, now, limit, drone.hover_z - drone.home[2])]

    def _on_offboard_started(self, now: float, swarm_ns: int) -> None:
        drone = self._drone
        drone.set_mode(FollowerMode.FLYING, now)
        home = drone.home
        if drone.stop is None and home is not None and flat_distance(home, self._steering.goal_enu_m) < 2.0:
            # settle exactly above the pad, where the leader's plan begins
            self._steering.leg((home[0], home[1], drone.hover_z), now, swarm_ns)

    # ---- manoeuvres ------------------------------------------------------------------------------

    def take_off(self, home_enu_m: Vec3, hover_z_m: float, now: float) -> list[FollowerEffect]:
        """Arms; the take-off follows the result."""
        drone = self._drone
        drone.home, drone.hover_z, drone.cancelled = home_enu_m, hover_z_m, False
        self._steering.avoider.ground_m = home_enu_m[2]
        drone.set_mode(FollowerMode.ARMING, now)
        return [self.send(OrderKind.ARM, now, 6.0)]

    def climb(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """During the autopilot's take-off: starts offboard at the height, lands after `takeoff_timeout_s`."""
        drone = self._drone
        v, limit = drone.vehicle, drone.config.takeoff_timeout_s
        there = abs(v.position_enu_m[2] - drone.hover_z) < 0.8 and abs(v.velocity_enu_m_s[2]) < 0.6
        if v.in_air and there and not self.pending(OrderKind.TAKEOFF):
            return self._engage(now)
        if now - drone.mode_since > limit:
            why = f"did not reach {drone.hover_z:.1f} m within {limit:.0f} s"
            return [*drone.fail(why), *self.land_in_place(now, swarm_ns)]
        return []

    def hold(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Holds here: brakes along the path, or starts offboard again after the autopilot's own modes."""
        drone = self._drone
        if drone.mode is FollowerMode.FLYING:
            self._steering.brake(now, swarm_ns)
            return []
        self._steering.clear_next()
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
        return [setpoint, self.send(OrderKind.START_OFFBOARD, now, 5.0)]

    def land_in_place(self, now: float, swarm_ns: int) -> list[FollowerEffect]:
        """Lands in place; on the ground it cancels a take-off and disarms."""
        drone = self._drone
        self._steering.clear_next()
        self._steering.plans.clear()
        if drone.mode in (FollowerMode.ARMING, *DISENGAGED) and not drone.vehicle.in_air:
            drone.cancelled = True
            drone.set_mode(FollowerMode.LANDING, now)  # it may still arm: LANDING ends once disarmed
            return [self.send(OrderKind.DISARM, now, 5.0)]
        if drone.mode is FollowerMode.LANDING:
            return []
        if drone.mode is FollowerMode.FLYING:
            self._steering.brake(now, swarm_ns)
        self._tries = 0
        drone.set_mode(FollowerMode.LANDING, now)
        return [self.send(OrderKind.LAND, now, 5.0)]

    def kill(self, now: float) -> list[FollowerEffect]:
        """Stops the motors, in flight too."""
        self._tries = 0
        self._steering.clear_next()
        self._drone.set_mode(FollowerMode.KILLED, now)
        return [self.send(OrderKind.KILL, now, 2.0)]

    def on_landed(self, now: float) -> None:
        """Landed and disarmed: releases what is latched, unless the take-off was cancelled."""
        drone = self._drone
        drone.set_mode(FollowerMode.LANDED, now)
        self._steering.clear_next()
        self._steering.plans.clear()
        self._steering.avoider.reset()
        self._open.clear()
        drone.task = None
        drone.battery_low = False
        if not drone.cancelled:
            drone.stop = None
