"""Path moderation: detection, solvers side by side, VQE on blocks, the whole service against its deadline.

Scenes are random crossings and antipodal swaps on a 200 m circle at 8-12 m/s, separation 5 m x 4 m. All
solvers get the same problems in one run. VQE's figures count what it sampled itself, never the incumbent it
began with.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from harness import OtherLoad, Result, emit, percentile
from moderation_service import service_rows

from chimera_ros.moderation.annealing import Annealing
from chimera_ros.moderation.blocks import Blockwise, choose_blocks
from chimera_ros.moderation.circuits import Ansatz, CircuitSpec, Sampler, SamplerUnavailable, cvar
from chimera_ros.moderation.conflicts import find_conflicts
from chimera_ros.moderation.cp_sat import CpSat, load
from chimera_ros.moderation.exact import Exact, all_energies
from chimera_ros.moderation.greedy import Greedy
from chimera_ros.moderation.manoeuvres import candidates
from chimera_ros.moderation.orca import fly
from chimera_ros.moderation.problem import Problem, build
from chimera_ros.moderation.random_sampling import RandomSampling
from chimera_ros.moderation.scenes import SCENES, Scene, wide
from chimera_ros.moderation.solver import Solver, SolverUnavailable, run_to_end
from chimera_ros.moderation.tracks import Track, TrackTable
from chimera_ros.moderation.vqe import Encoding, Vqe, VqeConfig
from chimera_ros.quantum.sampler import AerSampler
from chimera_ros.quantum.worker import AerWorker, WorkerUnavailable

SHOTS = 1024
TIE = 1e-9
PRODUCT = VqeConfig(layers=0, shots=SHOTS)
ENTANGLED = VqeConfig(shots=SHOTS)
COLD = VqeConfig(warm=0.0, shots=SHOTS)


@dataclass(frozen=True)
class Block:
    """A few drones of a scene, the others at greedy's choice."""

    problem: Problem
    start: np.ndarray
    least: float


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="first seed of the scenes")
    arguments = parser.parse_args()
    if not 0 <= arguments.seed < 2**31:
        parser.error("--seed must be between 0 and 2147483647")
    quick, seed = arguments.quick, arguments.seed
    load_row = OtherLoad()
    with AerWorker() as worker:
        sampler: AerSampler | None = AerSampler(worker, "aer", 10.0)
        try:
            hello = worker.wait_ready(120.0)
            print(f"Aer {hello['aer']}, Qiskit {hello['qiskit']}", file=sys.stderr)
        except WorkerUnavailable as error:
            print(f"{error}; circuits are sampled in numpy", file=sys.stderr)
            sampler = None
        rows = detection_rows(quick, seed)
        for drones, choices, target in ((4, 4, ("==", 100.0)), (4, 8, (">=", 95.0))):
            rows += block_rows(make_blocks(drones, choices, quick, seed), drones, choices, sampler, target)
        rows += training_rows(make_blocks(4, 4, True, seed), sampler, quick)
        rows += scene_rows(quick, seed, sampler)
        rows += service_rows(quick, seed, worker if sampler else None)
    emit("moderation", [*rows, load_row.own(), load_row.result()], as_json=arguments.json)
    return 0


# Detection -----------------------------------------------------------------------------------------------


def detection_rows(quick: bool, seed: int) -> list[Result]:
    """Closest approaches of many trajectories of 40 s over a wide area."""
    rows = []
    for count, target in ((1000, ("<=", 10.0)), (10_000, None)):
        scene = wide(count, seed)
        tracks = [Track.of_knots(knots) for knots in scene.knots]
        table_ms = median_ms(lambda tracks=tracks: TrackTable(tracks), 3)
        table = TrackTable(tracks)
        find_ms = median_ms(
            lambda table=table, scene=scene: find_conflicts(table, scene.separation), 5 if quick else 15
        )
        found = find_conflicts(table, scene.separation)
        rows += [
            Result(f"detection, {count} trajectories of 40 s, p50", find_ms, "ms", target),
            Result(f"detection, {count} trajectories: sampling them before", table_ms, "ms"),
            Result(f"detection, {count} trajectories: conflicts found", float(len(found)), ""),
        ]
    return rows


def median_ms(work: Callable[[], object], times: int) -> float | None:
    """Median of several runs."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(1e3 * (time.perf_counter() - began))
    return percentile(took, 50)


# Blocks --------------------------------------------------------------------------------------------------


def problem_of(scene: Scene, count: int) -> Problem:
    """The problem of a scene with `count` candidates a drone."""
    ways = [
        candidates(Track.of_knots(knots), scene.limits, scene.fence, scene.separation, count)
        for knots in scene.knots
    ]
    return build(ways, scene.separation)


def make_blocks(drones: int, choices: int, quick: bool, seed: int) -> list[Block]:
    """Blocks of scenes with 5, 10 and 20 drones; every drone keeps all its candidates."""
    qubits = drones * (choices - 1).bit_length()
    blocks = []
    for make in SCENES.values():
        for count in (5, 10, 20):
            for k in range(2 if quick else 5):
                whole = problem_of(make(count, seed + k), choices)
                start = run_to_end(Greedy(), whole).choice
                for chosen in choose_blocks(whole, start, qubits, seed + k)[:3]:
                    part = whole.block(chosen, start)
                    if Encoding(part.sizes).qubits == qubits:
                        rows = np.array(chosen)
                        blocks.append(Block(part, start[rows], float(all_energies(part).min())))
    return blocks


def block_rows(
    blocks: Sequence[Block],
    drones: int,
    choices: int,
    sampler: Sampler | None,
    target: tuple[str, float],
) -> list[Result]:
    """Who finds the least energy of a block; VQE begins at greedy's answer, the cold rows without it."""
    title = f"{drones * (choices - 1).bit_length()} qubits"
    solvers: list[tuple[str, Solver, bool, tuple[str, float] | None]] = [
        ("greedy and local search", Greedy(), True, None),
        ("annealing", Annealing(), True, None),
        ("exact", Exact(), True, ("==", 100.0)),
        ("VQE", Vqe(sampler, ENTANGLED), True, target),
        ("VQE without entanglement", Vqe(sampler, PRODUCT), True, None),
        (f"random sampling, {SHOTS} shots", RandomSampling(SHOTS), True, None),
        ("VQE from the planned trajectories, no warm run", Vqe(sampler, COLD), False, None),
        ("annealing from the planned trajectories", Annealing(), False, None),
    ]
    rows = [
        Result(f"{title}: blocks, of 4 drones with {choices} candidates", float(len(blocks)), ""),
        Result(
            f"{title}: blocks where greedy's choice for the whole is best already",
            share([b.problem.energy(b.start) <= b.least + TIE for b in blocks]),
            "%",
        ),
    ]
    below_greedy = 0
    for name, solver, warm, wanted in solvers:
        reached, gaps, took = [], [], []
        for number, block in enumerate(blocks):
            start = block.start if warm else np.zeros(drones, dtype=np.int64)
            greedy = run_to_end(Greedy(), block.problem, start)
            began = time.perf_counter()
            begin = greedy.choice if warm and solver.name.startswith("vqe") else start
            answer = run_to_end(solver, block.problem, begin, number)
            took.append(1e3 * (time.perf_counter() - began))
            own = answer.details.get("sampled_energy", answer.energy)
            assert isinstance(own, float)
            reached.append(own <= block.least + TIE)
            gaps.append(own - block.least)
            if warm and solver.name.startswith("vqe"):
                below_greedy += answer.energy > greedy.energy + TIE
        rows += [
            Result(f"{title}: {name}: optimum reached", share(reached), "% of blocks", wanted),
            Result(f"{title}: {name}: energy above the optimum, p90", percentile(gaps, 90), "m"),
            Result(f"{title}: {name}: time, p50", percentile(took, 50), "ms"),
        ]
    rows.append(Result(f"{title}: VQE's answers worse than greedy's", float(below_greedy), "", ("<=", 0.0)))
    return rows


def share(truths: Sequence[bool]) -> float | None:
    """Percentage of truths; None without any."""
    return 100.0 * sum(truths) / len(truths) if truths else None


# Pure Aer ------------------------------------------------------------------------------------------------


def training_rows(blocks: Sequence[Block], sampler: Sampler | None, quick: bool) -> list[Result]:
    """Control: the same circuit trained by parameter shift on Aer's shots alone, one cold run a block."""
    rows = []
    for qubits in (8, 12):
        ansatz = Ansatz(qubits, 1)
        table = np.random.default_rng(0).normal(size=2**qubits)
        order = np.argsort(table)
        weigh = cvar(table[order], order, 0.1)
        angles = np.full((1, ansatz.parameters), 0.5)
        rows.append(
            Result(
                f"gradient, {qubits} qubits, adjoint in numpy",
                median_ms(lambda a=angles, s=ansatz, w=weigh: s.value_and_gradient(a, w), 50),
                "ms",
            )
        )
        shifted = np.repeat(angles, 2 * ansatz.parameters + 1, axis=0)
        circuit = CircuitSpec(qubits, 1, shifted)
        pure = None if sampler is None else median_ms(lambda c=circuit: sampler.sample(c, 256, 0), 10)
        rows.append(Result(f"gradient, {qubits} qubits, parameter shift on Aer, 256 shots each", pure, "ms"))
    if sampler is None:
        return rows
    reached, took = [], []
    for number, block in enumerate(blocks[: 6 if quick else 16]):
        began = time.perf_counter()
        least = shift_training(block.problem, sampler, iterations=30, seed=number)
        took.append(time.perf_counter() - began)
        reached.append(least <= block.least + TIE)
    return [
        *rows,
        Result(
            "8 qubits: pure-Aer training, last 1024 shots hold the optimum", share(reached), "% of blocks"
        ),
        Result("8 qubits: pure-Aer training, time, p50", percentile(took, 50), "s"),
    ]


def shift_training(problem: Problem, sampler: Sampler, iterations: int, seed: int) -> float:
    """Least energy in the last shots. The level of CVaR comes from the unshifted circuit's own shots."""
    encoding = Encoding(problem.sizes)
    count = 2 * encoding.qubits
    rng = np.random.default_rng(seed)
    angles = rng.normal(0.0, 0.3, count)
    angles[: encoding.qubits] += np.pi / 2
    shifts = np.concatenate([np.zeros((1, count)), np.eye(count), -np.eye(count)]) * (np.pi / 2)
    mean, square = np.zeros(count), np.zeros(count)
    for step in range(1, iterations + 1):
        bits = sampler.sample(CircuitSpec(encoding.qubits, 1, angles + shifts), 256, seed + step)
        energies = problem.energies(encoding.choices_of_bits(bits.reshape(-1, encoding.qubits)))
        energies = energies.reshape(len(shifts), -1)
        level = np.quantile(energies[0], 0.1)
        below = np.minimum(energies - level, 0.0).mean(1) / 0.1
        gradient = 0.5 * (below[1 : count + 1] - below[count + 1 :])
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        angles = angles - 0.2 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-9)
    bits = sampler.sample(CircuitSpec(encoding.qubits, 1, angles[None]), SHOTS, seed)
    return float(problem.energies(encoding.choices_of_bits(bits[0])).min())


# Whole scenes --------------------------------------------------------------------------------------------


def scene_rows(quick: bool, seed: int, sampler: Sampler | None) -> list[Result]:
    """Every solver on whole scenes of 5 to 50 drones: conflict-free share, cost against the best, time."""
    rows = []
    for count, choices in ((5, 8), (10, 8), (20, 16), *(() if quick else ((50, 16),))):
        costs: dict[str, list[float]] = defaultdict(list)
        free: dict[str, list[bool]] = defaultdict(list)
        took: dict[str, list[float]] = defaultdict(list)
        dodged = []
        for make in SCENES.values():
            for k in range(2 if quick or count == 50 else 5):
                scene = make(count, seed + k)
                problem = problem_of(scene, choices)
                start = run_to_end(Greedy(), problem).choice
                for name, solver, begin in scene_solvers(count, sampler, start):
                    began = time.perf_counter()
                    try:
                        answer = run_to_end(solver, problem, begin, seed + k)
                    except (SolverUnavailable, SamplerUnavailable) as error:
                        print(f"{name}: {error}", file=sys.stderr)
                        continue
                    took[name].append(1e3 * (time.perf_counter() - began))
                    free[name].append(answer.feasible)
                    costs[name].append(answer.energy if answer.feasible else np.inf)
                began = time.perf_counter()
                dodged.append(fly(scene.knots, scene.separation, seed=seed + k))
                took["ORCA-style avoidance alone"].append(1e3 * (time.perf_counter() - began))
        best = np.min([costs[name] for name in costs if len(costs[name]) == len(dodged)], axis=0)
        for name, energies in costs.items():
            over = [e - b for e, b in zip(energies, best, strict=False) if np.isfinite(e)]
            title = f"{count} drones: {name}"
            rows += [
                Result(f"{title}: conflict-free", share(free[name]), "% of scenes"),
                Result(f"{title}: cost above the best of all, mean", mean_of(over), "m"),
                Result(f"{title}: time, p50", percentile(took[name], 50), "ms"),
            ]
        title = f"{count} drones: ORCA-style avoidance alone"
        rows += [
            Result(f"{title}: conflict-free", share([f.conflicts == 0 for f in dodged]), "% of scenes"),
            Result(f"{title}: all arrived", share([f.arrived == count for f in dodged]), "% of scenes"),
            Result(f"{title}: extra way, mean", mean_of([f.extra_m for f in dodged]), "m"),
            Result(f"{title}: delay of all drones, mean", mean_of([f.late_s for f in dodged]), "s"),
        ]
    return rows


def scene_solvers(
    count: int, sampler: Sampler | None, start: np.ndarray
) -> list[tuple[str, Solver, np.ndarray | None]]:
    """The solvers for whole scenes; VQE goes block by block from greedy's answer."""
    found: list[tuple[str, Solver, np.ndarray | None]] = [
        ("greedy and local search", Greedy(), None),
        ("annealing", Annealing(), start),
        ("VQE by blocks of 12 qubits", Blockwise(Vqe(sampler, ENTANGLED), 12, 1), start),
        ("VQE by blocks, without entanglement", Blockwise(Vqe(sampler, PRODUCT), 12, 1), start),
        (f"random sampling, {SHOTS} shots", RandomSampling(SHOTS), None),
    ]
    if count <= 10:
        found.insert(2, ("exact", Exact(), None))
    try:
        load()
        found.insert(2, ("CP-SAT, feasibility only", CpSat(5.0, optimise=False), None))
        found.insert(3, ("CP-SAT, 1 s for the cheapest", CpSat(1.0), start))
    except SolverUnavailable as error:
        print(error, file=sys.stderr)
    return found


def mean_of(values: Sequence[float]) -> float | None:
    """Mean; None without values."""
    return float(np.mean(values)) if len(values) else None


if __name__ == "__main__":
    sys.exit(main())
