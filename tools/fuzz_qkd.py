"""Messages of key distribution, for the fuzzer: each has one spelling, and junk is refused, never raised."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any, Final

from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.qkd import messages
from chimera_ros.crypto.qkd.line import Line, born, transmit
from chimera_ros.crypto.qkd.messages import Kind, kind_of
from chimera_ros.crypto.qkd.session import Alice, Bob, SessionConfig
from chimera_ros.crypto.roles import Role
from chimera_ros.crypto.testing import MemoryKeystore

_CLASSES: Final[dict[Kind, Any]] = {
    Kind.HELLO: messages.Hello,
    Kind.PHOTONS: messages.Photons,
    Kind.BASES: messages.Bases,
    Kind.SIFTED: messages.Sifted,
    Kind.QUESTIONS: messages.Questions,
    Kind.PARITIES: messages.Parities,
    Kind.FINISH: messages.Finish,
    Kind.HASHES: messages.Hashes,
    Kind.CONFIRM: messages.Confirm,
    Kind.DONE: messages.Done,
    Kind.ABORT: messages.Abort,
}


def read(data: bytes) -> bytes | None:
    """The message read and written again; None when it is refused."""
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
    said: dict[Kind, bytes] = {}
    for photons, line in ((8192, Line(0.0)), (1024, Line(0.5))):
        config = SessionConfig(photons)
        alice = Alice(config, crypto, leader.member, random)
        bob = Bob(config, leader, crypto.member, random)
        message: bytes | None = bob.hello()
        while message is not None:
            answer = alice.handle(message)
            for data in (message, answer):
                said.setdefault(kind_of(data), data)
            if kind_of(answer) is Kind.PHOTONS:
                sent = bob.photons(answer)
                assert sent is not None
                message = bob.measured(transmit(*sent, bob.bases, line, born, random))
            else:
                message = bob.handle(answer)
    return list(said.values())
