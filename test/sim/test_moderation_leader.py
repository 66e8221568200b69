"""The leader and path moderation: it asks before every move, flies what it has checked, and is never late."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import AckStatus, CommandAck, DroneState, Trajectory
from chimera_ros.flight.moderation_call import (
    KnotSequence,
    ModerationAnswer,
    ModerationRequest,
    ModerationStatus,
)
from chimera_ros.flight.planning.mission import Formation, Land, Mission, Swap, Takeoff
from chimera_ros.flight.planning.mission_file import load_mission
from chimera_ros.flight.planning.planner import plan_mission
from chimera_ros.flight.rehearsal.rehearsal import Rehearsal
from chimera_ros.flight.trajectory import MotionLimits, rest_of
from chimera_ros.flight.trajectory import Path as FlightPath
from chimera_ros.flight.vehicle import Setpoint
from chimera_ros.moderation.for_flight import local_moderate

MISSIONS = Path(__file__).parents[2] / "config" / "missions"
SWAPPING = Mission(
    "swapping",
    None,
    2.0,
    Fence.box((-60, 60), (-60, 60), (1.5, 40)),
    limits=MotionLimits(),
    steps=(Takeoff(6.0), Formation("circle", 4.0, (0.0, 0.0, 8.0)), Swap(moderate=True), Land()),
)
moderate = local_moderate(lambda: 0.0)  # a clock that stands: no answer depends on how busy this machine is


def names(count: int) -> list[str]:
    return [f"drone_{i:02d}" for i in range(1, count + 1)]


def flown(
    change: Callable[[ModerationRequest, ModerationAnswer], ModerationAnswer] | None, count: int = 4
) -> tuple[Rehearsal, list[ModerationRequest]]:
    """A mission whose moderator's answers in flight are changed; None: a service that never answers."""
    calls: list[ModerationRequest] = []

    def service(call: ModerationRequest) -> ModerationAnswer:
        calls.append(call)
        answer = moderate(call)
        return answer if change is None else change(call, answer)

    rehearsal = Rehearsal(SWAPPING, names(count), moderate=moderate)
    rehearsal.moderate = service
    if change is None:
        rehearsal.moderation_ticks = 10**6
    rehearsal.run(200.0)
    return rehearsal, calls


def moderated(rehearsal: Rehearsal) -> dict[str, object]:
    return rehearsal.core_of_leader.status(rehearsal.now)["moderation"]  # type: ignore[return-value]


def test_a_moderated_swap_is_flown_as_the_service_says() -> None:
    rehearsal, calls = flown(lambda call, answer: replace(answer, winner="the service"))
    assert rehearsal.outcome.completed, rehearsal.outcome.failure
    assert rehearsal.outcome.min_separation_m >= SWAPPING.separation_m
    status = moderated(rehearsal)
    assert status["calls"] == len(calls) == 3
    assert status["winner"] == {"the service": 3}
    assert status["unused"] == {}
    assert status["conflicts"] == 6  # all four meet in the middle
    assert len(rehearsal.core_of_leader.moderation_ms) == 3


def test_without_moderation_such_a_mission_is_refused() -> None:
    plan = plan_mission(SWAPPING, names(4))
    assert not plan.ok
    assert plan.verdict.reasons == ("step 3 (swap): needs path moderation, which is not installed.",)
    assert plan_mission(SWAPPING, names(4), moderate=moderate).ok


@pytest.mark.parametrize("count", [2, 5, 12])
def test_the_shipped_mission_is_go_only_by_moderation(count: int) -> None:
    mission = load_mission(MISSIONS / "crossing.yaml")
    assert not plan_mission(mission, names(count)).ok
    plan = plan_mission(mission, names(count), moderate=moderate)
    assert plan.ok, plan.verdict.reasons
    _, tracks = plan.tracks(hz=10.0)
    gaps = np.linalg.norm(tracks[:, :, None] - tracks[:, None], axis=-1)
    gaps[:, range(count), range(count)] = np.inf
    assert gaps.min() >= mission.separation_m


# ---- a moderator that lies ---------------------------------------------------------------------------------


def other(answer: ModerationAnswer, knots: list[KnotSequence]) -> ModerationAnswer:
    return replace(answer, knots=tuple(knots))


def moved(knots: KnotSequence, by: tuple[float, float, float], ends: bool = False) -> KnotSequence:
    rows = range(len(knots)) if ends else range(1, len(knots) - 1)
    out = list(knots)
    for row in rows:
        x, y, z = out[row].position_enu_m
        out[row] = replace(out[row], position_enu_m=(x + by[0], y + by[1], z + by[2]))
    return tuple(out)


def late(knots: KnotSequence, seconds: float) -> KnotSequence:
    """The same after standing still for so long."""
    first = knots[0]
    return (first, *(replace(k, t_s=k.t_s + seconds) for k in (replace(first), *knots[1:])))


def not_a_number(knots: KnotSequence) -> KnotSequence:
    return (knots[0], replace(knots[1], position_enu_m=(nan, 0.0, 9.0)), *knots[2:])


LIES: dict[str, Callable[[ModerationRequest, ModerationAnswer], ModerationAnswer]] = {
    "what was asked, conflicts and all": lambda c, a: other(a, list(c.knots)),
    "another goal": lambda c, a: other(a, [moved(k, (0.0, 0.0, 0.5), ends=True) for k in a.knots]),
    "a goal missed by an inch": lambda c, a: other(
        a, [(*k[:-1], moved(k, (0.02, 0.0, 0.0), ends=True)[-1]) for k in a.knots]
    ),
    "through the fence": lambda c, a: other(a, [moved(a.knots[0], (200.0, 0.0, 0.0)), *a.knots[1:]]),
    "below the ground": lambda c, a: other(a, [moved(a.knots[0], (0.0, 0.0, -20.0)), *a.knots[1:]]),
    "too fast": lambda c, a: other(a, [tuple(replace(k, t_s=k.t_s / 4.0) for k in m) for m in a.knots]),
    "NaN": lambda c, a: other(a, [not_a_number(a.knots[0]), *a.knots[1:]]),
    "times that run backwards": lambda c, a: other(a, [a.knots[0][::-1], *a.knots[1:]]),
    "a single point": lambda c, a: other(a, [a.knots[0][:1], *a.knots[1:]]),
    "swapped drones": lambda c, a: other(a, list(a.knots[::-1])),
    "strangers": lambda c, a: replace(a, drones=tuple(f"x{d}" for d in a.drones)),
    "a drone twice": lambda c, a: replace(a, drones=(a.drones[0], *a.drones[:-1])),
    "nobody": lambda c, a: replace(a, drones=(), knots=()),
    "an hour": lambda c, a: other(a, [late(k, 3600.0) for k in a.knots]),
    "still moving at the end": lambda c, a: other(
        a, [(*k[:-1], replace(k[-1], velocity_enu_m_s=(1.0, 0.0, 0.0))) for k in a.knots]
    ),
    "a jump at the start": lambda c, a: other(
        a, [(replace(k[0], velocity_enu_m_s=(3.0, 0.0, 0.0)), *k[1:]) for k in a.knots]
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", sorted(LIES))
def test_no_lie_is_flown(lie: str) -> None:
    def only_the_swap(call: ModerationRequest, answer: ModerationAnswer) -> ModerationAnswer:
        return LIES[lie](call, answer) if answer.conflicts else answer

    rehearsal, _ = flown(only_the_swap)
    assert rehearsal.outcome.completed, rehearsal.outcome.failure
    assert rehearsal.outcome.min_separation_m >= SWAPPING.separation_m
    assert moderated(rehearsal)["unused"] == {"wrong": 1}
    assert any(e.kind == "moderation" for e in rehearsal.outcome.events)


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        (None, {"late": 3}),
        (lambda c, a: replace(a, call_id=a.call_id + 1), {"late": 3}),
        (lambda c, a: replace(a, status=ModerationStatus.INFEASIBLE), {"infeasible": 3}),
        (lambda c, a: replace(a, status=ModerationStatus.FAILED, knots=()), {"failed": 3}),
    ],
)
def test_without_an_answer_the_checked_plan_is_flown(
    change: Callable[[ModerationRequest, ModerationAnswer], ModerationAnswer] | None, counted: dict[str, int]
) -> None:
    rehearsal, _ = flown(change)
    assert rehearsal.outcome.completed, rehearsal.outcome.failure
    assert rehearsal.outcome.min_separation_m >= SWAPPING.separation_m
    assert moderated(rehearsal)["unused"] == counted


def test_a_dead_service_costs_no_time() -> None:
    rehearsal = Rehearsal(SWAPPING, names(4), moderate=moderate)
    rehearsal.moderate = None
    outcome = rehearsal.run(200.0)
    assert outcome.completed, outcome.failure
    assert moderated(rehearsal)["unused"] == {"absent": 3}
    silent = Rehearsal(SWAPPING, names(4), moderate=moderate)
    silent.moderation_ticks = 10**6
    assert silent.run(200.0).completed
    assert 0.9 <= silent.now - rehearsal.now <= 1.5  # three deadlines of 0.25 s and their grace


# ---- in flight ---------------------------------------------------------------------------------------------


def push(rehearsal: Rehearsal, name: str, by: np.ndarray, until_s: float) -> None:
    """For a while a drone keeps beside its setpoints, as one in a gust would."""
    vehicle = rehearsal.vehicles[name]
    give = vehicle.set_setpoint

    def beside(setpoint: Setpoint, now: float) -> None:
        x, y, z = np.add(setpoint.position_enu_m, by if now < until_s else 0.0)
        give(replace(setpoint, position_enu_m=(float(x), float(y), float(z))), now)

    vehicle.set_setpoint = beside  # type: ignore[method-assign]


WIDE = replace(
    SWAPPING,
    limits=MotionLimits(speed_m_s=4.0),
    steps=(
        Takeoff(6.0),
        Formation("circle", 16.0, (0.0, 0.0, 14.0)),
        Formation("line", 16.0, (0.0, 0.0, 14.0), moderate=True),
        Land(),
    ),
)


def pushed(in_flight: bool) -> tuple[Rehearsal, list[ModerationRequest], list[float]]:
    """On its way a drone is pushed towards one that it will pass; also how far speeds jump, m/s."""
    calls: list[ModerationRequest] = []
    answers: list[ModerationAnswer] = []

    def service(call: ModerationRequest) -> ModerationAnswer:
        calls.append(call)
        if call.separation.tracking_error_m > 0.3 and not in_flight:
            return ModerationAnswer(call.call_id, ModerationStatus.FAILED, "not now")
        answers.append(moderate(call))
        return answers[-1]

    rehearsal = Rehearsal(WIDE, names(4), moderate=moderate, avoid_m=0.01)
    rehearsal.moderate = service
    assert rehearsal.run_until(lambda r: all(c.plan_id == 2 for c in r.cores.values()), 60.0)
    times = np.arange(4.5, 8.0, 0.1)
    tracks = np.stack([FlightPath(knots).sample(times) for knots in answers[-1].knots])
    gaps = np.linalg.norm(tracks[:, None] - tracks[None], axis=-1) + 1e6 * np.eye(4)[..., None]
    first, second, when = np.unravel_index(int(gaps.argmin()), gaps.shape)
    towards = (tracks[second] - tracks[first])[when] / gaps.min()
    push(rehearsal, names(4)[first], towards * (gaps.min() - 1.6), rehearsal.now + times[when] + 1.5)
    jumps: list[float] = []
    before: dict[str, np.ndarray] = {}
    while not rehearsal.core_of_leader.finished and rehearsal.now < 200.0:
        rehearsal.step()
        for name, core in rehearsal.cores.items():
            setpoint = rehearsal.vehicles[name].setpoint
            if setpoint is None or core.state_at(rehearsal.now) is not DroneState.FOLLOWING:
                before.pop(name, None)
                continue
            velocity = np.array(setpoint.velocity_enu_m_s)
            jumps.append(float(np.linalg.norm(velocity - before.get(name, velocity))))
            before[name] = velocity
    return rehearsal, calls, jumps


def test_a_predicted_conflict_turns_all_to_new_paths_in_flight() -> None:
    rehearsal, calls, jumps = pushed(in_flight=True)
    core = rehearsal.core_of_leader
    assert core.completed, core.failure
    turned = [e.text for e in rehearsal.outcome.events if e.kind == "replanned"]
    assert len(turned) == 1
    assert "are predicted" in turned[0] and "all switch to new paths" in turned[0]
    in_motion = [c for c in calls if any(np.linalg.norm(k[0].velocity_enu_m_s) > 0.5 for k in c.knots)]
    assert in_motion, "the new paths were to begin in flight"
    assert in_motion[0].separation.tracking_error_m > 0.5  # half of what the two are off
    assert rehearsal.outcome.min_separation_m >= SWAPPING.separation_m - 0.1
    # nobody was stopped, and no reference jumped where the paths join: it never accelerates beyond the limits
    assert not any("again" in e.text for e in rehearsal.outcome.events)
    assert max(jumps) <= 0.05 * SWAPPING.limits.acceleration_m_s2 * 1.1 + 1e-6


def test_without_moderation_in_flight_all_hold_and_go_on() -> None:
    rehearsal, _, _ = pushed(in_flight=False)
    core = rehearsal.core_of_leader
    assert core.completed, core.failure
    turned = [e.text for e in rehearsal.outcome.events if e.kind == "replanned"]
    assert len(turned) == 1 and "is repeated" in turned[0] and "are predicted" in turned[0]
    assert moderated(rehearsal)["unused"]["failed"] >= 1


def test_a_follower_takes_a_plan_that_begins_as_it_moves_and_no_other() -> None:
    rehearsal = Rehearsal(SWAPPING, names(4), moderate=moderate)
    core = rehearsal.cores["drone_01"]
    assert rehearsal.run_until(
        lambda r: core.plan_id == 2 and core.state_at(r.now) is DroneState.FOLLOWING, 60.0
    )
    for _ in range(60):
        rehearsal.step()
    plan = next(reversed(core._steering.plans.values()))
    join_ns = rehearsal.swarm_ns + 1_000_000_000
    rest = rest_of(plan.path, (join_ns - plan.start_ns) * 1e-9)
    assert np.linalg.norm(rest[0].velocity_enu_m_s) > 0.5

    def answer(plan_id: int, knots: KnotSequence) -> CommandAck:
        part = Trajectory(plan_id, core.term, "drone_01", join_ns, knots)
        (effect,) = core.on_trajectory(part, "leader", rehearsal.now, rehearsal.swarm_ns)
        return effect.ack  # type: ignore[union-attr]

    assert answer(90, rest).status is AckStatus.ACCEPTED
    faster = (replace(rest[0], velocity_enu_m_s=tuple(2.0 * v for v in rest[0].velocity_enu_m_s)), *rest[1:])
    assert "off the reference velocity" in answer(91, faster).reason
    away = tuple(
        replace(k, position_enu_m=(k.position_enu_m[0], k.position_enu_m[1], k.position_enu_m[2] + 3.0))
        for k in rest
    )
    assert "from the reference" in answer(92, away).reason
