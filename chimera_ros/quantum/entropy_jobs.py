"""Jobs with the circuits of QRNG and BB84, for Aer in the worker process: bytes in, bytes out.

Aer is a simulator: its measurements come from a pseudo-random generator that the caller seeds (from the
operating system). The output is reproducible from the seed and adds no entropy to it.

A request for random bits is `>QIB`: seed, shots, qubits; the answer is one byte per shot, packed for fewer
qubits. Photons travel as `crypto/qkd/quantum_channel.py` encodes them; the answer is their packed
outcomes.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from chimera_ros.crypto.qkd.quantum_channel import decode_run

from .jobs import JobRefused, job

QRNG: Final = "entropy.qrng"
BB84: Final = "entropy.bb84"

QRNG_REQUEST: Final = struct.Struct(">QIB")
QUBITS: Final = 8
_MAX_SHOTS: Final = 1 << 16


@cache
def _simulator() -> Any:
    from qiskit_aer import AerSimulator

    return AerSimulator(method="statevector", max_parallel_threads=1)


def _outcomes(circuit: Any, shots: int, seed: int) -> NDArray[np.uint8]:
    """Measured bits, shape (shots, qubits), in order of shots."""
    result = _simulator().run(circuit, shots=shots, memory=True, seed_simulator=seed).result()
    # From the result's hexadecimal words: get_memory() would format each as text of binary digits.
    words = np.array([int(word, 16) for word in result.data(0)["memory"]], dtype=np.uint16)
    return (words[:, None] >> np.arange(circuit.num_qubits, dtype=np.uint16) & 1).astype(np.uint8)


@cache
def _hadamards(qubits: int) -> Any:
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(qubits, qubits)
    circuit.h(range(qubits))
    circuit.measure(range(qubits), range(qubits))
    return circuit


def _warm() -> None:
    qrng(QRNG_REQUEST.pack(1, 16, QUBITS))
    _outcomes(_photons(tuple(range(8))), 16, 1)


@job(QRNG, warm=_warm)
def qrng(request: bytes) -> bytes:
    """Measured Hadamard qubits, packed in order of shots. Raises JobRefused."""
    if len(request) != QRNG_REQUEST.size:
        raise JobRefused(f"a request for random bits has {QRNG_REQUEST.size} bytes, not {len(request)}")
    seed, shots, qubits = QRNG_REQUEST.unpack(request)
    if not 1 <= shots <= _MAX_SHOTS or not 1 <= qubits <= 16:
        raise JobRefused(f"{shots} shots of {qubits} qubits; allowed are 1 to {_MAX_SHOTS} of 1 to 16")
    return np.packbits(_outcomes(_hadamards(qubits), shots, seed)).tobytes()


@cache
def _photons(states: tuple[int, ...]) -> Any:
    """One circuit whose qubits are independent photons, one of each state."""
    from qiskit import QuantumCircuit

    circuit = QuantumCircuit(len(states), len(states))
    for qubit, state in enumerate(states):
        if state & 1:  # the bit
            circuit.x(qubit)
        if state & 2:  # prepared in X
            circuit.h(qubit)
        if state & 8:  # the channel's error: Y flips the bit in either basis
            circuit.y(qubit)
        if state & 4:  # measured in X
            circuit.h(qubit)
    circuit.measure(range(len(states)), range(len(states)))
    return circuit


@job(BB84)
def bb84(request: bytes) -> bytes:
    """Outcomes of a run of photons, packed. Raises JobRefused.

    Photons with the same bit, bases and error are shots of one qubit: 16 384 photons are two circuits of 8
    qubits, not 16 384 circuits.
    """
    try:
        run = decode_run(request)
    except ValueError as error:
        raise JobRefused(str(error)) from None
    states = run.bits | run.prepared << 1 | run.measured << 2 | run.flipped << 3
    found = np.empty(len(states), dtype=np.uint8)
    places = [np.flatnonzero(states == state) for state in range(16)]
    # States with an error are rare: in a circuit of their own they need few shots.
    for number, group in enumerate((range(8), range(8, 16))):
        present = tuple(state for state in group if len(places[state]))
        if not present:
            continue
        shots = max(len(places[state]) for state in present)
        outcomes = _outcomes(_photons(present), shots, run.seed + number)
        for qubit, state in enumerate(present):
            found[places[state]] = outcomes[: len(places[state]), qubit]
    return np.packbits(found).tobytes()
