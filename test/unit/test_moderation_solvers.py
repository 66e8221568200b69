"""Greedy, annealing, exact and CP-SAT on random problems, against looking at every choice."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.moderation import cp_sat
from chimera_ros.moderation.annealing import Annealing
from chimera_ros.moderation.blocks import Blockwise, choose_blocks
from chimera_ros.moderation.cp_sat import CpSat
from chimera_ros.moderation.exact import Exact, all_energies, decode, enumerate_energies
from chimera_ros.moderation.fields import Fields
from chimera_ros.moderation.greedy import Greedy, polish
from chimera_ros.moderation.problem import Problem
from chimera_ros.moderation.random_sampling import RandomSampling
from chimera_ros.moderation.solver import SolverUnavailable, run_to_end


def random_problem(seed, sizes, density=0.7, conflicts=0.35):
    """Tables without geometry: any problem that the interface allows."""
    rng = np.random.default_rng(seed)
    costs = [np.concatenate([[0.0], rng.uniform(0.5, 20.0, k - 1)]) for k in sizes]
    hard, soft = {}, {}
    for i, j in itertools.combinations(range(len(sizes)), 2):
        if rng.random() < density:
            hard[i, j] = rng.random((sizes[i], sizes[j])) < conflicts
            soft[i, j] = np.where(hard[i, j], 0.0, rng.uniform(0.0, 4.0, hard[i, j].shape).round(3))
    return Problem.of(costs, hard, soft)


def infeasible_problem():
    always = np.ones((3, 3), dtype=bool)
    return Problem.of([np.arange(3.0)] * 3, {(0, 1): always, (1, 2): ~always}, {})


def least_energy(problem):
    choices = np.array(list(itertools.product(*(range(k) for k in problem.sizes))))
    return problem.energies(choices).min()


problems = st.builds(
    random_problem,
    st.integers(0, 10_000),
    st.lists(st.integers(1, 5), min_size=1, max_size=5).map(tuple),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from([0.1, 0.4, 0.9]),
)
ALL = [Greedy(), Annealing(replicas=8, sweeps=10), Exact(), RandomSampling(64)]


def with_cp_sat(solvers):
    try:
        import ortools  # noqa: F401
    except ImportError:
        return solvers
    return [*solvers, CpSat()]


@settings(max_examples=60, deadline=None)
@given(problems, st.integers(0, 2**31))
def test_every_solver_keeps_what_it_was_given_and_says_the_truth(problem, seed):
    start = np.random.default_rng(seed).integers(0, problem.sizes)
    for solver in with_cp_sat(ALL):
        for begin in (None, start):
            before = np.inf if begin is None else problem.energy(begin)
            for step in solver.run(problem, begin, seed):
                assert step.choice.shape == (len(problem),)
                assert (step.choice >= 0).all() and (step.choice < problem.sizes).all()
                assert step.energy == problem.energy(step.choice)
                assert step.feasible == (not problem.violations(step.choice))
                assert step.energy <= before + 1e-9, solver.name
                before = step.energy
            assert step.done


@settings(max_examples=60, deadline=None)
@given(problems)
def test_exact_finds_the_least_energy(problem):
    answer = run_to_end(Exact(), problem)
    assert answer.proven
    assert answer.energy == pytest.approx(least_energy(problem))


@settings(max_examples=40, deadline=None)
@given(problems)
def test_branch_and_bound_finds_the_least_energy(problem):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chimera_ros.moderation.exact.ENUMERATED", 1)
        answer = run_to_end(Exact(), problem)
    assert answer.proven
    assert answer.energy == pytest.approx(least_energy(problem))


def test_branch_and_bound_that_gives_up_does_not_claim_a_proof():
    problem = random_problem(3, (8,) * 12, 1.0, 0.5)
    answer = run_to_end(Exact(max_nodes=20), problem)
    assert answer.done
    assert not answer.proven


def test_enumeration_counts_every_choice_once(monkeypatch):
    problem = random_problem(1, (3, 2, 4, 3))
    whole = all_energies(problem)
    assert [problem.energy(decode(k, problem.sizes)) for k in range(72)] == pytest.approx(whole.tolist())
    monkeypatch.setattr("chimera_ros.moderation.exact._CHUNK", 5)
    chunks = list(enumerate_energies(problem))
    assert [first for _, first in chunks] == list(range(0, 72, 3))
    assert np.concatenate([energies for energies, _ in chunks]) == pytest.approx(whole)


def test_fields_follow_every_move():
    problem = random_problem(5, (4, 1, 3, 5, 2))
    rng = np.random.default_rng(0)
    fields = Fields(problem)
    fields.set(np.zeros(5, dtype=int))
    for _ in range(30):
        drone = int(rng.integers(5))
        fields.move(drone, int(rng.integers(problem.sizes[drone])))
    gains = fields.gains()
    for drone, size in enumerate(problem.sizes):
        for candidate in range(size):
            other = fields.choice.copy()
            other[drone] = candidate
            expected = problem.energy(other) - problem.energy(fields.choice)
            assert gains[drone, candidate] == pytest.approx(expected)
        assert np.isinf(gains[drone, size:]).all()


def test_local_search_ends_where_no_move_of_one_or_two_drones_helps():
    problem = random_problem(8, (4, 4, 4, 4, 4), 1.0)
    fields = Fields(problem)
    fields.set(np.zeros(5, dtype=int))
    polish(fields)
    energy = problem.energy(fields.choice)
    for i, j in itertools.combinations(range(5), 2):
        for a, b in itertools.product(range(4), repeat=2):
            other = fields.choice.copy()
            other[[i, j]] = a, b
            assert problem.energy(other) >= energy - 1e-9


def test_annealing_repeats_itself_and_finds_what_greedy_misses():
    found = missed = 0
    for seed in range(8):
        problem = random_problem(seed, (6,) * 6, 1.0, 0.45)
        answer, again = (run_to_end(Annealing(), problem, None, 7) for _ in range(2))
        assert (answer.choice == again.choice).all()
        least = run_to_end(Exact(), problem).energy
        found += answer.energy <= least + 1e-9
        missed += run_to_end(Greedy(), problem).energy > least + 1e-9
    assert missed > 0
    assert found == 8


def test_cp_sat_proves_optimum_and_infeasibility():
    pytest.importorskip("ortools")
    problem = random_problem(4, (5,) * 6, 1.0)
    answer = run_to_end(CpSat(30.0), problem)
    assert answer.proven
    assert answer.details["status"] == "optimal"
    assert answer.energy == pytest.approx(
        run_to_end(Exact(), problem).energy, abs=0.05
    )  # counts in millimetres
    answer = run_to_end(CpSat(30.0), infeasible_problem())
    assert answer.details["status"] == "infeasible"
    assert not answer.feasible


def test_an_infeasible_problem_is_answered_and_marked():
    for solver in ALL:
        answer = run_to_end(solver, infeasible_problem())
        assert not answer.feasible
        assert answer.energy >= infeasible_problem().hard_penalty


def test_cp_sat_does_not_look_for_a_feasible_choice_that_is_there_already(monkeypatch):
    pytest.importorskip("ortools")
    asked = []
    real = cp_sat._Model.solve
    monkeypatch.setattr(cp_sat._Model, "solve", lambda *a: asked.append(1) or real(*a))
    problem = random_problem(1, (3, 3, 3), 0.2, 0.2)
    start = run_to_end(Exact(), problem).choice
    assert run_to_end(CpSat(5.0), problem, start).proven and len(asked) == 1


def test_without_ortools_cp_sat_says_so(monkeypatch):
    for name in [n for n in sys.modules if n.split(".")[0] == "ortools"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ortools", None)
    with pytest.raises(SolverUnavailable, match="quantum"):
        run_to_end(CpSat(), random_problem(0, (2, 2)))


def test_blocks_hold_every_entangled_drone_and_fit():
    problem = random_problem(2, (8, 4, 8, 1, 16, 8, 2), 1.0)
    blocks = choose_blocks(problem, np.zeros(7, dtype=int), qubits=7)
    widths = [3, 2, 3, 0, 4, 3, 1]
    assert {i for block in blocks for i in block} == {0, 1, 2, 4, 5, 6}
    assert all(sum(widths[i] for i in block) <= 7 for block in blocks)
    assert len(choose_blocks(problem, np.zeros(7, dtype=int), qubits=7, count=9)) == 9
    assert choose_blocks(problem, np.zeros(7, dtype=int), qubits=1) == [(6,)]


def test_block_by_block_improves_the_whole():
    problem = random_problem(6, (4,) * 8, 1.0, 0.3)
    start = np.zeros(8, dtype=int)
    steps = list(Blockwise(Exact(), qubits=8).run(problem, start, 0))
    energies = [problem.energy(start), *(s.energy for s in steps)]
    assert all(b <= a + 1e-9 for a, b in itertools.pairwise(energies))
    assert energies[-1] < energies[0]
    assert steps[-1].done
    assert steps[-1].energy == problem.energy(steps[-1].choice)
