"""Rank of a crypto node, read from its name. Epoch numbers modulo 4 are the rank of their issuer."""

from __future__ import annotations

import re
from typing import Final

RANKS: Final = 4
_RANKED: Final = re.compile(r".*_([0-3])")


def rank_of(name: str) -> int:
    """The rank that a crypto node's name ends in (crypto_0 to crypto_3); one that shows none has rank 0."""
    match = _RANKED.fullmatch(name)
    return int(match[1]) if match else 0


def fits_rank(name: str, epoch: int) -> bool:
    """May the crypto node of this name announce this epoch?"""
    return epoch % RANKS == rank_of(name)
