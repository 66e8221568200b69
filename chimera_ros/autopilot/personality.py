"""Differences between PX4 and ArduPilot in streams, arming and take-off. Calls block, up to seconds.

ArduPilot streams nothing unless requested, arms in GUIDED but not in BRAKE (the mode of MAVSDK's hold), and
needs an explicit take-off height. Forced arming and disarming are not offered: MAVSDK's call for forced
arming must not be used, since its magic number forces disarming in ArduPilot.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mavsdk.exceptions import MavsdkError
from mavsdk.plugins.mavlink_direct import MavlinkMessage

from chimera_ros.autopilot.kinds import AutopilotKind
from chimera_ros.flight.vehicle import Order, OrderKind

_COMPONENT = 1  # MAV_COMP_ID_AUTOPILOT1
_DO_SET_MODE = 176  # MAV_CMD_DO_SET_MODE
_NAV_TAKEOFF = 22  # MAV_CMD_NAV_TAKEOFF
_CUSTOM_MODE_ENABLED = 1  # MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
_COPTER_GUIDED = 4  # COPTER_MODE_GUIDED
_MAV_RESULTS = {  # MAV_RESULT of a COMMAND_ACK
    1: "not now",
    2: "denied",
    3: "not supported",
    4: "failed",
    5: "still in progress",
    6: "cancelled",
}
_SENTENCES = {
    "TIMEOUT": "the autopilot did not answer",
    "NO_SYSTEM": "the vehicle is not connected",
    "CONNECTION_ERROR": "the connection to the vehicle failed",
    "BUSY": "the autopilot is busy",
    "COMMAND_DENIED": "the autopilot refused it",
    "COMMAND_DENIED_NOT_LANDED": "the autopilot refused it because it has not landed",
    "COMMAND_DENIED_LANDED_STATE_UNKNOWN": "the autopilot does not know whether it has landed",
    "PARAMETER_ERROR": "the autopilot did not accept the parameter",
    "UNSUPPORTED": "the autopilot does not support it",
    "NO_SETPOINT_SET": "offboard control needs a setpoint first",
    "FAILED": "the autopilot failed to do it",
}


class CallFailed(Exception):
    """Failure of an order; the text is a clause with the reason."""


@dataclass(slots=True)
class Plugins:
    """MAVSDK plugins of one vehicle; `direct` (MavlinkDirect) only for ArduPilot."""

    system_id: int
    action: Any
    telemetry: Any
    offboard: Any
    direct: Any = None
    info: Any = None


def reason_of(error: MavsdkError) -> str:
    """Reason of a MAVSDK error, as a clause."""
    name = getattr(getattr(error, "result", None), "name", "")
    return _SENTENCES.get(name, f"the autopilot answered {name.lower().replace('_', ' ') or error}")


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call MAVSDK. Raises CallFailed in place of its exceptions."""
    try:
        return call(*arguments)
    except MavsdkError as error:
        raise CallFailed(reason_of(error)) from None
    except RuntimeError:  # the plugin was destroyed by a closing bridge
        raise CallFailed("the connection was closed") from None


class Px4:
    """Telemetry requests and orders of PX4, real or simulated by this package."""

    needs_direct = False
    rates_hz: tuple[tuple[str, float], ...] = (
        ("position_velocity_ned", 20.0),
        ("position", 10.0),
        ("attitude_quaternion", 10.0),
        ("in_air", 4.0),
        ("health", 1.0),
        ("battery", 1.0),
    )

    def request_streams(self, plugins: Plugins) -> list[str]:
        """Request telemetry at `rates_hz`; returns a sentence for each refused stream. Does not raise."""
        refused = []
        for name, rate_hz in self.rates_hz:
            try:
                attempt(getattr(plugins.telemetry, f"set_rate_{name}"), rate_hz)
            except CallFailed as failure:
                refused.append(f"{name} at {rate_hz:g} Hz: {failure}")
        return refused

    def execute(self, plugins: Plugins, order: Order) -> None:
        """Send one order to the autopilot and wait for its answer. Raises CallFailed."""
        match order.kind:
            case OrderKind.ARM:
                self._arm(plugins)
            case OrderKind.DISARM:
                attempt(plugins.action.disarm)
            case OrderKind.TAKEOFF:
                self._take_off(plugins, order.height_m)
            case OrderKind.LAND:
                attempt(plugins.action.land)
            case OrderKind.HOLD:
                attempt(plugins.action.hold)
            case OrderKind.START_OFFBOARD:
                attempt(plugins.offboard.start)
            case OrderKind.STOP_OFFBOARD:
                attempt(plugins.offboard.stop)
            case OrderKind.KILL:
                attempt(plugins.action.kill)

    def _arm(self, plugins: Plugins) -> None:
        attempt(plugins.action.arm)

    def _take_off(self, plugins: Plugins, height_m: float) -> None:
        attempt(plugins.action.set_takeoff_altitude, height_m)
        attempt(plugins.action.takeoff)


class ArduPilot(Px4):
    """ArduCopter: sets GUIDED before arming and take-off, and takes off by a COMMAND_LONG of its own."""

    needs_direct = True
    rates_hz = (*Px4.rates_hz, ("home", 1.0), ("gps_info", 1.0), ("raw_gps", 1.0))

    def _arm(self, plugins: Plugins) -> None:
        self._guided(plugins)
        attempt(plugins.action.arm)

    def _take_off(self, plugins: Plugins, height_m: float) -> None:
        self._guided(plugins)
        self._command(plugins, _NAV_TAKEOFF, param7=height_m)

    def _guided(self, plugins: Plugins) -> None:
        self._command(plugins, _DO_SET_MODE, param1=_CUSTOM_MODE_ENABLED, param2=_COPTER_GUIDED)

    @staticmethod
    def _command(plugins: Plugins, command: int, **parameters: float) -> None:
        fields: dict[str, float] = {f"param{n}": 0.0 for n in range(1, 8)} | parameters
        fields |= {"target_system": plugins.system_id, "target_component": _COMPONENT, "command": command}
        message = MavlinkMessage(
            message_name="COMMAND_LONG",
            target_system_id=plugins.system_id,
            target_component_id=_COMPONENT,
            fields_json=json.dumps(fields | {"confirmation": 0}),
        )
        acknowledgement = attempt(plugins.direct.send_command, message)
        result = json.loads(acknowledgement.fields_json).get("result")
        if result != 0:
            raise CallFailed(
                f"the autopilot answered {_MAV_RESULTS.get(result, result)!s} to command {command}"
            )


# Handler of streams and orders, by kind of autopilot.
PERSONALITIES: dict[AutopilotKind, type[Px4]] = {
    AutopilotKind.EMBEDDED: Px4,
    AutopilotKind.PX4: Px4,
    AutopilotKind.ARDUPILOT: ArduPilot,
}
