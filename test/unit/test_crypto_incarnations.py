"""Which process speaks for a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.errors import Rejected, RejectReason
from chimera_ros.crypto.key_server.incarnations import NEVER, Incarnations, OldChallenge
from chimera_ros.crypto.messages.announcement import RosterEntry
from chimera_ros.crypto.trust.roles import Role

NAME = "drone_01"
RESTART_S = 10.0


def roster(incarnation: bytes) -> list[RosterEntry]:
    return [RosterEntry(0, NAME, Role.DRONE, bytes(32), incarnation, bytes(32))]


def offer(known: Incarnations, incarnation: bytes, asked_at: float, now: float) -> RejectReason | None:
    try:
        known.is_restart(NAME, incarnation, asked_at, now, RESTART_S)
    except Rejected as refusal:
        return refusal.reason
    known.accept(NAME, incarnation, now)
    return None


def test_a_restart_answers_a_challenge_that_is_younger_than_what_we_know() -> None:
    known = Incarnations()
    assert offer(known, b"a", asked_at=1.0, now=5.0) is None
    with pytest.raises(OldChallenge) as refusal:
        known.is_restart(NAME, b"b", 5.0, 20.0, RESTART_S)
    assert refusal.value.since == 5.0
    assert offer(known, b"b", asked_at=NEVER, now=20.0) is RejectReason.CHALLENGE, "another node's challenge"
    assert offer(known, b"a", asked_at=NEVER, now=20.0) is None, "no restart"
    assert offer(known, b"b", asked_at=5.1, now=20.0) is None
    assert offer(known, b"a", asked_at=19.0, now=21.0) is RejectReason.STALE
    assert offer(known, b"c", asked_at=21.0, now=29.0) is RejectReason.TOO_SOON
    assert offer(known, b"c", asked_at=20.0, now=31.0) is RejectReason.CHALLENGE
    assert offer(known, b"c", asked_at=30.0, now=31.0) is None


def test_a_proven_roster_fills_gaps_and_the_newest_is_right() -> None:
    known = Incarnations()
    known.note_roster(roster(b"a"), 5.0, newest=False)
    assert offer(known, b"b", asked_at=5.0, now=6.0) is RejectReason.CHALLENGE
    assert offer(known, b"b", asked_at=5.5, now=6.0) is None
    known.note_roster(roster(b"c"), 7.0, newest=False)
    assert offer(known, b"b", asked_at=NEVER, now=8.0) is None, "it may be old"
    known.note_roster(roster(b"c"), 9.0, newest=True)
    assert offer(known, b"c", asked_at=NEVER, now=10.0) is None
    assert offer(known, b"b", asked_at=NEVER, now=10.0) is RejectReason.CHALLENGE


def test_whoever_is_in_elsewhere_may_come_back_though_it_was_replaced_here() -> None:
    known = Incarnations()
    offer(known, b"a", 0.0, 1.0)
    offer(known, b"b", 2.0, 3.0)
    assert offer(known, b"a", 4.0, 20.0) is RejectReason.STALE
    known.note_roster(roster(b"a"), 21.0, newest=True)
    assert offer(known, b"a", NEVER, 22.0) is None
    assert offer(known, b"b", 21.5, 22.0) is None, "nobody was retired by the roster"


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.floats(0.0, 60.0), st.floats(0.0, 5.0)), max_size=30
    )
)
def test_an_ended_process_never_replaces_a_living_one(offers: list[tuple[bytes, float, float]]) -> None:
    """What the dead have signed answers challenges made before the living one was heard."""
    known = Incarnations()
    assert offer(known, b"living", asked_at=0.0, now=60.0) is None
    now = 60.0
    for incarnation, asked_at, later_s in offers:
        now += later_s
        assert offer(known, incarnation, asked_at, now) is RejectReason.CHALLENGE
    assert offer(known, b"living", NEVER, now) is None
