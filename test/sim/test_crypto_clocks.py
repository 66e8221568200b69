"""Clocks that are set while the swarm works: of each role, by an hour and by seconds, forth and back.

Whoever errs about the time is told so, accuses nobody and is accused of nothing; when its clock is right
again it is heard again at once, also after a restart.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter

import pytest

from chimera_ros.crypto.effects import SecurityAlarm, StopAcked, StopOrder
from chimera_ros.crypto.errors import NotReady, Rejected, RejectReason
from chimera_ros.crypto.evidence.ledgers import POLL_S
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.messages.checkpoint import Checkpoint
from chimera_ros.crypto.messages.control import Beat, KeyRequest
from chimera_ros.crypto.testing.swarm import WALL_START_NS, Swarm
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage

TYPE = "T"
HOUR_S = 3600.0
HEALED_S = 6.0  # from the moment in which a clock is right again
ACCUSING = (
    "contradict",
    "two processes",
    "lies",
    "equivocates",
    "two faces",
    "two different",
    "memory",
    "restore",
)


class Sky:
    """A swarm whose drones send telemetry and whose leader sends commands; every node has its own clock."""

    def __init__(self, standbys: int = 0, **options) -> None:
        self.swarm = Swarm(drones=2, shards=2, operator=True, standbys=standbys, **options)
        self.wire = self.swarm.wire
        self.wire.on_data = self._deliver
        self.opened: Counter[tuple[str, str]] = Counter()  # (receiving process, sender)
        self.unsent: Counter[str] = Counter()
        self._ask_at = 0.0
        self._turn = 0

    def host(self, process: str) -> SecureHost:
        node = self.wire.nodes[process]
        return node.host if isinstance(node, KeyServer) else node

    def join(self) -> None:
        self.swarm.join()
        self.fly(2.0)

    def _deliver(self, target: str, item: tuple) -> None:
        sender, channel, message = item
        host, wall_ns = self.host(target), self.wire.wall_of(target)
        if isinstance(message, Checkpoint):
            effects = host.take_checkpoint(sender, message, self.wire.now, wall_ns)
            self.wire.perform(target, effects or [])
            return
        with contextlib.suppress(Rejected):
            host.open(channel, TYPE, message, wall_ns)
            self.opened[(target, sender)] += 1

    def _send(self, member: str, channel: str) -> None:
        process = self.swarm.member_host[member]
        if process not in self.wire.nodes:
            return
        try:
            envelope = self.host(process).seal(channel, TYPE, b"x", self.wire.wall_of(process), member)
        except NotReady:
            self.unsent[member] += 1
            return
        self.wire.broadcast(process, (member, channel, envelope))

    def fly(self, seconds: float, period_s: float = 0.2) -> None:
        end = self.wire.now + seconds
        while self.wire.now < end:
            for member in ("drone_01", "drone_02"):
                self._send(member, f"{member}/telemetry")
            self._turn += 1
            if self._turn % 2:  # each is signed, and verified by everybody
                self._send("leader", "leader/command")
            self.wire.run(period_s)
            if self.wire.now >= self._ask_at:
                self._ask_at = self.wire.now + POLL_S
                self._checkpoints()

    def _checkpoints(self) -> None:
        wire = self.wire
        for process in list(wire.nodes):
            host = self.host(process)
            for name, checkpoint in host.make_checkpoints(wire.now, wire.wall_of(process)):
                wire.broadcast(process, (name, "", checkpoint))
            wire.perform(process, host.tick_checkpoints(wire.now))

    def age_refusals(self) -> int:
        return sum(
            host.counters.rejected[RejectReason.AGE] + host.counters.control[RejectReason.AGE]
            for host in map(self.host, self.wire.nodes)
        )

    def alarms(self, *words: str, since: float = 0.0) -> list[str]:
        return [
            effect.text
            for at, _, effect in self.wire.effects
            if isinstance(effect, SecurityAlarm)
            and at >= since
            and all(word in effect.text for word in words)
        ]

    def accusations(self) -> list[str]:
        return [text for text in self.alarms() if any(word in text for word in ACCUSING)]

    def well(self) -> bool:
        """All send under one epoch, one crypto node is in charge and everybody hears it."""
        return (
            len(self.swarm.in_charge()) == 1
            and self.swarm.together()
            and not any(self.host(process).context.silent for process in self.wire.nodes)
        )

    def heal(self) -> None:
        """After `HEALED_S` everybody opens everything again, and nobody has been accused."""
        self.fly(HEALED_S)
        self.wire.run_until(self.well, 0.5)  # an epoch may just begin
        before, takeovers, refused = Counter(self.opened), self.alarms("takes over"), self.age_refusals()
        self.fly(2.0)
        assert self.alarms("takes over") == takeovers, "it has settled"
        assert self.age_refusals() == refused
        for receiver in ("leader", "shard_0", "shard_1"):
            for sender in ("leader", "drone_01", "drone_02"):
                if self.swarm.member_host[sender] != receiver:
                    got = self.opened[(receiver, sender)] - before[(receiver, sender)]
                    assert got >= 4, (receiver, sender, got)
        assert self.accusations() == []

    def stop(self, level: str = "hold") -> ControlMessage:
        return self.swarm.hosts["operator"].sign_stop("operator", level, [], self.wire.wall_of("operator"))

    def obeyed(self, process: str, stop: ControlMessage) -> list[str]:
        effects = self.host(process).handle(stop, self.wire.now, self.wire.wall_of(process))
        return [effect.level for effect in effects if isinstance(effect, StopOrder)]


STEPS = [HOUR_S, -HOUR_S, 5.0, -5.0]
ROLES = {"crypto": "crypto", "crypto_1": "crypto_1", "leader": "leader", "shard_0": "drone_01"}


@pytest.mark.parametrize("by_s", STEPS)
@pytest.mark.parametrize("process", list(ROLES))
def test_a_clock_that_is_set_while_the_swarm_flies(process: str, by_s: float) -> None:
    sky = Sky(standbys=1)
    sky.join()
    assert sky.age_refusals() == 0
    assert sky.alarms("clock") == []
    set_at = sky.wire.now
    sky.wire.clock_offset_s[process] = by_s
    sky.fly(5.0)
    assert sky.age_refusals() > 0
    name = ROLES[process]
    told = sky.alarms("clock", name, since=set_at)
    assert told, "somebody names the clock"
    assert any(f"{abs(by_s):.1f}"[:-2] in text for text in told)
    assert not any(sky.host(node).context.silent for node in sky.wire.nodes), "no clock but its own matters"
    if process == "shard_0":
        assert sky.obeyed("shard_0", sky.stop("land")) == ["land"], "nor does it deafen a drone to stops"
    others = [item for item in ("leader", "shard_0", "shard_1") if item != process]
    assert sum(sky.opened[(receiver, "drone_02")] for receiver in others if receiver != "shard_1") >= 28
    assert len(sky.alarms("takes over")) <= 2, (
        "two nodes with different clocks depose each other once at most"
    )
    sky.wire.clock_offset_s[process] = 0.0
    sky.heal()
    assert sky.host("shard_0").counters.control[RejectReason.STALE] < 30


@pytest.mark.parametrize("by_s", STEPS)
def test_the_only_crypto_node_with_a_wrong_clock_and_after_a_restart_with_the_right_one(by_s: float) -> None:
    """What its clock said while it was wrong must not follow it: neither times nor sequences."""
    sky = Sky(rotate_s=2.0)
    sky.join()
    sky.wire.clock_offset_s["crypto"] = by_s
    sky.fly(8.0)
    beats = sky.alarms("crypto's beats are", "the clock of")
    assert beats
    assert all("refused" in text for text in beats)
    sky.wire.clock_offset_s["crypto"] = 0.0
    sky.swarm.start_server("crypto")
    began = sky.wire.now
    sky.wire.run_until(lambda: sky.well() and sky.wire.now > began, 5.0)
    assert abs(sky.swarm.stores["crypto"].state.time_floor_ns - sky.wire.wall_ns) < 60e9
    sky.heal()


def test_the_only_crypto_node_is_heard_again_at_once_when_its_clock_is_right_again() -> None:
    sky = Sky()
    sky.join()
    for by_s in STEPS:
        sky.wire.clock_offset_s["crypto"] = by_s
        sky.fly(32.0, 0.5)
        assert all(sky.host(process).context.silent for process in ("leader", "shard_0", "shard_1"))
        sky.wire.clock_offset_s["crypto"] = 0.0
        assert sky.wire.run_until(sky.well, 1.0) <= 0.4
    sky.heal()


@pytest.mark.parametrize("by_s", STEPS)
def test_all_clocks_are_set_together(by_s: float) -> None:
    """A swarm on one machine: it goes on, and what follows is right, also in processes started later."""
    sky = Sky(standbys=1, rotate_s=3.0)
    sky.join()
    for node in sky.wire.nodes:
        sky.wire.clock_offset_s[node] = by_s
    sky.fly(5.0)
    assert sky.obeyed("shard_0", sky.stop()) == ["hold"]
    sky.wire.clock_offset_s.clear()
    sky.fly(1.0)
    assert sky.obeyed("shard_0", sky.stop("land")) == ["land"]
    sky.swarm.start_host("shard_1")
    sky.swarm.start_server("crypto")
    sky.heal()


@pytest.mark.parametrize("by_s", STEPS)
def test_a_crypto_node_that_starts_with_a_wrong_clock_does_not_rule_for_long(by_s: float) -> None:
    sky = Sky(standbys=1)
    sky.join()
    sky.swarm.kill("crypto")
    sky.wire.run_until(lambda: sky.swarm.servers["crypto_1"].active, 3.0)
    sky.wire.clock_offset_s["crypto"] = by_s
    sky.swarm.start_server("crypto")
    sky.fly(20.0, 0.4)
    assert not any(sky.host(node).context.silent for node in ("leader", "shard_0", "shard_1"))
    assert len(sky.alarms("takes over")) < 10, "the two depose each other ever less often"
    assert sky.alarms("beats are", "the clock of crypto_1")
    sky.wire.clock_offset_s["crypto"] = 0.0
    sky.heal()


def test_a_drone_that_starts_with_a_wrong_clock_says_so_and_falls_silent() -> None:
    sky = Sky()
    sky.join()
    sky.wire.clock_offset_s["shard_0"] = -HOUR_S
    sky.swarm.start_host("shard_0")
    sky.fly(33.0, 0.5)
    assert sky.alarms("crypto's beats are 3600.0 s ahead of the clock of drone_01")
    assert sky.host("shard_0").context.silent
    assert not sky.host("shard_1").context.silent
    sky.wire.clock_offset_s.clear()
    assert sky.wire.run_until(sky.well, 1.0) <= 0.4
    sky.heal()


def test_a_clock_that_an_attacker_sets_back_opens_no_way_for_recordings() -> None:
    """What the drone never heard, and what it heard: stops, beats and envelopes of before."""
    sky = Sky(rotate_s=5.0)
    sky.join()
    drone, wire = sky.host("shard_0"), sky.wire
    wire.cut.add("shard_0")
    held_back = sky.stop("kill")
    envelope = sky.host("leader").seal("leader/command", TYPE, b"x", wire.wall_ns, "leader")
    sky.fly(1.0)
    wire.cut.clear()
    sky.fly(20.0)
    beats = [m for at, _, m in wire.sent if m.kind is ControlKind.BEAT and at < wire.now - 20.0]
    wire.clock_offset_s["shard_0"] = -20.5
    assert sky.obeyed("shard_0", held_back) == []
    assert drone.counters.control[RejectReason.AGE] == 1
    for beat in beats:
        assert drone.handle(beat, wire.now, wire.wall_of("shard_0")) == []
    assert drone.counters.control[RejectReason.STALE] >= len(beats)
    with pytest.raises(Rejected, match="unknown_epoch"):
        drone.open("leader/command", TYPE, envelope, wire.wall_of("shard_0"))
    assert sky.obeyed("shard_0", sky.stop("land")) == ["land"], "and a genuine one is obeyed"


def test_the_secret_does_not_last_longer_and_no_certificate_either_when_a_clock_is_set_back() -> None:
    sky = Sky()
    sky.swarm.fallback = FallbackSecret(WALL_START_NS - 24 * 3600 * 10**9 + 20 * 10**9, bytes(64))
    sky.join()
    sky.fly(25.0, 0.5)
    sky.swarm.server.rotate("manual", sky.wire.now, sky.wire.wall_ns)
    sky.fly(5.0, 0.5)
    sky.swarm.kill("crypto")
    back_ns = sky.wire.wall_ns - int(HOUR_S * 1e9)
    sky.wire.clock_offset_s = dict.fromkeys(sky.wire.nodes, -HOUR_S)
    sky.wire.run(35.0)
    assert sky.host("shard_0").context.silent
    assert not sky.host("shard_0").degraded(back_ns), "the stored floor holds where validity is judged"
    shortly = sky.swarm.keystore.enroll("drone_09", Role.DRONE, days=15.0 / 86400.0).member
    assert shortly.not_after_ns > back_ns
    for process in ("shard_0", "leader"):
        with pytest.raises(Rejected, match="expired"):
            sky.host(process).context.trust.check_valid(shortly, back_ns)


def test_an_operators_wrong_clock_is_named_by_the_drone() -> None:
    sky = Sky()
    sky.join()
    sky.wire.clock_offset_s["operator"] = HOUR_S
    stop = sky.stop()
    effects = sky.host("shard_0").handle(stop, sky.wire.now, sky.wire.wall_ns)
    (alarm,) = effects
    assert alarm.text.startswith("operator's stops are 3600.0 s ahead of the clock of drone_01 and refused")
    sky.wire.clock_offset_s["operator"] = 0.0
    assert sky.obeyed("shard_0", sky.stop()) == ["hold"]
    late = sky.wire.now + HOUR_S
    assert sky.host("shard_0").handle(stop, late, sky.wire.wall_ns + int(HOUR_S * 1e9)) == []
    assert sky.host("shard_0").counters.control[RejectReason.STALE] > 0, "a later stop has closed the door"


@pytest.mark.parametrize("back_s", [0.25, 1.0, 5.0, 9.9, HOUR_S])
def test_a_sender_whose_clock_goes_back_is_not_accused_and_is_heard_again(back_s: float) -> None:
    """The checkpoint of a range says that higher counters are later. Here it comes last of all."""
    swarm = Swarm(drones=1, shards=1)
    swarm.join()
    wire, leader, shard = swarm.wire, swarm.hosts["leader"], swarm.hosts["shard_0"]
    wall_ns = wire.wall_ns

    def telemetry(at_ns: int) -> None:
        envelope = shard.seal("drone_01/telemetry", TYPE, b"x", at_ns, "drone_01")
        leader.open("drone_01/telemetry", TYPE, envelope, at_ns)

    telemetry(wall_ns)
    assert list(shard.make_checkpoints(wire.now, wall_ns)) == []
    ((name, checkpoint),) = shard.make_checkpoints(wire.now + 1.0, wall_ns + 10**9)
    now_ns = wall_ns + 10**9 - int(back_s * 1e9)
    with pytest.raises(NotReady, match="clock of drone_01 went back"):
        telemetry(now_ns)
    effects = leader.take_checkpoint(name, checkpoint, wire.now, max(now_ns, wall_ns))
    assert effects == []
    assert leader.checkpoints.counts.mismatched == 0
    assert list(shard.make_checkpoints(wire.now + 1.25, now_ns)) == []
    alarm, request = shard.tick_checkpoints(wire.now + 1.3)
    assert alarm.text.startswith(f"the clock of drone_01 went back by {back_s:.1f} s")
    epoch = swarm.epochs()["drone_01"]
    wire.perform("shard_0", [request])
    assert wire.run_until(lambda: swarm.together(above=epoch or 0), 3.0) < 1.0
    telemetry(now_ns)
    assert leader.counters.rejected == Counter()


def test_a_member_that_restarts_after_the_crypto_nodes_clock_was_set_back_is_no_second_process() -> None:
    sky = Sky()
    sky.join()
    sky.wire.clock_offset_s["crypto"] = -5.0
    sky.wire.run(0.1)
    sky.swarm.start_host("shard_0")
    sky.wire.run(3.0)
    sky.fly(3.0)
    assert sky.alarms("drone_01 has restarted")
    assert sky.accusations() == []


def test_sequences_rise_across_a_restart_with_an_earlier_clock() -> None:
    sky = Sky()
    sky.join()
    sky.wire.clock_offset_s["crypto"] = HOUR_S
    sky.wire.run(3.0)
    sky.wire.clock_offset_s["crypto"] = 0.0
    sky.swarm.start_server("crypto")
    sky.wire.run(3.0)
    for kind, body in ((ControlKind.BEAT, Beat), (ControlKind.KEY_REQUEST, KeyRequest)):
        rest = () if body is Beat else (sky.swarm.trust.policy.suite,)
        sent = [m.parts[0] for _, _, m in sky.wire.sent if m.kind is kind]
        sequences = [body.parse(data, sky.swarm.trust.swarm, *rest).sequence for data in sent]
        assert sequences == sorted(set(sequences))
        assert len(sequences) > 3


def slewed(sky: Sky) -> None:
    """Each beat continues the one before, so reckoned time follows."""
    for step in range(90):
        sky.wire.clock_offset_s["crypto"] = 0.15 * step
        sky.wire.run(0.3)


def left_behind(sky: Sky) -> None:
    """All clocks were wrong together; then all but the crypto node's are set right."""
    for process in sky.swarm.groups:
        sky.wire.clock_offset_s[process] = 60.0
    sky.wire.run(3.0)


@pytest.mark.parametrize("go_wrong", [slewed, left_behind])
def test_a_crypto_node_whose_clock_alone_is_wrong_makes_no_stop_stale(go_wrong) -> None:
    """Its time is followed for beats. Operator and drones agree: the drone holds and lands."""
    sky = Sky()
    sky.join()
    go_wrong(sky)
    assert not sky.host("shard_0").context.silent
    assert sky.obeyed("shard_0", sky.stop("hold")) == ["hold"]
    stop = sky.stop("land")
    sky.wire.broadcast("operator", stop)
    sky.wire.run(0.2)
    orders = [effect.targets for effect in sky.wire.of(StopOrder) if effect.level == "land"]
    assert sorted(orders) == [("drone_01",), ("drone_02",)]
    assert {effect.drone for effect in sky.wire.of(StopAcked)} == {"drone_01", "drone_02"}


def test_a_drone_whose_clock_is_set_back_obeys_no_kill_of_before() -> None:
    sky = Sky()
    sky.join()
    sky.wire.cut.add("shard_0")
    held_back = {level: sky.stop(level) for level in ("land", "kill")}
    sky.wire.run(5.0)
    sky.wire.cut.clear()
    sky.wire.run(10.0)
    sky.wire.clock_offset_s["shard_0"] = -15.0
    assert sky.obeyed("shard_0", held_back["kill"]) == []
    assert sky.obeyed("shard_0", held_back["land"]) == ["land"], "what it gains: a landing that was ordered"


def test_a_power_cut_after_all_clocks_were_ahead_does_not_make_the_crypto_node_stale() -> None:
    """The disk has the sequence of the last rotation; the clocks were set right meanwhile."""
    sky = Sky()
    for node in ("crypto", *sky.swarm.groups):
        sky.wire.clock_offset_s[node] = HOUR_S
    sky.swarm.join()
    forced = sky.swarm.stores["crypto"].state.sequence
    sky.wire.run(12.0)
    state = sky.swarm.stores["crypto"].state
    assert state.sequence > forced
    sky.swarm.stores["crypto"].save(dataclasses.replace(state, sequence=forced))
    sky.wire.clock_offset_s.clear()
    sky.swarm.start_server("crypto")
    sky.wire.run_until(sky.well, 5.0)
    sky.wire.run(2.0)
    assert (sky.host("shard_0").beat_age_s(sky.wire.now) or 0.0) < 0.5
