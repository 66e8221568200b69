"""MAVLink interface of one simulated vehicle: frames in, packed messages out, no socket and no clock.

Not simulated: message signing, FTP, component metadata, attitude setpoints, manual control, cameras,
gimbals, logs.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from pymavlink.dialects.v20 import common as m

from . import mavlink_messages as messages
from .commander import Commander
from .config import Vec3
from .mavlink_frames import SET_POSITION_TARGET_LOCAL_NED, MavlinkFrame, split_frames, unpack_position_target
from .mavlink_types import MavCommand, MavResult, MissionItemReached, StateChange, StatusText
from .mission_protocol import MissionProtocol
from .parameters import NAMES
from .simulation import Simulation
from .vehicle_state import OffboardSetpoint, SimulatedState

COMPONENT = 1
NO_COORDINATE = 0x7FFFFFFF
MAX_POSITION_M, MAX_SPEED_M_S, MAX_ACCELERATION_M_S2 = 1e5, 100.0, 100.0
PARAMETERS_PER_TICK = 4
FRAME_S = 0.05  # period of the fastest default stream
SLOTS, SLOT_S = 3, 0.016
UNKNOWN_PARAMETER, READ_ONLY_OR_RANGE = 1, 2  # MAV_PARAM_ERROR_DOES_NOT_EXIST, …_VALUE_OUT_OF_RANGE


class MavlinkChannel:
    """One MAVLink channel of a vehicle: message streams with their intervals, and packed messages to send."""

    def __init__(self, system_id: int, rates_hz: dict[int, float], streaming: bool) -> None:
        self.mav = m.MAVLink(None, srcSystem=system_id, srcComponent=COMPONENT)
        self.defaults = dict(rates_hz)
        self.intervals: dict[int, float] = {number: 1.0 / rate for number, rate in rates_hz.items()}
        # Fast streams of a vehicle are due together, so that they share a datagram and a snapshot; vehicles
        # alternate over SLOTS ticks; slow streams are spread over the second.
        slot_s = system_id % SLOTS * SLOT_S
        self.due: dict[int, float] = {
            number: slot_s + FRAME_S * ((number + 7 * system_id) % max(round(1.0 / (rate * FRAME_S)), 1))
            for number, rate in rates_hz.items()
        }
        self.next_due = 0.0
        self.streaming = streaming  # false: only heartbeats, until a peer sends
        self.out: list[bytes] = []
        self.parameters_left = 0

    def send(self, message: Any) -> None:
        """Pack a message and queue it."""
        mav = self.mav
        self.out.append(message.pack(mav))
        mav.seq = (mav.seq + 1) % 256

    def set_interval(self, number: int, interval_us: float, now: float) -> bool:
        """SET_MESSAGE_INTERVAL: -1 stops a message, 0 sets its default; False if it cannot be streamed."""
        if number not in messages.BUILDERS or not math.isfinite(interval_us):
            return False
        if interval_us == 0.0 and number in self.defaults:
            interval_us = 1e6 / self.defaults[number]
        if interval_us <= 0.0:
            self.intervals.pop(number, None)
            self.due.pop(number, None)
            return True
        self.intervals[number] = max(interval_us * 1e-6, 0.008)
        self.due[number] = now
        self.next_due = now
        return True

    def stream(self, state: SimulatedState, simulation: Simulation, now: float) -> None:
        """Send what is due."""
        if now < self.next_due:
            return
        snapshot, soonest = simulation.snapshot(), math.inf
        for number, due in self.due.items():
            if due <= now:
                if self.streaming or number == 0:
                    self.send(messages.BUILDERS[number](state, snapshot))
                interval = self.intervals[number]
                due += interval
                if due <= now:
                    due = now + interval
                self.due[number] = due
            if due < soonest:
                soonest = due
        self.next_due = soonest


class MavlinkVehicle:
    """A vehicle on one or two channels: its own port and the ground-station port."""

    def __init__(
        self, commander: Commander, simulation: Simulation, channels: dict[str, MavlinkChannel]
    ) -> None:
        self.commander = commander
        self.state = commander.state
        self.simulation = simulation
        self.channels = channels
        self.rejected = 0
        self._missions = MissionProtocol(self.state)
        self._handlers = {
            0: self._on_heartbeat,
            4: self._on_ping,
            11: self._on_set_mode,
            20: self._on_param_read,
            21: self._on_param_list,
            23: self._on_param_set,
            75: self._on_command_int,
            76: self._on_command_long,
            86: self._on_global_target,
            111: self._on_timesync,
        }

    def receive(self, datagram: bytes, channel: MavlinkChannel, now: float) -> None:
        """Handle a datagram received on a channel."""
        for frame in split_frames(datagram):
            if frame is None:
                self.rejected += 1
            else:
                self.handle(frame, channel, now)

    def handle(self, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        """Handle one frame if it is addressed to this vehicle."""
        if frame.message_id == SET_POSITION_TARGET_LOCAL_NED:
            self._on_local_target(frame.payload, now)
            return
        known = frame.message_id in self._handlers or frame.message_id in self._missions.handlers
        if not known or frame.system_id == self.state.system_id:
            return
        try:
            message = channel.mav.decode(bytearray(frame.raw))
        except (m.MAVError, struct.error, UnicodeDecodeError):
            self.rejected += 1
            return
        system, component = getattr(message, "target_system", 0), getattr(message, "target_component", 0)
        if system not in (0, self.state.system_id) or component not in (0, COMPONENT):
            return
        handler = self._handlers.get(frame.message_id)
        if handler is not None:
            handler(message, frame, channel, now)
        else:
            for reply in self._missions.handle(message, frame, now):
                channel.send(reply)

    def tick(self, now: float) -> None:
        """Queue events, requested parameters and streams on every channel."""
        state = self.state
        if state.events:
            snapshot = self.simulation.snapshot()
            for event in state.events:
                for message in self._event_messages(event, snapshot):
                    for channel in self.channels.values():
                        if channel.streaming or message.id == 0:
                            channel.send(message)
            state.events.clear()
        for reply in self._missions.retry(now):
            for channel in self.channels.values():
                channel.send(reply)
        for channel in self.channels.values():
            for _ in range(min(channel.parameters_left, PARAMETERS_PER_TICK)):
                self._send_parameter(channel, len(NAMES) - channel.parameters_left)
                channel.parameters_left -= 1
            channel.stream(state, self.simulation, now)

    def _event_messages(self, event: Any, snapshot: Any) -> list[Any]:
        state = self.state
        if isinstance(event, StatusText):
            return [
                m.MAVLink_statustext_message(
                    int(event.severity), event.text.encode("ascii", "replace")[:50], 0, 0
                )
            ]
        if isinstance(event, MissionItemReached):
            return [m.MAVLink_mission_item_reached_message(event.seq)]
        numbers = {
            StateChange.VEHICLE_STATUS: (0, 245, 1),
            StateChange.HOME_POSITION: (242,),
            StateChange.EKF_ORIGIN: (49,),
            StateChange.MISSION_CURRENT: (42,),
        }[event]
        return [messages.BUILDERS[number](state, snapshot) for number in numbers]

    # -- heartbeat, ping, time synchronisation, mode ---------------------------------------------------------

    def _on_heartbeat(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        if message.type == m.MAV_TYPE_GCS:
            self.commander.gcs_heartbeat(now)

    def _on_ping(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        if message.target_system == 0:
            channel.send(
                m.MAVLink_ping_message(message.time_usec, message.seq, frame.system_id, frame.component_id)
            )

    def _on_timesync(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        if message.tc1 == 0:
            channel.send(m.MAVLink_timesync_message(round(now * 1e9), message.ts1))

    def _on_set_mode(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        mode = message.custom_mode
        p = (1.0, float(mode >> 16 & 0xFF), float(mode >> 24 & 0xFF), 0.0, 0.0, 0.0, 0.0)
        self.commander.command(MavCommand.SET_MODE, p, now)

    # -- parameters ------------------------------------------------------------------------------------------

    def _send_parameter(self, channel: MavlinkChannel, index: int) -> None:
        name = NAMES[index]
        value, kind = self.state.parameters.encoded(name)
        channel.send(m.MAVLink_param_value_message(name.encode(), value, kind, len(NAMES), index))

    def _param_error(
        self, channel: MavlinkChannel, frame: MavlinkFrame, name: bytes, index: int, error: int
    ) -> None:
        channel.send(m.MAVLink_param_error_message(frame.system_id, frame.component_id, name, index, error))

    def _on_param_read(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        index, name = message.param_index, _name(message.param_id)
        if index == -1:
            index = NAMES.index(name) if name in self.state.parameters else -1
        if 0 <= index < len(NAMES):
            self._send_parameter(channel, index)
        else:
            self._param_error(channel, frame, name.encode(), message.param_index, UNKNOWN_PARAMETER)

    def _on_param_list(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        channel.parameters_left = len(NAMES)

    def _on_param_set(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        name = _name(message.param_id)
        if name not in self.state.parameters:
            self._param_error(channel, frame, name.encode(), -1, UNKNOWN_PARAMETER)
            return
        carried = frame.payload[:4].ljust(4, b"\0")  # not the decoded float: an int32 may look like a NaN
        accepted = self.state.parameters.set_encoded(name, carried, message.param_type)
        if not accepted:
            self._param_error(channel, frame, name.encode(), -1, READ_ONLY_OR_RANGE)
        self._send_parameter(channel, NAMES.index(name))

    # -- commands --------------------------------------------------------------------------------------------

    def _on_command_long(
        self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float
    ) -> None:
        values = tuple(getattr(message, f"param{i}") for i in range(1, 8))
        self._execute(message.command, values, frame, channel, now)

    def _on_command_int(self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float) -> None:
        x, y, z = message.x, message.y, message.z
        if message.frame in (0, 5, 3, 6):
            lat = math.nan if x == NO_COORDINATE else x * 1e-7
            lon = math.nan if y == NO_COORDINATE else y * 1e-7
            if message.frame in (3, 6):
                z += self.state.earth.datum.altitude_amsl_m - self.state.home_m[2]
        elif message.command in (MavCommand.REPOSITION, MavCommand.SET_HOME):
            self._acknowledge(message.command, MavResult.DENIED, frame, channel)
            return
        else:
            lat, lon = float(x), float(y)
        values = (message.param1, message.param2, message.param3, message.param4, lat, lon, z)
        self._execute(message.command, values, frame, channel, now)

    def _execute(
        self, number: int, p: tuple[float, ...], frame: MavlinkFrame, channel: MavlinkChannel, now: float
    ) -> None:
        if number in (MavCommand.REQUEST_MESSAGE, MavCommand.SET_INTERVAL, MavCommand.GET_INTERVAL):
            result = self._message_command(number, p, channel, now)
        elif number == MavCommand.REQUEST_CAPABILITIES:
            result = self._message_command(MavCommand.REQUEST_MESSAGE, (148.0,), channel, now)
        elif number == MavCommand.SET_MISSION_CURRENT:
            result = self._missions.set_current(p[0])
        else:
            result = self.commander.command(number, p, now)
        self._acknowledge(number, result, frame, channel)

    def _acknowledge(
        self, number: int, result: MavResult, frame: MavlinkFrame, channel: MavlinkChannel
    ) -> None:
        channel.send(
            m.MAVLink_command_ack_message(number, int(result), 0, 0, frame.system_id, frame.component_id)
        )

    def _message_command(
        self, number: int, p: tuple[float, ...], channel: MavlinkChannel, now: float
    ) -> MavResult:
        if not math.isfinite(p[0]) or int(p[0]) not in messages.BUILDERS:
            return MavResult.UNSUPPORTED
        requested = int(p[0])
        if number == MavCommand.REQUEST_MESSAGE:
            channel.send(messages.BUILDERS[requested](self.state, self.simulation.snapshot()))
            return MavResult.ACCEPTED
        if number == MavCommand.SET_INTERVAL:
            return MavResult.ACCEPTED if channel.set_interval(requested, p[1], now) else MavResult.DENIED
        interval = channel.intervals.get(requested)
        channel.send(
            m.MAVLink_message_interval_message(requested, -1 if interval is None else round(interval * 1e6))
        )
        return MavResult.ACCEPTED

    # -- streamed setpoints ----------------------------------------------------------------------------------

    def _on_local_target(self, payload: bytes, now: float) -> None:
        f = unpack_position_target(payload)
        mask, system, component, frame = f[12:]
        if system not in (0, self.state.system_id) or component not in (0, COMPONENT):
            return
        if frame not in (m.MAV_FRAME_LOCAL_NED, m.MAV_FRAME_BODY_NED):
            self.rejected += 1
            return
        position, velocity, acceleration = (
            _masked(f[1:4], mask),
            _masked(f[4:7], mask >> 3),
            _masked(f[7:10], mask >> 6),
        )
        if frame == m.MAV_FRAME_BODY_NED:
            yaw = self.simulation.snapshot().euler_rad[self.state.index][2]
            position = (None, None, None)
            velocity = None if velocity is None or None in velocity else _rotate(velocity, yaw)
            acceleration = None
        self._setpoint(position, velocity, acceleration, mask, f[10], f[11], f[0] * 1e-3, now)

    def _on_global_target(
        self, message: Any, frame: MavlinkFrame, channel: MavlinkChannel, now: float
    ) -> None:
        mask = message.type_mask
        north, east, down = self.state.earth.to_ned(
            message.lat_int * 1e-7, message.lon_int * 1e-7, message.alt
        )
        if message.coordinate_frame in (3, 6):
            down = self.state.home_m[2] - message.alt
        elif message.coordinate_frame not in (0, 5):
            self.rejected += 1
            return
        local = self.state.local_m((north, east, down))
        self._setpoint(
            _masked(local, mask),
            _masked((message.vx, message.vy, message.vz), mask >> 3),
            _masked((message.afx, message.afy, message.afz), mask >> 6),
            mask,
            message.yaw,
            message.yaw_rate,
            message.time_boot_ms * 1e-3,
            now,
        )

    def _setpoint(
        self,
        position: tuple[float | None, ...] | None,
        velocity: tuple[float | None, ...] | None,
        acceleration: tuple[float | None, ...] | None,
        mask: int,
        yaw: float,
        yaw_rate: float,
        stamp_s: float,
        now: float,
    ) -> None:
        """Check a setpoint in the vehicle's local frame and pass it on in world NED."""
        position = position or (None, None, None)
        if all(axis is None for axis in position) and velocity is None:
            self.rejected += 1  # acceleration or nothing alone is not simulated
            return
        if _beyond(position, MAX_POSITION_M) or _beyond(velocity, MAX_SPEED_M_S):
            self.rejected += 1
            return
        if _beyond(acceleration, MAX_ACCELERATION_M_S2):
            self.rejected += 1
            return
        world = self.state.world_m(tuple(axis or 0.0 for axis in position))  # type: ignore[arg-type]
        placed = tuple(None if axis is None else world[k] for k, axis in enumerate(position))
        use_yaw = not mask & 0x400 and math.isfinite(yaw)
        use_rate = not mask & 0x800 and math.isfinite(yaw_rate)
        self.commander.setpoint(
            OffboardSetpoint(
                placed,  # type: ignore[arg-type]
                _filled(velocity),
                _filled(acceleration),
                yaw if use_yaw else None,
                max(-2.0, min(2.0, yaw_rate)) if use_rate else 0.0,
                stamp_s,
            ),
            now,
        )


def _name(text: str) -> str:
    return text.rstrip("\0")


def _masked(values: tuple[float, ...], mask: int) -> tuple[float | None, ...] | None:
    """Fields whose mask bit is clear and that are finite; None if there is none."""
    if mask & 7 == 7:
        return None
    fields = tuple(None if mask >> k & 1 or not math.isfinite(v) else v for k, v in enumerate(values))
    return None if fields == (None, None, None) else fields


def _filled(values: tuple[float | None, ...] | None) -> Vec3 | None:
    return None if values is None else (values[0] or 0.0, values[1] or 0.0, values[2] or 0.0)


def _beyond(values: tuple[float | None, ...] | None, limit: float) -> bool:
    return values is not None and any(v is not None and abs(v) > limit for v in values)


def _rotate(velocity: tuple[float | None, ...], yaw: float) -> tuple[float | None, ...]:
    x, y, z = _filled(velocity) or (0.0, 0.0, 0.0)
    c, s = math.cos(yaw), math.sin(yaw)
    return c * x - s * y, s * x + c * y, z
