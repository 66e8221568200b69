"""Parsers never raise anything but Rejected, and what is encoded comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.encoding import Reader, fields
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.messages.announcement import (
    EpochReason,
    Head,
    RosterEntry,
    SignedHead,
    encode_head,
    parse_announcement,
    parse_head,
    split_seeds,
)
from chimera_ros.crypto.messages.control import Beat, KeyPackage, KeyRequest, Ready, Switch, bitmap
from chimera_ros.crypto.messages.stop import Stop, StopLevel, StopReceipt
from chimera_ros.crypto.primitives import labels
from chimera_ros.crypto.primitives.suite import suite_named
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage

SWARM = "testswarm"
SUITE = suite_named("CHIMERA-1")
names = st.from_regex(r"[a-z0-9_]{1,48}", fullmatch=True)
hashes = st.binary(min_size=32, max_size=32)
u32s = st.integers(0, 2**32 - 1)
u64s = st.integers(0, 2**64 - 1)

PARSERS = {
    "head": parse_head,
    "proof": SignedHead.parse,
    "request": lambda data: KeyRequest.parse(data, SWARM, SUITE.name),
    "package": lambda data: KeyPackage.parse(data, SWARM, SUITE.name, SUITE.package_public_bytes),
    "ready": lambda data: Ready.parse(data, SWARM),
    "switch": lambda data: Switch.parse(data, SWARM),
    "beat": lambda data: Beat.parse(data, SWARM),
    "stop": lambda data: Stop.parse(data, SWARM),
    "receipt": lambda data: StopReceipt.parse(data, SWARM),
    "seeds": lambda data: split_seeds(data, 3, SUITE.sealed_seed_bytes),
    "announcement": lambda data: parse_announcement(
        ControlMessage(ControlKind.ANNOUNCEMENT, (data, data[:32], data, data[:4627])), SUITE
    ),
}


@st.composite
def heads(draw: st.DrawFn) -> Head:
    slots = sorted(draw(st.sets(st.integers(0, 65535), max_size=5)))
    who = draw(st.lists(names, min_size=len(slots), max_size=len(slots), unique=True))
    roster = tuple(
        RosterEntry(
            slot,
            name,
            draw(st.sampled_from(Role)),
            draw(hashes),
            draw(st.binary(min_size=16, max_size=16)),
            draw(hashes),
        )
        for slot, name in zip(slots, who, strict=True)
    )
    return Head(
        swarm=draw(names),
        suite=draw(st.sampled_from(["CHIMERA-1", "CHIMERA-1-CNSA"])),
        policy_hash=draw(hashes),
        epoch=draw(st.integers(1, 2**32 - 1)),
        issuer=draw(hashes),
        reason=draw(st.sampled_from(EpochReason)),
        challenge=draw(hashes),
        previous=draw(hashes),
        evictions=tuple(sorted(draw(st.sets(hashes, max_size=3)))),
        crl_number=draw(u64s),
        roster=roster,
    )


@given(heads())
def test_head_comes_back(head: Head) -> None:
    assert parse_head(encode_head(head)) == head


@given(heads(), heads())
def test_different_heads_have_different_bytes(one: Head, other: Head) -> None:
    assert (one == other) == (encode_head(one) == encode_head(other))


@given(hashes, u64s, hashes, u32s, hashes, st.sets(st.integers(0, 300), max_size=30))
def test_request_comes_back(
    issuer: bytes, sequence: int, challenge: bytes, epoch: int, transcript: bytes, have: set[int]
) -> None:
    request = KeyRequest(SWARM, SUITE.name, issuer, sequence, challenge, epoch, transcript, bitmap(have))
    back = KeyRequest.parse(request.encode(), SWARM, SUITE.name)
    assert back == request
    assert {slot for slot in range(310) if back.has(slot)} == have


@given(hashes, u64s, u64s, st.sampled_from(StopLevel), st.lists(names, max_size=4))
def test_stop_comes_back(
    operator: bytes, counter: int, sent: int, level: StopLevel, targets: list[str]
) -> None:
    stop = Stop(SWARM, operator, counter, sent, level, tuple(targets))
    assert Stop.parse(stop.encode(), SWARM) == stop


@given(u32s, hashes, hashes, u64s, u64s, st.booleans())
def test_beat_comes_back(
    epoch: int, transcript: bytes, issuer: bytes, sequence: int, sent: int, switched: bool
) -> None:
    beat = Beat(SWARM, epoch, transcript, issuer, sequence, sent, switched)
    assert Beat.parse(beat.encode(), SWARM) == beat


@given(u32s, hashes, hashes, st.integers(0, 3), st.lists(st.integers(0, 65535), max_size=9))
def test_ready_comes_back(epoch: int, transcript: bytes, who: bytes, flags: int, slots: list[int]) -> None:
    ready = Ready(SWARM, epoch, transcript, who, flags, tuple(slots))
    assert Ready.parse(ready.encode(), SWARM) == ready


@pytest.mark.parametrize("kind", PARSERS)
@given(data=st.binary(max_size=400))
def test_parsers_refuse_arbitrary_bytes_in_one_way(kind: str, data: bytes) -> None:
    with pytest.raises(Rejected):
        PARSERS[kind](data)


@given(heads(), st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_damaged_heads_never_raise_another_error(head: Head, at: int, value: int, cut: bool) -> None:
    raw = bytearray(encode_head(head))
    at %= len(raw)
    if cut:
        del raw[at:]
    else:
        raw[at] = value
    try:
        back = parse_head(bytes(raw))
    except Rejected:
        return
    assert encode_head(back) == bytes(raw), "two spellings of one head"


def test_reader_is_bounded() -> None:
    with pytest.raises(Rejected, match="at most 4"):
        Reader(b"\x00\x00\x00\x05hello").var(4)
    with pytest.raises(Rejected, match="ends early"):
        Reader(b"\xff\xff\xff\xff").var(2**32)
    with pytest.raises(Rejected, match="after the last"):
        Reader(b"x").end()


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_fields_are_unambiguous(one: list[bytes], other: list[bytes]) -> None:
    assert (fields(*one) == fields(*other)) == (one == other)


def test_labels_and_contexts_are_all_different() -> None:
    constants = {name: value for name, value in vars(labels).items() if isinstance(value, bytes)}
    kdf = [value for name, value in constants.items() if not name.startswith("SIGN_")]
    contexts = [value for name, value in constants.items() if name.startswith("SIGN_")]
    assert len(set(kdf)) == len(kdf)
    assert len(set(contexts)) == len(contexts) == len(labels.CONTEXTS)
    assert all(0 < len(context) < 256 and context.startswith(b"CHIMERA-1 ") for context in contexts)
