"""MAVLink mission protocol of one vehicle: upload, download, clear, set current; no fence or rally points."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from pymavlink.dialects.v20 import common as m

from . import missions
from .mavlink_frames import MavlinkFrame
from .mavlink_types import FlightMode, MavResult, Severity, StateChange
from .missions import MissionItem
from .vehicle_state import SimulatedState

RETRY_S = 0.5
TRIES = 6
MISSION = 0  # MAV_MISSION_TYPE_MISSION
_ALL_TYPES = 255  # MAV_MISSION_TYPE_ALL


@dataclass(slots=True)
class _Upload:
    """Upload in progress, from the ground station `system`/`component`. `requested_s` is simulation time."""

    count: int
    system: int
    component: int
    requested_s: float
    tries: int = 0
    items: list[MissionItem] = field(default_factory=list)


class MissionProtocol:
    """Mission protocol of one vehicle. A mission replaces the old one only when its upload is complete."""

    def __init__(self, state: SimulatedState) -> None:
        self._state = state
        self._upload: _Upload | None = None
        self.handlers = {  # by message id
            40: self._on_request,  # MISSION_REQUEST
            41: self._on_set_current,  # MISSION_SET_CURRENT
            43: self._on_list,  # MISSION_REQUEST_LIST
            44: self._on_count,  # MISSION_COUNT
            45: self._on_clear,  # MISSION_CLEAR_ALL
            47: self._on_ack,  # MISSION_ACK
            51: self._on_request,  # MISSION_REQUEST_INT
            73: self._on_item,  # MISSION_ITEM_INT
        }

    def handle(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        """Handle a mission message; returns the replies."""
        replies: list[Any] = self.handlers[frame.message_id](message, frame, now)
        return replies

    def retry(self, now: float) -> list[Any]:
        """Request an overdue item again; after `TRIES` repetitions the upload is abandoned."""
        upload = self._upload
        if upload is None or now - upload.requested_s < RETRY_S:
            return []
        upload.tries += 1
        if upload.tries > TRIES:
            self._upload = None
            return []
        upload.requested_s = now
        return [self._request(upload)]

    def set_current(self, number: float) -> MavResult:
        """Continue with another item (MISSION_SET_CURRENT, MAV_CMD_DO_SET_MISSION_CURRENT)."""
        mission = self._state.mission
        if not math.isfinite(number) or not 0 <= int(number) < len(mission.items):
            return MavResult.DENIED
        mission.restart(int(number))
        self._state.emit(StateChange.MISSION_CURRENT)
        return MavResult.ACCEPTED

    def _request(self, upload: _Upload) -> Any:
        return m.MAVLink_mission_request_int_message(
            upload.system, upload.component, len(upload.items), MISSION
        )

    def _ack(self, frame: MavlinkFrame, result: int, kind: int = MISSION) -> list[Any]:
        return [m.MAVLink_mission_ack_message(frame.system_id, frame.component_id, result, kind)]

    def _on_count(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        if message.mission_type != MISSION:
            result = missions.ACCEPTED if message.count == 0 else missions.UNSUPPORTED
            return self._ack(frame, result, message.mission_type)
        if self._state.armed and self._state.mode is FlightMode.MISSION:
            self._state.report(Severity.WARNING, "Mission upload refused while it is flown")
            return self._ack(frame, missions.ERROR)
        if message.count > missions.MAX_ITEMS:
            return self._ack(frame, missions.NO_SPACE)
        if message.count == 0:
            self._state.mission.replace([])
            return self._ack(frame, missions.ACCEPTED)
        self._upload = _Upload(message.count, frame.system_id, frame.component_id, now)
        return [self._request(self._upload)]

    def _on_item(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        upload = self._upload
        if upload is None or message.mission_type != MISSION or frame.system_id != upload.system:
            return []
        if message.seq != len(upload.items):
            if message.seq < len(upload.items):
                return []  # a repetition
            self._upload = None
            return self._ack(frame, missions.INVALID_SEQUENCE)
        unscaled = message.frame == missions.FRAME_MISSION  # x, y are param5 and param6, no coordinates
        item = MissionItem(
            message.command,
            message.frame,
            (message.param1, message.param2, message.param3, message.param4),
            float(message.x) if unscaled else message.x * 1e-7,
            float(message.y) if unscaled else message.y * 1e-7,
            message.z,
            message.autocontinue,
        )
        result = item.check()
        if result != missions.ACCEPTED:
            self._upload = None
            return self._ack(frame, result)
        upload.items.append(item)
        upload.requested_s, upload.tries = now, 0
        if len(upload.items) < upload.count:
            return [self._request(upload)]
        self._upload = None
        self._state.mission.replace(upload.items)
        self._state.emit(StateChange.MISSION_CURRENT)
        return self._ack(frame, missions.ACCEPTED)

    def _on_list(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        count = len(self._state.mission.items) if message.mission_type == MISSION else 0
        return [
            m.MAVLink_mission_count_message(frame.system_id, frame.component_id, count, message.mission_type)
        ]

    def _on_request(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        items = self._state.mission.items
        if message.mission_type != MISSION or not 0 <= message.seq < len(items):
            return self._ack(frame, missions.INVALID_SEQUENCE, message.mission_type)
        item = items[message.seq]
        scale = 1.0 if item.frame == missions.FRAME_MISSION else 1e7
        return [
            m.MAVLink_mission_item_int_message(
                frame.system_id,
                frame.component_id,
                message.seq,
                item.frame,
                item.command,
                int(message.seq == self._state.mission.current),
                item.autocontinue,
                *item.params,
                round(item.latitude_deg * scale),
                round(item.longitude_deg * scale),
                item.altitude_m,
                MISSION,
            )
        ]

    def _on_set_current(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        self.set_current(float(message.seq))
        return []

    def _on_clear(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        if message.mission_type in (MISSION, _ALL_TYPES):
            if self._state.armed and self._state.mode is FlightMode.MISSION:
                return self._ack(frame, missions.ERROR, message.mission_type)
            self._upload = None
            self._state.mission.replace([])
        return self._ack(frame, missions.ACCEPTED, message.mission_type)

    def _on_ack(self, message: Any, frame: MavlinkFrame, now: float) -> list[Any]:
        if message.type == missions.CANCELLED:
            self._upload = None
        return []
