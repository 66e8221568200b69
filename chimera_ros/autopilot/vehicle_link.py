"""Link to one vehicle: its state in `map`, its orders, its setpoints.

Three kinds of threads call it: the node's (state, submit, setpoint, tick), the bridge's supervisor (step),
and the call pool's (configuration, orders). MAVSDK's own threads only write to the `TelemetryCache`.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
from typing import Any

from mavsdk.plugins.action import Action
from mavsdk.plugins.info import Info
from mavsdk.plugins.mavlink_direct import MavlinkDirect
from mavsdk.plugins.offboard import Offboard
from mavsdk.plugins.telemetry import Telemetry

from chimera_ros.autopilot.config import PROJECTIONS, VehicleConfig
from chimera_ros.autopilot.frames import (
    EkfOrigin,
    TangentPlane,
    enu_from_ned,
    flu_in_enu_from_frd_in_ned,
    yaw_of,
)
from chimera_ros.autopilot.orders import OrderQueue, StartedOrder
from chimera_ros.autopilot.origin import OriginTracker
from chimera_ros.autopilot.personality import PERSONALITIES, CallFailed, Plugins, attempt
from chimera_ros.autopilot.pool import CallPool
from chimera_ros.autopilot.setpoints import SetpointSender
from chimera_ros.autopilot.telemetry import MODE_NAMES, TelemetryCache
from chimera_ros.flight.vehicle import Order, OrderKind, OrderResult, Setpoint, VehicleState

_log = logging.getLogger(__name__)
HEIGHT_REACHED_WITHIN_M = 0.5
_POSITION_SILENT_S = 1.0
_ORIGIN_FAST_S = 1.0
_ORIGIN_SLOW_S = 10.0
_BLOCKERS_EVERY_S = 0.2
_UNREPORTED_AFTER = 2  # unanswered requests for the origin
_NEVER = float("-inf")
_AWAITED = (OrderKind.ARM, OrderKind.TAKEOFF, OrderKind.START_OFFBOARD)  # done when the effect is seen


class VehicleLink:
    """State, orders and setpoints of one vehicle. Only what runs in the pool blocks."""

    def __init__(
        self,
        config: VehicleConfig,
        plane: TangentPlane,
        clock: Callable[[], float],
        pool: CallPool,
        on_result: Callable[[str, OrderResult], None],
    ) -> None:
        self.config = config
        self.telemetry = TelemetryCache(clock)
        self.setpoints = SetpointSender()
        self.uid: str | None = None
        self.connection_failure = f"{config.drone}: the connection has not been opened yet"
        self._clock = clock
        self._pool = pool
        self._on_result = on_result
        self._personality = PERSONALITIES[config.kind]()
        self._origin = OriginTracker(plane, PROJECTIONS[config.kind])
        self._orders = OrderQueue()
        self._lock = threading.RLock()  # origin, orders
        self._plugins: Plugins | None = None
        self._system: Any = None
        self._configuring = False
        self._was_connected = False
        self._local_used = self._global_used = _NEVER
        self._origin_next = _NEVER
        self._origin_requested = False
        self._origin_unanswered = 0
        self._blockers: tuple[str, ...] = (self.connection_failure,)
        self._blockers_next = _NEVER
        self._uid_mismatch = ""
        self._climb_from_m = math.nan
        self._order_since = _NEVER
        self._closed = False

    # ------------------------------------------------------------------ called by the node

    def state(self) -> VehicleState:
        """Newest state; cheap."""
        telemetry, local, frame = self.telemetry, self.telemetry.local, self._origin.frame
        orientation = flu_in_enu_from_frd_in_ned(*telemetry.attitude)
        mode = MODE_NAMES.get(telemetry.mode, "unknown")
        stamp, position, velocity = _NEVER, (math.nan,) * 3, (0.0, 0.0, 0.0)
        if local is not None and frame is not None:
            stamp = local[0]
            position = frame.to_map(enu_from_ned(local[1]))
            velocity = frame.vector_to_map(enu_from_ned(local[2]))
        return VehicleState(
            drone=self.config.drone,
            stamp_s=stamp,
            connected=telemetry.connected,
            armed=telemetry.armed,
            in_air=telemetry.in_air,
            offboard=mode == "offboard",
            mode=mode,
            position_enu_m=position,
            velocity_enu_m_s=velocity,
            orientation_xyzw=orientation,
            yaw_enu_rad=yaw_of(orientation),
            battery_fraction=telemetry.battery_fraction,
            blockers=self._blockers,
        )

    def submit(self, order: Order) -> None:
        """Queue an order; see `Bridge.submit`."""
        now = self._clock()
        with self._lock:
            if self._closed:
                results = [OrderResult(order.order_id, order.kind, False, "the bridge is closed")]
            else:
                results = self._orders.submit(order, now)
        self._emit(results)
        self._start_next(now)

    def setpoint(self, setpoint: Setpoint) -> None:
        """Send a setpoint, or count its refusal."""
        self.setpoints.send(setpoint, self._origin.frame, self._clock())

    @property
    def origin(self) -> OriginTracker:
        """The EKF origin of this vehicle."""
        return self._origin

    def step(self, now: float) -> None:
        """Watchdog, origin, deadlines, take-off progress: at least ten times a second, from any thread."""
        if self.setpoints.degrade(self._origin.frame, now):
            _log.warning("%s: no fresh setpoint, holding the last commanded position", self.config.drone)
        with self._lock:
            if self._closed:
                return
            if self._plugins is not None:
                self.telemetry.poll(self._system, self._plugins.telemetry, now)
            self._update_origin()
            self._request_origin(now)
            self._reconnect()
            if now >= self._blockers_next:
                self._blockers_next = now + _BLOCKERS_EVERY_S
                self._blockers = tuple(self._arming_blockers(now))
            results = self._progress(now)
        self._emit(results)
        self._start_next(now)

    # ------------------------------------------------------------------ called by the bridge

    def attach(self, system: Any) -> None:
        """MAVSDK has discovered the pinned system: subscribe and configure it, in the pool."""
        with self._lock:
            if self._system is not None or self._closed:
                return
            self._system = system
            self._configuring = True
        self._pool.submit(self._configure_first)

    @property
    def attached(self) -> bool:
        """True if MAVSDK has discovered the pinned system."""
        return self._system is not None

    def close(self) -> None:
        """Fail all orders; nothing more is sent to the autopilot."""
        with self._lock:
            self._closed = True
            results = self._orders.drop_all("the bridge is closed")
            self._plugins = None
        self.setpoints.connect(None)
        self._emit(results)

    # ------------------------------------------------------------------ in the pool

    def _configure_first(self) -> None:
        try:
            self._connect_plugins(self._system)
        except (RuntimeError, ValueError) as error:  # tried again when the supervisor sees the system again
            _log.warning("%s: MAVSDK gives no access to the vehicle: %s", self.config.drone, error)
            with self._lock:
                self._system, self._configuring = None, False
            return
        self._configure()

    def _connect_plugins(self, system: Any) -> None:
        plugins = Plugins(
            system_id=self.config.system_id,
            action=Action(system),
            telemetry=Telemetry(system),
            offboard=Offboard(system),
            direct=MavlinkDirect(system) if self._personality.needs_direct else None,
            info=Info(system),
        )
        self.telemetry.subscribe(plugins.telemetry)
        self.telemetry.poll(system, plugins.telemetry, self._clock())
        with self._lock:
            if self._closed:
                return
            self._plugins = plugins
            self.setpoints.connect(plugins.offboard)
        self._was_connected = self.telemetry.connected

    def _configure(self) -> None:
        plugins = self._plugins
        if plugins is None:
            return
        try:
            for refusal in self._personality.request_streams(plugins):
                _log.info("%s: %s", self.config.drone, refusal)
            self._identify(plugins)
        finally:
            with self._lock:
                self._configuring = False
                self._origin_next = _NEVER

    def _identify(self, plugins: Plugins) -> None:
        pinned = self.config.uid
        try:
            answer = attempt(plugins.info.get_identification)
        except CallFailed as failure:
            if pinned:
                self._uid_mismatch = f"{self.config.drone} is pinned to autopilot {pinned}, but {failure}"
            return
        self.uid = answer.hardware_uid.strip("\0").lower() or f"{answer.legacy_uid:x}"
        matches = pinned is None or pinned.lower() in (self.uid, f"{answer.legacy_uid:x}")
        self._uid_mismatch = (
            "" if matches else f"{self.config.drone} is pinned to autopilot {pinned}, but {self.uid} answers"
        )

    def _query_origin(self) -> None:
        plugins = self._plugins
        origin: EkfOrigin | None = None
        try:
            if plugins is not None:
                answer = attempt(plugins.telemetry.get_gps_global_origin)
                origin = EkfOrigin(answer.latitude_deg, answer.longitude_deg, answer.altitude_m)
        except (CallFailed, ValueError) as failure:
            _log.debug("%s: no origin: %s", self.config.drone, failure)
        with self._lock:
            self._origin_requested = False
            if origin is not None:
                self._origin_unanswered = 0
                self._origin.on_origin(origin)
            elif self.telemetry.connected:
                self._origin_unanswered += 1
                if self._origin_unanswered >= _UNREPORTED_AFTER:
                    self._origin.on_origin_unreported()

    def _execute(self, running: StartedOrder) -> None:
        order, ok, reason = running.order, False, ""
        plugins = self._plugins
        try:
            if plugins is None:
                raise CallFailed("the vehicle is not connected")
            self._personality.execute(plugins, order)
            ok = True
        except CallFailed as failure:
            warning = self.telemetry.last_warning(self._order_since)
            reason = f"{failure} ({warning})" if warning else str(failure)
        now = self._clock()
        repeat: StartedOrder | None = None
        results: list[OrderResult] = []
        with self._lock:
            running.in_call = False
            if not running.pending:
                # Whatever the answer: a call that timed out may have been executed as well.
                repeat = self._orders.to_repeat_after(running)
            elif ok and order.kind in _AWAITED:
                running.accepted = True
            else:
                results = self._orders.finish(running, ok, reason)
                repeat = running if ok and running.repeat else None
        if ok and order.kind in (OrderKind.HOLD, OrderKind.LAND, OrderKind.KILL, OrderKind.STOP_OFFBOARD):
            self.setpoints.forget()
        self._emit(results)
        if repeat is not None and plugins is not None:
            _log.warning("%s: repeating %s after a late answer", self.config.drone, repeat.order.kind.value)
            try:
                self._personality.execute(plugins, repeat.order)
            except CallFailed as failure:
                _log.error("%s: repeating %s: %s", self.config.drone, repeat.order.kind.value, failure)
        self._start_next(now)

    # ------------------------------------------------------------------ helpers

    def _start_next(self, now: float) -> None:
        with self._lock:
            if self._closed:
                return
            running = self._orders.next(now)
            if running is None:
                return
            reason = self._refusal(running.order, now)
            if not reason:
                self._order_since = now
                state_up = self.state().position_enu_m[2]
                self._climb_from_m = state_up
                if self._pool.submit(lambda: self._execute(running)):
                    return
                reason = "too many calls are waiting for answers"
            results = self._orders.finish(running, False, reason)
        self._emit(results)
        self._start_next(now)

    def _refusal(self, order: Order, now: float) -> str:
        """Why an order is not sent to the autopilot; empty if it is."""
        if self._plugins is None:
            return "; ".join(self._arming_blockers(now)) or "the vehicle is not connected"
        if order.kind is OrderKind.ARM:
            return "; ".join(self._arming_blockers(now))
        if order.kind is OrderKind.TAKEOFF:
            if not (math.isfinite(order.height_m) and order.height_m > 0.0):
                return f"the take-off height is {order.height_m} m, but must be positive"
            if not self.telemetry.armed:
                return "it is not armed"
            if self.telemetry.in_air:
                return "it is in the air already"
        if order.kind is OrderKind.START_OFFBOARD and not self.setpoints.fresh(now):
            return "offboard control needs a fresh setpoint first"
        if order.kind is OrderKind.KILL and not self.config.allow_kill:
            return "this flight was not started with --allow-kill"
        return ""

    def _arming_blockers(self, now: float) -> Iterable[str]:
        drone = self.config.drone
        if self._plugins is None:
            yield self.connection_failure
            return
        if not self.telemetry.connected:
            yield f"{drone} (system id {self.config.system_id}, {self.config.url}): heartbeat lost"
            return
        if self._uid_mismatch:
            yield self._uid_mismatch
        if not self.config.allow_arm:
            yield f"{drone}: motors may not start, because this flight was not started with --arm"
        if self._configuring:
            yield f"{drone}: telemetry streams are still being requested"
        local = self.telemetry.local
        if local is None:
            yield f"{drone} has sent no local position yet"
        elif now - local[0] > _POSITION_SILENT_S:
            yield f"{drone}: the last position is {now - local[0]:.1f} s old"
        yield from self._origin.blockers(drone, now)
        yield from self.telemetry.health_blockers(drone, now)

    def _update_origin(self) -> None:
        local, geodetic = self.telemetry.local, self.telemetry.geodetic
        if local is not None and local[0] > self._local_used:
            self._local_used = local[0]
            self._origin.on_local(enu_from_ned(local[1]), enu_from_ned(local[2]), local[0])
        if geodetic is not None and geodetic[0] > self._global_used:
            self._global_used = geodetic[0]
            stamp, latitude, longitude, altitude = geodetic
            if math.isfinite(latitude + longitude + altitude):
                self._origin.on_global(latitude, longitude, altitude, stamp)

    def _request_origin(self, now: float) -> None:
        if (
            self._plugins is None
            or self._origin_requested
            or self._configuring
            or not self.telemetry.connected
        ):
            return
        soon = self._origin.request_soon()
        if now < self._origin_next and not (
            soon and now >= self._origin_next - _ORIGIN_SLOW_S + _ORIGIN_FAST_S
        ):
            return
        if self._pool.submit(self._query_origin):
            self._origin_requested = True
            self._origin_next = now + _ORIGIN_SLOW_S

    def _reconnect(self) -> None:
        connected = self.telemetry.connected
        if connected and not self._was_connected and not self._configuring and self._plugins is not None:
            self._configuring = True  # an autopilot that restarted has lost its stream rates
            self._pool.submit(self._configure)
        self._was_connected = connected

    def _progress(self, now: float) -> list[OrderResult]:
        running = self._orders.running
        if running is None:
            return []
        order = running.order
        missing = self._incomplete(order) if running.accepted else "the autopilot did not answer"
        if not missing:
            return self._orders.finish(running, True)
        if self._orders.overdue(now) is None:
            return []
        reason = f"{missing} within {order.deadline_s:g} s"
        return self._orders.finish(running, False, reason)

    def _incomplete(self, order: Order) -> str:
        """Effect of an accepted order that is still missing; empty when it is complete."""
        if order.kind is OrderKind.ARM:
            return "" if self.telemetry.armed else "the autopilot accepted, but did not report to be armed"
        if order.kind is OrderKind.START_OFFBOARD:
            offboard = MODE_NAMES.get(self.telemetry.mode) == "offboard"
            return "" if offboard else "the autopilot accepted, but did not report offboard mode"
        climbed = self.state().position_enu_m[2] - self._climb_from_m
        if climbed >= order.height_m - HEIGHT_REACHED_WITHIN_M:
            return ""
        return f"reached {climbed:.1f} m of {order.height_m:g} m"

    def _emit(self, results: list[OrderResult]) -> None:
        for result in results:
            self._on_result(self.config.drone, result)
