"""The state that operators see: its verdicts, its bounds, who came and who was evicted."""

import json

import pytest

from chimera_ros.crypto.evidence.ledgers import CheckpointCounts
from chimera_ros.crypto.member.roster_tracker import RosterTracker
from chimera_ros.crypto.member.security_state import DiagnosticLevel, EvictedMember, SecurityState
from chimera_ros.crypto.messages.announcement import EpochReason, Head, RosterEntry
from chimera_ros.crypto.trust.roles import Role


def head(epoch, names, reason=EpochReason.TIME, evictions=()):
    roster = tuple(
        RosterEntry(slot, name, Role.DRONE, print_of(name), bytes(16), bytes(32))
        for slot, name in enumerate(names)
    )
    return Head(
        "s", "CHIMERA-1", bytes(32), epoch, bytes(32), reason, bytes(32), bytes(32), evictions, 1, roster
    )


def print_of(name):
    return name.encode().ljust(32, b"\0")


@pytest.mark.parametrize(
    ("state", "level", "word"),
    [
        (SecurityState(ready=True, epoch=4, roster=("a", "b")), DiagnosticLevel.OK, "epoch 4, 2 members in"),
        (SecurityState(), DiagnosticLevel.WARN, "waits for the keys"),
        (
            SecurityState(ready=True, entropy={"qrng": "failed: repetition count"}),
            DiagnosticLevel.WARN,
            "without qrng",
        ),
        (
            SecurityState(ready=True, checkpoints=CheckpointCounts(mismatched=3)),
            DiagnosticLevel.ERROR,
            "3 packets contradict",
        ),
        (SecurityState(silent=True, ready=True), DiagnosticLevel.ERROR, "no crypto node"),
        (SecurityState(ready=True, barred=("d was evicted",)), DiagnosticLevel.ERROR, "d was evicted"),
        (
            SecurityState(ready=True, beat_age_s=12.2),
            DiagnosticLevel.WARN,
            "no crypto node is heard for 12 s",
        ),
        (
            SecurityState(ready=True, beat_age_s=12.2, crypto_active=True),
            DiagnosticLevel.OK,
            "security is on",
        ),
        (
            SecurityState(ready=True, beat_age_s=0.4, cautions=("c",)),
            DiagnosticLevel.WARN,
            "security is on; c",
        ),
        (SecurityState(degraded="no crypto node for 30 s"), DiagnosticLevel.ERROR, "DEGRADED"),
    ],
)
def test_the_worst_comes_first(state, level, word):
    assert state.verdict()[0] is level
    assert word in state.verdict()[1]
    json.dumps(state.to_status())


def test_everything_shown_is_bounded():
    many = tuple(f"drone_{number:04d}" for number in range(4000))
    state = SecurityState(
        roster=many,
        members=many,
        barred=tuple("v" * 5000 for _ in many),
        cautions=tuple("v" * 5000 for _ in many),
        evicted=tuple(EvictedMember(name, "x" * 5000) for name in many),
        degraded="y" * 5000,
        events=tuple("z" * 5000 for _ in range(100)),
        rejected={f"reason_{number}": 1 for number in range(500)},
        entropy={f"source_{number}": "w" * 5000 for number in range(50)},
    )
    assert sum(len(key) + len(value) for key, value in state.key_values()) < 32 * 1024
    assert len(json.dumps(state.to_status())) < 24 * 1024


def test_who_came_left_and_was_put_out():
    watch = RosterTracker()
    watch.installed(head(4, ("crypto", "d1", "d2", "d3"), EpochReason.JOIN))
    watch.installed(head(8, ("crypto", "d1", "d2"), EpochReason.EVICT, (print_of("d3"),)))
    watch.installed(head(4, ("crypto", "d1", "d2", "d3"), EpochReason.JOIN))  # late: no news
    watch.installed(head(12, ("crypto", "d1")))
    assert [(item.name, item.epoch) for item in watch.evicted] == [("d3", 8), ("d2", 12)]
    assert "evicted" in watch.evicted[0].why
    assert "no fresh key package" in watch.evicted[1].why
    watch.installed(head(16, ("crypto", "d1", "d2"), EpochReason.JOIN))
    assert [item.name for item in watch.evicted] == ["d3"]
    assert len(watch.events) == 4
    assert "d3 is out" in watch.events[1]
    for number in range(500):
        watch.installed(head(20 + number, (f"n{number}",)))
    assert len(watch.evicted) <= 64
    assert len(watch.events) <= 32


def test_more_put_out_than_are_kept_takes_nothing_from_those_who_go_now():
    watch = RosterTracker()
    everybody = tuple(f"n{number:03d}" for number in range(120))
    watch.installed(head(4, everybody, EpochReason.JOIN))
    evictions = ()
    for number, name in enumerate(everybody[20:]):
        evictions += (print_of(name),)
        rest = everybody[:20] + everybody[21 + number :]
        watch.installed(head(8 + 4 * number, rest, EpochReason.EVICT, evictions))
        assert watch.evicted[-1].name == name
        assert f"{name} is out: evicted" in watch.events[-1]
    watch.installed(head(1000, everybody[:10], EpochReason.LEAVE, evictions))  # ten others leave
    assert "n010 is out: left" in watch.events[-1]
    assert [item.name for item in watch.evicted[-10:]] == list(everybody[10:20])
    assert len(watch.evicted) <= 64
