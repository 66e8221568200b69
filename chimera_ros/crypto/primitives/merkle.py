"""Merkle trees over the leaves of a checkpoint, in the shape of RFC 6962, section 2.1.

    leaf = BLAKE3(0x00 || counter || blind || BLAKE3(associated data) || plaintext)
    node = BLAKE3(0x01 || left || right)

The blind, keyed BLAKE3 of the counter under the sender's blind key, hides a plaintext that could be guessed
from its leaf. The tree shape is separate from the hash, so that it can be tested against the RFC's vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from blake3 import blake3

from ..encoding import u64
from .suite import HASH_BYTES

BLIND_BYTES: Final = 32

Node = Callable[[bytes, bytes], bytes]


def blind(blind_key: bytes, counter: int) -> bytes:
    """The 32-byte blind of a leaf, which hides its content from anyone without `blind_key`."""
    return blake3(u64(counter), key=blind_key).digest()


def leaf(counter: int, blind: bytes, aad_hash: bytes, plaintext: bytes) -> bytes:
    """The 32-byte leaf of one packet; `aad_hash` is BLAKE3 of its associated data."""
    return blake3(b"".join((b"\x00", u64(counter), blind, aad_hash, plaintext))).digest()


def node(left: bytes, right: bytes) -> bytes:
    """An inner node."""
    return blake3(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes], node: Node = node) -> bytes:
    """The root over one leaf or more. Raises ValueError without leaves."""
    if not leaves:
        raise ValueError("a Merkle tree needs at least one leaf")
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level, node)
    return level[0]


def path(leaves: Sequence[bytes], index: int, node: Node = node) -> tuple[bytes, ...]:
    """The audit path of one leaf, bottom up. Raises ValueError for an index outside the tree."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"leaf {index} of a tree of {len(leaves)}")
    siblings: list[bytes] = []
    level = list(leaves)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        level = _parents(level, node)
        index >>= 1
    return tuple(siblings)


def root_of_path(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], node: Node = node
) -> bytes | None:
    """The root computed from a leaf and its audit path in a tree of `size` leaves.

    None unless the path has exactly the length for this index.
    """
    if not 0 <= index < size:
        return None
    value, last = leaf, size - 1
    steps = iter(path)
    for _ in range(size.bit_length() + 1):
        if last == 0:
            return None if next(steps, None) is not None else value
        if index & 1 or index != last:  # else it has no sibling and is promoted
            sibling = next(steps, None)
            if sibling is None or len(sibling) != HASH_BYTES:
                return None
            value = node(sibling, value) if index & 1 else node(value, sibling)
        index >>= 1
        last >>= 1
    return None


def _parents(level: Sequence[bytes], node: Node) -> list[bytes]:
    """The next level: pairs are hashed, a last node without sibling is promoted unchanged."""
    parents = [node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
    if len(level) & 1:
        parents.append(level[-1])
    return parents
