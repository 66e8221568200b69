"""Ideal vehicle: a point mass in place of autopilot and airframe in a rehearsal."""

from __future__ import annotations

from math import inf

from ..vehicle import Order, OrderKind, OrderResult, Setpoint, Vec3, VehicleState


class IdealVehicle:
    """A point mass with PD controller and acceleration limit; takes off and lands like an autopilot."""

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
        self.linked = True  # the MAVLink connection is up

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
            self._execute(order)
        return OrderResult(order.order_id, order.kind, not why, why)

    def _execute(self, order: Order) -> None:
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

    def set_setpoint(self, setpoint: Setpoint, now: float) -> None:
        self.setpoint, self._setpoint_s = setpoint, now

    def step(self, now: float, dt: float) -> None:
        """Advances by `dt`; lands without link, and in offboard after 1 s without setpoint (failsafe)."""
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
