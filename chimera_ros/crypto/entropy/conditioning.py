"""Conditioning of raw samples: von Neumann debiasing and SHA3-512, with the entropy of the output.

The output entropy follows NIST SP 800-90B, section 3.1.5.1.2 (vetted conditioning functions), with SHA3-512
(FIPS 202) as the function: n_out = nw = 512.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..encoding import fields, u64
from ..primitives import labels

Bits = NDArray[np.uint8]

BLOCK_BYTES: Final = 64
_N_OUT: Final = 8 * BLOCK_BYTES
FULL_ENTROPY_INPUT: Final = _N_OUT + 64  # bits of min-entropy in, for full entropy out (SP 800-90C)


def unpack(data: bytes) -> Bits:
    """Bits of bytes, most significant first, as an array of zeros and ones."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8))


def debias(bits: Bits) -> Bits:
    """Von Neumann debiasing: the pair 01 yields 0, 10 yields 1, equal bits yield nothing.

    Unbiased for independent bits of constant bias; dependence between bits remains.
    """
    pairs = bits[: len(bits) // 2 * 2].reshape(-1, 2)
    return pairs[pairs[:, 0] != pairs[:, 1], 0]


def output_entropy(input_bits: int, input_entropy: float) -> float:
    """Min-entropy, bits, of one 512-bit block conditioned from `input_bits` bits with that min-entropy.

    Raises ValueError for an entropy that the input cannot have.
    """
    if input_bits <= 0 or not 0.0 <= input_entropy <= input_bits:
        raise ValueError(f"{input_entropy} bits of min-entropy in {input_bits} bits")
    high = 2.0**-input_entropy
    # (1 - P_high) / (2^n_in - 1), times 2^n_in: a factor that stays a float for long inputs
    low_scaled = (1.0 - high) / (1.0 - 2.0**-input_bits)
    n = min(_N_OUT, input_bits)
    psi = 2.0**-n * low_scaled + high
    omega = (2.0**-n + math.sqrt(2.0 * n * math.log(2.0)) * 2.0 ** (-(input_bits + n) / 2.0)) * low_scaled
    return min(float(_N_OUT), -math.log2(max(psi, omega)))


class Conditioner:
    """Hashes the samples of one source into blocks of 64 bytes.

    A block takes as much input as has `FULL_ENTROPY_INPUT` bits of entropy at `min_entropy_per_bit`.
    """

    def __init__(self, source: str, min_entropy_per_bit: float) -> None:
        if not 0.0 < min_entropy_per_bit <= 1.0:
            raise ValueError(f"{min_entropy_per_bit} bits of min-entropy per bit")
        self._source = source.encode("ascii")
        self._per_block = 8 * math.ceil(FULL_ENTROPY_INPUT / min_entropy_per_bit / 8)
        self.entropy_per_block = output_entropy(self._per_block, self._per_block * min_entropy_per_bit)
        self._pending: deque[Bits] = deque()
        self._pending_bits = 0
        self._made = 0

    @property
    def bits_per_block(self) -> int:
        """Input bits per block."""
        return self._per_block

    def clear(self) -> None:
        """Discards input that does not fill a block yet."""
        self._pending.clear()
        self._pending_bits = 0

    def feed(self, bits: Bits) -> list[bytes]:
        """Adds bits; returns the blocks completed by them."""
        self._pending.append(bits)
        self._pending_bits += len(bits)
        blocks: list[bytes] = []
        if self._pending_bits < self._per_block:
            return blocks
        joined = np.concatenate(self._pending)
        whole = len(joined) // self._per_block * self._per_block
        for start in range(0, whole, self._per_block):
            raw = np.packbits(joined[start : start + self._per_block]).tobytes()
            blocks.append(
                hashlib.sha3_512(fields(labels.ENTROPY_BLOCK, self._source, u64(self._made), raw)).digest()
            )
            self._made += 1
        self.clear()
        self._pending.append(joined[whole:])
        self._pending_bits = len(joined) - whole
        return blocks
