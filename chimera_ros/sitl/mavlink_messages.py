"""The MAVLink messages that a simulated vehicle streams or sends on request, built from its state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pymavlink.dialects.v20 import common as m

from .arming import failed_checks
from .mavlink_types import FlightMode
from .simulation import Snapshot
from .vehicle_state import SimulatedState

CELLS = 4
FULL_CELL_V, EMPTY_CELL_V = 4.15, 3.5
HOVER_CURRENT_A = 18.0
CAPACITY_MAH = 5400.0
_NAN = math.nan
_SENSORS = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x8000 | 0x2000000 | 0x10000000
_GPS, _PREARM = 0x20, 0x10000000
_CAPABILITIES = (
    m.MAV_PROTOCOL_CAPABILITY_PARAM_ENCODE_BYTEWISE
    | m.MAV_PROTOCOL_CAPABILITY_MISSION_INT
    | m.MAV_PROTOCOL_CAPABILITY_COMMAND_INT
    | m.MAV_PROTOCOL_CAPABILITY_SET_POSITION_TARGET_LOCAL_NED
    | m.MAV_PROTOCOL_CAPABILITY_SET_POSITION_TARGET_GLOBAL_INT
    | m.MAV_PROTOCOL_CAPABILITY_FLIGHT_TERMINATION
    | m.MAV_PROTOCOL_CAPABILITY_MAVLINK2
)
_VERSION = (1 << 24) | (16 << 16) | (0 << 8) | 255  # 1.16.0, release: what its behaviour follows
_UID_BASE = 0x4348494D_00000000

Builder = Callable[[SimulatedState, Snapshot], Any]


def _ms(s: Snapshot) -> int:
    return int(s.time_s * 1000.0) & 0xFFFFFFFF


def _us(s: Snapshot) -> int:
    return int(s.time_s * 1e6)


def _e7(degrees: float) -> int:
    return round(degrees * 1e7)


def _heading_cdeg(yaw_rad: float) -> int:
    return round(math.degrees(yaw_rad) * 100.0) % 36000


def heartbeat(state: SimulatedState, s: Snapshot) -> Any:
    """HEARTBEAT with PX4's custom mode."""
    base = m.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED | m.MAV_MODE_FLAG_STABILIZE_ENABLED
    base |= (
        m.MAV_MODE_FLAG_GUIDED_ENABLED
        if state.mode is not FlightMode.POSITION
        else m.MAV_MODE_FLAG_MANUAL_INPUT_ENABLED
    )
    base |= (
        m.MAV_MODE_FLAG_AUTO_ENABLED if state.mode not in (FlightMode.POSITION, FlightMode.OFFBOARD) else 0
    )
    base |= m.MAV_MODE_FLAG_SAFETY_ARMED if state.armed else 0
    if state.crashed:
        status = m.MAV_STATE_EMERGENCY
    elif state.failsafe:
        status = m.MAV_STATE_CRITICAL
    elif state.armed:
        status = m.MAV_STATE_ACTIVE
    else:
        status = m.MAV_STATE_STANDBY if state.ready else m.MAV_STATE_BOOT
    return m.MAVLink_heartbeat_message(2, 12, base, state.mode.custom_mode, status, 3)


def _battery(state: SimulatedState, s: Snapshot) -> tuple[int, int, int, int]:
    """Cell voltage in mV, current in cA, charge used in mAh, remaining percent."""
    charge = s.battery[state.index]
    current = HOVER_CURRENT_A * max(s.thrust[state.index], 0.0) ** 1.5 + 0.4
    cell = EMPTY_CELL_V + (FULL_CELL_V - EMPTY_CELL_V) * charge
    return (
        round(cell * 1000.0),
        round(current * 100.0),
        round((1.0 - charge) * CAPACITY_MAH),
        math.ceil(charge * 100.0),
    )


def sys_status(state: SimulatedState, s: Snapshot) -> Any:
    """SYS_STATUS; its health bits are what MAVSDK's health is made of."""
    health = _SENSORS
    if not state.ready:
        health &= ~_GPS
    if failed_checks(state):
        health &= ~_PREARM
    cell, current, _, percent = _battery(state, s)
    return m.MAVLink_sys_status_message(
        _SENSORS, _SENSORS, health, 250, cell * CELLS, current, percent, 0, 0, 0, 0, 0, 0, 0, 0, 0
    )


def battery_status(state: SimulatedState, s: Snapshot) -> Any:
    """BATTERY_STATUS of the only battery."""
    cell, current, used, percent = _battery(state, s)
    cells = [cell] * CELLS + [65535] * (10 - CELLS)
    charge = s.battery[state.index]
    p = state.parameters
    charge_state = 1 if charge >= p["BAT_LOW_THR"] else 2 if charge >= p["BAT_CRIT_THR"] else 3
    return m.MAVLink_battery_status_message(
        0, 0, 1, 32767, cells, current, used, -1, percent, 0, charge_state, [0, 0, 0, 0], 0, 0
    )


def system_time(state: SimulatedState, s: Snapshot) -> Any:
    """SYSTEM_TIME; the simulation has no calendar, so the Unix time is 0 as PX4 reports without GPS time."""
    return m.MAVLink_system_time_message(0, _ms(s))


def gps_raw_int(state: SimulatedState, s: Snapshot) -> Any:
    """GPS_RAW_INT, a 3D fix once the estimator is ready."""
    p, v = s.position_m[state.index], s.velocity_m_s[state.index]
    lat, lon, alt = state.earth.to_geodetic(p[0], p[1], p[2])
    speed = math.hypot(v[0], v[1])
    course = _heading_cdeg(math.atan2(v[1], v[0])) if speed > 0.1 else 65535
    return m.MAVLink_gps_raw_int_message(
        _us(s),
        3 if state.ready else 1,
        _e7(lat),
        _e7(lon),
        round(alt * 1000.0),
        70,
        110,
        round(speed * 100.0),
        course,
        14 if state.ready else 3,
        round(alt * 1000.0),
        500,
        700,
        100,
        0,
        0,
    )


def attitude(state: SimulatedState, s: Snapshot) -> Any:
    """ATTITUDE."""
    return m.MAVLink_attitude_message(_ms(s), *s.euler_rad[state.index], *s.rates_rad_s[state.index])


def attitude_quaternion(state: SimulatedState, s: Snapshot) -> Any:
    """ATTITUDE_QUATERNION."""
    return m.MAVLink_attitude_quaternion_message(
        _ms(s), *s.quaternion[state.index], *s.rates_rad_s[state.index], (0.0, 0.0, 0.0, 0.0)
    )


def local_position_ned(state: SimulatedState, s: Snapshot) -> Any:
    """LOCAL_POSITION_NED, from the vehicle's own origin."""
    p, o, shift = s.position_m[state.index], state.origin_m, state.local_shift_m
    v = s.velocity_m_s[state.index]
    return m.MAVLink_local_position_ned_message(
        _ms(s), p[0] - o[0] + shift[0], p[1] - o[1] + shift[1], p[2] - o[2] + shift[2], v[0], v[1], v[2]
    )


def global_position_int(state: SimulatedState, s: Snapshot) -> Any:
    """GLOBAL_POSITION_INT."""
    p, v = s.position_m[state.index], s.velocity_m_s[state.index]
    lat, lon, alt = state.earth.to_geodetic(p[0], p[1], p[2])
    return m.MAVLink_global_position_int_message(
        _ms(s),
        _e7(lat),
        _e7(lon),
        round(alt * 1000.0),
        round((state.home_m[2] - p[2]) * 1000.0),
        _i16(v[0] * 100.0),
        _i16(v[1] * 100.0),
        _i16(v[2] * 100.0),
        _heading_cdeg(s.euler_rad[state.index][2]),
    )


def _i16(value: float) -> int:
    return max(-32767, min(32767, round(value)))


def mission_current(state: SimulatedState, s: Snapshot) -> Any:
    """MISSION_CURRENT with mission state (1 none, 2 not started, 3 active, 4 paused, 5 complete)."""
    mission = state.mission
    active = state.mode is FlightMode.MISSION
    if not mission.items:
        mission_state = 1
    elif mission.finished:
        mission_state = 5
    elif active:
        mission_state = 3 if state.armed else 2
    else:
        mission_state = 4 if mission.begun >= 0 or mission.current > 0 else 2
    return m.MAVLink_mission_current_message(
        mission.current, len(mission.items), mission_state, int(active) + 1
    )


def gps_global_origin(state: SimulatedState, s: Snapshot) -> Any:
    """GPS_GLOBAL_ORIGIN: where the vehicle's own local frame has its zero."""
    lat, lon, alt = state.earth.to_geodetic(*state.origin_m)
    return m.MAVLink_gps_global_origin_message(_e7(lat), _e7(lon), round(alt * 1000.0), _us(s))


def home_position(state: SimulatedState, s: Snapshot) -> Any:
    """HOME_POSITION, geographic and in the vehicle's own local frame."""
    lat, lon, alt = state.earth.to_geodetic(*state.home_m)
    x, y, z = state.local_m(state.home_m)
    return m.MAVLink_home_position_message(
        _e7(lat), _e7(lon), round(alt * 1000.0), x, y, z, (1.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0, _us(s)
    )


def vfr_hud(state: SimulatedState, s: Snapshot) -> Any:
    """VFR_HUD."""
    p, v = s.position_m[state.index], s.velocity_m_s[state.index]
    speed = math.hypot(v[0], v[1])
    heading = _heading_cdeg(s.euler_rad[state.index][2]) // 100
    throttle = min(100, round(max(s.thrust[state.index], 0.0) * 45.0)) if state.armed else 0
    return m.MAVLink_vfr_hud_message(
        speed, speed, heading, throttle, state.earth.datum.altitude_amsl_m - p[2], -v[2]
    )


def position_target(state: SimulatedState, s: Snapshot) -> Any:
    """POSITION_TARGET_LOCAL_NED: the position the controller flies to."""
    x, y, z = state.local_m(state.guidance.target_m)
    return m.MAVLink_position_target_local_ned_message(
        _ms(s), 1, 0x9F8, x, y, z, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, state.guidance.yaw_rad, 0.0
    )


def altitude(state: SimulatedState, s: Snapshot) -> Any:
    """ALTITUDE."""
    down = s.position_m[state.index][2]
    amsl = state.earth.datum.altitude_amsl_m - down
    above = state.home_m[2] - down
    return m.MAVLink_altitude_message(_us(s), amsl, amsl, state.origin_m[2] - down, above, _NAN, _NAN)


def autopilot_version(state: SimulatedState, s: Snapshot) -> Any:
    """AUTOPILOT_VERSION with a unique id per system id."""
    uid = _UID_BASE | state.system_id
    uid2 = uid.to_bytes(8, "big") + bytes(10)
    zeros = (0,) * 8
    return m.MAVLink_autopilot_version_message(
        _CAPABILITIES, _VERSION, _VERSION, 0, 0, zeros, zeros, zeros, 0x26AC, 0, uid, uid2
    )


def estimator_status(state: SimulatedState, s: Snapshot) -> Any:
    """ESTIMATOR_STATUS; all position flags once ready."""
    flags = 0x33F if state.ready else 0x1
    return m.MAVLink_estimator_status_message(_us(s), flags, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.1, 0.2)


def extended_sys_state(state: SimulatedState, s: Snapshot) -> Any:
    """EXTENDED_SYS_STATE with the landed state."""
    return m.MAVLink_extended_sys_state_message(0, int(state.landed_state))


def odometry(state: SimulatedState, s: Snapshot) -> Any:
    """ODOMETRY: pose in the own local NED frame, velocity in body FRD, with the estimator's reset counter."""
    p, o, shift = s.position_m[state.index], state.origin_m, state.local_shift_m
    w, x, y, z = s.quaternion[state.index]
    n, e, d = s.velocity_m_s[state.index]
    forward = (1 - 2 * (y * y + z * z)) * n + 2 * (x * y + w * z) * e + 2 * (x * z - w * y) * d
    right = 2 * (x * y - w * z) * n + (1 - 2 * (x * x + z * z)) * e + 2 * (y * z + w * x) * d
    below = 2 * (x * z + w * y) * n + 2 * (y * z - w * x) * e + (1 - 2 * (x * x + y * y)) * d
    unknown = (_NAN,) * 21
    return m.MAVLink_odometry_message(
        _us(s),
        1,
        12,
        p[0] - o[0] + shift[0],
        p[1] - o[1] + shift[1],
        p[2] - o[2] + shift[2],
        (w, x, y, z),
        forward,
        right,
        below,
        *s.rates_rad_s[state.index],
        unknown,
        unknown,
        state.reset_counter,
        8,
        100,
    )


BUILDERS: dict[int, Builder] = {
    0: heartbeat,
    1: sys_status,
    2: system_time,
    24: gps_raw_int,
    30: attitude,
    31: attitude_quaternion,
    32: local_position_ned,
    33: global_position_int,
    42: mission_current,
    49: gps_global_origin,
    74: vfr_hud,
    85: position_target,
    141: altitude,
    147: battery_status,
    148: autopilot_version,
    230: estimator_status,
    242: home_position,
    245: extended_sys_state,
    331: odometry,
}

CLIENT_RATES_HZ: dict[int, float] = {
    0: 1.0,
    1: 1.0,
    2: 0.5,
    24: 1.0,
    30: 10.0,
    31: 10.0,
    32: 20.0,
    33: 5.0,
    49: 0.5,
    74: 1.0,
    141: 1.0,
    147: 0.5,
    242: 0.5,
    245: 1.0,
    42: 0.5,
}
STATION_RATES_HZ: dict[int, float] = {
    0: 1.0,
    1: 0.5,
    24: 0.5,
    30: 2.0,
    32: 1.0,
    33: 2.0,
    49: 0.1,
    74: 1.0,
    141: 0.5,
    147: 0.2,
    242: 0.2,
    245: 0.5,
    42: 0.5,
}
