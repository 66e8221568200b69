"""Failover state of one crypto node: when it takes over, when it steps down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.key_server.failover import COLD_S, COLD_STAGGER_S, STAGGER_S, FailoverState
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.member.rank_watch import RankWatch
from chimera_ros.crypto.testing.swarm import MemoryKeystore
from chimera_ros.crypto.trust.rank import fits_rank, rank_of
from chimera_ros.crypto.trust.roles import Role

TAKEOVER_S = 1.0
NAMES = ("crypto_0", "crypto_1", "crypto_2", "crypto_3")
WALL_NS = 1_900_000_000_000_000_000


def duty(rank: int, now: float = 100.0) -> FailoverState:
    made = FailoverState(f"crypto_{rank}", rank, TAKEOVER_S)
    made.start(now)
    return made


def test_a_name_shows_its_rank_and_what_it_may_announce() -> None:
    names = (*NAMES, "crypto", "crypto_4", "crypto_12", "spare_3")
    assert [rank_of(name) for name in names] == [0, 1, 2, 3, 0, 0, 0, 3]
    assert fits_rank("crypto_1", 9)
    assert not fits_rank("crypto_1", 8)
    assert fits_rank("crypto", 8)
    assert not fits_rank("crypto", 9)


def test_a_key_server_takes_its_rank_from_its_name() -> None:
    keystore = MemoryKeystore()
    identity = keystore.enroll("crypto_2", Role.CRYPTO)
    assert KeyServer(identity, keystore.trust, MemoryStore()).rank == 2


def test_two_crypto_nodes_of_one_rank_are_told_once_unless_the_former_counts_no_more() -> None:
    good = {b"a": True}
    watch = RankWatch(lambda fingerprint, _: good[fingerprint])
    assert not watch.seen("crypto", b"a", WALL_NS)
    assert not watch.seen("crypto", b"a", WALL_NS)
    assert not watch.seen("crypto_1", b"b", WALL_NS)
    (alarm,) = watch.seen("crypto_0", b"c", WALL_NS)
    assert "crypto and crypto_0 both have rank 0" in alarm.text
    assert not watch.seen("crypto_0", b"c", WALL_NS)
    good[b"a"] = False
    assert not watch.seen("spare", b"d", WALL_NS)
    good[b"d"] = True
    assert watch.seen("crypto_0", b"c", WALL_NS)


def test_rank_0_begins_in_charge_and_the_others_wait_for_it() -> None:
    assert duty(0).active
    assert duty(0).due_at(NAMES) is None
    waits = [duty(rank).due_at(()) for rank in (1, 2, 3)]
    assert waits == [100.0 + COLD_S + COLD_STAGGER_S * rank for rank in (1, 2, 3)]


def test_a_request_of_a_senior_is_waited_for_only_while_nobody_is_in_charge() -> None:
    junior = duty(1)
    junior.on_request("crypto_0", WALL_NS, WALL_NS, 103.0)
    assert junior.due_at(()) == 103.0 + COLD_S + COLD_STAGGER_S
    junior.on_request("crypto_0", WALL_NS - 3_000_000_000, WALL_NS, 104.0)  # a recording
    junior.on_request("crypto_2", WALL_NS, WALL_NS, 104.0)  # a junior
    assert junior.due_at(()) == 103.0 + COLD_S + COLD_STAGGER_S
    junior.on_request("crypto_0", WALL_NS + 5_000_000_000, WALL_NS, 104.5)  # restarted: ahead of the clock
    assert junior.due_at(()) == 104.5 + COLD_S + COLD_STAGGER_S
    junior.on_beat("crypto_0", 4, 4, False, 105.0)
    junior.on_request("crypto_0", WALL_NS, WALL_NS, 105.9)
    assert junior.due_at(NAMES) == 105.0 + TAKEOVER_S


def test_standbys_take_over_one_after_the_other_the_lost_one_aside() -> None:
    due = {}
    for rank in (0, 2, 3):
        made = duty(rank)
        made.active = False
        made.on_beat("crypto_1", 5, 5, False, 110.0)
        due[rank] = made.due_at(NAMES)
    assert due == {
        0: 110.0 + TAKEOVER_S,
        2: 110.0 + TAKEOVER_S + STAGGER_S,
        3: 110.0 + TAKEOVER_S + 2 * STAGGER_S,
    }


@pytest.mark.parametrize(
    ("epoch", "own_epoch", "own_issue", "steps_down"),
    [(9, 8, True, True), (8, 8, False, True), (8, 8, True, False), (5, 8, True, False), (5, 8, False, False)],
)
def test_a_beat_of_a_higher_epoch_or_of_the_one_that_it_only_looks_after(
    epoch: int, own_epoch: int, own_issue: bool, steps_down: bool
) -> None:
    made = duty(0)
    assert made.on_beat("crypto_1", epoch, own_epoch, own_issue, 101.0) is steps_down
    assert made.active is not steps_down
    if steps_down:
        assert made.active_node == "crypto_1"
        assert made.due_at(NAMES) == 101.0 + TAKEOVER_S


def test_a_proof_of_an_own_or_lost_nodes_epoch_is_no_reason_to_wait() -> None:
    restarted = duty(0)
    assert not restarted.on_proof("crypto_0", 40, 0, False, 101.0)
    assert restarted.on_proof("crypto_1", 41, 0, False, 101.0)
    assert restarted.due_at(NAMES) == 101.0 + TAKEOVER_S
    assert restarted.due_at(NAMES, warm=False) == 101.0 + 3 * TAKEOVER_S
    restarted.take_over()
    assert not restarted.on_proof("crypto_1", 45, 0, False, 103.0), "it was waited for in vain"
    assert restarted.active
    assert restarted.seen_epoch == 45
    assert restarted.on_proof("crypto_1", 49, 48, True, 104.0), "it went above what we announced: it lives"
    assert restarted.due_at(NAMES) == 104.0 + 2 * TAKEOVER_S


def test_who_is_deposed_by_somebody_it_does_not_hear_waits_ever_longer() -> None:
    made, now = duty(0), 100.0
    waits = []
    for _ in range(6):
        made.on_head("crypto_1", 4 * int(now) + 1, 0, now)
        waits.append((made.due_at(NAMES) or 0.0) - now)
        now += 10.0
        made.take_over()
    assert waits == [TAKEOVER_S * factor for factor in (1, 2, 4, 8, 8, 8)]
    made.on_head("crypto_1", 4 * int(now) + 1, 0, now)
    made.on_beat("crypto_1", 4 * int(now) + 1, 0, False, now)
    assert made.due_at(NAMES) == now + TAKEOVER_S, "it hears it"


signs = st.lists(
    st.tuples(
        st.sampled_from(("beat", "head", "proof", "request", "take over")),
        st.integers(1, 3),
        st.integers(0, 60),
        st.integers(0, 60),
        st.booleans(),
    ),
    max_size=40,
)


@given(signs)
def test_it_is_in_charge_exactly_when_it_has_no_time_to_take_over(events: list) -> None:
    made, now = duty(0), 100.0
    for kind, rank, epoch, own, own_issue in events:
        now += 0.1
        before = made.active
        issuer = f"crypto_{rank}"
        if kind == "take over":
            made.take_over()
            continue
        if kind == "beat":
            down = made.on_beat(issuer, epoch, own, own_issue, now)
        elif kind == "head":
            down = made.on_head(issuer, epoch, own, now)
        elif kind == "proof":
            down = made.on_proof(issuer, epoch, own, own_issue, now)
        else:
            made.on_request(issuer, WALL_NS, WALL_NS, now)
            down = False
        assert made.active is (before and not down)
        assert (made.due_at(NAMES) is None) is made.active
        if down:
            assert epoch >= own, "nobody steps down for a lower epoch"
