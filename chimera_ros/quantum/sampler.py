"""Sampler of the moderation room, implemented by the worker process."""

from __future__ import annotations

import re
from typing import Final

from chimera_ros.formats.text import excerpt
from chimera_ros.moderation.circuits import BitArray, CircuitSpec, SamplerUnavailable

from .jobs import SAMPLE, pack_sample, unpack_bits
from .worker import AerWorker, WorkerRefused, WorkerUnavailable

_METHODS: Final = (
    "automatic",
    "statevector",
    "density_matrix",
    "stabilizer",
    "extended_stabilizer",
    "matrix_product_state",
    "tensor_network",
)
_FACTORY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")
_MAX_NAME: Final = 200


def check_backend(name: str) -> str:
    """The name of a backend, if it has the form of one: none, aer, aer:METHOD, fake or MODULE:FACTORY.

    Whether MODULE exists is found by the worker. Raises ValueError.
    """
    kind, _, rest = name.partition(":")
    known = rest in _METHODS if kind == "aer" and rest else _FACTORY.fullmatch(name)
    if name in ("none", "aer", "fake") or (known and len(name) <= _MAX_NAME):
        return name
    raise ValueError(
        f"'{excerpt(name)}' is no backend; allowed are none, aer, aer:METHOD ({', '.join(_METHODS)}), fake "
        "and MODULE:FACTORY"
    )


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
