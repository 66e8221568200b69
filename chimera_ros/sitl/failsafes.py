"""Failsafes of the simulated PX4: offboard loss, battery, data link, fence.

They are ruled by PX4's parameters. COM_OBL_RC_ACT is 4 and NAV_DLL_ACT is 3 (land in place) here, where PX4's
own defaults are 0: nobody holds a stick, and a drone whose follower has died must come down.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .mavlink_types import FlightMode, Severity

if TYPE_CHECKING:
    from .commander import Commander


def guard(pilot: Commander, now: float) -> None:
    """Check an airborne vehicle and let its failsafes act."""
    p = pilot.parameters
    if pilot.mode is FlightMode.OFFBOARD and now - pilot.setpoint_s > p["COM_OF_LOSS_T"]:
        _fail(pilot, "Offboard set points lost", int(p["COM_OBL_RC_ACT"]), now)
    _guard_battery(pilot, now)
    action = int(p["NAV_DLL_ACT"])
    heard = pilot.gcs_heard_s
    if action and not pilot.link_lost and heard is not None and now - heard > p["COM_DL_LOSS_T"]:
        pilot.link_lost = True
        _fail(pilot, "Data link lost", {1: 5, 2: 3, 3: 4, 5: 6, 6: 7}.get(action, 5), now)
    _guard_fence(pilot, now)


def _guard_battery(pilot: Commander, now: float) -> None:
    p, charge = pilot.parameters, pilot.body.battery
    level = 0
    for number, name in enumerate(("BAT_LOW_THR", "BAT_CRIT_THR", "BAT_EMERGEN_THR"), start=1):
        if charge < p[name]:
            level = number
    if level <= pilot.battery_level:
        return
    pilot.battery_level = level
    action = int(p["COM_LOW_BAT_ACT"])
    if level == 1 or action == 0:
        pilot.say(Severity.WARNING, f"Low battery: {charge * 100:.0f}%")
    elif level == 2 and action in (1, 3):
        _fail(pilot, "Critical battery", 3, now)
    else:
        _fail(pilot, "Dangerously low battery", 4, now)


def _guard_fence(pilot: Commander, now: float) -> None:
    p, here, home = pilot.parameters, pilot.body.position_m, pilot.home_m
    action = int(p["GF_ACTION"])
    far, high = p["GF_MAX_HOR_DIST"], p["GF_MAX_VER_DIST"]
    if pilot.failsafe or action < 2 or (far <= 0.0 and high <= 0.0):
        return
    outside = 0.0 < far < math.hypot(here[0] - home[0], here[1] - home[1]) or 0.0 < high < home[2] - here[2]
    if outside and pilot.mode not in (FlightMode.RETURN, FlightMode.LAND):
        _fail(pilot, "Geofence breached", {2: 5, 3: 3, 4: 6, 5: 4}.get(action, 5), now)


def _fail(pilot: Commander, reason: str, action: int, now: float) -> None:
    """Act as COM_OBL_RC_ACT numbers it: 0-2 and 5 hold, 3 return, 4 land, 6 terminate, 7 disarm."""
    mode = {3: FlightMode.RETURN, 4: FlightMode.LAND}.get(action, FlightMode.HOLD)
    if pilot.mode is FlightMode.LAND or (pilot.mode is FlightMode.RETURN and mode is FlightMode.HOLD):
        return
    if action in (6, 7):
        pilot.say(Severity.EMERGENCY, f"{reason}: motors stopped")
        pilot.stop_motors(now)
        return
    pilot.say(Severity.CRITICAL, f"Failsafe: {reason}, {mode.name.lower()}")
    pilot.finish_mode(mode, now)
    pilot.failsafe = True
