"""The quantum line between Alice and Bob, simulated: photons in one of two bases, noise, an eavesdropper.

A run of photons is what a simulator is asked for: each prepared in a bit and basis, perhaps flipped on the
way, measured in a basis. `transmit` plays a line with it: an eavesdropper who intercepts and resends is two
runs, one into her detector and one from her source. Which simulator answers is the caller's business; the
codec here is what travels to the worker process.
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
    """Photons through a simulator; arrays of zeros and ones, shape (photons,). Basis 0 is Z, 1 is X.

    flipped: where the line applies Pauli Y, an error in either basis. seed: of the simulator.
    """

    bits: Bits
    prepared: Bits
    measured: Bits
    flipped: Bits
    seed: int


Simulator = Callable[[Run], Bits]


def encode_run(run: Run) -> bytes:
    """For the worker process."""
    parts = (run.bits, run.prepared, run.measured, run.flipped)
    return _HEAD.pack(run.seed, len(run.bits)) + b"".join(np.packbits(part).tobytes() for part in parts)


def decode_run(data: bytes) -> Run:
    """In the worker process. Raises ValueError."""
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


def born(run: Run) -> Bits:
    """Born's rule for these states, without a simulator: the bit in its own basis, a coin in the other."""
    coins = np.random.default_rng(run.seed).integers(0, 2, len(run.bits), dtype=np.uint8)
    return np.where(run.prepared == run.measured, run.bits ^ run.flipped, coins).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Line:
    """error_rate: of photons flipped on the way. intercepted: fraction that an eavesdropper measures in a
    basis of her choice and sends on as she found them (each such photon is wrong with probability 1/4).
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
    line: Line,
    simulator: Simulator,
    random: Callable[[int], bytes],
) -> Bits:
    """What Bob's detector says, shape (photons,)."""
    nature = np.random.default_rng(int.from_bytes(random(16)))
    count = len(bits)
    bits, prepared = bits.copy(), prepared.copy()
    caught = np.flatnonzero(nature.random(count) < line.intercepted)
    if len(caught):
        hers = nature.integers(0, 2, len(caught), dtype=np.uint8)
        still = np.zeros(len(caught), dtype=np.uint8)
        bits[caught] = simulator(Run(bits[caught], prepared[caught], hers, still, _seed(random)))
        prepared[caught] = hers
    flipped = (nature.random(count) < line.error_rate).astype(np.uint8)
    return simulator(Run(bits, prepared, measured, flipped, _seed(random)))


def _seed(random: Callable[[int], bytes]) -> int:
    return int.from_bytes(random(8)) >> 2  # Aer takes seeds that fit a signed 64-bit integer
