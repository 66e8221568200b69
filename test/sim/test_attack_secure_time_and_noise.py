"""Wrong clocks and noise: who lies fills no log, who errs about the time is heard again."""

from __future__ import annotations

import dataclasses
from typing import Any

from chimera_ros.crypto.effects import SecurityAlarm, StopOrder
from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.checkpoint import make_checkpoint
from chimera_ros.crypto.messages.control import Ready
from chimera_ros.crypto.rate_limit import TokenBucket
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.wire import ControlKind, Lane

HOUR_NS = 3600 * 1_000_000_000


def swarm_of(drones: int = 2) -> Swarm:
    swarm = Swarm(drones=drones, shards=drones, operator=True)
    swarm.join()
    swarm.wire.run(1.0)
    return swarm


def test_a_clock_that_was_an_hour_ahead_deafens_nobody_once_it_is_right() -> None:
    swarm = Swarm(drones=1, shards=1, operator=True)
    ahead = [HOUR_NS]
    start_host = swarm.start_host

    def start(group: str) -> None:
        start_host(group)
        host: Any = swarm.hosts[group]
        if group == "shard_0":
            for name in ("handle", "tick"):
                call = getattr(host, name)
                setattr(
                    host,
                    name,
                    (lambda inner: lambda *args: inner(*args[:-1], args[-1] + ahead[0]))(call),
                )

    swarm.start_host = start  # type: ignore[method-assign]
    swarm.start()
    wire = swarm.wire
    wire.run_until(lambda: swarm.together(), 10.0)
    wire.run(5.0)
    ahead[0] = 0  # somebody has set it right
    wire.run(2.0)
    drone = swarm.hosts["shard_0"]
    assert not drone.context.silent
    stop = swarm.hosts["operator"].sign_stop("operator", "land", [], wire.wall_ns)
    effects = drone.handle(stop, wire.now, wire.wall_ns)
    assert [effect.level for effect in effects if isinstance(effect, StopOrder)] == ["land"]


def test_a_budget_goes_on_after_its_clock_was_set_back() -> None:
    budget = TokenBucket(10.0)
    assert sum(budget.take(7200.0) for _ in range(20)) == 10
    assert not budget.take(3600.0), "setting a clock back pays nothing out"
    assert sum(budget.take(3601.0) for _ in range(20)) == 10
    assert not budget.take(3600.9999), "threads that are a little behind pay nothing out either"


def test_a_liar_cannot_fill_the_log_with_split_views() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    liar = swarm.host_of("drone_02").context
    session = liar.newest_installed()
    assert session is not None
    leader = swarm.hosts["leader"]
    for index in range(50):
        wire.run(0.02)
        body = Ready(
            swarm.trust.swarm,
            session.epoch,
            index.to_bytes(32, "big"),
            swarm.identities["drone_02"].fingerprint,
            0,
            (),
        ).encode()
        message = signed(ControlKind.READY, body, swarm.identities["drone_02"])
        wire.perform("leader", leader.handle(message, wire.now, wire.wall_ns))
    told = [alarm.text for alarm in wire.of(SecurityAlarm) if "drone_02 holds another epoch" in alarm.text]
    assert len(told) == 1


def test_a_liar_cannot_fill_the_log_with_checkpoints() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    leader, sender = swarm.hosts["leader"], swarm.host_of("drone_02")
    envelope = sender.seal("drone_02/telemetry", "T", b"position", wire.wall_ns, "drone_02")
    leader.open("drone_02/telemetry", "T", envelope, wire.wall_ns)
    session, slot = sender.context.members["drone_02"].sending
    alarms: list[str] = []
    for index in range(30):
        for transcript_hash in (index.to_bytes(32, "big"), session.transcript_hash):
            checkpoint = make_checkpoint(
                swarm.identities["drone_02"],
                transcript_hash,
                session.epoch,
                slot,
                Lane.TELEMETRY,
                1,
                wire.wall_ns,
                (index.to_bytes(32, "big"),),
            )
            effects = leader.take_checkpoint("drone_02", checkpoint, wire.now, wire.wall_ns) or []
            alarms += [effect.text for effect in effects if isinstance(effect, SecurityAlarm)]
    assert 1 <= len(alarms) <= 3
    assert all("equivocates" in text for text in alarms), "both explanations are named"


def test_a_changed_checkpoint_is_none() -> None:
    """Every signed field counts."""
    swarm = swarm_of()
    identity = swarm.identities["drone_01"]
    good = make_checkpoint(identity, bytes(32), 4, 1, Lane.TELEMETRY, 1, 5, (bytes(32),))
    assert good.signed_by(identity.member, swarm.trust.swarm)
    for field, value in (("epoch", 8), ("slot", 2), ("lane", 3), ("first", 2), ("last", 2), ("made_ns", 6)):
        changed = dataclasses.replace(good, **{field: value})
        assert not changed.signed_by(identity.member, swarm.trust.swarm)
