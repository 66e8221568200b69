"""Rank of a crypto node, taken from its name; an epoch number modulo 4 is the rank of its issuer."""

from __future__ import annotations

import re
from typing import Final

RANKS: Final = 4
_RANKED: Final = re.compile(r".*_([0-3])")


def rank_of(name: str) -> int:
    """The rank at the end of a crypto node's name (crypto_0 to crypto_3); without one, 0."""
    match = _RANKED.fullmatch(name)
    return int(match[1]) if match else 0


def fits_rank(name: str, epoch: int) -> bool:
    """True if the crypto node of this name may announce this epoch."""
    return epoch % RANKS == rank_of(name)
