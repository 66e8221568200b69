"""Fuzz targets of key distribution: messages have one encoding, and sessions reject malformed ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, Final

from fuzz_fixture import Bug, accept_all_signatures

from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.qkd import messages
from chimera_ros.crypto.qkd.messages import Kind, kind_of, session_of
from chimera_ros.crypto.qkd.quantum_channel import QuantumChannel, born_rule, transmit
from chimera_ros.crypto.qkd.session import Alice, Bob, QkdConfig
from chimera_ros.crypto.testing.swarm import MemoryKeystore
from chimera_ros.crypto.trust.roles import Role

_CLASSES: Final[dict[Kind, Any]] = {
    Kind.HELLO: messages.Hello,
    Kind.PHOTONS: messages.Photons,
    Kind.BASES: messages.Bases,
    Kind.SIFTED: messages.Sifted,
    Kind.PARITY_REQUEST: messages.ParityRequest,
    Kind.PARITIES: messages.Parities,
    Kind.FINISH: messages.Finish,
    Kind.HASHES: messages.Hashes,
    Kind.CONFIRM: messages.Confirm,
    Kind.DONE: messages.Done,
    Kind.ABORT: messages.Abort,
}


def read(data: bytes) -> bytes | None:
    """The message, decoded and encoded again; None if it is rejected."""
    try:
        again: bytes = _CLASSES[kind_of(data)].parse(data).encode()
    except Rejected:
        return None
    return again


@cache
def corpus() -> list[bytes]:
    """A message of every kind, from a session that succeeds and one that is aborted."""
    keys = MemoryKeystore()
    crypto, leader = keys.enroll("crypto_0", Role.CRYPTO), keys.enroll("leader_0", Role.LEADER)
    random = Random(1).randbytes
    by_kind: dict[Kind, bytes] = {}
    for photons, line in ((8192, QuantumChannel(0.0)), (1024, QuantumChannel(0.5))):
        config = QkdConfig(photons)
        alice = Alice(config, crypto, leader.member, random)
        bob = Bob(config, leader, crypto.member, random)
        message: bytes | None = bob.hello()
        while message is not None:
            answer = alice.handle(message)
            for data in (message, answer):
                by_kind.setdefault(kind_of(data), data)
            if kind_of(answer) is Kind.PHOTONS:
                sent = bob.photons(answer)
                assert sent is not None
                message = bob.measured(transmit(*sent, bob.bases, line, born_rule, random))
            else:
                message = bob.handle(answer)
    return list(by_kind.values())


# Endpoints: any message of the peer, or of an impostor, at every stage ----------


@dataclass(frozen=True, slots=True)
class _Stage:
    """An endpoint of a session before it receives `message`."""

    end: Alice | Bob
    message: bytes


def _copy(end: Alice | Bob) -> Alice | Bob:
    shared: dict[int, Any] = {id(item): item for item in (end._identity, end._peer, end._random, end.config)}
    shared[id(end._transcript)] = end._transcript.copy()
    return copy.deepcopy(end, shared)


@cache
def _stages() -> list[_Stage]:
    """Both endpoints of a successful session before every message; all signatures verify."""
    with accept_all_signatures():
        keys = MemoryKeystore()
        crypto, leader = keys.enroll("crypto_0", Role.CRYPTO), keys.enroll("leader_0", Role.LEADER)
        config = QkdConfig(8192)
        alice = Alice(config, crypto, leader.member, Random(1).randbytes)
        bob = Bob(config, leader, crypto.member, Random(2).randbytes)
        found: list[_Stage] = []
        message: bytes | None = bob.hello()
        while message is not None:
            found.append(_Stage(_copy(alice), message))
            answer = alice.handle(message)
            found.append(_Stage(_copy(bob), answer))
            if kind_of(answer) is Kind.PHOTONS:
                sent = bob.photons(answer)
                assert sent is not None
                message = bob.measured(
                    transmit(*sent, bob.bases, QuantumChannel(0.005), born_rule, Random(3).randbytes)
                )
            else:
                message = bob.handle(answer)
        assert alice.outcome is not None
        assert alice.outcome.secret is not None
    return found


def session(data: bytes) -> None:
    """A message for Alice or Bob; the first byte is the stage."""
    if not data:
        return
    stage = _stages()[data[0] % len(_stages())]
    with accept_all_signatures():
        end = _copy(stage.end)
        # Bob ignores messages of another session; before he has its identifier, by the nonce of his hello.
        unnamed = isinstance(end, Bob) and not end._expected and data[1:2] != bytes([Kind.ABORT])
        own = end._nonce if isinstance(end, Bob) and unnamed else end._session
        if isinstance(end, Alice):
            answer: bytes | None = end.handle(data[1:])
            if end.handle(data[1:]) != answer:
                raise Bug("a repeated message gets another answer")
        elif not end._expected:
            photons = end.photons(data[1:])
            answer = None if photons is None else end.measured(end.bases)
        else:
            answer = end.handle(data[1:])
    if answer is not None:
        kind_of(answer)
    elif end.outcome is None and session_of(data[1:]) == own:
        raise Bug("a session neither continues nor ends")
    secret = None if end.outcome is None else end.outcome.secret
    if secret is not None and kind_of(data[1:]) is not kind_of(stage.message):
        raise Bug("a key was released before the end of the session")


def session_corpus() -> list[bytes]:
    """The genuine message of every stage."""
    return [bytes([index]) + stage.message for index, stage in enumerate(_stages())]
