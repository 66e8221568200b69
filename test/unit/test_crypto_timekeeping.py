"""Reckoned time: nobody who delays beats slows it down, and it follows a clock that was set right."""

from __future__ import annotations

import pytest

from chimera_ros.crypto.errors import ClockTrouble
from chimera_ros.crypto.member.message_clock import APART_S, BEAT_AGE_S, MessageClock

NS = 1_000_000_000
START_NS = 1_900_000_000 * NS
AHEAD_S = 0.2
HOUR_NS = 3600 * NS


def heard(keeper: MessageClock, sent_ns: int, now: float, wall_ns: int) -> bool:
    try:
        keeper.check_beat(sent_ns, now, wall_ns, AHEAD_S)
    except ClockTrouble:
        return False
    keeper.accept(sent_ns, now, wall_ns)
    return True


@pytest.mark.parametrize("pace", [0.5, 0.9, 0.99, 0.999])
def test_beats_that_are_played_ever_later_are_refused_at_two_seconds(pace: float) -> None:
    """Also by a member whose own clock the attacker has set to fit nothing."""
    keeper, lag_s = MessageClock(), 0.0
    assert heard(keeper, START_NS, 0.0, START_NS)
    for beat in range(1, 40_000):
        sent_s = beat * 0.3
        now = sent_s / pace
        if not heard(keeper, START_NS + int(sent_s * NS), now, START_NS + HOUR_NS):
            break
        lag_s = now - sent_s
    assert lag_s <= BEAT_AGE_S + 1e-4 * now + 1e-6


def test_quartzes_that_differ_are_followed_for_hours() -> None:
    keeper, rate = MessageClock(), 1.0 - 5e-5
    assert heard(keeper, START_NS, 0.0, START_NS)
    for beat in range(1, 20_000):
        now = beat * 0.3
        late_s = (0.0, 0.05, 0.15)[beat % 3]
        assert heard(keeper, START_NS + int(now * rate * NS), now + late_s, START_NS + HOUR_NS)
    assert abs((keeper.reckoned_ns(now) or 0) - START_NS - now * rate * NS) < 0.3 * NS


def test_the_clock_of_a_crypto_node_that_is_set_right_is_followed_and_one_that_is_set_wrong_is_not() -> None:
    keeper = MessageClock()
    wrong_ns = START_NS + HOUR_NS
    assert heard(keeper, wrong_ns, 0.0, wrong_ns), "everybody's clock is an hour ahead"
    assert not heard(keeper, START_NS + NS, 1.0, wrong_ns + NS), "nothing confirms the other one"
    assert heard(keeper, START_NS + NS, 1.0, START_NS + NS), "our own clock does"
    assert keeper.at(2.0, wrong_ns, 30.0) == START_NS + 2 * NS
    assert not heard(keeper, wrong_ns + 2 * NS, 2.0, START_NS + 2 * NS)


def test_the_wall_clock_counts_before_the_first_beat_and_after_a_long_silence() -> None:
    keeper = MessageClock()
    assert keeper.at(5.0, 77, 30.0) == 77
    assert heard(keeper, START_NS, 5.0, START_NS)
    assert keeper.at(35.0, 77, 30.0) == START_NS + 30 * NS
    assert keeper.at(35.1, 77, 30.0) == 77


def test_one_late_beat_is_no_wrong_clock() -> None:
    keeper = MessageClock()
    assert heard(keeper, START_NS, 1.5, START_NS + 3 * NS // 2)
    assert keeper.apart_s == 0.0
    assert heard(keeper, START_NS + 2 * NS, 2.0, START_NS + 2 * NS)
    assert keeper.apart_s == 0.0
    for beat in (3, 4):
        assert heard(keeper, START_NS + beat * NS, float(beat), START_NS + beat * NS + int(2 * APART_S * NS))
    assert keeper.apart_s == pytest.approx(2 * APART_S)


def test_an_own_beat_anchors_unless_the_clock_was_set() -> None:
    keeper = MessageClock()
    keeper.accept_own(START_NS, 0.0)
    keeper.accept_own(START_NS + HOUR_NS, 1.0)
    assert keeper.reckoned_ns(1.0) == START_NS + NS
    assert keeper.proven_ns == 0, "one's own word confirms nothing"
