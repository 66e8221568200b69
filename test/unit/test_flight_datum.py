"""The swarm's datum: what a mission file may name is simulated and flown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from chimera_ros.autopilot.frames import EkfOrigin, LocalFrame, Projection, TangentPlane, enu_from_ned
from chimera_ros.autopilot.origin import AGREE_WITHIN_M
from chimera_ros.flight.datum import MAX_LATITUDE_DEG, Datum
from chimera_ros.flight.planning.mission_file import MissionError, parse_mission
from chimera_ros.launcher.spec import SwarmSpec, sitl_process
from chimera_ros.sitl.geodesy import LocalEarth
from chimera_ros.sitl.main import parser, read_datum

MISSION = """
mission: m
datum: {lat_deg: LAT, lon_deg: LON, amsl_m: ALT}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1, 60]}
steps: [{takeoff: {height_m: 10}}, {land: {}}]
"""


@pytest.mark.parametrize("latitude", [-90.0, -85.1, -85.0, 47.4, 85.0, 85.1, 89.0])
@pytest.mark.parametrize("longitude", [-180.1, -180.0, 8.5, 180.0])
@pytest.mark.parametrize("altitude", [-500.1, -500.0, 9000.0, 9000.1])
def test_mission_file_simulation_and_bridge_accept_the_same(
    latitude: float, longitude: float, altitude: float
) -> None:
    text = MISSION.replace("LAT", str(latitude)).replace("LON", str(longitude)).replace("ALT", str(altitude))
    try:
        datum = parse_mission(text).datum
    except MissionError:
        with pytest.raises(ValueError, match=r"^the datum's \w+ is \S+, but must lie between"):
            Datum(latitude, longitude, altitude)
        return
    assert datum is not None
    spec = SwarmSpec(drones=1, mission=Path("m.yaml"), keystore=Path("keys"))
    options = parser().parse_args(sitl_process(spec, datum, Path("spawn.json")).arguments)
    assert read_datum(options.datum) == datum
    TangentPlane(datum)


@pytest.mark.parametrize("latitude", [-MAX_LATITUDE_DEG, 0.0, 47.4, MAX_LATITUDE_DEG])
@pytest.mark.parametrize("longitude", [-180.0, 8.5, 180.0])
def test_simulated_positions_agree_with_the_bridge_everywhere(latitude: float, longitude: float) -> None:
    """A vehicle 900 m away reports global and local positions that the bridge accepts for arming."""
    datum = Datum(latitude, longitude, 488.0)
    earth, plane = LocalEarth.at(datum), TangentPlane(datum)
    for degrees in range(0, 360, 30):
        turned = math.radians(degrees)
        position = (900.0 * math.cos(turned), 900.0 * math.sin(turned), -20.0)
        origin = (position[0] - 3.0, position[1] + 3.0, 0.0)
        frame = LocalFrame(plane, EkfOrigin(*earth.to_geodetic(*origin)), Projection.WGS84)
        north, east, down = (p - o for p, o in zip(position, origin, strict=True))
        here = earth.to_geodetic(*position)
        assert (
            math.dist(frame.to_map(enu_from_ned((north, east, down))), plane.to_enu(*here)) < AGREE_WITHIN_M
        )
        assert math.dist(earth.to_ned(*here), position) < 0.01
