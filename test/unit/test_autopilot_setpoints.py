"""Setpoints: converted through the vehicle's own origin, refused and counted where that is not possible."""

from __future__ import annotations

import math
from typing import Any

import pytest
from mavsdk.plugins.offboard import OffboardError, OffboardResult

from chimera_ros.autopilot.frames import EkfOrigin, LocalFrame, Projection, TangentPlane
from chimera_ros.autopilot.setpoints import SetpointRefusal, SetpointSender
from chimera_ros.flight.datum import Datum
from chimera_ros.flight.vehicle import Setpoint

PLANE = TangentPlane(Datum(47.0, 8.0, 400.0))
FRAME = LocalFrame(PLANE, EkfOrigin(*PLANE.to_geodetic((10.0, 20.0, 1.0))), Projection.WGS84)
SETPOINT = Setpoint((13.0, 22.0, 6.0), (1.0, 2.0, 3.0), (0.1, 0.2, 0.3), math.pi / 2)


class Offboard:
    """Notes what a vehicle would be told."""

    def __init__(self, fails: bool = False) -> None:
        self.told: list[tuple[str, tuple[Any, ...]]] = []
        self.fails = fails

    def _note(self, name: str, *values: Any) -> None:
        if self.fails:
            raise OffboardError(OffboardResult.NO_SYSTEM, name)
        self.told.append((name, values))

    def set_position_velocity_acceleration_ned(self, *values: Any) -> None:
        self._note("moving", *values)

    def set_position_ned(self, *values: Any) -> None:
        self._note("at rest", *values)


def connected(fails: bool = False) -> tuple[SetpointSender, Offboard]:
    sender, offboard = SetpointSender(), Offboard(fails)
    sender.connect(offboard)
    return sender, offboard


def test_setpoint_in_the_vehicle_own_ned() -> None:
    sender, offboard = connected()
    sender.send(SETPOINT, FRAME, 1.0)
    [(kind, (position, velocity, acceleration))] = offboard.told
    assert kind == "moving"
    assert (position.north_m, position.east_m, position.down_m) == pytest.approx((2.0, 3.0, -5.0), abs=1e-3)
    assert (velocity.north_m_s, velocity.east_m_s, velocity.down_m_s) == pytest.approx((2, 1, -3), abs=1e-3)
    assert (acceleration.north_m_s2, acceleration.east_m_s2) == pytest.approx((0.2, 0.1), abs=1e-3)
    assert acceleration.down_m_s2 == pytest.approx(-0.3, abs=1e-3)
    assert position.yaw_deg == velocity.yaw_deg == pytest.approx(0.0)  # facing north
    assert sender.sent == 1


def test_stale_setpoint_is_replaced_by_a_bare_position() -> None:
    sender, offboard = connected()
    sender.send(SETPOINT, FRAME, 1.0)
    assert sender.fresh(1.4)
    assert not sender.degrade(FRAME, 1.5)
    assert sender.degrade(FRAME, 1.6)
    assert not sender.degrade(FRAME, 1.7)
    assert not sender.fresh(1.7)
    kind, values = offboard.told[-1]
    assert (kind, len(offboard.told), len(values)) == ("at rest", 2, 1)
    assert values[0].east_m == pytest.approx(3.0, abs=1e-3)
    assert sender.degraded == 1
    sender.send(SETPOINT, FRAME, 2.0)
    assert offboard.told[-1][0] == "moving"


def test_after_offboard_nothing_is_degraded() -> None:
    sender, offboard = connected()
    sender.send(SETPOINT, FRAME, 1.0)
    sender.forget()
    assert not sender.degrade(FRAME, 9.0)
    assert len(offboard.told) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["position_enu_m", "velocity_enu_m_s", "acceleration_enu_m_s2"])
def test_numbers_that_are_none_are_refused(where: str, bad: float) -> None:
    sender, offboard = connected()
    sender.send(Setpoint(**({"position_enu_m": (0.0, 0.0, 0.0)} | {where: (0.0, bad, 0.0)})), FRAME, 1.0)
    assert sender.refused == {SetpointRefusal.NOT_FINITE: 1}
    assert offboard.told == []
    assert not sender.fresh(1.0)


def test_refusals_are_counted_by_reason() -> None:
    sender = SetpointSender()
    sender.send(SETPOINT, FRAME, 1.0)
    assert sender.refused == {SetpointRefusal.NOT_CONNECTED: 1}
    sender, offboard = connected()
    sender.send(SETPOINT, None, 1.0)
    assert sender.refused == {SetpointRefusal.ORIGIN_UNKNOWN: 1}
    assert offboard.told == []
    sender, _ = connected(fails=True)
    sender.send(SETPOINT, FRAME, 1.0)
    assert sender.refused == {SetpointRefusal.REFUSED_BY_MAVSDK: 1}
    assert sender.sent == 0
