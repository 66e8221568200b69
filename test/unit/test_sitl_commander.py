"""The simulated PX4 commander: arming checks, modes, failsafes, missions, parameters, in stepped time."""

from __future__ import annotations

import math
import struct

import pytest

from chimera_ros.sitl.commander import Commander
from chimera_ros.sitl.config import Fault, FaultKind, SitlConfig
from chimera_ros.sitl.mavlink_types import FlightMode, LandedState, MavCommand, MavResult, StatusText
from chimera_ros.sitl.missions import CHANGE_SPEED, LAND, RETURN, WAYPOINT, MissionItem
from chimera_ros.sitl.missions import TAKEOFF as TAKEOFF_ITEM
from chimera_ros.sitl.parameters import NAMES, TYPE_INT32, TYPE_REAL32, Parameters
from chimera_ros.sitl.simulation import Simulation
from chimera_ros.sitl.vehicle_state import OffboardSetpoint

NAN = math.nan
ARM = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
DISARM = (0.0,) * 7
ANY = (0.0, 0.0, 0.0, NAN, NAN, NAN, NAN)


def ready(**options: object) -> tuple[Simulation, Commander]:
    """A simulation of one vehicle that may be armed."""
    sim = Simulation(SitlConfig(drones=1, **options))  # type: ignore[arg-type]
    commander = sim.commanders[0]
    assert sim.run_until(lambda: commander.state.ready, 10.0)
    return sim, commander


def airborne(**options: object) -> tuple[Simulation, Commander]:
    """A simulation of one hovering vehicle."""
    sim, commander = ready(**options)
    assert commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.ACCEPTED
    assert commander.command(MavCommand.TAKEOFF, ANY, sim.time_s) == MavResult.ACCEPTED
    assert sim.run_until(lambda: commander.state.mode is FlightMode.HOLD, 15.0)
    sim.advance(500)
    commander.state.events.clear()
    return sim, commander


def point(commander: Commander, sim: Simulation, north: float = 0.0, east: float = 0.0) -> OffboardSetpoint:
    """A set point beside the present hovering place."""
    n, e, d = commander.state.guidance.target_m
    return OffboardSetpoint((n + north, e + east, d), (0.0, 0.0, 0.0), None, 0.0, 0.0, sim.time_s)


def texts(commander: Commander) -> str:
    """All that the autopilot has said."""
    return " | ".join(e.text for e in commander.state.events if isinstance(e, StatusText))


def up_m(sim: Simulation) -> float:
    return sim.true_enu_m()[0][2]


def test_arming_waits_for_the_estimator() -> None:
    sim = Simulation(SitlConfig(drones=1, ready_after_s=2.0))
    commander = sim.commanders[0]
    sim.advance(100)
    assert commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.TEMPORARILY_REJECTED
    assert "position estimate" in texts(commander)
    sim.advance(500)
    assert commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.ACCEPTED


def test_without_gps_it_never_arms() -> None:
    sim = Simulation(SitlConfig(drones=1, faults=(Fault(0, FaultKind.NO_GPS),)))
    sim.advance(5000)
    assert sim.commanders[0].command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.TEMPORARILY_REJECTED


def test_armed_and_idle_it_disarms_itself() -> None:
    sim, commander = ready()
    commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s)
    sim.advance(2000)
    assert commander.state.armed
    assert sim.run_until(lambda: not commander.state.armed, 5.0)


def test_takeoff_without_altitude_climbs_to_the_parameter() -> None:
    sim, commander = airborne(parameters={"MIS_TAKEOFF_ALT": 6.0})
    assert up_m(sim) == pytest.approx(6.0, abs=0.4)
    assert commander.state.landed_state is LandedState.IN_AIR
    assert commander.command(MavCommand.TAKEOFF, ANY, sim.time_s) == MavResult.TEMPORARILY_REJECTED


def test_takeoff_to_an_altitude_above_sea_level() -> None:
    sim, commander = ready()
    commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s)
    altitude = sim.config.datum.altitude_amsl_m + 8.0
    assert commander.command(MavCommand.TAKEOFF, (*ANY[:6], altitude), sim.time_s) == MavResult.ACCEPTED
    assert sim.run_until(lambda: commander.state.mode is FlightMode.HOLD, 15.0)
    sim.advance(500)
    assert up_m(sim) == pytest.approx(8.0, abs=0.4)


def test_disarming_in_the_air_is_refused() -> None:
    sim, commander = airborne()
    assert commander.command(MavCommand.ARM_DISARM, DISARM, sim.time_s) == MavResult.TEMPORARILY_REJECTED
    assert commander.state.armed
    assert "not landed" in texts(commander)


def test_reposition_goes_there_and_refuses_nonsense() -> None:
    sim, commander = airborne()
    lat, lon, alt = sim.earth.to_geodetic(12.0, -7.0, -5.0)
    goto = (-1.0, 1.0, 0.0, NAN, lat, lon, alt)
    assert commander.command(MavCommand.REPOSITION, goto, sim.time_s) == MavResult.ACCEPTED
    sim.advance(3000)
    east, north, up = sim.true_enu_m()[0]
    assert (east, north, up) == pytest.approx((-7.0, 12.0, 5.0), abs=0.4)
    far = (-1.0, 1.0, 0.0, NAN, lat + 1.0, lon, alt)
    assert commander.command(MavCommand.REPOSITION, far, sim.time_s) == MavResult.DENIED
    assert (
        commander.command(MavCommand.REPOSITION, (*goto[:4], 200.0, lon, alt), sim.time_s) == MavResult.DENIED
    )


def test_return_climbs_comes_home_and_lands() -> None:
    sim, commander = airborne(parameters={"RTL_RETURN_ALT": 8.0})
    commander.state.guidance.go((20.0, 0.0, -3.0), sim.time_s)
    sim.advance(2500)
    assert commander.command(MavCommand.RETURN, ANY, sim.time_s) == MavResult.ACCEPTED
    highest = 0.0
    while commander.state.armed and sim.time_s < 120.0:
        sim.advance(25)
        highest = max(highest, up_m(sim))
    east, north, up = sim.true_enu_m()[0]
    assert highest == pytest.approx(8.0, abs=0.6)
    assert math.hypot(east, north) < 0.5
    assert up == 0.0
    assert not commander.state.crashed


def test_unknown_commands_and_modes() -> None:
    sim, commander = ready()
    assert commander.command(9999, ANY, sim.time_s) == MavResult.UNSUPPORTED
    assert (
        commander.command(MavCommand.SET_MODE, (1.0, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0), sim.time_s)
        == MavResult.DENIED
    )
    assert commander.command(MavCommand.SET_MODE, (NAN,) * 7, sim.time_s) == MavResult.DENIED
    assert commander.command(MavCommand.ARM_DISARM, (NAN,) * 7, sim.time_s) == MavResult.DENIED


def test_offboard_needs_a_stream() -> None:
    sim, commander = airborne()
    assert commander.set_mode(FlightMode.OFFBOARD, sim.time_s) == MavResult.TEMPORARILY_REJECTED
    commander.setpoint(point(commander, sim), sim.time_s)
    assert commander.set_mode(FlightMode.OFFBOARD, sim.time_s) == MavResult.ACCEPTED


def test_offboard_takes_off_only_when_asked_to_climb() -> None:
    sim, commander = ready()
    n, e, d = commander.state.estimate.position_m

    def stream(down: float, seconds: float) -> None:
        end = sim.time_s + seconds
        while sim.time_s < end:
            here = OffboardSetpoint((n, e, down), (0.0, 0.0, 0.0), None, 0.0, 0.0, sim.time_s)
            commander.setpoint(here, sim.time_s)
            sim.advance(12)

    stream(d, 0.1)
    assert commander.set_mode(FlightMode.OFFBOARD, sim.time_s) == MavResult.ACCEPTED
    assert commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s) == MavResult.ACCEPTED
    stream(d, 3.0)
    assert commander.state.landed
    stream(d - 3.0, 6.0)
    assert up_m(sim) == pytest.approx(3.0, abs=0.4)
    assert commander.state.mode is FlightMode.OFFBOARD


@pytest.mark.parametrize(
    ("action", "mode"),
    [(4, FlightMode.LAND), (5, FlightMode.HOLD), (0, FlightMode.HOLD), (3, FlightMode.RETURN)],
)
def test_a_lost_offboard_stream_does_what_the_parameter_says(action: int, mode: FlightMode) -> None:
    sim, commander = airborne(parameters={"COM_OBL_RC_ACT": action})
    commander.setpoint(point(commander, sim, north=1.0), sim.time_s)
    commander.set_mode(FlightMode.OFFBOARD, sim.time_s)
    before = sim.time_s
    assert sim.run_until(lambda: commander.state.mode is not FlightMode.OFFBOARD, 3.0)
    assert 1.0 <= sim.time_s - before <= 1.2
    assert commander.state.mode is mode
    assert commander.state.failsafe
    assert "Offboard set points lost" in texts(commander)


def test_the_default_for_a_lost_stream_is_to_land_in_place() -> None:
    sim, commander = airborne()
    commander.setpoint(point(commander, sim, east=2.0), sim.time_s)
    commander.set_mode(FlightMode.OFFBOARD, sim.time_s)
    assert sim.run_until(lambda: not commander.state.armed, 30.0)
    east, north, up = sim.true_enu_m()[0]
    assert up == 0.0
    assert 0.5 < east < 3.0
    assert abs(north) < 0.5
    assert not commander.state.crashed


def test_a_repeated_set_point_keeps_the_stream_alive_but_does_not_run_away() -> None:
    sim, commander = airborne()
    n, e, d = commander.state.guidance.target_m
    same = OffboardSetpoint((n, e, d), (3.0, 0.0, 0.0), None, 0.0, 0.0, sim.time_s)
    commander.setpoint(same, sim.time_s)
    commander.set_mode(FlightMode.OFFBOARD, sim.time_s)
    for _ in range(200):
        commander.setpoint(same, sim.time_s)
        sim.advance(12)
    assert commander.state.mode is FlightMode.OFFBOARD
    assert float(sim.fleet.position_m[0, 0]) - n < 3.0 / 1.8 + 0.15 * 3.0 + 0.3  # v / gain + extrapolation


def test_velocity_set_points_move_at_that_velocity() -> None:
    sim, commander = airborne()
    for k in range(100):
        moving = OffboardSetpoint((None,) * 3, (2.0, 1.0, -0.5), None, None, 0.0, k * 0.05)
        commander.setpoint(moving, sim.time_s)
        if k == 0:
            assert commander.set_mode(FlightMode.OFFBOARD, sim.time_s) == MavResult.ACCEPTED
        sim.advance(12)
    assert sim.fleet.velocity_m_s[0].tolist() == pytest.approx([2.0, 1.0, -0.5], abs=0.1)


@pytest.mark.parametrize(
    ("charge", "mode"), [(0.14, FlightMode.HOLD), (0.06, FlightMode.RETURN), (0.04, FlightMode.LAND)]
)
def test_battery_levels_warn_return_and_land(charge: float, mode: FlightMode) -> None:
    sim, commander = airborne()
    sim.fleet.battery[0] = charge
    sim.advance(50)
    assert commander.state.mode is mode
    assert "battery" in texts(commander).lower()


def test_a_lost_ground_station_does_what_the_parameter_says() -> None:
    sim, commander = airborne(parameters={"NAV_DLL_ACT": 3, "COM_DL_LOSS_T": 5})
    commander.gcs_heartbeat(sim.time_s)
    sim.advance(1000)
    assert commander.state.mode is FlightMode.HOLD
    assert sim.run_until(lambda: commander.state.mode is FlightMode.LAND, 3.0)


def test_the_fence_holds() -> None:
    sim, commander = airborne(parameters={"GF_MAX_HOR_DIST": 10.0, "GF_ACTION": 2})
    commander.state.guidance.go((40.0, 0.0, -3.0), sim.time_s)
    sim.advance(5000)
    assert "Geofence" in texts(commander)
    assert 10.0 < float(sim.fleet.position_m[0, 0]) < 18.0  # the fence and the braking distance
    assert commander.state.mode is FlightMode.HOLD


def test_an_origin_jump_keeps_the_vehicle_where_it_is() -> None:
    sim, commander = airborne(faults=(Fault(0, FaultKind.ORIGIN_JUMP, at_s=20.0),))
    before_local, before = commander.state.local_m(commander.state.estimate.position_m), sim.true_enu_m()[0]
    assert sim.run_until(lambda: commander.state.reset_counter == 1, 30.0)
    sim.advance(500)
    after_local, after = commander.state.local_m(commander.state.estimate.position_m), sim.true_enu_m()[0]
    assert math.dist(before, after) < 0.3
    assert math.dist(before_local, after_local) > 3.0


def waypoint(sim: Simulation, command: int, north: float, east: float, up: float) -> MissionItem:
    lat, lon, _ = sim.earth.to_geodetic(north, east, 0.0)
    return MissionItem(command, 6, (0.0, 0.0, 0.0, NAN), lat, lon, up)


def test_a_mission_is_flown_from_the_ground_to_the_ground() -> None:
    sim, commander = ready()
    commander.state.mission.replace(
        [
            waypoint(sim, TAKEOFF_ITEM, 0.0, 0.0, 5.0),
            MissionItem(CHANGE_SPEED, 2, (1.0, 8.0, -1.0, 0.0), 0.0, 0.0, 0.0),
            waypoint(sim, WAYPOINT, 15.0, 0.0, 6.0),
            waypoint(sim, WAYPOINT, 15.0, 15.0, 4.0),
            waypoint(sim, LAND, 5.0, 15.0, 0.0),
        ]
    )
    assert commander.set_mode(FlightMode.MISSION, sim.time_s) == MavResult.ACCEPTED
    commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s)
    corner = math.inf
    while sim.time_s < 90.0 and not (commander.state.mission.finished and not commander.state.armed):
        sim.advance(25)
        east, north, _ = sim.true_enu_m()[0]
        corner = min(corner, math.hypot(north - 15.0, east))
    east, north, up = sim.true_enu_m()[0]
    assert corner < 2.2
    assert (east, north, up) == pytest.approx((15.0, 5.0, 0.0), abs=0.6)
    assert commander.state.mission.finished
    assert not commander.state.armed


def test_a_mission_may_end_with_return() -> None:
    sim, commander = ready(parameters={"RTL_RETURN_ALT": 6.0})
    commander.state.mission.replace(
        [waypoint(sim, WAYPOINT, 12.0, 0.0, 5.0), MissionItem(RETURN, 2, (0.0,) * 4, 0.0, 0.0, 0.0)]
    )
    commander.set_mode(FlightMode.MISSION, sim.time_s)
    commander.command(MavCommand.ARM_DISARM, ARM, sim.time_s)
    assert sim.run_until(lambda: commander.state.mode is FlightMode.RETURN, 30.0)
    assert sim.run_until(lambda: not commander.state.armed, 60.0)
    assert math.hypot(*sim.true_enu_m()[0][:2]) < 0.6


def test_no_mission_no_mission_mode() -> None:
    sim, commander = ready()
    assert commander.set_mode(FlightMode.MISSION, sim.time_s) == MavResult.TEMPORARILY_REJECTED


def test_parameters_keep_type_and_range() -> None:
    p = Parameters()
    assert p.set("MIS_TAKEOFF_ALT", 12.5)
    assert not p.set("MIS_TAKEOFF_ALT", NAN)
    assert not p.set("MIS_TAKEOFF_ALT", -3.0)
    assert not p.set("NO_SUCH_NAME", 1.0)
    assert p["MIS_TAKEOFF_ALT"] == 12.5
    assert p.set_encoded("COM_OBL_RC_ACT", struct.pack("<i", 5), TYPE_INT32)
    assert p["COM_OBL_RC_ACT"] == 5
    assert not p.set_encoded("COM_OBL_RC_ACT", struct.pack("<f", 4.0), TYPE_REAL32)
    carried, kind = p.encoded("COM_OBL_RC_ACT")
    assert kind == TYPE_INT32
    assert struct.unpack("<i", struct.pack("<f", carried))[0] == 5
    assert len(set(NAMES)) == len(NAMES)
    assert all(len(name) <= 16 for name in NAMES)
