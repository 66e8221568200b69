"""Failsafes of the simulated PX4: offboard loss, battery, data link, geofence.

PX4's parameters choose the actions. COM_OBL_RC_ACT is 4 and NAV_DLL_ACT is 3 (land in place), where PX4's own
defaults are 0: there is no manual control, and a drone whose follower has died must come down.
"""

from __future__ import annotations

import math

from . import arming, flight_modes
from .mavlink_types import FlightMode, Severity
from .vehicle_state import SimulatedState


def check(state: SimulatedState, now: float) -> None:
    """Check an airborne vehicle and take the action of each failsafe that triggers."""
    p = state.parameters
    if state.mode is FlightMode.OFFBOARD and state.setpoints_lost(now):
        _act(state, "Offboard set points lost", int(p["COM_OBL_RC_ACT"]), now)
    _check_battery(state, now)
    action = int(p["NAV_DLL_ACT"])
    last = state.gcs_heartbeat_s
    if action and not state.link_lost and last is not None and now - last > p["COM_DL_LOSS_T"]:
        state.link_lost = True
        _act(state, "Data link lost", {1: 5, 2: 3, 3: 4, 5: 6, 6: 7}.get(action, 5), now)
    _check_geofence(state, now)


def _check_battery(state: SimulatedState, now: float) -> None:
    p, charge = state.parameters, state.estimate.battery
    level = 0
    for number, name in enumerate(("BAT_LOW_THR", "BAT_CRIT_THR", "BAT_EMERGEN_THR"), start=1):
        if charge < p[name]:
            level = number
    if level <= state.battery_level:
        return
    state.battery_level = level
    action = int(p["COM_LOW_BAT_ACT"])
    if level == 1 or action == 0:
        state.report(Severity.WARNING, f"Low battery: {charge * 100:.0f}%")
    elif level == 2 and action in (1, 3):
        _act(state, "Critical battery", 3, now)
    else:
        _act(state, "Dangerously low battery", 4, now)


def _check_geofence(state: SimulatedState, now: float) -> None:
    p, here, home = state.parameters, state.estimate.position_m, state.home_m
    action = int(p["GF_ACTION"])
    far, high = p["GF_MAX_HOR_DIST"], p["GF_MAX_VER_DIST"]
    if state.failsafe or action < 2 or (far <= 0.0 and high <= 0.0):
        return
    outside = 0.0 < far < math.hypot(here[0] - home[0], here[1] - home[1]) or 0.0 < high < home[2] - here[2]
    if outside and state.mode not in (FlightMode.RETURN, FlightMode.LAND):
        _act(state, "Geofence breached", {2: 5, 3: 3, 4: 6, 5: 4}.get(action, 5), now)


def _act(state: SimulatedState, reason: str, action: int, now: float) -> None:
    """Act by COM_OBL_RC_ACT's numbers: 0-2 and 5 hold, 3 return, 4 land, 6 terminate, 7 disarm."""
    mode = {3: FlightMode.RETURN, 4: FlightMode.LAND}.get(action, FlightMode.HOLD)
    if state.mode is FlightMode.LAND or (state.mode is FlightMode.RETURN and mode is FlightMode.HOLD):
        return
    if action in (6, 7):
        state.report(Severity.EMERGENCY, f"{reason}: motors stopped")
        arming.disarm(state, now)
        return
    state.report(Severity.CRITICAL, f"Failsafe: {reason}, {mode.name.lower()}")
    flight_modes.enter(state, mode, now)
    state.failsafe = True
