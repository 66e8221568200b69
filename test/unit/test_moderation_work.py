"""Offline moderation: a work budget instead of a clock, so that a verdict does not change with the load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chimera_ros import cli
from chimera_ros.flight.limits import Fence
from chimera_ros.flight.moderation_call import ModerationAnswer, ModerationRequest, ModerationStatus
from chimera_ros.flight.planning.mission import Formation, Land, Mission, Swap, Takeoff
from chimera_ros.flight.planning.planner import MissionPlan, plan_mission, plan_steps
from chimera_ros.flight.trajectory import MotionLimits
from chimera_ros.moderation.for_flight import local_moderate
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.moderation.request import ModerationResult
from chimera_ros.moderation.scenes import antipodal

DRONES = tuple(f"drone_{i:02d}" for i in range(1, 9))
TIGHT = """\
mission: tight
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 40]}
steps:
  - takeoff: {height_m: 6}
  - formation: {shape: circle, spacing_m: 2.6, center_m: [0, 0, 8]}
  - swap: {moderate: true}
  - land: {}
"""


def mission(spacing_m: float) -> Mission:
    return Mission(
        "swapping", None, 2.0, Fence.box((-60, 60), (-60, 60), (1.5, 40)), limits=MotionLimits(),
        steps=(Takeoff(6.0), Formation("circle", spacing_m, (0.0, 0.0, 8.0)), Swap(moderate=True), Land()),
    )  # fmt: skip


class Stepping:
    """A clock that goes on by a step whenever it is read, and every now and then jumps."""

    def __init__(self, step_s: float, jump_s: float = 0.0) -> None:
        self.now, self.reads, self._step_s, self._jump_s = 0.0, 0, step_s, jump_s

    def __call__(self) -> float:
        self.reads += 1
        self.now += self._step_s + (self._jump_s if self.reads % 7 == 0 else 0.0)
        return self.now


CLOCKS: dict[str, Callable[[], Callable[[], float]]] = {
    "this machine's": lambda: time.monotonic,
    "stalled machine": lambda: Stepping(30.0),
    "jumps back": lambda: Stepping(1e-4, -100.0),
}


def outcome(plan: MissionPlan) -> object:
    """All of a plan that a verdict could differ in."""
    return plan.verdict, [[k.position_enu_m for k in knots] for phase in plan.phases for knots in phase.knots]


@pytest.fixture(scope="module")
def references() -> dict[float, object]:
    """Plans under a clock that stands."""
    return {
        spacing_m: outcome(plan_mission(mission(spacing_m), DRONES, moderate=local_moderate(lambda: 0.0)))
        for spacing_m in (2.6, 4.0)
    }


@pytest.mark.parametrize("spacing_m", [2.6, 4.0])
@pytest.mark.parametrize("clock", sorted(CLOCKS))
def test_a_plan_is_the_same_under_every_clock(
    clock: str, spacing_m: float, references: dict[float, object]
) -> None:
    plan = plan_mission(mission(spacing_m), DRONES, moderate=local_moderate(CLOCKS[clock]()))
    assert outcome(plan) == references[spacing_m]
    assert plan.ok == (spacing_m == 4.0)


@pytest.fixture
def busy() -> Iterator[None]:
    """Two busy loops beside the test."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


@pytest.mark.usefixtures("busy")
def test_a_plan_is_the_same_beside_busy_processes(references: dict[float, object]) -> None:
    for spacing_m, reference in references.items():
        plan = plan_mission(mission(spacing_m), DRONES, moderate=local_moderate(time.monotonic))
        assert outcome(plan) == reference


def test_a_large_problem_ends_with_its_budget() -> None:
    scene = antipodal(12, 3)
    request = ModerationRequest(
        tuple(map(str, range(12))), scene.knots, scene.separation, scene.limits, scene.fence, 1.0,
        offline=True,
    )  # fmt: skip
    results = [Moderator(Stepping(step_s)).run(request) for step_s in (1e-6, 10.0)]
    assert replace(results[0], knots=()) == replace(results[1], knots=())
    assert str(results[0].knots) == str(results[1].knots)
    assert results[0].total_ms < 2000.0  # nominal
    small = Moderator(time.monotonic).run(replace(request, deadline_s=0.02))
    assert small.status is ModerationStatus.INFEASIBLE and small.undecided
    assert "within the work budget, which does not show that none exists" in small.reason


def test_the_planner_gives_a_budget_on_the_ground_and_a_deadline_in_flight() -> None:
    calls: list[ModerationRequest] = []

    def moderate(request: ModerationRequest) -> ModerationAnswer:
        calls.append(request)
        return ModerationAnswer(0, ModerationStatus.INFEASIBLE, "no")

    case = mission(4.0)
    assert not plan_mission(case, DRONES, moderate=moderate).ok
    here = [(4.0 * i, 0.0, 8.0) for i in range(4)]
    plan_steps(case, [Swap(moderate=True)], DRONES[:4], here, here, True, must_land=False, moderate=moderate)
    assert [call.offline for call in calls] == [True, False]
    assert calls[1].deadline_s <= 0.4


# ---- not found is not impossible ---------------------------------------------------------------------------


def run(step_s: float, **changes: object) -> ModerationResult:
    scene = antipodal(5, 3)
    request = ModerationRequest(
        tuple(map(str, range(5))), scene.knots, scene.separation, scene.limits, scene.fence
    )
    return Moderator(Stepping(step_s)).run(replace(request, **changes))  # type: ignore[arg-type]


def test_out_of_time_is_undecided_and_overlapping_goals_are_infeasible() -> None:
    late = run(5.0)
    assert late.status is ModerationStatus.INFEASIBLE and late.undecided
    assert "within the deadline of 0.25 s, which does not show that none exists" in late.reason
    scene = antipodal(5, 3)
    goal = replace(scene.knots[0][-1], t_s=scene.knots[1][-1].t_s)
    overlapping = run(0.0, knots=(scene.knots[0], (*scene.knots[1][:-1], goal), *scene.knots[2:]))
    assert overlapping.status is ModerationStatus.INFEASIBLE and not overlapping.undecided
    assert overlapping.reason.startswith("starts or goals are too close")


def test_check_says_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tight.yaml"
    path.write_text(TIGHT)
    assert cli.main(["check", str(path), "--drones", "8"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("UNDECIDED: tight with 8 drones")
    assert "path moderation has found no solution" in out and "does not show that none exists" in out
    assert cli.main(["check", str(path), "--drones", "8", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert (data["go"], data["verdict"]) == (False, "undecided")
    path.write_text(TIGHT.replace("height_m: 6}", "height_m: 60}"))
    assert cli.main(["check", str(path), "--drones", "8", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "no-go"
    path.write_text(TIGHT.replace("2.6", "4"))
    assert cli.main(["check", str(path), "--drones", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "go"
