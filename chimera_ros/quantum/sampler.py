"""Sampler of the moderation room, implemented by the worker process."""

from __future__ import annotations

from chimera_ros.moderation.circuits import BitArray, CircuitSpec, SamplerUnavailable

from .jobs import SAMPLE, pack_sample, unpack_bits
from .worker import AerWorker, WorkerRefused, WorkerUnavailable


class AerSampler:
    """Executes circuits on the backend of a configuration string (`jobs.py`), within `timeout_s` a call.

    `timeout_s` may be changed between calls: the service sets it to the remaining time.
    """

    def __init__(self, worker: AerWorker, backend: str = "aer", timeout_s: float = 1.0) -> None:
        self._worker, self._configured = worker, backend
        self._backend = backend
        self.timeout_s = timeout_s

    @property
    def backend(self) -> str:
        """The backend's own name; before the first call the configured one."""
        return self._backend

    def sample(self, circuit: CircuitSpec, shots: int, seed: int) -> BitArray:
        """Bits (runs, shots, qubits) in shot order. Raises SamplerUnavailable."""
        request = pack_sample(circuit, shots, seed, self._configured)
        try:
            answer = self._worker.call(SAMPLE, request, self.timeout_s)
            bits, self._backend = unpack_bits(answer, circuit, shots)
        except (WorkerUnavailable, WorkerRefused, ValueError) as error:
            raise SamplerUnavailable(str(error)) from error
        return bits
