"""Looking ahead in flight: telemetry that says nothing about now must not hide what others do."""

from __future__ import annotations

from math import nan

import pytest

from chimera_ros.flight.prediction import predicted_risk
from chimera_ros.flight.trajectory import Path
from chimera_ros.flight.types import DroneState, DroneTelemetry, TrajectoryKnot

NOW_NS = 2_000_000_000
PATHS = {
    name: Path((TrajectoryKnot(0.0, (0.0, north, 10.0)), TrajectoryKnot(10.0, (20.0, north, 10.0))))
    for name, north in (("a", 0.0), ("b", 3.0), ("c", 30.0))
}


def heard(
    name: str, off_m: float, velocity: tuple[float, float, float] | None = None, stamp_ns: int = NOW_NS
) -> DroneTelemetry:
    place, moves, _ = PATHS[name].evaluate(NOW_NS * 1e-9)
    return DroneTelemetry(
        name, stamp_ns, DroneState.FLYING,
        position_enu_m=(float(place[0]), float(place[1]) + off_m, float(place[2])),
        velocity_enu_m_s=velocity or (float(moves[0]), float(moves[1]), float(moves[2])),
    )  # fmt: skip


@pytest.mark.parametrize("velocity", [(nan, 0.0, 0.0), None])
def test_a_drone_without_a_velocity_hides_no_other(velocity: tuple[float, float, float] | None) -> None:
    telemetry = {"a": heard("a", 1.5), "b": heard("b", 0.0), "c": heard("c", 0.0, velocity)}
    risk = predicted_risk(list(PATHS), PATHS, 0, telemetry, NOW_NS, 2.0)
    assert risk is not None and {risk.first, risk.second} == {"a", "b"}


def test_telemetry_from_the_future_counts_as_none() -> None:
    ahead = {"a": heard("a", 1.5, stamp_ns=NOW_NS + 5_000_000_000)}
    assert predicted_risk(list(PATHS), PATHS, 0, ahead, NOW_NS, 2.0) is None
    assert predicted_risk(list(PATHS), PATHS, 0, {"a": heard("a", 1.5)}, NOW_NS, 2.0) is not None
