"""Merkle trees: the vectors of Certificate Transparency (RFC 6962), paths of every leaf, changed bytes."""

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.primitives import merkle

# The eight inputs and the roots of RFC 6962's reference implementation (merkle_tree_test of
# certificate-transparency); leaves and nodes are SHA-256 there.
INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def sha_node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def sha_leaves(count):
    return [hashlib.sha256(b"\x00" + bytes.fromhex(text)).digest() for text in INPUTS[:count]]


@pytest.mark.parametrize("count", range(1, 9))
def test_roots_of_rfc_6962(count):
    assert merkle.root(sha_leaves(count), sha_node).hex() == ROOTS[count - 1]


def test_audit_paths_of_rfc_6962():
    """The paths of the reference implementation: (leaf, tree size) and the path, from the bottom up."""
    leaves = sha_leaves(8)
    nodes = {
        "1": leaves[1],
        "23": sha_node(leaves[2], leaves[3]),
        "4567": sha_node(sha_node(leaves[4], leaves[5]), sha_node(leaves[6], leaves[7])),
    }
    assert merkle.path(leaves, 0, sha_node) == (nodes["1"], nodes["23"], nodes["4567"])
    assert merkle.path(leaves[:3], 2, sha_node) == (sha_node(leaves[0], leaves[1]),)
    assert merkle.path(leaves[:1], 0, sha_node) == ()
    assert merkle.path(leaves[:5], 4, sha_node) == (merkle.root(leaves[:4], sha_node),)


@given(st.integers(1, 256), st.data())
def test_every_path_leads_to_the_root_and_no_other_does(size, data):
    leaves = [blake3(bytes((i & 255, i >> 8))).digest() for i in range(size)]
    index = data.draw(st.integers(0, size - 1))
    root, path = merkle.root(leaves), merkle.path(leaves, index)
    assert merkle.root_of_path(leaves[index], index, size, path) == root
    assert merkle.root_of_path(leaves[index], index, size, (*path, bytes(32))) is None
    if path:
        assert merkle.root_of_path(leaves[index], index, size, path[:-1]) is None
        at = data.draw(st.integers(0, len(path) - 1))
        broken = list(path)
        broken[at] = bytes([broken[at][0] ^ 1]) + broken[at][1:]
        assert merkle.root_of_path(leaves[index], index, size, broken) != root
        other = (index + 1) % size
        assert merkle.root_of_path(leaves[index], other, size, path) != root
    assert merkle.root_of_path(leaves[index], size, size, path) is None


def test_leaf_and_blind_are_what_the_protocol_says():
    blind = blake3((7).to_bytes(8, "big"), key=bytes(range(32))).digest()
    assert merkle.blind(bytes(range(32)), 7) == blind
    expected = blake3(b"\x00" + (7).to_bytes(8, "big") + blind + bytes(32) + b"plain").digest()
    assert merkle.leaf(7, blind, bytes(32), b"plain") == expected


@given(st.binary(max_size=200), st.integers(0, 2**63), st.data())
def test_any_changed_byte_changes_the_leaf(plaintext, counter, data):
    key, aad = bytes(range(32)), blake3(b"aad").digest()
    good = merkle.leaf(counter, merkle.blind(key, counter), aad, plaintext)
    assert merkle.leaf(counter + 1, merkle.blind(key, counter), aad, plaintext) != good
    assert merkle.leaf(counter, merkle.blind(key, counter + 1), aad, plaintext) != good
    assert merkle.leaf(counter, merkle.blind(key, counter), blake3(b"other").digest(), plaintext) != good
    if plaintext:
        at = data.draw(st.integers(0, len(plaintext) - 1))
        changed = plaintext[:at] + bytes([plaintext[at] ^ 0x10]) + plaintext[at + 1 :]
        assert merkle.leaf(counter, merkle.blind(key, counter), aad, changed) != good


def test_a_tree_without_leaves_is_refused():
    with pytest.raises(ValueError, match="at least one leaf"):
        merkle.root([])
    with pytest.raises(ValueError, match="leaf 3"):
        merkle.path([bytes(32)], 3)
