"""Toeplitz hashing, for privacy amplification and for the verification of reconciliation.

The family is 2-universal (H. Krawczyk, "LFSR-based Hashing and Authentication", CRYPTO '94, section 3). The
product is a convolution over the integers by FFT, reduced modulo 2: sums stay below 2^20, far below the limit
of exact float64 integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ..entropy.conditioning import Bits

MAX_BITS: Final = 1 << 20


def seed_bits(n: int, length: int) -> int:
    """Number of random bits that define a Toeplitz matrix of `length` rows and n columns."""
    return n + length - 1


def toeplitz(key: Bits, seed: Bits, length: int) -> Bits:
    """T key over GF(2), with T[i, j] = seed[i - j + n - 1]; shapes (n,), (n + length - 1,) -> (length,).

    Raises ValueError when the shapes do not fit.
    """
    n = len(key)
    if not 0 < n <= MAX_BITS or not 0 < length <= n or len(seed) != seed_bits(n, length):
        raise ValueError(f"a {length} by {n} Toeplitz matrix cannot be made of {len(seed)} bits")
    # A cyclic convolution suffices: it wraps around below index n - 1, which is not read.
    size = 1 << (len(seed) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(seed, size) * np.fft.rfft(key, size), size)
    return (np.rint(product[n - 1 : n - 1 + length]).astype(np.int64) & 1).astype(np.uint8)
