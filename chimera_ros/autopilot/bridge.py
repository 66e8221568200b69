"""Bridge between flight logic and autopilots: one MAVSDK object per process, one connection per vehicle.

    bridge = Bridge(vehicles, datum, time.monotonic, on_result)
    bridge.start()                      # returns at once; vehicles are connected in the background
    bridge.state("drone_01").blockers   # reasons not to arm, one sentence each
    bridge.submit("drone_01", Order(1, OrderKind.ARM))
    bridge.setpoint("drone_01", Setpoint((0.0, 0.0, 10.0)))
    bridge.tick(time.monotonic())       # at 20 Hz or more
    bridge.close()

The interface uses ENU metres in `map`. Not handled here: whether an order is safe (the follower core decides)
and MAVLink signing (MAVSDK has no interface for it).
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar

from mavsdk import Configuration, Mavsdk
from mavsdk.logging import LogLevel, log_subscribe, log_unsubscribe

from chimera_ros.autopilot.config import VehicleConfig, check_fleet
from chimera_ros.autopilot.connection import Connection, ConnectionStage
from chimera_ros.autopilot.frames import TangentPlane
from chimera_ros.autopilot.pool import CallPool
from chimera_ros.autopilot.vehicle_link import VehicleLink
from chimera_ros.flight.datum import Datum
from chimera_ros.flight.vehicle import Order, OrderResult, Setpoint, VehicleState

_log = logging.getLogger(__name__)
_mavsdk_log = logging.getLogger(f"{__name__}.mavsdk")
_LEVELS = {LogLevel.WARN: logging.INFO, LogLevel.ERROR: logging.WARNING}  # it warns of every lost packet

OWN_SYSTEM_ID = 245
_OWN_COMPONENT_ID = 190
_SUPERVISE_EVERY_S = 0.1
_TICK_TIMEOUT_S = 0.2
_CLOSE_WITHIN_S = 1.5
_EXIT_WITHIN_S = 5.0  # longer than the time-out of any MAVSDK call
_MAX_OBJECTS = 16  # more Mavsdk objects in one process corrupt its memory

__all__ = ["OWN_SYSTEM_ID", "Bridge", "VehicleConfig"]


class Bridge:
    """All vehicles of this process.

    `on_result(drone, result)` is called exactly once per order, from any thread (also from within `submit`),
    and must only store or enqueue. Methods that take a drone raise KeyError for an unknown one. `start`
    raises PortBusy when a vehicle's port is taken, ConnectError when it cannot be opened, RuntimeError when
    another bridge runs.
    """

    _exclusive: ClassVar[threading.Lock] = threading.Lock()
    _closing: ClassVar[threading.Event] = threading.Event()
    _created: ClassVar[int] = 0

    def __init__(
        self,
        vehicles: Sequence[VehicleConfig],
        datum: Datum,
        clock: Callable[[], float],
        on_result: Callable[[str, OrderResult], None],
    ) -> None:
        check_fleet(tuple(vehicles), OWN_SYSTEM_ID)
        self._vehicles = tuple(vehicles)
        self._clock = clock
        self._pool = CallPool(2 * len(self._vehicles) + 2, "autopilot-call")
        plane = TangentPlane(datum)
        self._links = {v.drone: VehicleLink(v, plane, clock, self._pool, on_result) for v in self._vehicles}
        self._connections: dict[str, Connection] = {}
        self._mavsdk: Mavsdk | None = None
        self._supervisor: threading.Thread | None = None
        self._stop = threading.Event()
        self._ticked_s = float("-inf")
        self._system_count = 0
        self._discovered: set[int] = set()
        self._log_lines: deque[tuple[LogLevel, str]] = deque(maxlen=200)

    def start(self) -> None:
        """Open all ports and begin to connect the vehicles; returns at once."""
        # A bridge that is being closed may still wait for the time-out of its calls.
        timeout_s = 2 * _EXIT_WITHIN_S if Bridge._closing.is_set() else 0.0
        if not Bridge._exclusive.acquire(timeout=timeout_s):
            raise RuntimeError(
                "another autopilot bridge runs in this process: close it first, one serves all vehicles"
            )
        try:
            if Bridge._created >= _MAX_OBJECTS:
                raise RuntimeError(
                    f"this process has opened {_MAX_OBJECTS} autopilot bridges: start a new process"
                )
            now = self._clock()
            for vehicle in self._vehicles:
                self._connections[vehicle.drone] = Connection(vehicle, now)
            Bridge._created += 1
            log_subscribe(self._on_log)
            self._mavsdk = Mavsdk(Configuration.create_manual(OWN_SYSTEM_ID, _OWN_COMPONENT_ID, True))
        except BaseException:
            for connection in self._connections.values():
                connection.close()
            Bridge._exclusive.release()
            raise
        atexit.register(self._at_exit)
        self._pool.start()
        self._supervisor = threading.Thread(target=self._supervise, name="autopilot-supervisor", daemon=True)
        self._supervisor.start()

    def close(self) -> None:
        """Close the connections within 2 s, without waiting for calls that have not returned. Idempotent."""
        mavsdk, self._mavsdk = self._mavsdk, None
        if mavsdk is None:
            return
        self._stop.set()
        for link in self._links.values():
            link.close()
        if self._supervisor is not None and self._supervisor is not threading.current_thread():
            self._supervisor.join(0.3)
        for connection in self._connections.values():
            connection.close()
        if self._pool.close(_CLOSE_WITHIN_S):
            self._destroy(mavsdk)
        else:  # destroying MAVSDK during a call would crash
            Bridge._closing.set()
            threading.Thread(
                target=self._destroy_later, args=(mavsdk,), name="autopilot-close", daemon=True
            ).start()

    def state(self, drone: str) -> VehicleState:
        """Newest state of a vehicle, in `map`; positions are NaN while its origin is unknown."""
        return self._links[drone].state()

    def submit(self, drone: str, order: Order) -> None:
        """Queue an order; one at a time is executed per drone.

        HOLD, LAND and KILL overtake: what waits or runs fails as overtaken, and they start at once. ARM is
        refused while there are blockers. ARM and START_OFFBOARD are complete when the vehicle reports it,
        TAKEOFF when the height is reached within 0.5 m, LAND and the others when the autopilot has
        accepted. KILL stops the motors wherever the vehicle is and needs `allow_kill`; nothing else does.
        """
        self._links[drone].submit(order)

    def setpoint(self, drone: str, setpoint: Setpoint) -> None:
        """Send a position setpoint with feed-forward to the autopilot; never blocks, counts refusals."""
        self._links[drone].setpoint(setpoint)

    def tick(self, now: float) -> None:
        """Watchdogs and deadlines. If the node stops calling this, the supervisor thread does it."""
        self._ticked_s = now
        for link in self._links.values():
            link.step(now)

    def uid(self, drone: str) -> str | None:
        """The autopilot's hardware id in hexadecimal, for `VehicleConfig.uid`; None while unknown."""
        return self._links[drone].uid

    def counters(self, drone: str) -> dict[str, int]:
        """Setpoints sent, refused by reason, degraded to a hold; origin changes and position resets."""
        link = self._links[drone]
        counted = {
            "setpoints_given": link.setpoints.sent,
            "setpoints_degraded": link.setpoints.degraded,
            "origin_changes": link.origin.origin_changes,
            "position_resets": link.origin.position_resets,
        }
        return counted | {
            f"setpoints_refused_{reason.value}": n for reason, n in link.setpoints.refused.items()
        }

    # ------------------------------------------------------------------ supervisor thread

    def _supervise(self) -> None:
        while not self._stop.wait(_SUPERVISE_EVERY_S):
            mavsdk = self._mavsdk
            if mavsdk is None:
                return
            try:
                now = self._clock()
                self._connect(mavsdk, now)
                if now - self._ticked_s > _TICK_TIMEOUT_S:
                    for link in self._links.values():
                        link.step(now)
            except Exception:
                _log.exception("supervising the autopilots failed")
            self._write_log()

    def _connect(self, mavsdk: Mavsdk, now: float) -> None:
        missing = [v for v in self._vehicles if not self._links[v.drone].attached]
        if not missing:
            return
        for vehicle in missing:
            self._connections[vehicle.drone].step(mavsdk, self._pool, now)
        if mavsdk.system_count() != self._system_count or len(self._discovered) < self._system_count:
            self._system_count = mavsdk.system_count()
            by_id = {
                system.get_system_id(): system for system in mavsdk.get_systems() if system.has_autopilot()
            }
            self._discovered = set(by_id)
            for vehicle in missing:
                if (
                    vehicle.system_id in by_id
                    and self._connections[vehicle.drone].stage is ConnectionStage.OPEN
                ):
                    self._links[vehicle.drone].attach(by_id[vehicle.system_id])
        unpinned = self._discovered - {v.system_id for v in self._vehicles}
        for vehicle in missing:
            self._links[vehicle.drone].connection_failure = self._connections[vehicle.drone].failure(
                unpinned, now
            )

    def _on_log(self, level: LogLevel, message: str, file: str | None, line: int) -> bool:
        self._log_lines.append((level, message))
        return True

    def _write_log(self) -> None:
        while self._log_lines:
            level, message = self._log_lines.popleft()
            _mavsdk_log.log(_LEVELS.get(level, logging.DEBUG), "%s", message)

    # ------------------------------------------------------------------ closing

    def _destroy(self, mavsdk: Mavsdk) -> None:
        mavsdk.destroy()
        log_unsubscribe()
        atexit.unregister(self._at_exit)
        Bridge._closing.clear()
        Bridge._exclusive.release()

    def _destroy_later(self, mavsdk: Mavsdk) -> None:
        if self._pool.close(_EXIT_WITHIN_S):
            self._destroy(mavsdk)

    def _at_exit(self) -> None:
        """Let running calls return. Registered after MAVSDK's own exit hook, so it runs before that."""
        self.close()
        until = time.monotonic() + _EXIT_WITHIN_S
        while not self._pool.close(0.1) and time.monotonic() < until:
            pass
