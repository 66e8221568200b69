"""How one vehicle's connection comes up: first listen who is there, then hand the connection to MAVSDK."""

from __future__ import annotations

import logging
import threading
from enum import Enum
from typing import Any

from mavsdk import ConnectionResult

from chimera_ros.autopilot.config import VehicleConfig
from chimera_ros.autopilot.connect import require_free_port
from chimera_ros.autopilot.pool import CallPool
from chimera_ros.autopilot.probe import PortProbe

_log = logging.getLogger(__name__)
_RETRY_S = 2.0
_MANY = 5


class ConnectionStage(Enum):
    """Where a connection stands."""

    LISTENING = "listening"  # the port is ours, the pinned autopilot was not heard yet
    CLOSED = "closed"  # nothing opened yet, or MAVSDK could not open it
    OPENING = "opening"  # MAVSDK is at it
    OPEN = "open"  # MAVSDK has the connection, the system is not yet discovered


def _listed(ids: set[int]) -> str:
    shown = [str(i) for i in sorted(ids)[:_MANY]]
    return ", ".join(shown) + (", …" if len(ids) > _MANY else "")


class Connection:
    """One vehicle's way from URL to MAVSDK connection. Raises PortBusy or ConnectError if it cannot."""

    def __init__(self, config: VehicleConfig, now: float) -> None:
        self.config = config
        self._since = now
        self._retry_at = now
        self._failure = ""
        self._lock = threading.Lock()
        url = config.parsed_url
        self._probe: PortProbe | None = None
        self.stage = ConnectionStage.CLOSED
        if url.scheme == "udpin":
            self._probe = PortProbe(url, config.drone)
            self.stage = ConnectionStage.LISTENING
        else:
            require_free_port(url, config.drone)

    def step(self, mavsdk: Any, pool: CallPool, now: float) -> None:
        """Move on if there is something to move on to; called a few times a second."""
        with self._lock:
            if self._probe is not None:
                if self.config.system_id not in self._probe.poll():
                    return
                self._probe.close()
                self._probe = None
                self.stage = ConnectionStage.CLOSED
                self._retry_at = now
            if self.stage is not ConnectionStage.CLOSED or now < self._retry_at:
                return
            self.stage = ConnectionStage.OPENING
            self._retry_at = now + _RETRY_S
        if not pool.submit(lambda: self._open(mavsdk)):
            self.stage = ConnectionStage.CLOSED

    def trouble(self, strangers: set[int], now: float) -> str:
        """Why the vehicle is not there yet, one sentence; `strangers` are ids that no drone is pinned to."""
        drone, wanted, url = self.config.drone, self.config.system_id, self.config.url
        with self._lock:
            seen = set(self._probe.seen) if self._probe is not None else None
        if seen:
            return f"{drone} is pinned to system id {wanted}, but system id {_listed(seen)} answers at {url}"
        if seen is None and self.stage is not ConnectionStage.OPEN:
            return f"{drone}: {url} cannot be opened{f' ({self._failure})' if self._failure else ''}"
        hint = f"; system id {_listed(strangers)} answers, which is pinned to no drone" if strangers else ""
        return f"{drone} (system id {wanted}) has not been heard at {url} for {now - self._since:.0f} s{hint}"

    def close(self) -> None:
        """Give the port back if it is still being probed."""
        with self._lock:
            if self._probe is not None:
                self._probe.close()
                self._probe = None

    def _open(self, mavsdk: Any) -> None:
        result = mavsdk.add_any_connection(self.config.url)
        if result == ConnectionResult.SUCCESS:
            self._failure, self.stage = "", ConnectionStage.OPEN
            return
        self._failure = result.name.lower().replace("_", " ")
        _log.info("%s: %s: %s", self.config.drone, self.config.url, self._failure)
        self.stage = ConnectionStage.CLOSED
