"""Jobs of the worker process (`process.py`): functions from bytes to bytes by name, and VQE sampling.

A module with further jobs registers them the same way and is passed to `AerWorker(modules=...)`:

    @job("qrng.bits", warm=_build)
    def bits(body: bytes) -> bytes: ...

Only the worker imports such modules, so they may import Qiskit at the top. A job raises JobRefused for an
invalid request; any other exception is reported as the job's failure.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from chimera_ros.moderation.circuits import BitArray, CircuitSpec

JobFunction = Callable[[bytes], bytes]

MPS_ABOVE = 16  # up to so many qubits a state vector is cheaper than a matrix product state
MAX_SHOTS = 1_000_000  # runs times shots
SAMPLE = "vqe.sample"
WARM_SHAPES = ((8, 1, True), (12, 1, True), (12, 0, False))  # qubits, layers, entangle

_JOBS: dict[str, JobFunction] = {}
_WARM: list[Callable[[], None]] = []


class JobRefused(Exception):
    """The request is invalid; one sentence."""


def job(name: str, warm: Callable[[], None] | None = None) -> Callable[[JobFunction], JobFunction]:
    """Registers a function as a job; `warm` is called once before the worker sends its hello."""

    def register(run: JobFunction) -> JobFunction:
        if name in _JOBS:
            raise ValueError(f"there are two jobs {name!r}")
        _JOBS[name] = run
        if warm is not None:
            _WARM.append(warm)
        return run

    return register


def run(name: str, body: bytes) -> bytes:
    """Runs a job. Raises JobRefused, ImportError and whatever the job raises."""
    if name not in _JOBS:
        raise JobRefused(f"there is no job {name[:60]!r}; there are {', '.join(sorted(_JOBS))}")
    return _JOBS[name](body)


def warm_up() -> dict[str, Any]:
    """Prepares every job; returns the content of the hello. Raises ImportError without Qiskit."""
    import qiskit
    import qiskit_aer

    for warm in _WARM:
        warm()
    return {"qiskit": qiskit.__version__, "aer": qiskit_aer.__version__, "jobs": sorted(_JOBS)}


# Sampling circuits ---------------------------------------------------------------------------------------

_HEADER = struct.Struct("<HHBIIQH")  # qubits, layers, entangle, runs, shots a run, seed, length of backend


def pack_sample(circuit: CircuitSpec, shots: int, seed: int, backend: str) -> bytes:
    """The request of job vqe.sample."""
    name = backend.encode()
    angles = np.ascontiguousarray(circuit.angles, dtype="<f8")
    head = _HEADER.pack(
        circuit.qubits, circuit.layers, circuit.entangle, circuit.runs, shots, seed % 2**63, len(name)
    )
    return head + name + angles.tobytes()


def unpack_bits(body: bytes, circuit: CircuitSpec, shots: int) -> tuple[BitArray, str]:
    """Decodes the answer: bits (runs, shots, qubits) and the backend's own name. Raises ValueError."""
    count = circuit.runs * shots * circuit.qubits
    size = (count + 7) // 8
    if len(body) < size:
        raise ValueError("the answer has too few bits")
    bits = np.unpackbits(np.frombuffer(body[:size], np.uint8), count=count)
    return bits.reshape(circuit.runs, shots, circuit.qubits), body[size:].decode(errors="replace")


def _unpack_request(body: bytes) -> tuple[CircuitSpec, int, int, str]:
    try:
        qubits, layers, entangle, runs, shots, seed, length = _HEADER.unpack_from(body)
        rest = body[_HEADER.size :]
        backend = rest[:length].decode()
        angles = np.frombuffer(rest[length:], "<f8").reshape(runs, -1)
        circuit = CircuitSpec(qubits, layers, angles, bool(entangle))
    except (struct.error, ValueError) as error:
        raise JobRefused(f"the circuit cannot be read: {error}") from None
    if not 1 <= runs * shots <= MAX_SHOTS:
        raise JobRefused(f"{runs} runs of {shots} shots are not between 1 and {MAX_SHOTS} shots")
    return circuit, shots, seed, backend


def _warm_vqe() -> None:
    for qubits, layers, entangle in WARM_SHAPES:
        angles = np.zeros((1, qubits * (layers + 1)))
        sample(pack_sample(CircuitSpec(qubits, layers, angles, entangle), 16, 0, "aer"))


@job(SAMPLE, warm=_warm_vqe)
def sample(body: bytes) -> bytes:
    """Samples circuits: request from `pack_sample`, answer for `unpack_bits`."""
    circuit, shots, seed, backend = _unpack_request(body)
    prepared = _prepare(backend, circuit.qubits, circuit.layers, circuit.entangle)
    bits = prepared.sample(circuit.angles, shots, seed)
    return np.packbits(bits.reshape(-1)).tobytes() + prepared.name.encode()


def build_circuit(qubits: int, layers: int, entangle: bool) -> Any:
    """The measured ansatz as a Qiskit circuit with a parameter vector, qubit q into classical bit q."""
    from qiskit import QuantumCircuit
    from qiskit.circuit import ParameterVector

    angles = ParameterVector("angle", qubits * (layers + 1))
    circuit = QuantumCircuit(qubits, qubits)
    for depth in range(layers + 1):
        if depth and entangle:
            for q in range(qubits - 1):
                circuit.cz(q, q + 1)
        for q in range(qubits):
            circuit.ry(angles[depth * qubits + q], q)
    circuit.measure(range(qubits), range(qubits))
    return circuit


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A circuit shape, transpiled once for a backend: transpiling takes 50 ms, a run 3 ms."""

    name: str
    circuit: Any
    backend: Any  # an Aer simulator, or a SamplerV2 primitive
    native: bool

    def sample(self, angles: Any, shots: int, seed: int) -> BitArray:
        """Bits (runs, shots, qubits)."""
        if self.native:
            binds = {parameter: angles[:, parameter.index].tolist() for parameter in self.circuit.parameters}
            result = self.backend.run(
                self.circuit, parameter_binds=[binds], shots=shots, memory=True, seed_simulator=seed % 2**31
            ).result()
            if not result.success:
                raise RuntimeError(result.status)
            lines = [line for k in range(len(angles)) for line in result.get_memory(k)]
            text = np.frombuffer("".join(lines).encode(), np.uint8) - ord("0")
            # Qiskit prints the highest bit first
            bits: BitArray = text.reshape(len(angles), shots, -1)[:, :, ::-1]
            return bits
        order = [parameter.index for parameter in self.circuit.parameters]
        result = self.backend.run([(self.circuit, angles[:, order])], shots=shots).result()
        register = next(iter(result[0].data.values()))
        packed = register.array  # (runs, shots, bytes), the highest bit first
        unpacked: BitArray = np.unpackbits(packed, axis=-1)[..., ::-1][..., : self.circuit.num_clbits]
        return unpacked.reshape(len(angles), shots, -1)


@lru_cache(maxsize=64)
def _prepare(backend: str, qubits: int, layers: int, entangle: bool) -> _Prepared:
    """Prepares a shape for the backend of a configuration string.

    `aer` (state vector, above 16 qubits matrix product state), `aer:METHOD`, `fake` (a noisy generic device,
    simulated) or `MODULE:FACTORY`, whose factory returns a Qiskit backend or a SamplerV2 primitive.
    """
    from qiskit import transpile

    circuit = build_circuit(qubits, layers, entangle)
    kind, _, rest = backend.partition(":")
    if kind == "aer":
        simulator = _simulator(rest or ("matrix_product_state" if qubits > MPS_ABOVE else "statevector"))
        return _Prepared(simulator.name, transpile(circuit, simulator, optimization_level=0), simulator, True)
    from qiskit.primitives import BackendSamplerV2, BaseSamplerV2

    device = _generic(qubits) if backend == "fake" else _load_backend(kind, rest)
    if isinstance(device, BaseSamplerV2):
        sampler: Any = device
        own = getattr(device, "backend", None)  # circuits must fit the primitive's backend, if it has one
        target = own() if callable(own) else own
    else:
        sampler, target = BackendSamplerV2(backend=device), device
    if target is not None:
        circuit = transpile(circuit, target, optimization_level=1, seed_transpiler=0)
    return _Prepared(str(getattr(target or device, "name", backend)), circuit, sampler, False)


def _simulator(method: str) -> Any:
    from qiskit_aer import AerSimulator

    if method not in AerSimulator().available_methods():
        raise JobRefused(f"Aer has no method {method!r}")
    return AerSimulator(
        method=method, max_parallel_threads=1, mps_sample_measure_algorithm="mps_probabilities"
    )


def _generic(qubits: int) -> Any:
    from qiskit.providers.fake_provider import GenericBackendV2

    return GenericBackendV2(max(qubits, 2), seed=0)


def _load_backend(module: str, factory: str) -> Any:
    try:
        made = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise JobRefused(
            f"no backend {module}:{factory} ({error}); allowed are aer, aer:METHOD, fake, MODULE:FACTORY"
        ) from None
    return made()
