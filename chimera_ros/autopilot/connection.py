"""Connection of one vehicle: the port is probed for the pinned system id, then given to MAVSDK."""

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
_MAX_LISTED = 5


class ConnectionStage(Enum):
    """Stage of a connection."""

    LISTENING = "listening"  # the port is bound, no heartbeat of the pinned autopilot yet
    CLOSED = "closed"  # not opened yet, or MAVSDK could not open it
    OPENING = "opening"  # MAVSDK is opening it
    OPEN = "open"  # MAVSDK has the connection, the system is not yet discovered


def _listed(ids: set[int]) -> str:
    shown = [str(i) for i in sorted(ids)[:_MAX_LISTED]]
    return ", ".join(shown) + (", …" if len(ids) > _MAX_LISTED else "")


class Connection:
    """Opens one vehicle's URL. Raises PortBusy or ConnectError."""

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
        """Advance to the next stage if possible; called a few times a second."""
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

    def failure(self, unpinned: set[int], now: float) -> str:
        """Why the vehicle is not connected, one sentence; `unpinned` are ids that no drone is pinned to."""
        drone, pinned, url = self.config.drone, self.config.system_id, self.config.url
        with self._lock:
            seen = set(self._probe.seen) if self._probe is not None else None
        if seen:
            return f"{drone} is pinned to system id {pinned}, but system id {_listed(seen)} answers at {url}"
        if seen is None and self.stage is not ConnectionStage.OPEN:
            return f"{drone}: {url} cannot be opened{f' ({self._failure})' if self._failure else ''}"
        hint = f"; system id {_listed(unpinned)} answers, which is pinned to no drone" if unpinned else ""
        return f"no heartbeat of {drone} (system id {pinned}) at {url} for {now - self._since:.0f} s{hint}"

    def close(self) -> None:
        """Close the port if it is still being probed."""
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
