"""Finite-key length of a BB84 session.

M. Tomamichel, C. C. W. Lim, N. Gisin, R. Renner, "Tight finite-key analysis for quantum cryptography", Nature
Communications 3, 634 (2012): a key of

    l <= n (1 - h(Q + mu)) - leak - log2(2 / (eps_sec^2 eps_cor)),
    mu = sqrt((n + k) / (n k) * (k + 1) / k * ln(4 / eps_sec))

bits is eps_sec-secret and eps_cor-correct against any attack, for ideal single photons (preparation quality q
= 1), where n bits of one basis are the key, the k bits of the other are the sample, Q is the tolerated error
rate, leak is what reconciliation discloses, and a hash of log2(1/eps_cor) bits verifies it. The 4: the sample
fails with probability (eps_sec/4)^2 (Serfling), so the min-entropy is smoothed by eps_sec/4; that costs twice
as much, eps_sec/2, because secrecy is measured against the eavesdropper's actual state; the other eps_sec/2
is the hash's.

Two differences to the paper, both conservative:

* Its Q and leak are fixed beforehand. Here the session's own (both rounded up to steps) select one of
  `Security.outcomes` pairs; each pair is a session of the paper that aborts in all other cases, so their
  failure probabilities add up: each gets eps_sec / outcomes.
* The number of photons is fixed and all of them are used. Stopping as soon as enough have been sifted, as the
  paper does, permits sifting attacks (Pfister, Luetkenhaus, Wehner, Coles, New J. Phys. 18, 053001,
  2016).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ABORT_RATE = 0.11  # the asymptotic limit of BB84 with one-way processing: h(Q) = 1/2


@dataclass(frozen=True, slots=True)
class Security:
    """secrecy: eps_sec, of one session. correctness_bits: of the verification hash; eps_cor = 2^-this."""

    secrecy: float = 1e-10
    correctness_bits: int = 64
    rate_step: float = 0.005
    leak_step: int = 64
    leak_limit: int = 8192

    def __post_init__(self) -> None:
        if not 0.0 < self.secrecy < 1e-3:
            raise ValueError(f"secrecy {self.secrecy}; allowed are above 0 and below 0.001")
        if self.correctness_bits not in range(32, 129, 8):
            raise ValueError(f"a hash of {self.correctness_bits} bits; allowed are 32 to 128, whole bytes")

    @property
    def outcomes(self) -> int:
        """Number of pairs of error rate and leak that are distinguished."""
        rates = 1 + math.ceil(ABORT_RATE / self.rate_step)  # one more for an error rate of zero
        return rates * math.ceil(self.leak_limit / self.leak_step)


def entropy(probability: float) -> float:
    """Binary entropy h, bits."""
    if probability <= 0.0 or probability >= 1.0:
        return 0.0
    other = 1.0 - probability
    return -probability * math.log2(probability) - other * math.log2(other)


def deviation(n: int, k: int, secrecy: float) -> float:
    """mu: bound on the difference of the error rates of the key's n bits and the sample's k bits."""
    return math.sqrt((n + k) / (n * k) * (k + 1) / k * math.log(4.0 / secrecy))


def secret_bits(n: int, k: int, errors: int, leak: int, security: Security) -> int:
    """Length of the key, bits; 0 when there is none.

    Args:
        n: bits of the raw key. k: bits of the sample, with `errors` errors.
        leak: bits about the key that crossed the channel in reconciliation, in both directions.
    """
    if n <= 0 or k <= 0 or errors > ABORT_RATE * k or leak > security.leak_limit:
        return 0
    rate = math.ceil(errors / k / security.rate_step) * security.rate_step
    leak_bound = math.ceil(leak / security.leak_step) * security.leak_step
    secrecy = security.secrecy / security.outcomes
    worst = rate + deviation(n, k, secrecy)
    if worst >= 0.5:
        return 0
    fixed = 1.0 - 2.0 * math.log2(secrecy) + security.correctness_bits
    return max(0, math.floor(n * (1.0 - entropy(worst)) - leak_bound - fixed))
