"""What each flight mode of the simulated PX4 does: entered once, then run at about 25 Hz."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING

from . import missions
from .config import Vec3
from .mavlink_types import FlightMode, MissionItemReached, Severity, StateChange

if TYPE_CHECKING:
    from .commander import Commander, OffboardSetpoint

FEED_FORWARD_LIMIT_M_S2 = 5.0
ARRIVED_M = 0.3


class ReturnPhase(Enum):
    """Stages of the return mode."""

    CLIMB = "climb"
    HOMEWARD = "homeward"
    DESCEND = "descend"
    LAND = "land"


def enter(pilot: Commander, now: float) -> None:
    """Give the first set point of the mode just entered."""
    body, guide = pilot.body, pilot.guidance
    if pilot.landed or not pilot.flying():
        guide.go(body.position_m, now)
    else:
        guide.stop(body.position_m, body.velocity_m_s, now)
    pilot.return_phase = ReturnPhase.CLIMB
    if pilot.mode is FlightMode.MISSION:
        pilot.mission.rewind_item()
        pilot.emit(StateChange.MISSION_CURRENT)


def run(pilot: Commander, now: float) -> None:
    """One cycle of the present mode of an armed vehicle."""
    if pilot.mode is FlightMode.TAKEOFF:
        _take_off(pilot, now)
    elif pilot.mode is FlightMode.LAND:
        if pilot.flying():
            _sink(pilot, now)
    elif pilot.mode is FlightMode.RETURN:
        _return(pilot, now)
    elif pilot.mode is FlightMode.MISSION:
        _mission(pilot, now)
    elif pilot.mode is FlightMode.OFFBOARD:
        _offboard(pilot, now)


def _spooled_up(pilot: Commander, now: float) -> bool:
    return now - pilot.armed_since_s >= pilot.parameters["COM_SPOOLUP_TIME"]


def _take_off(pilot: Commander, now: float) -> None:
    if not pilot.flying():
        if not pilot.landed or not _spooled_up(pilot, now):
            return
        north, east, _ = pilot.body.position_m
        pilot.guidance.go((north, east, pilot.takeoff_down_m), now, up_m_s=pilot.parameters["MPC_TKO_SPEED"])
        pilot.begin_flight()
        return
    target = pilot.guidance.target_m
    if pilot.body.position_m[2] < pilot.takeoff_down_m + ARRIVED_M:
        yaw = pilot.guidance.yaw_rad
        pilot.finish_mode(FlightMode.HOLD, now)
        pilot.guidance.go((target[0], target[1], pilot.takeoff_down_m), now)
        pilot.guidance.face(yaw)


def _sink(pilot: Commander, now: float) -> None:
    p = pilot.parameters
    height = pilot.home_m[2] - pilot.body.position_m[2]
    slow, fast, low = p["MPC_LAND_SPEED"], p["MPC_Z_V_AUTO_DN"], p["MPC_LAND_ALT2"]
    speed = slow if height < low else min(fast, slow + (fast - slow) * (height - low) / 3.0)
    pilot.guidance.descend(pilot.guidance.target_m, speed, now)


def _return(pilot: Commander, now: float) -> None:
    if not pilot.flying():
        return
    p, here, home, guide = pilot.parameters, pilot.body.position_m, pilot.home_m, pilot.guidance
    away = math.hypot(here[0] - home[0], here[1] - home[1])
    # near home a climb to the full height is pointless: PX4 flies a cone, 45 degrees here
    height = min(p["RTL_RETURN_ALT"], max(away, p["RTL_DESCEND_ALT"]))
    cruise_down = min(here[2], home[2] - height)
    if pilot.return_phase is ReturnPhase.CLIMB:
        target = guide.target_m
        if target[2] > cruise_down + 0.05:
            guide.go((target[0], target[1], home[2] - height), now)
        if here[2] < home[2] - height + 1.0:
            pilot.return_phase = ReturnPhase.HOMEWARD
            guide.go((home[0], home[1], cruise_down), now)
    elif pilot.return_phase is ReturnPhase.HOMEWARD:
        if away < 0.5:
            pilot.return_phase = ReturnPhase.DESCEND
            guide.go((home[0], home[1], max(here[2], home[2] - p["RTL_DESCEND_ALT"])), now)
    elif pilot.return_phase is ReturnPhase.DESCEND:
        if here[2] > home[2] - p["RTL_DESCEND_ALT"] - 0.3:
            pilot.return_phase = ReturnPhase.LAND
            pilot.emit(StateChange.VEHICLE_STATUS)
    else:
        _sink(pilot, now)


def _offboard(pilot: Commander, now: float) -> None:
    """On the ground only: lift off when the set point asks for it. In the air set points act as they come."""
    setpoint = pilot.setpoint
    if pilot.flying() or not pilot.landed or setpoint is None or not _spooled_up(pilot, now):
        return
    down, climb = setpoint.position_m[2], setpoint.velocity_m_s
    wants = down is not None and down < pilot.body.position_m[2] - 0.2
    wants = wants or (down is None and climb is not None and climb[2] < -0.2)
    if wants and now - pilot.setpoint_s <= pilot.parameters["COM_OF_LOSS_T"]:
        pilot.begin_flight()
        follow(pilot, setpoint, None, now)


def follow(
    pilot: Commander, setpoint: OffboardSetpoint, previous: OffboardSetpoint | None, now: float
) -> None:
    """Hand a streamed set point to the controller, with the acceleration that the stream implies."""
    velocity = setpoint.velocity_m_s
    acceleration = setpoint.acceleration_m_s2
    held = any(axis is not None for axis in setpoint.position_m)
    if acceleration is None:
        acceleration = (0.0, 0.0, 0.0)
        if held and velocity is not None and previous is not None and previous.velocity_m_s is not None:
            acceleration = _implied(velocity, previous.velocity_m_s, setpoint.stamp_s - previous.stamp_s)
    pilot.guidance.stream(
        setpoint.position_m,
        velocity or (0.0, 0.0, 0.0),
        acceleration,
        setpoint.yaw_rad,
        setpoint.yaw_rate_rad_s,
        now,
        feed_forward=held and velocity is not None,
    )


def _implied(velocity: Vec3, before: Vec3, elapsed_s: float) -> Vec3:
    if not 0.02 <= elapsed_s <= 0.3:
        return 0.0, 0.0, 0.0
    change = [(a - b) / elapsed_s for a, b in zip(velocity, before, strict=True)]
    if max(map(abs, change)) > FEED_FORWARD_LIMIT_M_S2:  # a jump, not a smooth stream
        return 0.0, 0.0, 0.0
    return change[0], change[1], change[2]


def _mission(pilot: Commander, now: float) -> None:
    mission = pilot.mission
    if mission.current >= len(mission.items):
        _end_mission(pilot, now)
        return
    item = mission.items[mission.current]
    if not pilot.flying() and item.command == missions.LAND and mission.begun == mission.current:
        pilot.emit(MissionItemReached(mission.current))
        mission.current += 1
        return
    if not pilot.flying():
        _lift_off_for_mission(pilot, item, now)
        return
    if mission.begun != mission.current:
        mission.begun = mission.current
        mission.arrived_s = None
        pilot.emit(StateChange.MISSION_CURRENT)
        if not _begin_item(pilot, item, now):
            return
    if _item_done(pilot, item, now):
        pilot.emit(MissionItemReached(mission.current))
        mission.current += 1
        if mission.current >= len(mission.items):
            _end_mission(pilot, now)


def _lift_off_for_mission(pilot: Commander, item: missions.MissionItem, now: float) -> None:
    if not pilot.landed or not _spooled_up(pilot, now) or pilot.mission.finished:
        return
    while item.command not in missions.MOVING:
        if item.command == missions.CHANGE_SPEED:
            pilot.mission.speed_m_s = item.params[1]
        pilot.mission.current += 1
        if pilot.mission.current >= len(pilot.mission.items):
            _end_mission(pilot, now)
            return
        item = pilot.mission.items[pilot.mission.current]
    north, east, down = pilot.body.position_m
    up = min(_place(pilot, item)[2], down - pilot.parameters["MIS_TAKEOFF_ALT"])
    pilot.guidance.go((north, east, up), now, up_m_s=pilot.parameters["MPC_TKO_SPEED"])
    pilot.begin_flight()


def _place(pilot: Commander, item: missions.MissionItem) -> Vec3:
    north, east, down = pilot.earth.to_ned(item.latitude_deg, item.longitude_deg, item.altitude_m)
    if item.frame in missions.FRAME_RELATIVE:
        down = pilot.home_m[2] - item.altitude_m
    return north, east, down


def _begin_item(pilot: Commander, item: missions.MissionItem, now: float) -> bool:
    """Give the set point of an item; False if it took the vehicle out of the mission."""
    mission, guide = pilot.mission, pilot.guidance
    if item.command == missions.RETURN:
        mission.current += 1
        mission.finished = mission.current >= len(mission.items)
        pilot.finish_mode(FlightMode.RETURN, now)
        return False
    if item.command == missions.CHANGE_SPEED and item.params[1] > 0.0:
        mission.speed_m_s = min(item.params[1], pilot.parameters["MPC_XY_VEL_MAX"])
    if item.command in missions.MOVING:
        target = _place(pilot, item)
        here = pilot.body.position_m
        if item.command == missions.LAND:
            target = (target[0], target[1], here[2])
        elif item.command == missions.TAKEOFF:
            target = (here[0], here[1], target[2])
        guide.go(target, now, mission.speed_m_s)
        if item.command in (missions.WAYPOINT, missions.LAND):
            if math.isfinite(item.params[3]):
                guide.face(math.radians(item.params[3]))
            elif math.hypot(target[0] - here[0], target[1] - here[1]) > 1.0:
                guide.face(math.atan2(target[1] - here[1], target[0] - here[0]))
    return True


def _item_done(pilot: Commander, item: missions.MissionItem, now: float) -> bool:
    mission, here, target = pilot.mission, pilot.body.position_m, pilot.guidance.target_m
    if item.command == missions.DELAY:
        mission.arrived_s = now if mission.arrived_s is None else mission.arrived_s
        return now - mission.arrived_s >= item.params[0]
    if item.command not in missions.MOVING:
        return True
    across = math.hypot(here[0] - target[0], here[1] - target[1])
    if item.command == missions.LAND:
        if mission.arrived_s is None and across > 0.5:
            return False
        mission.arrived_s = now
        _sink(pilot, now)
        return pilot.landed
    radius = pilot.parameters["NAV_ACC_RAD"]
    if item.command == missions.WAYPOINT and item.params[1] > 0.0:
        radius = item.params[1]
    near = across < radius and abs(here[2] - target[2]) < max(ARRIVED_M, min(radius, 0.8))
    if mission.arrived_s is None and near:
        mission.arrived_s = now
    if mission.arrived_s is None or item.command == missions.LOITER_UNLIMITED:
        return False
    stay = item.params[0] if item.command in (missions.WAYPOINT, missions.LOITER_TIME) else 0.0
    return now - mission.arrived_s >= stay


def _end_mission(pilot: Commander, now: float) -> None:
    pilot.mission.finished = True
    pilot.mission.current = max(len(pilot.mission.items) - 1, 0)
    pilot.emit(StateChange.MISSION_CURRENT)
    pilot.say(Severity.INFO, "Mission finished")
    pilot.finish_mode(FlightMode.HOLD, now)
