"""Frames: geodetic, map, the autopilots' own metres, attitudes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chimera_ros.autopilot.frames import (
    EkfOrigin,
    LocalFrame,
    Projection,
    TangentPlane,
    ecef_to_geodetic,
    enu_from_ned,
    flu_in_enu_from_frd_in_ned,
    geodetic_to_ecef,
    ned_from_enu,
    yaw_enu_from_ned,
    yaw_ned_from_enu,
    yaw_of,
)
from chimera_ros.flight.datum import Datum

ZURICH = Datum(47.397742, 8.545594, 488.0)
latitudes = st.floats(-85.0, 85.0)
longitudes = st.floats(-180.0, 180.0)
metres = st.floats(-1000.0, 1000.0)
angles = st.floats(-math.pi, math.pi)


def test_known_ecef_point() -> None:
    # Reference: on the equator at the prime meridian, and at the pole, by the definition of the ellipsoid.
    assert geodetic_to_ecef(0.0, 0.0, 10.0) == pytest.approx((6378147.0, 0.0, 0.0))
    assert geodetic_to_ecef(90.0, 0.0, 0.0) == pytest.approx((0.0, 0.0, 6356752.314245), abs=1e-6)


@given(latitudes, longitudes, st.floats(-500.0, 15000.0))
def test_ecef_there_and_back(latitude: float, longitude: float, altitude: float) -> None:
    back = ecef_to_geodetic(geodetic_to_ecef(latitude, longitude, altitude))
    assert math.isclose(back[0], latitude, abs_tol=1e-9)
    assert math.isclose(math.cos(math.radians(back[1] - longitude)), 1.0, abs_tol=1e-12)
    assert math.isclose(back[2], altitude, abs_tol=1e-3)


@given(latitudes, longitudes, metres, metres, st.floats(-100.0, 500.0))
def test_map_there_and_back(latitude: float, longitude: float, east: float, north: float, up: float) -> None:
    plane = TangentPlane(Datum(latitude, longitude, 100.0))
    assert plane.to_enu(*plane.to_geodetic((east, north, up))) == pytest.approx((east, north, up), abs=2e-3)


def test_radii_of_curvature() -> None:
    """A small step in latitude and longitude is as long as the ellipsoid's radii say."""
    plane, lat = TangentPlane(ZURICH), math.radians(ZURICH.latitude_deg)
    e2 = 6.69437999014e-3
    w = math.sqrt(1.0 - e2 * math.sin(lat) ** 2)
    meridian, prime = 6378137.0 * (1 - e2) / w**3 + 488.0, 6378137.0 / w + 488.0
    step = 1e-4
    north = plane.to_enu(ZURICH.latitude_deg + step, ZURICH.longitude_deg, 488.0)
    east = plane.to_enu(ZURICH.latitude_deg, ZURICH.longitude_deg + step, 488.0)
    assert north[1] == pytest.approx(meridian * math.radians(step), rel=1e-5)
    assert east[0] == pytest.approx(prime * math.cos(lat) * math.radians(step), rel=1e-5)


def px4_project(origin: EkfOrigin, latitude_deg: float, longitude_deg: float) -> tuple[float, float]:
    """North and east as PX4's MapProjection::project has them (azimuthal equidistant on a sphere)."""
    lat, lon = math.radians(latitude_deg), math.radians(longitude_deg)
    lat0, lon0 = math.radians(origin.latitude_deg), math.radians(origin.longitude_deg)
    arg = math.sin(lat0) * math.sin(lat) + math.cos(lat0) * math.cos(lat) * math.cos(lon - lon0)
    c = math.acos(min(1.0, max(-1.0, arg)))
    k = c / math.sin(c) if abs(c) > 0 else 1.0
    north = k * (math.cos(lat0) * math.sin(lat) - math.sin(lat0) * math.cos(lat) * math.cos(lon - lon0))
    return north * 6371000.0, k * math.cos(lat) * math.sin(lon - lon0) * 6371000.0


@pytest.mark.parametrize("east", [-500.0, 0.0, 400.0])
@pytest.mark.parametrize("north", [-450.0, 30.0, 500.0])
@pytest.mark.parametrize("latitude", [-35.36, 0.5, 47.4, 64.0])
def test_px4_metres_become_map_metres(latitude: float, north: float, east: float) -> None:
    """The autopilot's sphere is undone: 500 m away the frame is right to 8 cm, not metres off."""
    plane = TangentPlane(Datum(latitude, 8.5, 100.0))
    origin = EkfOrigin(*plane.to_geodetic((150.0, -80.0, 3.0)))
    place = plane.to_geodetic((east, north, 25.0))
    local_north, local_east = px4_project(origin, place[0], place[1])
    local = (local_east, local_north, place[2] - origin.altitude_amsl_m)
    frame = LocalFrame(plane, origin, Projection.PX4)
    assert frame.to_map(local) == pytest.approx((east, north, 25.0), abs=0.08)
    assert frame.to_local((east, north, 25.0)) == pytest.approx(local, abs=0.08)


def test_ignoring_the_sphere_would_show() -> None:
    plane = TangentPlane(ZURICH)
    place = plane.to_geodetic((500.0, 0.0, 0.0))
    _, local_east = px4_project(ZURICH, place[0], place[1])
    assert abs(local_east - 500.0) > 1.0


@given(metres, metres, metres, metres, metres, st.sampled_from(Projection))
def test_local_frame_inverts(
    oe: float, on: float, e: float, n: float, u: float, projection: Projection
) -> None:
    plane = TangentPlane(ZURICH)
    frame = LocalFrame(plane, EkfOrigin(*plane.to_geodetic((oe, on, 5.0))), projection)
    assert frame.to_local(frame.to_map((e, n, u))) == pytest.approx((e, n, u), abs=1e-6)
    assert frame.vector_to_local(frame.vector_to_map((e, n, u))) == pytest.approx((e, n, u), abs=1e-6)
    moved = frame.shifted((1.0, -2.0, 3.0)).to_map((e, n, u))
    assert np.subtract(moved, frame.to_map((e, n, u))) == pytest.approx((1.0, -2.0, 3.0), abs=1e-9)


@given(metres, metres, metres)
def test_ned_and_enu(x: float, y: float, z: float) -> None:
    assert ned_from_enu(enu_from_ned((x, y, z))) == (x, y, z)
    assert enu_from_ned((1.0, 2.0, 3.0)) == (2.0, 1.0, -3.0)


@given(angles)
def test_yaw(yaw: float) -> None:
    assert math.cos(yaw_enu_from_ned(yaw_ned_from_enu(yaw)) - yaw) == pytest.approx(1.0)


def test_yaw_by_compass() -> None:
    assert yaw_ned_from_enu(0.0) == pytest.approx(math.pi / 2)  # facing east
    assert yaw_ned_from_enu(math.pi / 2) == pytest.approx(0.0)  # facing north


@given(st.tuples(*[st.floats(-1.0, 1.0)] * 4).filter(lambda q: sum(a * a for a in q) > 0.01))
def test_attitude_against_rotation_matrices(q: tuple[float, float, float, float]) -> None:
    w, x, y, z = np.array(q) / np.linalg.norm(q)
    ned_from_frd = Rotation.from_quat([x, y, z, w]).as_matrix()
    enu_ned = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    frd_flu = np.diag([1, -1, -1])
    expected = enu_ned @ ned_from_frd @ frd_flu
    got = flu_in_enu_from_frd_in_ned(w, x, y, z)
    assert Rotation.from_quat(got).as_matrix() == pytest.approx(expected, abs=1e-9)


@given(angles)
def test_yaw_of_level_attitude(yaw_ned: float) -> None:
    q = flu_in_enu_from_frd_in_ned(math.cos(yaw_ned / 2), 0.0, 0.0, math.sin(yaw_ned / 2))
    assert math.cos(yaw_of(q) - yaw_enu_from_ned(yaw_ned)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("values", "name"), [((91, 0, 0), "latitude"), ((0, 181, 0), "longitude"), ((0, 0, math.nan), "altitude")]
)
def test_impossible_datum_is_named(values: tuple[float, float, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Datum(*values)
