"""Whole missions in memory: real leader and follower cores, ideal vehicles, a lossy wire, stepped time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chimera_ros.flight.leader.core import LeaderConfig
from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import DroneState
from chimera_ros.flight.planning.mission import Mission
from chimera_ros.flight.planning.mission_file import load_mission
from chimera_ros.flight.rehearsal.rehearsal import Rehearsal
from chimera_ros.flight.vehicle import OrderKind

MISSIONS = Path(__file__).parents[2] / "config" / "missions"
LEADER = LeaderConfig("leader", ready_timeout_s=10.0)


def names(count: int) -> list[str]:
    return [f"drone_{i:02d}" for i in range(1, count + 1)]


def shipped(name: str) -> Mission:
    return load_mission(MISSIONS / f"{name}.yaml")


def all_down(rehearsal: Rehearsal) -> bool:
    return not any(v.in_air or v.armed for v in rehearsal.vehicles.values())


@pytest.mark.parametrize("name", ["antipodal_swap", "formation_tour", "survey_line"])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_shipped_missions_are_flown_with_the_separation_asked(name: str, loss: float) -> None:
    mission = shipped(name)
    rehearsal = Rehearsal(mission, names(20), seed=3, loss=loss)
    outcome = rehearsal.run()
    assert outcome.completed, outcome.failure
    assert outcome.failure is None
    assert outcome.lost == ()
    assert outcome.min_separation_m >= mission.separation_m
    assert outcome.avoidances == 0  # a plan that is followed needs no dodging
    assert outcome.max_tracking_error_m < 0.5
    assert outcome.duration_s < 150.0
    assert all_down(rehearsal)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_swarms_fly_too(count: int) -> None:
    outcome = Rehearsal(shipped("antipodal_swap"), names(count), loss=0.05).run()
    assert outcome.completed, outcome.failure
    assert outcome.min_separation_m >= 2.0


def test_drones_take_part_in_nothing_before_all_are_ready() -> None:
    rehearsal = Rehearsal(shipped("survey_line"), names(5), leader=LEADER)
    rehearsal.vehicles["drone_03"].blockers = ("estimator not ready",)
    outcome = rehearsal.run()
    assert not outcome.completed
    assert outcome.failure == "not ready within 10 s: drone_03 (estimator not ready)."
    assert not any(v.orders for v in rehearsal.vehicles.values() if OrderKind.ARM in v.orders)


def test_a_drone_that_never_answers_is_named_and_nobody_takes_off() -> None:
    rehearsal = Rehearsal(shipped("survey_line"), names(5), leader=LEADER)
    rehearsal.radio_lost.add("drone_04")
    outcome = rehearsal.run()
    assert outcome.failure == "not ready within 10 s: drone_04 (no telemetry yet)."


def test_refused_arming_lands_the_others() -> None:
    rehearsal = Rehearsal(shipped("survey_line"), names(8), loss=0.1)
    rehearsal.vehicles["drone_03"].refuse[OrderKind.ARM] = "magnetometer"
    outcome = rehearsal.run()
    assert outcome.failure == "drone_03 did not execute the take-off: arming failed: magnetometer."
    assert all_down(rehearsal)


@pytest.mark.parametrize("when", [4.0, 30.0, 60.0])
@pytest.mark.parametrize("shard", [0, 2])
def test_a_killed_shard_lands_in_place_and_the_others_fly_on(when: float, shard: int) -> None:
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(20), loss=0.02)
    dead = names(20)[shard * 5 : shard * 5 + 5]
    rehearsal.at(when, lambda r: r.dead.update(dead))
    outcome = rehearsal.run()
    assert outcome.completed, outcome.failure
    assert sorted(outcome.lost) == dead
    assert outcome.min_separation_m > 1.0
    assert all_down(rehearsal)


def test_a_drone_that_was_silent_for_a_while_takes_part_again() -> None:
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(8))
    rehearsal.at(24.0, lambda r: r.radio_lost.add("drone_03"))
    rehearsal.at(28.0, lambda r: r.radio_lost.discard("drone_03"))
    outcome = rehearsal.run()
    assert outcome.completed, outcome.failure
    assert outcome.lost == ()
    assert [e.kind for e in outcome.events if e.kind in ("lost", "found")] == ["lost", "found"]
    assert outcome.min_separation_m >= 2.0


def battery(level: float) -> Callable[[Rehearsal], None]:
    return lambda r: setattr(r.vehicles["drone_05"], "battery", level)


@pytest.mark.parametrize(
    "misfortune",
    [
        battery(0.15),
        battery(0.05),
        lambda r: setattr(r.vehicles["drone_05"], "alive", False),
        lambda r: setattr(r.vehicles["drone_05"], "mode", "posctl"),
    ],
    ids=["battery low", "battery critical", "autopilot silent", "pilot takes over"],
)
def test_one_drone_falls_out_and_the_mission_goes_on(misfortune: Callable[[Rehearsal], None]) -> None:
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(8), loss=0.05)
    rehearsal.at(28.0, misfortune)
    outcome = rehearsal.run()
    assert outcome.completed, outcome.failure
    assert outcome.lost == ("drone_05",)
    assert outcome.min_separation_m > 1.0


def test_a_dead_leader_is_survived_by_holding_and_returning() -> None:
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(12))
    rehearsal.at(28.0, lambda r: setattr(r, "leader", None))
    assert rehearsal.run_until(lambda r: r.now > 33.0 and all(
        c.state_at(r.now) is DroneState.HOLDING for c in r.cores.values()), 40.0)  # fmt: skip
    assert rehearsal.run_until(all_down, 300.0)
    assert rehearsal.outcome.min_separation_m > 0.9  # caught between layers, only their own avoidance is left
    for core, pad in zip(rehearsal.cores.values(), rehearsal.mission.pad_positions(12), strict=True):
        assert rehearsal.vehicles[core.config.drone].position == pytest.approx(pad, abs=0.5)


@pytest.mark.parametrize("when", [0.02, 1.5, 2.6, 12.0, 28.0, 55.0, 70.0])
def test_supervised_landing_at_any_time(when: float) -> None:
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(10), loss=0.1, seed=int(when))
    rehearsal.at(when, lambda r: r.leader and r.leader.abort_and_land("Ctrl-C", r.now, r.swarm_ns))
    outcome = rehearsal.run(when + 60.0)
    assert rehearsal.core_of_leader.finished
    assert outcome.failure == "Ctrl-C."
    assert all_down(rehearsal)
    assert outcome.min_separation_m >= 2.0


def submit(text: str, answers: list[tuple[bool, str]]) -> Callable[[Rehearsal], None]:
    return lambda r: answers.append(r.core_of_leader.on_submit(text, r.now, r.swarm_ns))


def test_operator_steps_replace_the_mission_after_the_same_check() -> None:
    answers: list[tuple[bool, str]] = []
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(8), loss=0.05)
    rehearsal.at(26.0, submit("- goto: {by_m: [500, 0, 0]}", answers))
    rehearsal.at(27.0, submit("- fly: {}", answers))
    rehearsal.at(
        28.0, submit("- formation: {shape: line, spacing_m: 4, center_m: [0, 20, 12]}\n- land", answers)
    )
    outcome = rehearsal.run()
    assert [ok for ok, _ in answers] == [False, False, True]
    assert "leave the fence" in answers[0][1]
    assert "unknown step" in answers[1][1]
    assert not outcome.completed
    assert all_down(rehearsal)
    assert outcome.min_separation_m >= 2.0


def test_an_idle_leader_flies_what_is_submitted_and_waits_for_more() -> None:
    mission = Mission("idle", None, 2.0, Fence.box((-50, 50), (-50, 50), (1, 40)))  # no steps
    answers: list[tuple[bool, str]] = []
    rehearsal = Rehearsal(mission, names(4))
    rehearsal.at(2.0, submit("- takeoff: {height_m: 6}\n- goto: {by_m: [5, 0, 3]}", answers))
    rehearsal.at(40.0, submit("- land", answers))
    assert rehearsal.run_until(lambda r: r.now > 30.0 and r.core_of_leader.phase == "idle", 39.0)
    assert all(v.in_air for v in rehearsal.vehicles.values())
    assert rehearsal.run_until(lambda r: r.now > 41.0 and all_down(r), 120.0)
    assert [ok for ok, _ in answers] == [True, True]


def test_an_operators_stop_halts_everyone_and_only_land_goes_on() -> None:
    answers: list[tuple[bool, str]] = []
    rehearsal = Rehearsal(shipped("antipodal_swap"), names(8), loss=0.05)
    rehearsal.at(
        28.0, lambda r: r.apply("drone_02", r.cores["drone_02"].on_stop("hold", "ann", r.now, r.swarm_ns))
    )
    rehearsal.at(45.0, submit("- goto: {by_m: [1, 0, 0]}", answers))
    rehearsal.at(46.0, submit("- land", answers))
    assert rehearsal.run_until(lambda r: r.now > 40.0, 41.0)
    assert all(c.state_at(rehearsal.now) is DroneState.HOLDING for c in rehearsal.cores.values())
    outcome = rehearsal.run()
    assert answers[-1][0]
    assert outcome.failure == "drone_02 was stopped: operator ann ordered hold."
    assert all_down(rehearsal)


def test_the_same_seed_flies_the_same_flight() -> None:
    first, second = (Rehearsal(shipped("survey_line"), names(5), seed=9, loss=0.1).run() for _ in range(2))
    assert first == second
