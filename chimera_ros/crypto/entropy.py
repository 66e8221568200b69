"""Drawing an epoch's seed: SHA3-512 over length-prefixed inputs, operating-system entropy always among them.

Hardware, QRNG and QKD inputs are mixed in where the caller has them; an empty input is a valid one, and no
input can weaken the others.
"""

from __future__ import annotations

import hashlib

from . import labels
from .encoding import fields

OS_BYTES = 64


def draw_seed(system: bytes, hardware: bytes = b"", qrng: bytes = b"", qkd: bytes = b"") -> bytes:
    """64 bytes of seed. `system` is 64 bytes of fresh operating-system entropy, fewer raise ValueError."""
    if len(system) < OS_BYTES:
        raise ValueError(f"a seed needs {OS_BYTES} bytes of system entropy, got {len(system)}")
    return hashlib.sha3_512(fields(labels.SEED_DRAW, system, hardware, qrng, qkd)).digest()
