"""The numeric problem: energies, blocks, dominated candidates, and tables that miss no conflict."""

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chimera_ros.moderation import problem as module
from chimera_ros.moderation import scenes
from chimera_ros.moderation.brute import brute_force
from chimera_ros.moderation.errors import ModerationError, ModerationReason
from chimera_ros.moderation.manoeuvres import candidates
from chimera_ros.moderation.problem import Problem, build, without_dominated
from chimera_ros.moderation.tracks import Track


def random_problem(seed, drones, most):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, most + 1, drones)
    costs = [np.concatenate([[0.0], rng.integers(0, 9, k - 1).astype(float)]) for k in sizes]
    hard, soft = {}, {}
    for i, j in combinations(range(drones), 2):
        if rng.random() < 0.7:
            hard[i, j] = rng.random((sizes[i], sizes[j])) < 0.4
            soft[i, j] = np.where(hard[i, j], 0.0, np.round(3 * rng.random((sizes[i], sizes[j]))))
    return Problem.of(costs, hard, soft)


def everything(problem):
    return np.array(list(product(*map(range, problem.sizes))))


problems = st.builds(random_problem, st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 4))


@given(problems)
def test_energy_is_costs_and_pairs(problem):
    choices = everything(problem)
    energies = problem.energies(choices)
    for choice, energy in zip(choices[::7], energies[::7], strict=True):
        plain = sum(problem.costs[i][k] for i, k in enumerate(choice))
        for i, j in combinations(range(len(problem)), 2):
            if (i, j) in problem.hard:
                plain += problem.hard_penalty * problem.hard[i, j][choice[i], choice[j]]
            if (i, j) in problem.soft:
                plain += problem.soft[i, j][choice[i], choice[j]]
        assert energy == pytest.approx(plain) == problem.energy(choice)
        assert (energy >= problem.hard_penalty) == bool(problem.violations(choice))


@given(problems, st.integers(0, 10**6))
def test_a_block_has_the_energies_of_the_whole(problem, seed):
    rng = np.random.default_rng(seed)
    choice = np.array([rng.integers(k) for k in problem.sizes])
    drones = rng.permutation(len(problem))[: rng.integers(1, len(problem) + 1)]
    block = problem.block(drones.tolist(), choice)
    for part in everything(block)[::3]:
        whole = choice.copy()
        whole[drones] = part
        assert block.energy(part) == pytest.approx(problem.energy(whole))


@given(problems)
def test_dominated_candidates_are_not_missed(problem):
    smaller, kept = without_dominated(problem)
    assert smaller.energies(everything(smaller)).min() == pytest.approx(
        problem.energies(everything(problem)).min()
    )
    choice = everything(smaller)[-1]
    original = np.array([k[c] for k, c in zip(kept, choice, strict=True)])
    assert smaller.energy(choice) == pytest.approx(problem.energy(original))


@given(problems)
def test_components_do_not_touch(problem):
    groups = problem.components()
    member = {i: g for g, group in enumerate(groups) for i in group}
    assert all(member[i] == member[j] for i, j in problem.pairs)
    assert len(member) == sum(map(len, groups))
    assert [len(g) for g in groups] == sorted((len(g) for g in groups), reverse=True)


@settings(max_examples=8)
@given(st.sampled_from([scenes.crossings, scenes.antipodal]), st.integers(0, 1000))
def test_tables_agree_with_every_millisecond(make, seed):
    scene = make(4, seed)
    mine = [
        candidates(Track.of_knots(k), scene.limits, scene.fence, scene.separation, 8) for k in scene.knots
    ]
    problem = build(mine, scene.separation)
    flat = [(i, k) for i in range(4) for k in range(len(mine[i]))]
    seen = brute_force([mine[i][k].knots for i, k in flat], scene.separation, 5e-3)
    hits = {(*flat[c.first], *flat[c.second]) for c in seen if flat[c.first][0] != flat[c.second][0]}
    for (i, p), (j, q) in combinations(flat, 2):
        if i != j:
            table = problem.hard.get((i, j))
            hard = bool(table is not None and table[p, q])
            if (i, p, j, q) in hits:
                assert hard
            elif hard:  # a graze between two looks
                close = brute_force([mine[i][p].knots, mine[j][q].knots], module.Separation(5.01, 4.01))
                assert close


def test_a_pair_that_starts_in_one_place_is_infeasible():
    scene = scenes.crossings(3, 1)
    knots = [scene.knots[0], scene.knots[0], scene.knots[2]]
    mine = [candidates(Track.of_knots(k), scene.limits, scene.fence, scene.separation) for k in knots]
    assert build(mine, scene.separation).infeasible_pairs() == [(0, 1)]


def test_too_much_and_nothing_are_refused():
    scene = scenes.crossings(1, 1)
    (one,) = (candidates(Track.of_knots(k), scene.limits, scene.fence, scene.separation) for k in scene.knots)
    with pytest.raises(ModerationError) as caught:
        build([one * 10], scene.separation)
    assert caught.value.reason is ModerationReason.TOO_MANY
    with pytest.raises(ModerationError) as caught:
        build([], scene.separation)
    assert caught.value.reason is ModerationReason.NO_DRONES
    with pytest.raises(ModerationError, match="drone 1 has no feasible candidate"):
        build([one, []], scene.separation)
    assert build([one], scene.separation).energy(np.zeros(1, dtype=int)) == 0.0
