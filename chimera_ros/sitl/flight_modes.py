"""Flight modes of the simulated PX4: entered once, then run at about 25 Hz."""

from __future__ import annotations

import math

from . import missions
from .config import Vec3
from .mavlink_types import FlightMode, MissionItemReached, Severity, StateChange
from .vehicle_state import OffboardSetpoint, ReturnPhase, SimulatedState

FEED_FORWARD_LIMIT_M_S2 = 5.0
ARRIVED_M = 0.3


def enter(state: SimulatedState, mode: FlightMode, now: float) -> None:
    """Change the flight mode; whether it can be flown now is the caller's to check."""
    state.mode = mode
    state.failsafe = False
    first_setpoint(state, now)
    if mode is FlightMode.OFFBOARD and state.setpoint is not None and state.guidance.flying:
        follow(state, state.setpoint, None, now)
    state.emit(StateChange.VEHICLE_STATUS)


def first_setpoint(state: SimulatedState, now: float) -> None:
    """Start the present mode: stay in place on the ground, brake and hold in the air."""
    estimate, guide = state.estimate, state.guidance
    if state.landed or not state.guidance.flying:
        guide.go(estimate.position_m, now)
    else:
        guide.stop(estimate.position_m, estimate.velocity_m_s, now)
    state.return_phase = ReturnPhase.CLIMB
    if state.mode is FlightMode.MISSION:
        state.mission.rewind_item()
        state.emit(StateChange.MISSION_CURRENT)


def run(state: SimulatedState, now: float) -> None:
    """One cycle of the present mode of an armed vehicle."""
    if state.mode is FlightMode.TAKEOFF:
        _take_off(state, now)
    elif state.mode is FlightMode.LAND:
        if state.guidance.flying:
            _descend(state, now)
    elif state.mode is FlightMode.RETURN:
        _return(state, now)
    elif state.mode is FlightMode.MISSION:
        _mission(state, now)
    elif state.mode is FlightMode.OFFBOARD:
        _offboard(state, now)


def _spooled_up(state: SimulatedState, now: float) -> bool:
    return now - state.armed_since_s >= state.parameters["COM_SPOOLUP_TIME"]


def _lift_off(state: SimulatedState) -> None:
    state.guidance.start_flying()
    state.contact_since_s = None
    state.flown = True


def _take_off(state: SimulatedState, now: float) -> None:
    if not state.guidance.flying:
        if not state.landed or not _spooled_up(state, now):
            return
        north, east, _ = state.estimate.position_m
        state.guidance.go((north, east, state.takeoff_down_m), now, up_m_s=state.parameters["MPC_TKO_SPEED"])
        _lift_off(state)
        return
    target = state.guidance.target_m
    if state.estimate.position_m[2] < state.takeoff_down_m + ARRIVED_M:
        yaw = state.guidance.yaw_rad
        enter(state, FlightMode.HOLD, now)
        state.guidance.go((target[0], target[1], state.takeoff_down_m), now)
        state.guidance.face(yaw)


def _descend(state: SimulatedState, now: float) -> None:
    p = state.parameters
    height = state.home_m[2] - state.estimate.position_m[2]
    slow, fast, low = p["MPC_LAND_SPEED"], p["MPC_Z_V_AUTO_DN"], p["MPC_LAND_ALT2"]
    speed = slow if height < low else min(fast, slow + (fast - slow) * (height - low) / 3.0)
    state.guidance.descend(state.guidance.target_m, speed, now)


def _return(state: SimulatedState, now: float) -> None:
    if not state.guidance.flying:
        return
    p, here, home, guide = state.parameters, state.estimate.position_m, state.home_m, state.guidance
    away = math.hypot(here[0] - home[0], here[1] - home[1])
    # near home PX4 climbs less than the full height: a cone, of 45 degrees here (RTL_CONE_ANG)
    height = min(p["RTL_RETURN_ALT"], max(away, p["RTL_DESCEND_ALT"]))
    cruise_down = min(here[2], home[2] - height)
    if state.return_phase is ReturnPhase.CLIMB:
        target = guide.target_m
        if target[2] > cruise_down + 0.05:
            guide.go((target[0], target[1], home[2] - height), now)
        if here[2] < home[2] - height + 1.0:
            state.return_phase = ReturnPhase.HOMEWARD
            guide.go((home[0], home[1], cruise_down), now)
    elif state.return_phase is ReturnPhase.HOMEWARD:
        if away < 0.5:
            state.return_phase = ReturnPhase.DESCEND
            guide.go((home[0], home[1], max(here[2], home[2] - p["RTL_DESCEND_ALT"])), now)
    elif state.return_phase is ReturnPhase.DESCEND:
        if here[2] > home[2] - p["RTL_DESCEND_ALT"] - 0.3:
            state.return_phase = ReturnPhase.LAND
            state.emit(StateChange.VEHICLE_STATUS)
    else:
        _descend(state, now)


def _offboard(state: SimulatedState, now: float) -> None:
    """On the ground only: lift off when the setpoint climbs. In the air setpoints act on arrival."""
    setpoint = state.setpoint
    if state.guidance.flying or not state.landed or setpoint is None or not _spooled_up(state, now):
        return
    down, climb = setpoint.position_m[2], setpoint.velocity_m_s
    climbs = down is not None and down < state.estimate.position_m[2] - 0.2
    climbs = climbs or (down is None and climb is not None and climb[2] < -0.2)
    if climbs and not state.setpoints_lost(now):
        _lift_off(state)
        follow(state, setpoint, None, now)


def follow(
    state: SimulatedState, setpoint: OffboardSetpoint, previous: OffboardSetpoint | None, now: float
) -> None:
    """Give a streamed setpoint to the controller, with the acceleration that the stream implies."""
    velocity = setpoint.velocity_m_s
    acceleration = setpoint.acceleration_m_s2
    held = any(axis is not None for axis in setpoint.position_m)
    if acceleration is None:
        acceleration = (0.0, 0.0, 0.0)
        if held and velocity is not None and previous is not None and previous.velocity_m_s is not None:
            acceleration = _implied(velocity, previous.velocity_m_s, setpoint.stamp_s - previous.stamp_s)
    state.guidance.stream(
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


def _mission(state: SimulatedState, now: float) -> None:
    mission = state.mission
    if mission.current >= len(mission.items):
        _end_mission(state, now)
        return
    item = mission.items[mission.current]
    if not state.guidance.flying and item.command == missions.LAND and mission.begun == mission.current:
        state.emit(MissionItemReached(mission.current))
        mission.current += 1
        return
    if not state.guidance.flying:
        _lift_off_for_mission(state, item, now)
        return
    if mission.begun != mission.current:
        mission.begun = mission.current
        mission.arrived_s = None
        state.emit(StateChange.MISSION_CURRENT)
        if not _begin_item(state, item, now):
            return
    if _item_done(state, item, now):
        state.emit(MissionItemReached(mission.current))
        mission.current += 1
        if mission.current >= len(mission.items):
            _end_mission(state, now)


def _lift_off_for_mission(state: SimulatedState, item: missions.MissionItem, now: float) -> None:
    if not state.landed or not _spooled_up(state, now) or state.mission.finished:
        return
    while item.command not in missions.MOVING:
        if item.command == missions.CHANGE_SPEED:
            state.mission.speed_m_s = item.params[1]
        state.mission.current += 1
        if state.mission.current >= len(state.mission.items):
            _end_mission(state, now)
            return
        item = state.mission.items[state.mission.current]
    north, east, down = state.estimate.position_m
    up = min(_target(state, item)[2], down - state.parameters["MIS_TAKEOFF_ALT"])
    state.guidance.go((north, east, up), now, up_m_s=state.parameters["MPC_TKO_SPEED"])
    _lift_off(state)


def _target(state: SimulatedState, item: missions.MissionItem) -> Vec3:
    north, east, down = state.earth.to_ned(item.latitude_deg, item.longitude_deg, item.altitude_m)
    if item.frame in missions.FRAME_RELATIVE:
        down = state.home_m[2] - item.altitude_m
    return north, east, down


def _begin_item(state: SimulatedState, item: missions.MissionItem, now: float) -> bool:
    """Start an item; False if it ended the mission (return)."""
    mission, guide = state.mission, state.guidance
    if item.command == missions.RETURN:
        mission.current += 1
        mission.finished = mission.current >= len(mission.items)
        enter(state, FlightMode.RETURN, now)
        return False
    if item.command == missions.CHANGE_SPEED and item.params[1] > 0.0:
        mission.speed_m_s = min(item.params[1], state.parameters["MPC_XY_VEL_MAX"])
    if item.command in missions.MOVING:
        target = _target(state, item)
        here = state.estimate.position_m
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


def _item_done(state: SimulatedState, item: missions.MissionItem, now: float) -> bool:
    mission, here, target = state.mission, state.estimate.position_m, state.guidance.target_m
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
        _descend(state, now)
        return state.landed
    radius = state.parameters["NAV_ACC_RAD"]
    if item.command == missions.WAYPOINT and item.params[1] > 0.0:
        radius = item.params[1]
    near = across < radius and abs(here[2] - target[2]) < max(ARRIVED_M, min(radius, 0.8))
    if mission.arrived_s is None and near:
        mission.arrived_s = now
    if mission.arrived_s is None or item.command == missions.LOITER_UNLIMITED:
        return False
    stay = item.params[0] if item.command in (missions.WAYPOINT, missions.LOITER_TIME) else 0.0
    return now - mission.arrived_s >= stay


def _end_mission(state: SimulatedState, now: float) -> None:
    state.mission.finished = True
    state.mission.current = max(len(state.mission.items) - 1, 0)
    state.emit(StateChange.MISSION_CURRENT)
    state.report(Severity.INFO, "Mission finished")
    enter(state, FlightMode.HOLD, now)
