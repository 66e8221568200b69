"""Continuous health tests of NIST SP 800-90B, section 4.4, and the start-up test of section 4.3.

The cut-offs are computed from the assessed min-entropy and the false-positive probability. Raw samples are
tested, before any conditioning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint8]

START_UP_SAMPLES: Final = 1024  # section 4.3, item 10


@dataclass(frozen=True, slots=True)
class NoiseSource:
    """Noise source with samples of `bits` bits (1 to 8) and an assessed `min_entropy` per sample, bits.

    `alpha_log2`: base-2 logarithm of the false-positive probability of each test.
    Raises ValueError for values out of range.
    """

    bits: int
    min_entropy: float
    alpha_log2: int = -20

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise ValueError(f"samples of {self.bits} bits; allowed are 1 to 8")
        if not 0.0 < self.min_entropy <= self.bits:
            raise ValueError(f"{self.min_entropy} bits of min-entropy in samples of {self.bits} bits")
        if not -40 <= self.alpha_log2 <= -20:
            raise ValueError(f"false alarms 2^{self.alpha_log2}; SP 800-90B recommends 2^-40 to 2^-20")

    @property
    def window(self) -> int:
        """Window W of the adaptive proportion test: 1024 samples for bits, else 512."""
        return 1024 if self.bits == 1 else 512

    @property
    def repetition_cutoff(self) -> int:
        """Section 4.4.1: 1 + ceil(-log2(alpha) / H)."""
        return 1 + math.ceil(-self.alpha_log2 / self.min_entropy)

    @property
    def proportion_cutoff(self) -> int:
        """Section 4.4.2: 1 + critbinom(W, 2^-H, 1 - alpha), at most W."""
        return min(1 + _quantile(self.window, 2.0**-self.min_entropy, 2.0**self.alpha_log2), self.window)


@cache
def _quantile(trials: int, probability: float, tail: float) -> int:
    """The smallest c with P(X > c) <= tail for X ~ Binomial(trials, probability)."""
    log_p, log_q = math.log(probability), math.log1p(-probability)
    above = 0.0
    for count in range(trials, 0, -1):
        above += math.exp(
            math.lgamma(trials + 1)
            - math.lgamma(count + 1)
            - math.lgamma(trials - count + 1)
            + count * log_p
            + (trials - count) * log_q
        )
        if above > tail:
            return count
    return 0


class HealthTest:
    """Repetition count and adaptive proportion tests over one source's samples, across calls."""

    def __init__(self, noise: NoiseSource) -> None:
        self.noise = noise
        self._repetition_cutoff = noise.repetition_cutoff
        self._proportion_cutoff = noise.proportion_cutoff
        self.reset()

    def reset(self) -> None:
        """Clears all state; the next samples are start-up samples again."""
        self.tested = 0
        self._last: int | None = None
        self._run = 0
        self._window = np.empty(0, dtype=np.uint8)

    @property
    def started(self) -> bool:
        """True after the start-up test; earlier samples must not be used."""
        return self.tested >= START_UP_SAMPLES

    def feed(self, samples: Samples) -> str | None:
        """Tests samples in order: None, or the failure as a phrase. After a failure call `reset`."""
        if len(samples) == 0:
            return None
        self.tested += len(samples)
        return self._repetition(samples) or self._proportion(samples)

    def _repetition(self, samples: Samples) -> str | None:
        edges = np.flatnonzero(np.diff(samples)) + 1
        starts = np.concatenate(([0], edges))
        runs = np.diff(np.concatenate((starts, [len(samples)])))
        if self._last == int(samples[0]):
            runs[0] += self._run
        self._last, self._run = int(samples[-1]), int(runs[-1])
        longest = int(runs.max())
        if longest >= self._repetition_cutoff:
            return f"repetition count: {longest} equal samples in a row, cut-off {self._repetition_cutoff}"
        return None

    def _proportion(self, samples: Samples) -> str | None:
        pending = np.concatenate((self._window, samples))
        size = self.noise.window
        whole = len(pending) // size * size
        self._window = pending[whole:].copy()
        windows = pending[:whole].reshape(-1, size)
        counts = (windows == windows[:, :1]).sum(axis=1)
        most = int(counts.max(initial=0))
        if most >= self._proportion_cutoff:
            return (
                f"adaptive proportion: a value {most} times in {size} samples, "
                f"cut-off {self._proportion_cutoff}"
            )
        return None

    def status(self) -> dict[str, Any]:
        """For reports."""
        return {
            "samples_tested": self.tested,
            "repetition_cutoff": self._repetition_cutoff,
            "proportion_cutoff": self._proportion_cutoff,
            "window": self.noise.window,
        }
