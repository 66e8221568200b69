"""A swarm that loses its crypto nodes for good: degraded after 30 s, normal when one returns."""

from __future__ import annotations

import pytest

from chimera_ros.crypto.effects import Effect, SecurityAlarm
from chimera_ros.crypto.errors import NotReady, Rejected, RejectReason
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret
from chimera_ros.crypto.member.fallback import HELLO_S
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.messages.control import Beat
from chimera_ros.crypto.testing.swarm import WALL_START_NS, LinkConditions, Swarm
from chimera_ros.crypto.wire import ControlKind, ControlMessage

TYPE = "T"
STORM = LinkConditions(loss=0.2, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05)
BEATS_LOST_S = 6.0  # twenty beats: with 20 % loss all of them get lost once in 10^14 times


def degraded(swarm: Swarm) -> set[str]:
    """Processes in fallback."""
    return {group for group, host in swarm.hosts.items() if host.degraded(swarm.wire.wall_ns)}


def hellos(swarm: Swarm) -> list[tuple[float, str]]:
    """When which process sent one."""
    return [(at, node) for at, node, m in swarm.wire.sent if m.kind is ControlKind.FALLBACK_HELLO]


def heard(swarm: Swarm, sender: str, channel: str) -> dict[str, object]:
    """What every other process makes of one message."""
    wire = swarm.wire
    envelope = swarm.host_of(sender).seal(channel, TYPE, b"x", wire.wall_ns, sender)
    outcome: dict[str, object] = {}
    for group, host in swarm.hosts.items():
        if sender in swarm.groups[group]:
            continue
        try:
            outcome[group] = host.open(channel, TYPE, envelope, wire.wall_ns).epoch
        except Rejected as refusal:
            outcome[group] = refusal.reason
    return outcome


@pytest.mark.parametrize("link", [None, STORM], ids=["calm", "storm"])
def test_a_swarm_without_crypto_nodes_speaks_until_one_returns(link: LinkConditions | None) -> None:
    swarm = Swarm(drones=4, shards=2, link=link)
    swarm.fallback = FallbackSecret(WALL_START_NS, bytes(64))
    wire = swarm.wire
    swarm.join(60.0)
    wire.run(2.0)
    swarm.kill("crypto")
    wire.run(25.0)
    assert not degraded(swarm)
    assert set(heard(swarm, "drone_01", "drone_01/telemetry").values()) == {swarm.epochs()["leader"]}
    wire.run_until(lambda: degraded(swarm) == set(swarm.hosts), 8.0)
    wire.run(6.0)
    alarms = [alarm.text for alarm in wire.of(SecurityAlarm) if "DEGRADED" in alarm.text]
    assert len(alarms) == len(swarm.hosts)
    for _ in range(30):  # seconds: a storm takes hellos and certificates, too
        telemetry = set(heard(swarm, "drone_01", "drone_01/telemetry").values())
        commands = heard(swarm, "leader", "leader/command")
        if telemetry == {0} == set(commands.values()):
            break
        wire.run(1.0)
    assert telemetry == {0}
    assert commands == {"shard_0": 0, "shard_1": 0}
    with pytest.raises(NotReady):
        swarm.hosts["leader"].seal("leader/trajectory", TYPE, b"x", wire.wall_ns, "leader")
    # One a second, and one for each member that is heard for the first time.
    most = (wire.now - hellos(swarm)[0][0]) / HELLO_S + len(swarm.member_host) + 1
    assert len(hellos(swarm)) < most * len(swarm.member_host), "they are paced"
    recorded = swarm.hosts["shard_0"].seal("drone_01/telemetry", TYPE, b"y", wire.wall_ns, "drone_01")

    swarm.start_server("crypto")
    epoch = swarm.epochs()["leader"] or 0
    wire.run_until(lambda: swarm.together(above=epoch), 60.0)
    # An announcement is no sign of life, a beat is: until one arrives, a process stays in fallback.
    wire.run_until(lambda: not degraded(swarm), BEATS_LOST_S)
    assert set(heard(swarm, "drone_01", "drone_01/telemetry").values()) == {swarm.epochs()["leader"]}
    with pytest.raises(Rejected) as refusal:
        swarm.hosts["leader"].open("drone_01/telemetry", TYPE, recorded, wire.wall_ns)
    assert refusal.value.reason is RejectReason.FALLBACK
    before = hellos(swarm)
    wire.run(5.0)
    assert hellos(swarm) == before


@pytest.mark.parametrize("seed", range(8))
def test_fallback_ends_in_each_process_with_the_first_beat_of_its_epoch(seed: int) -> None:
    """It sends no hello afterwards, whatever the others do; before, it says hello."""
    swarm = Swarm(drones=4, shards=3, seed=seed, link=STORM)
    swarm.fallback = FallbackSecret(WALL_START_NS, bytes(64))
    wire = swarm.wire
    swarm.join(60.0)
    swarm.kill("crypto")
    wire.run_until(lambda: degraded(swarm) == set(swarm.hosts), 40.0)
    ended_at: dict[str, float] = {}
    for group, host in swarm.hosts.items():

        def handle(
            message: ControlMessage, now: float, wall_ns: int, group: str = group, host: SecureHost = host
        ) -> list[Effect]:
            before = host.degraded(wall_ns)
            effects = SecureHost.handle(host, message, now, wall_ns)
            if message.kind is ControlKind.BEAT:
                beat = Beat.parse(message.parts[0], swarm.trust.swarm)
                ours = beat.transcript_hash == host.context.newest_installed().transcript_hash
                assert host.degraded(wall_ns) == (before and not ours)
            else:
                assert host.degraded(wall_ns) == before
            if before and not host.degraded(wall_ns):
                ended_at[group] = now
            return effects

        host.handle = handle  # type: ignore[method-assign]
    epoch = swarm.epochs()["leader"] or 0
    swarm.start_server("crypto")
    wire.run_until(lambda: swarm.together(above=epoch), 60.0)
    wire.run_until(lambda: not degraded(swarm), BEATS_LOST_S)
    wire.run(5.0)
    assert ended_at.keys() == swarm.hosts.keys()
    assert not [(at, node) for at, node in hellos(swarm) if at > ended_at[node]]


def test_without_a_secret_nothing_is_sent() -> None:
    swarm = Swarm(drones=2, shards=1)
    swarm.join()
    swarm.kill("crypto")
    swarm.wire.run(35.0)
    assert not degraded(swarm)
    with pytest.raises(NotReady, match="the crypto node is silent"):
        swarm.hosts["shard_0"].seal("drone_01/telemetry", TYPE, b"x", swarm.wire.wall_ns, "drone_01")


def test_an_expired_secret_is_said_once_and_not_used() -> None:
    swarm = Swarm(drones=2, shards=1)
    swarm.fallback = FallbackSecret(WALL_START_NS - 25 * 3600 * 1_000_000_000, bytes(64))
    swarm.join()
    swarm.kill("crypto")
    swarm.wire.run(40.0)
    assert not degraded(swarm)
    texts = [alarm.text for alarm in swarm.wire.of(SecurityAlarm) if "fallback secret" in alarm.text]
    assert len(texts) == len(swarm.hosts)
    assert not [m for _, _, m in swarm.wire.sent if m.kind is ControlKind.FALLBACK_HELLO]
