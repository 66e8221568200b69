"""Epoch 0: the secret on disk, hellos, envelopes, and who may not speak."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.crypto.effects import Send
from chimera_ros.crypto.encoding import u32, u64
from chimera_ros.crypto.errors import KeystoreError, NotReady, Rejected, RejectReason
from chimera_ros.crypto.keystore.fallback_secret import LIFE_NS, FallbackSecret, read_secret, write_secret
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.member_state import MemoryStore, StoredState
from chimera_ros.crypto.member.fallback import Fallback
from chimera_ros.crypto.member.host import HostConfig, SecureHost
from chimera_ros.crypto.messages.fallback_hello import FallbackHello
from chimera_ros.crypto.testing.swarm import WALL_START_NS, MemoryKeystore
from chimera_ros.crypto.trust.identity import CertifiedMember
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage, Envelope, Lane
from chimera_ros.flight.fallback import restricted
from chimera_ros.flight.messages import CommandKind, SwarmCommand

SECRET = FallbackSecret(WALL_START_NS, bytes(range(64)))
WALL_NS = WALL_START_NS + 3600 * 1_000_000_000
NOW = 500.0
COMMAND, TELEMETRY = "leader/command", "drone_01/telemetry"


class Air:
    """A leader and two drones, each a process of its own, none of which hears a crypto node."""

    def __init__(self, secret: FallbackSecret = SECRET) -> None:
        self.keystore = MemoryKeystore()
        roles = {"leader": Role.LEADER, "drone_01": Role.DRONE, "drone_02": Role.DRONE}
        self.identities = {name: self.keystore.enroll(name, role) for name, role in roles.items()}
        self.hosts = {name: self.host(name, secret) for name in roles}
        for _ in range(2):
            self.say_hello()

    def host(
        self, name: str, secret: FallbackSecret = SECRET, store: MemoryStore | None = None
    ) -> SecureHost:
        host = SecureHost(
            [self.identities[name]],
            self.keystore.trust,
            {name: store or MemoryStore()},
            config=HostConfig(fallback=secret),
        )
        host.start(NOW - 31.0, WALL_NS)
        for identity in self.identities.values():
            host.context.certificates.put(identity.member)
        host.tick(NOW - 0.5, WALL_NS)  # it falls silent
        return host

    def say_hello(self, wall_ns: int = WALL_NS, now: float = NOW) -> list[ControlMessage]:
        said = []
        for name, host in self.hosts.items():
            host.fallback.reset()
            for effect in host.tick(now, wall_ns):
                if isinstance(effect, Send) and effect.message.kind is ControlKind.FALLBACK_HELLO:
                    said.append((name, effect.message))
        for name, message in said:
            for other, host in self.hosts.items():
                if other != name:
                    host.handle(message, now, wall_ns)
        return [message for _, message in said]

    def send(self, name: str, channel: str, payload: bytes = b"payload", wall_ns: int = WALL_NS) -> Envelope:
        return self.hosts[name].seal(channel, "T", payload, wall_ns, name)

    def refuses(self, name: str, channel: str, envelope: Envelope, wall_ns: int = WALL_NS) -> RejectReason:
        before = self.hosts[name].counters.opened
        with pytest.raises(Rejected) as refusal:
            self.hosts[name].open(channel, "T", envelope, wall_ns)
        assert self.hosts[name].counters.opened == before
        return refusal.value.reason


@pytest.fixture
def air() -> Air:
    return Air()


def test_telemetry_and_commands_go_through_signed_and_named(air: Air) -> None:
    envelope = air.send("drone_01", TELEMETRY)
    assert (envelope.epoch, envelope.sender, envelope.lane) == (0, 0, Lane.TELEMETRY)
    for name in ("leader", "drone_02"):
        opened = air.hosts[name].open(TELEMETRY, "T", envelope, WALL_NS)
        assert (opened.sender, opened.payload, opened.signed, opened.epoch) == (
            "drone_01",
            b"payload",
            True,
            0,
        )
    order = air.send("leader", COMMAND)
    for name in ("drone_01", "drone_02"):
        assert air.hosts[name].open(COMMAND, "T", order, WALL_NS).addressed == (name,)
    assert air.hosts["leader"].degraded(WALL_NS)
    assert not air.hosts["leader"].ready("leader")


def test_the_same_message_is_opened_once_and_never_changed(air: Air) -> None:
    envelope = air.send("drone_01", TELEMETRY)
    sealed = bytearray(envelope.sealed)
    for index in (0, 16, 24, 40, len(sealed) - 1):
        sealed[index] ^= 1
        assert air.refuses("leader", TELEMETRY, envelope._replace(sealed=bytes(sealed))) in (
            RejectReason.AUTHENTICATION,
            RejectReason.UNKNOWN_SENDER,
        )
        sealed[index] ^= 1
    signature = bytes([envelope.signature[0] ^ 1]) + envelope.signature[1:]
    assert air.refuses("leader", TELEMETRY, envelope._replace(signature=signature)) is RejectReason.SIGNATURE
    assert air.refuses("leader", TELEMETRY, envelope._replace(signature=b"")) is RejectReason.SIGNATURE
    assert air.refuses("leader", TELEMETRY, envelope._replace(sender=1)) is RejectReason.UNKNOWN_SENDER
    assert air.refuses("leader", TELEMETRY, envelope._replace(version=2)) is RejectReason.VERSION
    assert air.refuses("leader", TELEMETRY, envelope._replace(lane=Lane.COMMAND)) is RejectReason.LANE
    assert air.refuses("leader", "drone_02/telemetry", envelope) is RejectReason.NOT_PERMITTED
    assert air.refuses("leader", TELEMETRY, envelope, WALL_NS + 1_100_000_000) is RejectReason.AGE
    assert air.refuses("leader", TELEMETRY, envelope, WALL_NS - 300_000_000) is RejectReason.AGE
    air.hosts["leader"].open(TELEMETRY, "T", envelope, WALL_NS)
    assert air.refuses("leader", TELEMETRY, envelope) is RejectReason.REPLAY


@given(st.binary(max_size=300))
def test_whatever_comes_is_refused_not_raised(data: bytes) -> None:
    air = _AIR
    for envelope in (Envelope(1, 1, 0, 0, data, bytes(4627)), Envelope(1, 0, 0, 0, data)):
        with pytest.raises(Rejected):
            air.hosts["leader"].open(TELEMETRY, "T", envelope, WALL_NS)
    air.hosts["leader"].handle(ControlMessage(ControlKind.FALLBACK_HELLO, (data, bytes(4627))), NOW, WALL_NS)
    with pytest.raises(Rejected):
        FallbackHello.parse(data, "testswarm")


_AIR = Air()


def test_only_command_and_telemetry_are_carried_and_only_by_their_owners(air: Air) -> None:
    for name, channel in (
        ("leader", "leader/trajectory"),
        ("leader", "leader/heartbeat"),
        ("drone_01", "drone_01/ack"),
        ("drone_01", "survey/pose"),
    ):
        with pytest.raises(NotReady, match="the crypto node is silent"):
            air.send(name, channel)
    with pytest.raises(Rejected, match="not_permitted"):
        air.send("drone_01", COMMAND)
    with pytest.raises(Rejected, match="not_permitted"):
        air.send("drone_01", "drone_02/telemetry")


def test_a_command_names_the_incarnation_that_its_target_has_now(air: Air) -> None:
    order = air.send("leader", COMMAND)
    air.hosts["drone_01"] = restarted = air.host("drone_01")
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    assert air.refuses("drone_01", COMMAND, order) is RejectReason.NOT_ADDRESSED
    assert restarted.open(COMMAND, "T", air.send("leader", COMMAND), WALL_NS).addressed == ("drone_01",)


def test_a_member_that_hears_a_crypto_node_refuses_fallback(air: Air) -> None:
    envelope = air.send("drone_01", TELEMETRY)
    hello = air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)[1]
    air.hosts["leader"].control.watchdog.reset(NOW)
    assert air.refuses("leader", TELEMETRY, envelope) is RejectReason.FALLBACK
    assert air.hosts["leader"].handle(hello, NOW, WALL_NS) == []
    assert air.hosts["leader"].counters.control[RejectReason.FALLBACK] == 1
    with pytest.raises(NotReady):
        air.send("leader", COMMAND)


def test_without_a_hello_or_under_another_secret_nobody_is_heard(air: Air) -> None:
    envelope = air.send("drone_01", TELEMETRY)
    air.hosts["leader"] = air.host("leader")
    assert air.refuses("leader", TELEMETRY, envelope) is RejectReason.UNKNOWN_SENDER
    other = FallbackSecret(SECRET.issued_ns + 1, SECRET.secret)
    air.hosts["leader"] = air.host("leader", other)
    for message in air.say_hello(WALL_NS + 1_000_000, NOW + 2.0):
        air.hosts["leader"].handle(message, NOW, WALL_NS)
    assert air.refuses("leader", TELEMETRY, envelope) is RejectReason.UNKNOWN_SENDER


def test_the_secret_is_good_for_a_day(air: Air) -> None:
    late = SECRET.issued_ns + LIFE_NS
    assert SECRET.valid_at(late - 1)
    assert not SECRET.valid_at(late)
    assert not SECRET.valid_at(SECRET.issued_ns - 1)
    with pytest.raises(NotReady, match="expired"):
        air.send("drone_01", TELEMETRY, wall_ns=late)
    assert air.refuses("leader", TELEMETRY, air.send("drone_01", TELEMETRY), late) is RejectReason.FALLBACK
    assert not air.hosts["leader"].degraded(late)


def test_an_evicted_member_is_not_heard_though_it_has_the_secret(air: Air) -> None:
    envelope = air.send("drone_01", TELEMETRY)
    out = frozenset({air.identities["drone_01"].fingerprint})
    air.hosts["leader"] = air.host("leader", store=MemoryStore(StoredState(evictions=out)))
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    assert air.refuses("leader", TELEMETRY, envelope) is RejectReason.UNKNOWN_SENDER
    assert air.hosts["leader"].counters.control[RejectReason.EVICTED] == 1
    # One that is put out after its hello is cut off as well.
    member = air.hosts["drone_02"].context.members["drone_02"]
    member.state = dataclasses.replace(member.state, evictions=out)
    assert air.refuses("drone_02", TELEMETRY, envelope) is RejectReason.EVICTED


def test_a_hello_under_somebody_elses_incarnation_takes_nothing_from_its_owner(air: Air) -> None:
    thief = air.hosts["drone_02"].context.members["drone_02"]
    own, stolen = thief.incarnation, air.hosts["drone_01"].context.members["drone_01"].incarnation
    thief.incarnation = stolen
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    thief.incarnation = own
    opened = air.hosts["leader"].open(TELEMETRY, "T", air.send("drone_01", TELEMETRY), WALL_NS)
    assert opened.sender == "drone_01"


def test_hellos_are_timed_ordered_and_signed(air: Air) -> None:
    leader = air.hosts["leader"]
    known = air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)[1]
    air.hosts["drone_01"] = air.host("drone_01")
    earlier = air.say_hello(WALL_NS + 2_000_000, NOW + 4.0)[1]
    air.hosts["drone_01"] = air.host("drone_01")
    later = air.say_hello(WALL_NS + 3_000_000, NOW + 6.0)[1]
    before = leader.counters.control[RejectReason.STALE]
    for old in (known, earlier):
        leader.handle(old, NOW + 6.0, WALL_NS)
    assert leader.counters.control[RejectReason.STALE] == before + 2
    leader.handle(later, NOW + 9.0, WALL_NS + 6_000_000_000)
    assert leader.counters.control[RejectReason.AGE] == 1
    body = FallbackHello.parse(later.parts[0], "testswarm")
    forged = dataclasses.replace(body, sent_ns=body.sent_ns + 1, incarnation=bytes(16)).encode()
    leader.handle(ControlMessage(later.kind, (forged, later.parts[1])), NOW + 6.0, WALL_NS)
    assert leader.counters.control[RejectReason.SIGNATURE] == 1


def test_a_hello_that_says_nothing_new_costs_no_signature_check(
    air: Air, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = air.hosts["leader"]
    monkeypatch.setattr(leader.context, "check_signature", lambda *_: pytest.fail("a signature was checked"))
    before = leader.counters.control[RejectReason.DUPLICATE]
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    assert leader.counters.control[RejectReason.DUPLICATE] == before + 2


# Floods by somebody who has the secret


def forged(air: Air, name: str, channel: str, count: int, addressed: str = "") -> list[Envelope]:
    """Messages in the name of `name` by somebody who has the secret, but not its signing key."""
    fallback = air.hosts["drone_02"].fallback
    incarnation = air.hosts[name].context.members[name].incarnation
    lane = Lane.COMMAND if channel == COMMAND else Lane.TELEMETRY
    named = [air.hosts[addressed].context.members[addressed].incarnation] if addressed else []
    plaintext = u64(WALL_NS) + u32(len(named)) + b"".join(named) + b"forged"
    made = []
    for counter in range(1000, 1000 + count):
        prefix, nonce = incarnation + u64(counter), os.urandom(12)
        aad = fallback._aad(lane, channel, "T", prefix)
        sealed = prefix + nonce + fallback._key(incarnation).encrypt(nonce, plaintext, aad)
        made.append(Envelope(1, lane, 0, 0, sealed, bytes(4627)))
    return made


def refused(air: Air, name: str, channel: str, envelopes: list[Envelope]) -> Counter[RejectReason]:
    return Counter(air.refuses(name, channel, envelope) for envelope in envelopes)


def test_a_flood_in_one_name_leaves_everybody_elses_messages_their_share(air: Air) -> None:
    flood = refused(air, "leader", "drone_02/telemetry", forged(air, "drone_02", "drone_02/telemetry", 700))
    assert flood.keys() == {RejectReason.SIGNATURE, RejectReason.BUDGET}
    assert flood[RejectReason.SIGNATURE] == 200, "half of the telemetry's checks, as there are two peers"
    assert air.hosts["leader"].open(TELEMETRY, "T", air.send("drone_01", TELEMETRY), WALL_NS).signed
    for restart in range(1, 3):  # a new incarnation pays from the same purse
        air.hosts["drone_02"] = air.host("drone_02")
        air.say_hello(WALL_NS + restart * 1_000_000, NOW + 2.0 * restart)
    again = forged(air, "drone_02", "drone_02/telemetry", 3)
    assert refused(air, "leader", "drone_02/telemetry", again) == {RejectReason.BUDGET: 3}


def test_telemetry_that_an_insider_forges_in_every_name_takes_nothing_from_commands(air: Air) -> None:
    air.hosts["drone_01"].open(COMMAND, "T", air.send("leader", COMMAND), WALL_NS)
    flood = forged(air, "drone_02", "drone_02/telemetry", 700)
    assert refused(air, "drone_01", "drone_02/telemetry", flood)[RejectReason.BUDGET] == 500
    order = air.send("leader", COMMAND)
    assert air.hosts["drone_01"].open(COMMAND, "T", order, WALL_NS).addressed == ("drone_01",)


def test_a_flood_in_the_leaders_name_holds_its_commands_up_until_the_purse_fills_again(air: Air) -> None:
    flood = refused(air, "drone_01", COMMAND, forged(air, "leader", COMMAND, 300, addressed="drone_01"))
    assert flood == {RejectReason.SIGNATURE: 100, RejectReason.BUDGET: 200}
    order = air.send("leader", COMMAND)
    assert air.refuses("drone_01", COMMAND, order) is RejectReason.BUDGET
    telemetry = air.send("drone_02", "drone_02/telemetry")
    assert air.hosts["drone_01"].open("drone_02/telemetry", "T", telemetry, WALL_NS).sender == "drone_02"
    opened = air.hosts["drone_01"].open(COMMAND, "T", order, WALL_NS + 20_000_000)
    assert opened.addressed == ("drone_01",), "a refusal has moved no window"


def test_recordings_that_are_too_old_or_not_for_us_cost_no_signature_check(
    air: Air, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever records a message that a receiver missed needs no secret to send it a thousand times."""
    telemetry, order = air.send("drone_01", TELEMETRY), air.send("leader", COMMAND)
    air.hosts["drone_01"] = air.host("drone_01")
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    monkeypatch.setattr(CertifiedMember, "verify", lambda *_: pytest.fail("a signature was checked"))
    assert (
        air.refuses("drone_02", TELEMETRY, telemetry, WALL_NS + 1_100_000_000) is RejectReason.UNKNOWN_SENDER
    )
    assert air.refuses("drone_01", COMMAND, order) is RejectReason.NOT_ADDRESSED
    other = air.send("drone_02", "drone_02/telemetry")
    late = WALL_NS + 1_100_000_000
    assert air.refuses("leader", "drone_02/telemetry", other, late) is RejectReason.AGE


def test_whoever_says_hello_under_the_leaders_incarnation_does_not_pay_with_its_purse(air: Air) -> None:
    thief = air.hosts["drone_02"].context.members["drone_02"]
    thief.incarnation = air.hosts["drone_01"].context.members["drone_01"].incarnation
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    fallback = air.hosts["leader"].fallback
    while fallback._peers["drone_02"].checks[Lane.TELEMETRY].take(WALL_NS * 1e-9):
        pass
    opened = air.hosts["leader"].open(TELEMETRY, "T", air.send("drone_01", TELEMETRY), WALL_NS)
    assert opened.sender == "drone_01"


def test_drones_that_claim_the_leaders_incarnation_first_do_not_silence_it() -> None:
    air = Air()
    thieves = [f"drone_{number:02d}" for number in range(3, 8)]
    air.identities |= {name: air.keystore.enroll(name, Role.DRONE) for name in thieves}
    incarnation = air.hosts["leader"].context.members["leader"].incarnation
    leader = air.hosts.pop("leader")
    air.hosts["drone_01"] = air.host("drone_01")  # it has heard nobody yet
    for name in thieves:
        air.hosts[name] = air.host(name)
        air.hosts[name].context.members[name].incarnation = incarnation
    air.say_hello(WALL_NS + 1_000_000, NOW + 2.0)
    air.hosts["leader"] = leader
    air.say_hello(WALL_NS + 2_000_000, NOW + 4.0)
    opened = air.hosts["drone_01"].open(COMMAND, "T", air.send("leader", COMMAND), WALL_NS)
    assert opened.sender == "leader"


def test_nonces_are_random_counters_rise_and_the_key_is_the_incarnations(air: Air) -> None:
    envelopes = [air.send("drone_01", TELEMETRY) for _ in range(20)]
    assert len({e.sealed[24:36] for e in envelopes}) == 20
    assert [int.from_bytes(e.sealed[16:24], "big") for e in envelopes] == list(range(1, 21))
    fallbacks = [air.hosts[name].fallback for name in ("drone_01", "drone_02")]
    assert all(isinstance(item, Fallback) for item in fallbacks)
    assert "secret" not in repr(SECRET) + repr(fallbacks[0])


def test_the_secret_on_disk(tmp_path) -> None:
    keystore = Keystore(tmp_path / "keys", durable=False)
    assert keystore.fallback() is None
    keystore.create("test", wall_ns=WALL_NS)
    first = keystore.fallback()
    assert first is not None
    assert first.issued_ns == WALL_NS
    path = tmp_path / "keys" / "fallback.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert keystore.renew_fallback(WALL_NS + 1) == keystore.fallback() != first
    path.chmod(0o644)
    with pytest.raises(KeystoreError, match=r"can be read by others.*chimera keys fallback"):
        keystore.fallback()
    path.chmod(0o600)
    for text in ("", "{}", '{"format": 2, "issued_ns": 1, "secret": "00"}', json.dumps({"format": 1})):
        path.write_text(text)
        with pytest.raises(KeystoreError, match="damaged"):
            keystore.fallback()
    write_secret(tmp_path, FallbackSecret(5, os.urandom(64)), durable=False)
    assert read_secret(tmp_path).issued_ns == 5


def test_a_follower_obeys_hold_land_and_return_for_the_drones_that_are_named() -> None:
    command = SwarmCommand(1, 1, CommandKind.RETURN, ("drone_01", "drone_02"))
    assert restricted(command, ("drone_02", "drone_03")).targets == ("drone_02",)
    assert restricted(command, ("drone_03",)) is None
    everybody = dataclasses.replace(command, targets=())
    assert restricted(everybody, ("drone_03",)).targets == ("drone_03",)
    assert restricted(everybody, ()) is None
    for kind in CommandKind:
        obeyed = restricted(dataclasses.replace(command, kind=kind), ("drone_01",)) is not None
        assert obeyed is (kind in (CommandKind.HOLD, CommandKind.LAND, CommandKind.RETURN))
