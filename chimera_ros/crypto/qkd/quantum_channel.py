"""Simulated quantum channel between Alice and Bob: photons in one of two bases, noise, an eavesdropper.

A simulator executes runs of photons, each prepared as a bit in a basis, possibly flipped, and measured in a
basis. `transmit` composes a channel of them: an intercept-resend attack is two runs, one to the
eavesdropper's detector and one from her source. The caller chooses the simulator; the codec here is that of
the worker process.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..entropy.conditioning import Bits

MAX_PHOTONS: Final = 1 << 17
_HEAD: Final = struct.Struct(">QI")


@dataclass(frozen=True, slots=True)
class Run:
    """Input of a simulator: arrays of zeros and ones, shape (photons,). Basis 0 is Z, 1 is X.

    flipped: where the channel applies Pauli Y, an error in either basis. seed: of the simulator.
    """

    bits: Bits
    prepared: Bits
    measured: Bits
    flipped: Bits
    seed: int


Simulator = Callable[[Run], Bits]


def encode_run(run: Run) -> bytes:
    """Encodes a run for the worker process."""
    parts = (run.bits, run.prepared, run.measured, run.flipped)
    return _HEAD.pack(run.seed, len(run.bits)) + b"".join(np.packbits(part).tobytes() for part in parts)


def decode_run(data: bytes) -> Run:
    """Decodes a run in the worker process. Raises ValueError."""
    if len(data) < _HEAD.size:
        raise ValueError("a run of photons ends early")
    seed, count = _HEAD.unpack_from(data)
    size = (count + 7) // 8
    if not 0 < count <= MAX_PHOTONS or len(data) != _HEAD.size + 4 * size:
        raise ValueError(f"{len(data)} bytes are no run of {count} photons")
    parts = [
        np.unpackbits(np.frombuffer(data, np.uint8, size, _HEAD.size + index * size))[:count]
        for index in range(4)
    ]
    return Run(parts[0], parts[1], parts[2], parts[3], seed)


def born_rule(run: Run) -> Bits:
    """Outcomes by the Born rule, without a simulator: the bit in its own basis, a random bit in the other."""
    coins = np.random.default_rng(run.seed).integers(0, 2, len(run.bits), dtype=np.uint8)
    return np.where(run.prepared == run.measured, run.bits ^ run.flipped, coins).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class QuantumChannel:
    """error_rate: fraction of photons flipped. intercepted: fraction that an eavesdropper measures in a
    random basis and resends (each such photon is wrong with probability 1/4).
    """

    error_rate: float = 0.01
    intercepted: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("error_rate", self.error_rate), ("intercepted", self.intercepted)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} is {value}; allowed are 0 to 1")


def transmit(
    bits: Bits,
    prepared: Bits,
    measured: Bits,
    channel: QuantumChannel,
    simulator: Simulator,
    random: Callable[[int], bytes],
) -> Bits:
    """Outcomes of Bob's measurement, shape (photons,)."""
    rng = np.random.default_rng(int.from_bytes(random(16)))
    count = len(bits)
    bits, prepared = bits.copy(), prepared.copy()
    intercepted = np.flatnonzero(rng.random(count) < channel.intercepted)
    if len(intercepted):
        eve_bases = rng.integers(0, 2, len(intercepted), dtype=np.uint8)
        unflipped = np.zeros(len(intercepted), dtype=np.uint8)
        bits[intercepted] = simulator(
            Run(bits[intercepted], prepared[intercepted], eve_bases, unflipped, _seed(random))
        )
        prepared[intercepted] = eve_bases
    flipped = (rng.random(count) < channel.error_rate).astype(np.uint8)
    return simulator(Run(bits, prepared, measured, flipped, _seed(random)))


def _seed(random: Callable[[int], bytes]) -> int:
    return int.from_bytes(random(8)) >> 2  # Aer seeds are signed 64-bit integers
