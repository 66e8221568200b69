"""VQE: circuits against Qiskit, gradients against differences, CVaR, encoding, what its answer says."""

from __future__ import annotations

import numpy as np
import pytest

from chimera_ros.moderation.circuits import (
    MAX_QUBITS,
    Ansatz,
    CircuitSpec,
    SamplerUnavailable,
    cvar,
    sample_states,
)
from chimera_ros.moderation.exact import all_energies
from chimera_ros.moderation.greedy import Greedy
from chimera_ros.moderation.problem import Problem
from chimera_ros.moderation.solver import SolverUnavailable, run_to_end
from chimera_ros.moderation.vqe import NUMPY, Encoding, Vqe, VqeConfig

SHAPES = [(1, 1, True), (3, 1, True), (5, 2, True), (6, 1, False), (9, 1, True), (4, 0, False)]


def random_block(seed, sizes):
    rng = np.random.default_rng(seed)
    costs = [np.concatenate([[0.0], rng.uniform(0.5, 20.0, k - 1)]) for k in sizes]
    pairs = [(i, j) for i in range(len(sizes)) for j in range(i + 1, len(sizes))]
    hard = {(i, j): rng.random((sizes[i], sizes[j])) < 0.4 for i, j in pairs}
    soft = {(i, j): np.where(hard[i, j], 0.0, rng.uniform(0, 4, (sizes[i], sizes[j]))) for i, j in pairs}
    return Problem.of(costs, hard, soft)


@pytest.mark.parametrize(("qubits", "layers", "entangle"), SHAPES)
def test_state_vectors_are_qiskits(qubits, layers, entangle):
    pytest.importorskip("qiskit")
    from qiskit.quantum_info import Statevector

    from chimera_ros.quantum.jobs import build_circuit

    angles = np.random.default_rng(1).uniform(-3, 3, (2, qubits * (layers + 1)))
    circuit = build_circuit(qubits, layers, entangle).remove_final_measurements(inplace=False)
    for state, row in zip(Ansatz(qubits, layers, entangle).states(angles), angles, strict=True):
        bound = circuit.assign_parameters({p: row[p.index] for p in circuit.parameters})
        assert state == pytest.approx(Statevector(bound).data.real, abs=1e-12)
        assert np.abs(Statevector(bound).data.imag).max() < 1e-12


@pytest.mark.parametrize(("qubits", "layers", "entangle"), SHAPES)
def test_adjoint_gradients_are_those_of_differences(qubits, layers, entangle):
    ansatz = Ansatz(qubits, layers, entangle)
    rng = np.random.default_rng(2)
    angles = rng.uniform(-3, 3, (3, ansatz.parameters))
    table = rng.normal(size=2**qubits)
    values, gradient = ansatz.value_and_gradient(angles, lambda p: (p @ table, np.tile(table, (len(p), 1))))
    assert values == pytest.approx((ansatz.states(angles) ** 2) @ table)
    for k, step in enumerate(np.eye(ansatz.parameters) * 1e-5):
        ahead, behind = ((ansatz.states(angles + s) ** 2) @ table for s in (step, -step))
        assert gradient[:, k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-8)


def test_cvar_is_the_mean_of_the_best_outcomes():
    rng = np.random.default_rng(3)
    table = rng.normal(size=64)
    order = np.argsort(table)
    probabilities = rng.dirichlet(np.ones(64), size=4)
    for alpha in (0.05, 0.1, 0.5, 1.0):
        values, _ = cvar(table[order], order, alpha)(probabilities)
        for value, row in zip(values, probabilities, strict=True):
            left, total = alpha, 0.0
            for k in order:  # by the definition: fill the share alpha from the best outcome on
                part = min(left, row[k])
                total += part * table[k]
                left -= part
            assert value == pytest.approx(total / (alpha - left))


def test_the_gradient_of_cvar_is_that_of_differences():
    ansatz = Ansatz(5, 1)
    rng = np.random.default_rng(4)
    table = rng.normal(size=32)
    order = np.argsort(table)
    weigh = cvar(table[order], order, 0.1)
    angles = rng.uniform(-2, 2, (2, ansatz.parameters))
    _, gradient = ansatz.value_and_gradient(angles, weigh)
    for k, step in enumerate(np.eye(ansatz.parameters) * 1e-6):
        ahead, behind = (weigh(ansatz.states(angles + s) ** 2)[0] for s in (step, -step))
        assert gradient[:, k] == pytest.approx((ahead - behind) / 2e-6, abs=1e-6)


def test_numpy_samples_follow_the_probabilities():
    states = Ansatz(3, 1).states(np.random.default_rng(5).uniform(-2, 2, (2, 6)))
    bits = sample_states(states, 40_000, 1)
    for drawn, state in zip(bits, states, strict=True):
        shares = np.bincount(drawn @ (1 << np.arange(3)), minlength=8) / len(drawn)
        assert np.abs(shares - state**2).max() < 0.0125  # five sigma


@pytest.mark.parametrize(
    "wrong",
    [(0, 1, 4), (3, -1, 3), (3, 1, 5), (MAX_QUBITS + 1, 0, MAX_QUBITS + 1)],
)
def test_a_malformed_circuit_is_refused(wrong):
    qubits, layers, count = wrong
    with pytest.raises(ValueError, match="qubits"):
        CircuitSpec(qubits, layers, np.zeros((1, count)))
    with pytest.raises(ValueError, match="finite"):
        CircuitSpec(2, 0, np.array([[0.0, np.nan]]))


def test_every_bitstring_is_a_choice_and_every_choice_has_one():
    encoding = Encoding((5, 1, 8, 3))
    assert encoding.qubits == 3 + 0 + 3 + 2
    choices = encoding.choices(np.arange(2**8))
    assert (choices < encoding.sizes).all()
    assert len(np.unique(choices, axis=0)) == 5 * 8 * 3
    for choice in ([4, 0, 6, 2], [0, 0, 0, 0], [2, 0, 7, 1]):
        bits = encoding.bits(np.array(choice))
        assert encoding.choices_of_bits(bits[None].astype(np.uint8))[0].tolist() == choice


@pytest.mark.parametrize("layers", [0, 1])
def test_it_reaches_the_least_energy_of_small_blocks(layers):
    for seed in range(6):
        block = random_block(seed, (4, 4, 3, 4))
        answer = run_to_end(Vqe(None, VqeConfig(layers=layers)), block, np.zeros(4, dtype=int), seed)
        assert answer.details["sampled_energy"] == pytest.approx(all_energies(block).min())
        assert answer.details["gain"] == pytest.approx(block.energy(np.zeros(4, dtype=int)) - answer.energy)


def test_it_is_never_worse_than_its_start_and_says_what_it_sampled_itself():
    config = VqeConfig(iterations=1, shots=8)  # hardly trained, hardly sampled
    worse = 0
    for seed in range(12):
        block = random_block(seed, (8, 8, 8))
        start = run_to_end(Greedy(), block).choice
        answer = run_to_end(Vqe(None, config), block, start, seed)
        details = answer.details
        assert answer.energy <= block.energy(start)
        assert details["shots"] == 8
        assert block.energy(np.array(details["sampled_choice"])) == details["sampled_energy"]
        if details["sampled_energy"] >= block.energy(start):
            worse += details["sampled_energy"] > block.energy(start)
            assert details["gain"] == 0.0
            assert (answer.choice == start).all()
        else:
            assert details["gain"] > 0.0
    assert worse > 0  # the incumbent was kept, not passed off as sampled


def test_the_sampler_gets_the_trained_circuits_and_its_bits_are_the_answer():
    seen = []

    class Stuck:
        backend = "stuck"

        def sample(self, circuit, shots, seed):
            seen.append((circuit, shots))
            bits = np.zeros((circuit.runs, shots, circuit.qubits), dtype=np.uint8)
            bits[..., 2] = 1  # drone 1's lowest bit
            return bits

    block = random_block(1, (4, 4))
    answer = run_to_end(Vqe(Stuck()), block, np.array([3, 3]), 0)
    assert answer.details["sampled_choice"] == [0, 1]
    assert answer.details["backend"] == "stuck"
    assert answer.details["degraded"] == ""
    ((circuit, shots),) = seen
    assert (circuit.qubits, circuit.layers, circuit.entangle) == (4, 1, True)
    assert circuit.runs * shots == 1024


def test_a_sampler_that_fails_leaves_a_degraded_answer_that_says_so():
    class Dead:
        backend = "dead"

        def sample(self, circuit, shots, seed):
            raise SamplerUnavailable("the quantum worker died")

    block = random_block(1, (4, 4))
    answer = run_to_end(Vqe(Dead()), block, np.array([3, 3]), 0)
    assert answer.details["backend"] == NUMPY
    assert answer.details["degraded"] == "the quantum worker died"
    assert answer.energy == pytest.approx(all_energies(block).min())


def test_too_large_a_block_is_refused_and_a_settled_one_needs_no_qubit():
    with pytest.raises(SolverUnavailable, match="18 qubits, more than the 16"):
        run_to_end(Vqe(), random_block(0, (8,) * 6))
    answer = run_to_end(Vqe(), random_block(0, (1, 1)))
    assert answer.choice.tolist() == [0, 0]
    assert answer.details["qubits"] == 0
