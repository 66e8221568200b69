"""Looking ahead in flight: telemetry that says nothing about now must not hide what others do."""

from __future__ import annotations

from math import nan
from types import SimpleNamespace
from typing import Any

import pytest

from chimera_ros.flight.leader.plan_handout import ActivePaths, PlanHandout
from chimera_ros.flight.leader.state import LeaderConfig
from chimera_ros.flight.messages import DroneState, DroneTelemetry, TrajectoryKnot
from chimera_ros.flight.planning.prediction import Risk, predicted_risk
from chimera_ros.flight.trajectory import Path

NOW_NS = 2_000_000_000
PATHS = {
    name: Path((TrajectoryKnot(0.0, (0.0, north, 10.0)), TrajectoryKnot(10.0, (20.0, north, 10.0))))
    for name, north in (("a", 0.0), ("b", 3.0), ("c", 30.0))
}


def heard(
    name: str, off_m: float, velocity: tuple[float, float, float] | None = None, stamp_ns: int = NOW_NS
) -> DroneTelemetry:
    place, moves, _ = PATHS[name].evaluate(stamp_ns * 1e-9)
    return DroneTelemetry(
        name, stamp_ns, DroneState.FOLLOWING,
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


@pytest.mark.parametrize("in_s", [0.4, 4.0])
def test_who_would_meet_before_anybody_can_turn_is_stopped_without_asking(in_s: float) -> None:
    asked: list[str] = []

    def request(title: str, *_: object) -> Any:
        asked.append(title)
        yield
        return None

    handout: Any = PlanHandout(
        LeaderConfig("leader", moderate=True), Any, Any, Any,  # type: ignore[arg-type]
        SimpleNamespace(request=request), SimpleNamespace(now=2.0, swarm_ns=NOW_NS),
    )  # fmt: skip
    steps = handout.replan_in_flight("swap", Risk("a", "b", in_s, 0.5, 0.4), ActivePaths(dict(PATHS), 0))
    why = ""
    while not why:
        try:
            next(steps)
        except StopIteration as ended:
            why = ended.value
    assert "are predicted" in why
    assert asked == ([] if in_s < 1.0 else ["swap"])
