"""Variational quantum eigensolver (VQE) for blocks of a few drones: trained in numpy, executed on a backend.

Each drone's choice of K candidates is a binary number of ceil(log2 K) qubits; a number of K or above is
taken modulo K, so that no bitstring is invalid. The Hamiltonian is diagonal: the energy of a bitstring is
looked up, not measured term by term. Several runs are trained at once with Adam on the CVaR of their
outcomes, half of them from a warm start at the incumbent; the trained circuits are executed by the injected
Sampler, and only measured bitstrings count as the solver's own result.

At these sizes the table of energies permits a full search (`exact`): there is no quantum advantage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from chimera_ros.flight.trajectory import Array

from .circuits import (
    MAX_STATE_QUBITS,
    Ansatz,
    BitArray,
    CircuitSpec,
    Sampler,
    SamplerUnavailable,
    cvar,
    sample_states,
)
from .greedy import Greedy
from .problem import Problem
from .solver import TIE, SolverProgress, SolverUnavailable, progress, run_to_end
from .tracks import IntArray

NUMPY = "numpy"  # name of the backend if no sampler executed the circuits
_WARM_OFFSET_RAD = 0.9  # of first angles from the incumbent's bits: each is measured with cos²(0.45) = 81 %
_NOISE_RAD = 0.3  # standard deviation of the noise on the first angles


@dataclass(frozen=True, slots=True)
class VqeConfig:
    """Configuration of circuit and training. `layers` 0 is a product state."""

    layers: int = 1
    entangle: bool = True
    alpha: float = 0.1  # share of the best outcomes that CVaR counts
    runs: int = 8  # parameter sets trained at once
    warm: float = 0.5  # share of runs that start at the incumbent
    iterations: int = 50
    rate: float = 0.15  # learning rate of Adam, radians
    shots: int = 1024  # of all runs together
    max_qubits: int = 16


class Encoding:
    """Binary encoding of choices in qubits, little-endian; a drone with one candidate needs none."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = np.array(sizes, dtype=np.int64)
        self.widths = np.array([(k - 1).bit_length() for k in sizes], dtype=np.int64)
        self.lows = np.concatenate([[0], np.cumsum(self.widths)[:-1]])
        self.qubits = int(self.widths.sum())

    def choices(self, index: IntArray) -> IntArray:
        """Choices (m, n) of basis states (m,)."""
        codes = (index[:, None] >> self.lows) & ((1 << self.widths) - 1)
        out: IntArray = codes % self.sizes
        return out

    def choices_of_bits(self, bits: BitArray) -> IntArray:
        """Choices (m, n) of measured bits (m, qubits)."""
        return self.choices(bits.astype(np.int64) @ (1 << np.arange(self.qubits, dtype=np.int64)))

    def bits(self, choice: IntArray) -> IntArray:
        """Bits (qubits,) of a choice (n,)."""
        index = int((np.asarray(choice, dtype=np.int64) << self.lows).sum())
        out: IntArray = (index >> np.arange(self.qubits)) & 1
        return out


class Vqe:
    """Solver of one block by VQE. Without a sampler numpy samples the circuits; `degraded` gives the reason.

    The last progress has details `sampled_choice` and `sampled_energy` (the best measured bitstring), `gain`
    (over the start, 0 if only equal), `backend`, `qubits`, `shots`, `degraded`.
    """

    def __init__(self, sampler: Sampler | None = None, config: VqeConfig | None = None) -> None:
        self._sampler = sampler
        self._config = config or VqeConfig()
        entangled = self._config.entangle and self._config.layers > 0
        self.name = "vqe" if entangled else "vqe_product"

    def run(self, problem: Problem, start: IntArray | None, seed: int) -> Iterator[SolverProgress]:
        """Progress after every few iterations. Raises SolverUnavailable for a block that is too large."""
        config = self._config
        encoding = Encoding(problem.sizes)
        most = min(config.max_qubits, MAX_STATE_QUBITS)
        if encoding.qubits > most:
            raise SolverUnavailable(
                f"{len(problem)} drones need {encoding.qubits} qubits, more than the {most} allowed"
            )
        if start is None:
            start = run_to_end(Greedy(), problem).choice
        start = np.asarray(start, dtype=np.int64)
        if encoding.qubits == 0:
            yield progress(problem, start, done=True, proven=True, details={"qubits": 0, "shots": 0})
            return
        rng = np.random.default_rng(seed)
        training = Training(problem, encoding, config, start, rng)
        for step in range(config.iterations):
            training.step()
            if (step + 1) % training.steps_per_slice == 0:
                yield progress(problem, start, details={"iteration": step + 1})
        yield self._measured(problem, encoding, training, start, seed)

    def _measured(
        self, problem: Problem, encoding: Encoding, training: Training, start: IntArray, seed: int
    ) -> SolverProgress:
        config = self._config
        shots = max(1, config.shots // config.runs)
        circuit = CircuitSpec(encoding.qubits, config.layers, training.angles, config.entangle)
        backend, degraded = NUMPY, "no quantum backend is configured"
        bits = None
        if self._sampler is not None:
            try:
                bits = self._sampler.sample(circuit, shots, seed)
                backend, degraded = self._sampler.backend, ""
            except SamplerUnavailable as error:
                degraded = str(error)
        if bits is None:
            bits = sample_states(training.ansatz.states(training.angles), shots, seed)
        choices = encoding.choices_of_bits(bits.reshape(-1, encoding.qubits))
        energies = problem.energies(choices)
        k = int(energies.argmin())
        sampled, before = float(energies[k]), problem.energy(start)
        gain = before - sampled if sampled < before - TIE else 0.0
        details = {
            "sampled_choice": choices[k].tolist(),
            "sampled_energy": sampled,
            "start_energy": before,
            "gain": gain,
            "backend": backend,
            "degraded": degraded,
            "qubits": encoding.qubits,
            "layers": config.layers,
            "shots": len(choices),
            "runs": config.runs,
        }
        return progress(problem, choices[k] if gain else start, done=True, details=details)


class Training:
    """Training of the angles (runs, parameters), in radians, by Adam (Kingma and Ba, arXiv:1412.6980)."""

    def __init__(
        self,
        problem: Problem,
        encoding: Encoding,
        config: VqeConfig,
        start: IntArray,
        rng: np.random.Generator,
    ) -> None:
        self.ansatz = Ansatz(encoding.qubits, config.layers, config.entangle)
        table = problem.energies(encoding.choices(np.arange(2**encoding.qubits)))
        order = np.argsort(table, kind="stable")
        self._objective = cvar(table[order], order, config.alpha)
        self._config = config
        self.angles = self._first(encoding, start, rng)
        self._mean = np.zeros_like(self.angles)
        self._square = np.zeros_like(self.angles)
        self._step = 0
        self.steps_per_slice = max(1, 2**17 // (config.runs * 2**encoding.qubits))
        self.values: Array = np.full(config.runs, np.inf)

    def _first(self, encoding: Encoding, start: IntArray, rng: np.random.Generator) -> Array:
        """First angles: of warm runs near the incumbent, of others near the uniform superposition."""
        config, shape = self._config, (self._config.runs, self._config.layers + 1, encoding.qubits)
        warm = round(config.warm * config.runs)
        angles = rng.normal(0.0, _NOISE_RAD, shape)
        angles[:warm, 0] += np.where(encoding.bits(start), np.pi - _WARM_OFFSET_RAD, _WARM_OFFSET_RAD)
        angles[warm:, 0] += np.pi / 2
        out: Array = angles.reshape(config.runs, -1)
        return out

    def step(self) -> None:
        """One step of Adam; the learning rate decreases linearly to a tenth."""
        config = self._config
        self.values, gradient = self.ansatz.value_and_gradient(self.angles, self._objective)
        scale = np.abs(gradient).max() + 1e-300
        self._step += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.01 * (gradient**2 - self._square)
        mean = self._mean / (1.0 - 0.9**self._step)
        square = self._square / (1.0 - 0.99**self._step)
        rate = config.rate * (1.0 - 0.9 * self._step / config.iterations)
        self.angles = self.angles - rate * mean / (np.sqrt(square) + 1e-9 * scale)
