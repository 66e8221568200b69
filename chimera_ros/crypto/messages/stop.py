"""Operator stop and its acknowledgement: signed, without epoch keys; each drone stores the last counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, cast

from ..effects import StopLevelName
from ..encoding import Reader, malformed, text, u32, u64
from ..errors import ClockTrouble
from ..primitives.suite import HASH_BYTES
from ..trust.identity import MemberIdentity
from ..wire import ControlKind, ControlMessage
from .body import opening, read_opening, signed

MAX_TARGETS: Final = 1024


class StopLevel(IntEnum):
    """Level of a stop; the names in lower case are the values of StopOrder.level."""

    HOLD = 1
    LAND = 2
    KILL = 3

    @property
    def word(self) -> StopLevelName:
        return cast(StopLevelName, self.name.lower())

    @classmethod
    def from_word(cls, word: str) -> StopLevel:
        """The level of this name. Raises ValueError, which names the allowed levels."""
        try:
            return cls[word.upper()]
        except KeyError:
            raise ValueError(f"{word!r} is no stop level; use hold, land or kill") from None


@dataclass(frozen=True, slots=True)
class Stop:
    """An operator's stop. `targets` are drones, none for all; `sent_ns` is ns since the Unix epoch."""

    swarm: str
    operator: bytes  # fingerprint
    counter: int
    sent_ns: int
    level: StopLevel
    targets: tuple[str, ...]

    def encode(self) -> bytes:
        return b"".join(
            (
                opening(self.swarm),
                self.operator,
                u64(self.counter),
                u64(self.sent_ns),
                bytes((self.level,)),
                u32(len(self.targets)),
                *(text(name) for name in self.targets),
            )
        )

    @classmethod
    def parse(cls, data: bytes, swarm: str) -> Stop:
        reader = read_opening(data, swarm)
        operator = reader.raw(HASH_BYTES)
        counter, sent_ns = reader.u64(), reader.u64()
        level = _level(reader)
        targets = tuple(reader.name() for _ in range(reader.count(MAX_TARGETS)))
        reader.end()
        return cls(swarm, operator, counter, sent_ns, level, targets)


def _level(reader: Reader) -> StopLevel:
    try:
        return StopLevel(reader.u8())
    except ValueError:
        raise malformed("unknown stop level") from None


@dataclass(frozen=True, slots=True)
class StopReceipt:
    """A drone's acknowledgement of the stop with `counter` of `operator` (a fingerprint)."""

    swarm: str
    operator: bytes
    counter: int
    drone: bytes  # fingerprint
    sent_ns: int

    def encode(self) -> bytes:
        return opening(self.swarm) + self.operator + u64(self.counter) + self.drone + u64(self.sent_ns)

    @classmethod
    def parse(cls, data: bytes, swarm: str) -> StopReceipt:
        reader = read_opening(data, swarm)
        found = cls(swarm, reader.raw(HASH_BYTES), reader.u64(), reader.raw(HASH_BYTES), reader.u64())
        reader.end()
        return found


def make_stop(
    identity: MemberIdentity, counter: int, level: str, targets: Sequence[str], wall_ns: int
) -> ControlMessage:
    """A signed stop. Raises ValueError for an unknown level or too many targets."""
    if len(targets) > MAX_TARGETS:
        raise ValueError(f"{len(targets)} targets, at most {MAX_TARGETS}; leave them out to stop every drone")
    stop = Stop(
        identity.swarm,
        identity.fingerprint,
        counter,
        wall_ns,
        StopLevel.from_word(level),
        tuple(sorted(set(targets))),
    )
    return signed(ControlKind.STOP, stop.encode(), identity)


def counter_of(message: ControlMessage) -> int:
    """Counter of a stop sent from this process, by which its receipts are matched."""
    reader = Reader(message.parts[0])
    reader.u8()
    reader.name()
    reader.raw(HASH_BYTES)
    return reader.u64()


def check_age(sent_ns: int, wall_ns: int, life_s: float, ahead_s: float) -> None:
    """Raises ClockTrouble, a Rejected(AGE), if `sent_ns` is too old or in the future."""
    age_s = (wall_ns - sent_ns) * 1e-9
    if age_s > life_s or -age_s > ahead_s:
        raise ClockTrouble(-age_s)
