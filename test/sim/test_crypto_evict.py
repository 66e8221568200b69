"""Putting members out in flight, on the in-memory wire with stepped time."""

from __future__ import annotations

from typing import Any

from chimera_ros.crypto.envelope import EpochSession
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.host import SecureHost
from chimera_ros.crypto.testing import Swarm, Weather

TYPE = "T"
STORM = Weather(loss=0.2, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05)
EVIDENCE = bytes(32)


def swarm_of(drones: int = 4, shards: int = 4, **options: Any) -> Swarm:
    """A swarm in one epoch, every package at hand, each drone in a process of its own."""
    swarm = Swarm(drones=drones, shards=shards, operator=True, **options)
    swarm.join()
    swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
    return swarm


def evict(swarm: Swarm, name: str, by: str = "operator") -> tuple[bool, str]:
    wire = swarm.wire
    verdict = swarm.server.evict(name, by, EVIDENCE, wire.now, wire.wall_ns)
    wire.perform("crypto", verdict.effects)
    return verdict.accepted, verdict.reason


def honest(swarm: Swarm, *out: str) -> list[str]:
    return [name for name in swarm.identities if name not in out]


def all_above(swarm: Swarm, epoch: int, *out: str) -> bool:
    return all((swarm.host_of(name).epoch(name) or 0) > epoch for name in honest(swarm, *out))


def telemetry(swarm: Swarm, name: str) -> Any:
    host = swarm.host_of(name)
    return host.seal(f"{name}/telemetry", TYPE, b"position", swarm.wire.wall_ns, name)


class Captured:
    """A captured member that keeps every session it ever had, whatever the protocol tells it to wipe."""

    def __init__(self, host: SecureHost) -> None:
        self.host = host
        self.sessions: dict[int, EpochSession] = {}
        sessions = host.control.sessions
        wipe = sessions._wipe

        def keep(number: int) -> None:
            kept = sessions.open[number]
            self.sessions[number] = kept
            close = kept.close
            kept.close = lambda: None  # type: ignore[method-assign]
            wipe(number)
            kept.close = close  # type: ignore[method-assign]

        sessions._wipe = keep  # type: ignore[method-assign]

    def opens(self, channel: str, envelope: Any, wall_ns: int) -> bool:
        """Does any key it ever held open this envelope?"""
        held = {**self.sessions, **self.host.control.sessions.open}
        for session in held.values():
            for epoch in {envelope.epoch, session.epoch}:
                try:
                    session.open(channel, TYPE, envelope._replace(epoch=epoch), wall_ns, self.host._good)
                    return True
                except Rejected:
                    continue
        return False


def test_the_evicted_is_cut_off_at_once_and_the_others_go_on() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    captured = Captured(swarm.host_of("drone_02"))
    before = telemetry(swarm, "drone_01")
    assert captured.opens("drone_01/telemetry", before, wire.wall_ns), "it is still in"
    epoch = swarm.server.status()["epoch"]
    accepted, reason = evict(swarm, "drone_02")
    assert accepted, reason
    took = wire.run_until(lambda: all_above(swarm, epoch, "drone_02"), 1.0)
    assert took < 0.01, "nobody waits for a switch"
    for name in honest(swarm, "drone_02"):
        host = swarm.host_of(name)
        assert list(host.control.sessions.open) == [epoch + 4], "all earlier epochs are wiped"
        assert "drone_02" not in {entry.name for entry in host.roster(name)}
    sent = telemetry(swarm, "drone_01")
    assert swarm.host_of("leader").open("drone_01/telemetry", TYPE, sent, wire.wall_ns).sender == "drone_01"
    assert not captured.opens("drone_01/telemetry", sent, wire.wall_ns)
    assert swarm.server.status()["rotations_by_reason"]["evict"] == 1
