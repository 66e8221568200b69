"""Whole missions planned and checked before anything arms."""

import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.planning.mission import Formation, Goto, Land, Mission, Swap, Takeoff
from chimera_ros.flight.planning.mission_file import load_mission
from chimera_ros.flight.planning.planner import TRACKING_MARGIN_M, plan_mission, plan_steps
from chimera_ros.flight.planning.separation import smallest_separation
from chimera_ros.flight.planning.transition import MoveInfeasible, MoveLimits, move, swap
from chimera_ros.flight.trajectory import MotionLimits
from chimera_ros.flight.trajectory import Path as FlightPath

MISSIONS = Path(__file__).parents[2] / "config" / "missions"
FENCE = Fence.box((-200, 200), (-200, 200), (1.5, 80))
LOW = Fence.box((-200, 200), (-200, 200), (1.5, 15))
MOVE_LIMITS = MoveLimits(2.5, 2.75, MotionLimits(), FENCE)


def names(count: int) -> list[str]:
    return [f"drone_{i:02d}" for i in range(1, count + 1)]


def mission(*steps: object, **changes: object) -> Mission:
    return replace(Mission("test", None, 2.0, FENCE, steps=steps), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["antipodal_swap", "formation_tour", "survey_line"])
@pytest.mark.parametrize("count", [1, 2, 5, 7, 20, 33, 80])
def test_shipped_missions_are_go_for_any_swarm(name: str, count: int) -> None:
    plan = plan_mission(load_mission(MISSIONS / f"{name}.yaml"), names(count))
    assert plan.ok, plan.verdict.reasons
    assert plan.min_separation_m >= 2.0 + TRACKING_MARGIN_M - 0.05
    if count == 20:
        assert 60.0 <= plan.duration_s <= 120.0
    # what the phases say is what the polynomials do: sampled independently of the planner's own bound
    _, tracks = plan.tracks(hz=4.0)
    gaps = np.linalg.norm(tracks[:, :, None] - tracks[:, None], axis=-1)
    gaps[:, range(count), range(count)] = np.inf
    assert gaps.min() >= 2.4


def test_phases_join_on_exactly() -> None:
    plan = plan_mission(load_mission(MISSIONS / "formation_tour.yaml"), names(20))
    here = plan.starts
    for phase in plan.phases:
        if phase.kind == "move":
            assert np.allclose([k[0].position_enu_m for k in phase.knots], here, atol=1e-6)
            assert np.allclose([k[-1].position_enu_m for k in phase.knots], phase.ends, atol=1e-6)
            assert all(k[-1].velocity_enu_m_s == pytest.approx((0, 0, 0), abs=1e-9) for k in phase.knots)
        here = phase.ends


def test_antipodal_swap_really_swaps() -> None:
    plan = plan_mission(load_mission(MISSIONS / "antipodal_swap.yaml"), names(20))
    moves = [p for p in plan.phases if p.title == "swap"]
    before = np.array([k[0].position_enu_m for k in moves[0].knots])
    center = before.mean(axis=0)
    assert np.allclose(moves[0].ends[:, :2] - center[:2], -(before - center)[:, :2], atol=1e-6)


def test_planning_is_fast_enough() -> None:
    tour = load_mission(MISSIONS / "formation_tour.yaml")
    for count, limit in ((20, 1.0), (80, 5.0)):
        began = time.process_time()
        plan_mission(tour, names(count))
        assert time.process_time() - began < limit


@pytest.mark.parametrize(
    ("case", "says"),
    [
        (mission(Goto(by_enu_m=(1, 0, 0))), r"step 1 \(goto\): .*takeoff step must come first"),
        (mission(Takeoff(8.0)), "end with a land step"),
        (mission(Takeoff(90.0), Land()), r"height 90.0 m is not between the fence's 1.5 m and 80.0 m"),
        (mission(Takeoff(8.0), Goto(by_enu_m=(300, 0, 0)), Land()), r"step 2 \(goto\): .* would leave"),
        (mission(Takeoff(8.0), Formation("sphere", 4.0, (0, 0, 4)), Land()), "lowest height"),
        (mission(Takeoff(8.0), Formation("circle", 1.0, (0, 0, 10)), Land()), r"drone_\d+ come within"),
        (mission(Takeoff(8.0), Takeoff(9.0), Land()), "in the air already"),
        (mission(Takeoff(8.0), Swap(20), Land(), fence=LOW), "layers"),
    ],
)  # fmt: skip
def test_no_go_names_step_drones_and_figures(case: Mission, says: str) -> None:
    plan = plan_mission(case, names(20))
    assert not plan.ok
    assert any(re.search(says, reason) for reason in plan.verdict.reasons), plan.verdict.reasons


def test_battery_and_pads_are_checked() -> None:
    tour = load_mission(MISSIONS / "formation_tour.yaml")
    plan = plan_mission(tour, names(5), battery={"drone_03": 0.3})
    assert any("drone_03 would land with" in r for r in plan.verdict.reasons)
    tight = replace(tour, pads=replace(tour.pads, spacing_m=1.0))
    assert any("1.00 m apart" in r for r in plan_mission(tight, names(5)).verdict.reasons)
    lost = plan_mission(tour, names(2), pads=[(0, 0, 0), (float("nan"), 0, 0)])
    assert any("position of drone_02 is not known" in r for r in lost.verdict.reasons)


@given(st.integers(0, 10_000), st.integers(2, 14))
@settings(max_examples=40, deadline=None)
def test_any_move_that_is_found_keeps_the_separation(seed: int, count: int) -> None:
    """A random permutation on a grid: either it is refused, or the flown polynomials keep the distance."""
    rng = np.random.default_rng(seed)
    starts = np.array([((i % 4) * 4.0, (i // 4) * 4.0, 10.0) for i in range(count)])
    goals = rng.permutation(starts) + np.array([rng.uniform(-5, 5), rng.uniform(-5, 5), rng.uniform(-3, 6)])
    try:
        legs = move(starts, goals, MOVE_LIMITS)
    except MoveInfeasible:
        return
    paths = [FlightPath(knots) for knots in legs if knots]
    assert len(paths) in (0, count)
    if paths:
        assert smallest_separation(paths).distance_m >= MOVE_LIMITS.separation_m - 0.05
        assert np.allclose([p.knots[-1].position_enu_m for p in paths], goals, atol=1e-6)


def test_a_reversed_grid_is_solved_by_layers() -> None:
    starts = np.array([((i % 5) * 4.0, (i // 5) * 4.0, 10.0) for i in range(20)])
    legs = move(starts, starts[::-1].copy(), MOVE_LIMITS)
    assert smallest_separation([FlightPath(k) for k in legs]).distance_m >= 2.45


@pytest.mark.parametrize("count", [2, 3, 5, 20, 50])
@pytest.mark.parametrize("layers", [1, 3, 6])
def test_swap_keeps_distance_for_any_size(count: int, layers: int) -> None:
    angle = 2 * np.pi * np.arange(count) / count
    radius = 2.0 / np.sin(np.pi / count)
    starts = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(count, 10.0)], axis=1)
    legs, goals = swap(starts, layers, MOVE_LIMITS)
    assert smallest_separation([FlightPath(k) for k in legs]).distance_m >= 2.45
    assert np.allclose(goals[:, :2], -starts[:, :2], atol=1e-6)


def test_landing_on_own_pads_after_a_shuffle() -> None:
    shuffled = mission(Takeoff(8.0), Formation("circle", 4.0, (0, 0, 10)), Swap(4), Land(pads="own"))
    plan = plan_mission(shuffled, names(20))
    assert plan.ok, plan.verdict.reasons
    assert np.allclose(plan.phases[-1].ends, plan.starts, atol=1e-6)


def test_steps_from_the_air_may_leave_drones_hovering() -> None:
    places = [(0.0, 0.0, 10.0), (4.0, 0.0, 10.0)]
    pads = [(0.0, 0.0, 0.0), (4.0, 0.0, 0.0)]
    plan = plan_steps(mission(), [Goto(by_enu_m=(5, 5, 2))], names(2), places, pads, True, must_land=False)
    assert plan.ok
    assert np.allclose(plan.phases[-1].ends, np.array(places) + np.array([5, 5, 2]))
