"""The ladder: whatever is asked, the answer is verified or says why there is none, in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.messages import TrajectoryKnot
from chimera_ros.flight.moderation_call import ModerationRequest, ModerationStatus, Separation
from chimera_ros.flight.trajectory import Path, rest_of
from chimera_ros.moderation import ladder, outgoing
from chimera_ros.moderation.brute import brute_force
from chimera_ros.moderation.circuits import Ansatz, BitArray, CircuitSpec, SamplerUnavailable, sample_states
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.moderation.request import ModerationResult
from chimera_ros.moderation.scenes import LIMITS, SEPARATION, Scene, antipodal, crossings


def request_of(scene: Scene, deadline_s: float = 10.0, seed: int = 1) -> ModerationRequest:
    names = tuple(f"drone_{i:02d}" for i in range(1, len(scene.knots) + 1))
    return ModerationRequest(
        names, scene.knots, scene.separation, scene.limits, scene.fence, deadline_s, seed
    )


def still() -> float:
    """A clock that stands: no answer depends on how busy this machine is."""
    return 0.0


class Ticking:
    """A clock that goes on by a step whenever it is looked at."""

    def __init__(self, step_s: float) -> None:
        self.now, self._step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self._step_s
        return self.now


class Simulated:
    """A sampler in this process; fails as told."""

    backend = "simulated"

    def __init__(self, fails: str = "") -> None:
        self.timeout_s, self.fails, self.calls = inf, fails, 0

    def sample(self, circuit: CircuitSpec, shots: int, seed: int) -> BitArray:
        self.calls += 1
        if self.fails:
            raise SamplerUnavailable(self.fails)
        ansatz = Ansatz(circuit.qubits, circuit.layers, circuit.entangle)
        return sample_states(ansatz.states(circuit.angles), shots, seed)


def solved(request: ModerationRequest, answer: ModerationResult) -> None:
    """Conflict-free under somebody else's eyes, with the starts and goals that were asked."""
    assert answer.status is ModerationStatus.CONFLICT_FREE, answer.reason
    assert brute_force(answer.knots, request.separation, 0.01) == []
    for asked, mine in zip(request.knots, answer.knots, strict=True):
        assert np.allclose(mine[0].position_enu_m, asked[0].position_enu_m, atol=1e-9)
        assert np.allclose(mine[0].velocity_enu_m_s, asked[0].velocity_enu_m_s, atol=1e-9)
        assert np.allclose(mine[-1].position_enu_m, asked[-1].position_enu_m, atol=1e-9)


@pytest.mark.parametrize("scene", [crossings(10, 3), antipodal(5, 2), antipodal(8, 1)])
def test_scenes_are_solved_and_the_answer_tells_how(scene: Scene) -> None:
    request, sampler = request_of(scene), Simulated()
    answer = Moderator(still, sampler).run(request)
    solved(request, answer)
    assert len(answer.before) > 0 and not answer.remaining
    assert answer.gain_over_greedy >= 0.0 and answer.gain_over_annealing >= 0.0 and answer.cost > 0.0
    assert answer.winner in ("greedy", "annealing", "exact", "cp_sat", "vqe")
    names = [stage.name for stage in answer.stages]
    assert names[0] == "keep" and names[-1] == "verify" and "vqe-8" in names and "greedy-8" in names
    assert (answer.backend, answer.shots > 0) == ("simulated", sampler.calls > 0)
    assert 0 < answer.qubits <= 12
    again = Moderator(still, Simulated()).run(request)  # the same seed
    assert [[k.position_enu_m for k in mine] for mine in again.knots] == [
        [k.position_enu_m for k in mine] for mine in answer.knots
    ]
    assert replace(again, knots=()) == replace(answer, knots=())


def test_what_is_clear_is_left_exactly_as_it_is() -> None:
    scene = antipodal(6, 1)
    alone = replace(request_of(scene), drones=("a",), knots=scene.knots[:1])
    answer = Moderator(still).run(alone)
    assert (answer.winner, answer.knots, answer.cost) == ("keep", alone.knots, 0.0)
    assert [stage.name for stage in answer.stages] == ["keep"]


@given(st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=12, deadline=None)
def test_no_answer_conflicts(count: int, seed: int) -> None:
    request = request_of(crossings(count, seed))
    answer = Moderator(still).run(request)
    if answer.status is ModerationStatus.CONFLICT_FREE:
        solved(request, answer)


@pytest.mark.parametrize("at_s", [2.0, 5.0])
def test_paths_that_begin_in_flight_are_joined_in_position_velocity_and_acceleration(at_s: float) -> None:
    scene = antipodal(4, 7)
    moving = tuple(rest_of(Path(knots), at_s) for knots in scene.knots)
    request = replace(request_of(scene), knots=moving)
    assert all(np.linalg.norm(k[0].velocity_enu_m_s) > 1.0 for k in moving)
    answer = Moderator(still).run(request)
    solved(request, answer)
    for asked, mine in zip(moving, answer.knots, strict=True):
        assert np.allclose(mine[0].acceleration_enu_m_s2, asked[0].acceleration_enu_m_s2, atol=1e-9)


@pytest.mark.parametrize("step_s", [0.001, 0.02, 0.2, 5.0])
def test_however_fast_time_runs_there_is_a_verified_answer(step_s: float) -> None:
    """The clock jumps at every look: at its fastest nothing but the first stage and the hold is reached."""
    request, clock = request_of(antipodal(5, 3), 0.25), Ticking(step_s)
    answer = Moderator(clock, Simulated()).run(request)
    if answer.status is ModerationStatus.CONFLICT_FREE:
        solved(request, answer)
    else:
        assert answer.status is ModerationStatus.INFEASIBLE and answer.winner == "hold"
        assert outgoing.hold_fault(request, answer.knots) == ""
        assert answer.remaining
    assert (step_s < 0.01) == (answer.status is ModerationStatus.CONFLICT_FREE)


class Charged:
    """A clock on which the quantum backend's calls take long; the rest takes a moment a look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 2e-4
        return self.now


class Slow(Simulated):
    """A sampler that takes its time on a clock."""

    def __init__(self, clock: Charged, takes_s: float) -> None:
        super().__init__()
        self._clock, self._takes_s = clock, takes_s

    def sample(self, circuit: CircuitSpec, shots: int, seed: int) -> BitArray:
        self._clock.now += self._takes_s
        return super().sample(circuit, shots, seed)


@pytest.mark.parametrize("takes_s", [0.02, 0.06])
def test_what_is_found_is_improved_for_seventy_percent_of_the_deadline(takes_s: float) -> None:
    request = replace(request_of(antipodal(8, 3), 0.25))
    clock = Charged()
    moderator = Moderator(clock)
    calls = []
    for _ in range(3):
        sampler = Slow(clock, takes_s)
        answer = moderator.run(request, clock.now, sampler)
        solved(request, answer)
        assert answer.total_ms < 0.72 * 250.0
        calls.append(sampler.calls)
    assert calls[0] > 0


def test_a_step_that_was_slow_is_left_out_and_tried_again_later() -> None:
    clock = Charged()
    moderator, request = Moderator(clock), request_of(antipodal(5, 3), 0.25)
    slow = Slow(clock, 0.15)
    moderator.run(request, clock.now, slow)
    assert slow.calls == 1
    fast = Slow(clock, 0.001)
    answer = moderator.run(request, clock.now, fast)
    solved(request, answer)
    assert fast.calls == 0 and answer.stages[-2].outcome == "no time"
    for _ in range(8):
        moderator.run(request, clock.now, fast)
    assert fast.calls > 0


def test_a_rung_whose_answer_does_not_stand_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def strict(request: ModerationRequest, knots: object) -> str:
        looks.append(1)
        return "" if len(looks) == 3 else "drone_01 and drone_02 come within 0.10 m"

    monkeypatch.setattr(ladder, "result_fault", strict)
    answer = Moderator(still).run(request_of(antipodal(5, 3)))
    assert len(looks) == 3
    assert [r.outcome for r in answer.stages if r.name == "verify"][:2] == [
        "drone_01 and drone_02 come within 0.10 m"
    ] * 2
    assert answer.winner == "priority"
    monkeypatch.setattr(ladder, "result_fault", lambda request, knots: "never")
    last = Moderator(still).run(request_of(antipodal(5, 3)))
    assert (last.status, last.winner) == (ModerationStatus.INFEASIBLE, "hold")


# ---- bad input ---------------------------------------------------------------------------------------------


def bad(request: ModerationRequest, **changes: float | tuple[float, float, float]) -> ModerationRequest:
    first = request.knots[0]
    return replace(request, knots=((first[0], replace(first[1], **changes), *first[2:]), *request.knots[1:]))  # type: ignore[arg-type]


WRONG: dict[str, tuple[Callable[[ModerationRequest], ModerationRequest], str]] = {
    "NaN": (lambda r: bad(r, position_enu_m=(nan, 0.0, 60.0)), "drone_01 cannot be flown: .*finite"),
    "infinity": (lambda r: bad(r, velocity_enu_m_s=(inf, 0.0, 0.0)), "finite"),
    "NaN time": (lambda r: bad(r, t_s=nan), "drone_01 cannot be flown"),
    "times that run backwards": (lambda r: bad(r, t_s=-1.0), "rise from 0"),
    "a single point": (lambda r: replace(r, knots=(r.knots[0][:1], *r.knots[1:])), "2 to 512 knots"),
    "nobody": (lambda r: replace(r, drones=(), knots=()), "no trajectory"),
    "a drone without a trajectory": (lambda r: replace(r, knots=r.knots[1:]), "one name and one trajectory"),
    "a name twice": (lambda r: replace(r, drones=("a",) * len(r.drones)), "one name"),
    "too many": (
        lambda r: replace(r, drones=tuple(map(str, range(1025))), knots=r.knots[:1] * 1025),
        "1025 trajectories are more than 1024",
    ),
    "no time": (lambda r: replace(r, deadline_s=0.0), "deadline"),
    "an impossible fence": (
        lambda r: replace(r, fence=Fence.box((-1.0, 1.0), (-1.0, 1.0), (0.0, 10.0))), "leaves the fence",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(WRONG))
def test_nonsense_is_refused_with_one_sentence(what: str) -> None:
    import re

    spoil, text = WRONG[what]
    answer = Moderator(still).run(spoil(request_of(antipodal(4, 1))))
    assert answer.status is ModerationStatus.FAILED
    assert re.search(text, answer.reason), answer.reason
    assert not answer.knots


@pytest.mark.parametrize("end", ["start", "goal"])
def test_drones_in_one_place_are_named_with_time_and_distance(end: str) -> None:
    request = request_of(antipodal(6, 1))
    a, b = request.knots[0], request.knots[1]
    both = b if end == "start" else a
    spot = replace((a[0] if end == "start" else a[-1]), t_s=0.0 if end == "start" else b[-1].t_s)
    knots = (spot, *both[1:]) if end == "start" else (*b[:-1], spot)
    answer = Moderator(still).run(replace(request, knots=(a, knots, *request.knots[2:]), limits=LIMITS))
    assert answer.status is ModerationStatus.INFEASIBLE
    assert [(c.first, c.second) for c in answer.remaining] == [("drone_01", "drone_02")]
    assert answer.remaining[0].horizontal_m == pytest.approx(0.0, abs=1e-9)
    assert "drone_01 and drone_02" in answer.reason
    # from overlapping starts nobody can hold clear of the other; overlapping goals hold at their starts
    assert bool(answer.knots) == (end == "goal")


def test_a_thousand_drones_get_an_answer() -> None:
    rng = np.random.default_rng(4)
    spots = np.stack(np.meshgrid(np.arange(32), np.arange(32)), -1).reshape(-1, 2)[:1000] * 12.0
    knots = []
    for east, north in spots:
        start = np.array([east, north, 60.0])
        goal = start + np.append(rng.choice([-4.0, 0.0, 4.0], 2), 0.0)
        knots.append((TrajectoryKnot(0.0, tuple(start)), TrajectoryKnot(9.0, tuple(goal))))
    names = tuple(f"drone_{i}" for i in range(1000))
    request = ModerationRequest(names, tuple(knots), SEPARATION, LIMITS, None, 60.0)
    answer = Moderator(still).run(request)
    assert answer.status is not ModerationStatus.FAILED
    if answer.status is ModerationStatus.INFEASIBLE:
        assert answer.winner == "hold" and answer.remaining
    # everybody in everybody's way: sampled, told, and all can hold
    dense = Moderator(Ticking(1e-4)).run(request_of(spread_antipodal(400), 3.0))
    assert dense.status is ModerationStatus.INFEASIBLE and dense.winner == "hold"
    assert "in a sample" in dense.stages[0].outcome


def test_tables_that_would_outlast_the_deadline_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("17955 conflicts are too many for the tables")

    monkeypatch.setattr(ladder, "build", never)
    answer = Moderator(Ticking(0.05)).run(request_of(spread_antipodal(190), 3.0))
    assert answer.status is ModerationStatus.INFEASIBLE and answer.winner == "hold"


def spread_antipodal(count: int) -> Scene:
    """Like `antipodal`, on a circle so wide that nobody stands too near anybody."""
    angle = 2 * np.pi * np.arange(count) / count
    radius = 1.5 * count
    knots = []
    for a in angle:
        start = np.array([radius * np.cos(a), radius * np.sin(a), 60.0])
        goal = start * [-1.0, -1.0, 1.0]
        knots.append((TrajectoryKnot(0.0, tuple(start)), TrajectoryKnot(2 * radius / 5.0, tuple(goal))))
    return Scene("wide antipodal", tuple(knots), fence=None)  # type: ignore[arg-type]


# ---- circuits ----------------------------------------------------------------------------------------------


def test_a_sampler_that_fails_degrades_the_answer_and_says_so() -> None:
    request = request_of(antipodal(5, 3))
    answer = Moderator(still, Simulated("the quantum worker died")).run(request)
    solved(request, answer)
    assert answer.backend == "numpy"
    assert any("degraded: the quantum worker died" in stage.outcome for stage in answer.stages)
    without = Moderator(still).run(request)
    solved(request, without)
    assert (without.backend, without.qubits, without.shots) == ("", 0, 0)
    assert isnan(ModerationResult(ModerationStatus.FAILED).cost)


def test_the_sampler_never_gets_more_time_than_is_left() -> None:
    limits: list[float] = []

    class Watched(Simulated):
        def sample(self, circuit: CircuitSpec, shots: int, seed: int) -> BitArray:
            limits.append(self.timeout_s)
            return super().sample(circuit, shots, seed)

    Moderator(Ticking(1e-5), Watched()).run(request_of(antipodal(5, 3), 5.0))
    assert limits and all(0.0 < limit < 5.0 for limit in limits)


def test_separation_is_what_was_asked_with_both_errors() -> None:
    apart = Separation(5.0, 4.0, tracking_error_m=0.5, clock_skew_s=0.02)
    request = replace(request_of(crossings(6, 11)), separation=apart)
    solved(request, Moderator(still).run(request))
