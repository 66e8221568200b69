"""Envelopes: whatever an attacker does to recorded ones, nothing is accepted twice or wrongly."""

from __future__ import annotations

import contextlib
import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chimera_ros.crypto.errors import ForkedProcess, NotReady, Rejected, RejectReason
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.member.host import PendingRequest, SecureHost
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import MAX_SEALED, Envelope, Lane

TYPE = "chimera_ros/msg/DroneTelemetry"
TELEMETRY = "drone_01/telemetry"
COMMAND = "leader/command"


@pytest.fixture(scope="module")
def swarm() -> Swarm:
    made = Swarm(drones=2, shards=2, operator=True)
    made.join()
    made.wire.run(1.0)  # every certificate has gone round
    return made


def refused(
    host: SecureHost, channel: str, envelope: Envelope, wall_ns: int, type_name: str = TYPE
) -> RejectReason:
    before = host.counters.snapshot()
    with pytest.raises(Rejected) as caught:
        host.open(channel, type_name, envelope, wall_ns)
    after = host.counters.snapshot()
    assert after["opened"] == before["opened"]
    assert host.counters.rejected[caught.value.reason] > 0
    return caught.value.reason


def test_everybody_reads_what_one_seals(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    envelope = swarm.host_of("drone_01").seal(TELEMETRY, TYPE, b"position", wall - 5, "drone_01")
    assert b"position" not in envelope.sealed
    assert envelope.lane == Lane.TELEMETRY
    for member in ("drone_01", "drone_02", "leader", "crypto", "operator"):
        opened = swarm.host_of(member).open(TELEMETRY, TYPE, envelope, wall)
        assert (opened.sender, opened.role, bytes(opened.payload)) == ("drone_01", Role.DRONE, b"position")
        assert (opened.sent_ns, opened.signed, opened.epoch) == (wall - 5, False, envelope.epoch)


def test_a_sender_that_floods_the_telemetry_lane_is_shut_out_alone(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    host = swarm.host_of("leader")
    channel, sender = "drone_02/telemetry", swarm.host_of("drone_02")
    flood = [sender.seal(channel, TYPE, b"x", wall, "drone_02") for _ in range(2500)]
    honest = [swarm.host_of("drone_01").seal(TELEMETRY, TYPE, b"y", wall, "drone_01") for _ in range(2)]
    junk = honest[0]._replace(sealed=honest[0].sealed[:12] + bytes(len(honest[0].sealed) - 12))
    for _ in range(2500):  # what is not genuine uses nothing up
        assert refused(host, TELEMETRY, junk, wall) is RejectReason.AUTHENTICATION
    before = host.counters.opened
    for envelope in flood:
        with contextlib.suppress(Rejected):
            host.open(channel, TYPE, envelope, wall)
    assert 2000 <= host.counters.opened - before <= 2001  # 500 a second, four seconds' worth
    assert refused(host, channel, flood[-1], wall) is RejectReason.BUDGET
    assert host.open(TELEMETRY, TYPE, honest[1], wall).payload == b"y"
    assert host.open(channel, TYPE, flood[-1], wall + 100_000_000).payload == b"x"


def test_signed_lane_carries_a_signature_that_is_checked(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    leader, drone = swarm.host_of("leader"), swarm.host_of("drone_01")
    envelope = leader.seal(COMMAND, TYPE, b"land", wall, "leader")
    assert len(envelope.signature) == 4627
    flipped = bytearray(envelope.signature)
    flipped[100] ^= 1
    assert (
        refused(drone, COMMAND, envelope._replace(signature=bytes(flipped)), wall) is RejectReason.SIGNATURE
    )
    assert refused(drone, COMMAND, envelope._replace(signature=b""), wall) is RejectReason.SIGNATURE
    other = leader.seal(COMMAND, TYPE, b"land", wall, "leader")
    assert (
        refused(drone, COMMAND, envelope._replace(signature=other.signature), wall) is RejectReason.SIGNATURE
    )
    assert drone.open(COMMAND, TYPE, envelope, wall).signed
    assert refused(drone, COMMAND, envelope, wall) is RejectReason.REPLAY


def test_refusals_by_reason(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    sender, drone = swarm.host_of("drone_01"), swarm.host_of("drone_02")
    good = sender.seal(TELEMETRY, TYPE, b"x", wall, "drone_01")
    cases = [
        (good._replace(version=2), RejectReason.VERSION),
        (good._replace(epoch=0), RejectReason.FALLBACK),
        (good._replace(epoch=good.epoch + 4), RejectReason.UNKNOWN_EPOCH),
        (good._replace(sender=999), RejectReason.UNKNOWN_SENDER),
        (good._replace(lane=Lane.BULK), RejectReason.LANE),
        (good._replace(lane=200), RejectReason.LANE),
        (good._replace(sealed=good.sealed[:35]), RejectReason.SIZE),
        (good._replace(sealed=bytes(MAX_SEALED + 1)), RejectReason.SIZE),
        (good._replace(signature=bytes(5000)), RejectReason.SIZE),
        (good._replace(signature=b"x"), RejectReason.SIGNATURE),
        (good._replace(sealed=bytes(4) + good.sealed[4:]), RejectReason.AUTHENTICATION),
        (good._replace(sealed=good.sealed[:-1]), RejectReason.AUTHENTICATION),
    ]
    for envelope, reason in cases:
        assert refused(drone, TELEMETRY, envelope, wall) is reason
    assert refused(drone, TELEMETRY, good, wall, "std_msgs/msg/String") is RejectReason.AUTHENTICATION
    assert refused(drone, "drone_02/telemetry", good, wall) is RejectReason.NOT_PERMITTED
    assert refused(drone, "leader/heartbeat", good, wall) is RejectReason.NOT_PERMITTED
    assert refused(drone, "survey/pose", good, wall) is RejectReason.LANE
    assert refused(drone, TELEMETRY, good, wall + 1_000_000_001) is RejectReason.AGE
    assert refused(drone, TELEMETRY, good, wall - 200_000_001) is RejectReason.AGE
    assert drone.open(TELEMETRY, TYPE, good, wall + 999_000_000).payload == b"x", (
        "no refusal changed anything"
    )


def test_sender_of_another_slot_is_not_believed(swarm: Swarm) -> None:
    """A member's packet under another's slot number has the wrong key."""
    wall = swarm.wire.wall_ns
    mine = swarm.host_of("drone_01").seal("survey/pose", TYPE, b"x", wall, "drone_01")
    for entry in swarm.host_of("leader").roster():
        if entry.name != "drone_01":
            forged = mine._replace(sender=entry.slot)
            assert (
                refused(swarm.host_of("leader"), "survey/pose", forged, wall) is RejectReason.AUTHENTICATION
            )


@settings(max_examples=150)
@given(data=st.data())
def test_a_flipped_or_cut_packet_is_never_accepted(swarm: Swarm, data: st.DataObject) -> None:
    wall = swarm.wire.wall_ns
    signed = data.draw(st.booleans())
    channel, member = (COMMAND, "leader") if signed else (TELEMETRY, "drone_01")
    good = swarm.host_of(member).seal(channel, TYPE, data.draw(st.binary(max_size=60)), wall, member)
    where = data.draw(st.sampled_from(["sealed", "signature"] if signed else ["sealed"]))
    raw = bytearray(getattr(good, where))
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    if data.draw(st.booleans()):
        raw[at // 8] ^= 1 << (at % 8)
    else:
        del raw[at // 8 :]
    host = swarm.host_of("drone_02")
    with pytest.raises(Rejected):
        host.open(channel, TYPE, good._replace(**{where: bytes(raw)}), wall)
    assert host.open(channel, TYPE, good, wall).sender == member
    with pytest.raises(Rejected):
        host.open(channel, TYPE, good, wall)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 80))
def test_replayed_and_reordered_packets_are_accepted_exactly_once(
    swarm: Swarm, seed: int, count: int
) -> None:
    rng = random.Random(seed)
    wall = swarm.wire.wall_ns
    sender = swarm.host_of("drone_01")
    sent = [sender.seal(TELEMETRY, TYPE, str(n).encode(), wall, "drone_01") for n in range(count)]
    storm = sent * 3
    rng.shuffle(storm)
    accepted, seen = [], set()
    for envelope in storm:
        first = envelope.sealed not in seen
        seen.add(envelope.sealed)
        if first:
            accepted.append(bytes(swarm.host_of("leader").open(TELEMETRY, TYPE, envelope, wall).payload))
        else:
            assert refused(swarm.host_of("leader"), TELEMETRY, envelope, wall) is RejectReason.REPLAY
    assert sorted(accepted) == sorted(str(n).encode() for n in range(count))


@settings(max_examples=300)
@given(
    version=st.integers(0, 255),
    lane=st.integers(0, 255),
    sender=st.integers(0, 65535),
    epoch=st.integers(0, 2**32 - 1),
    sealed=st.binary(max_size=100),
    signature=st.one_of(st.just(b""), st.binary(max_size=40)),
    real=st.booleans(),
)
def test_arbitrary_envelopes_raise_only_rejected(
    swarm: Swarm,
    version: int,
    lane: int,
    sender: int,
    epoch: int,
    sealed: bytes,
    signature: bytes,
    real: bool,
) -> None:
    if real:
        version, lane, epoch = 1, Lane.TELEMETRY, swarm.server.status()["epoch"]
        sender %= 6
    with pytest.raises(Rejected):
        swarm.host_of("leader").open(
            TELEMETRY, TYPE, Envelope(version, lane, sender, epoch, sealed, signature), swarm.wire.wall_ns
        )


def test_nonces_never_repeat_and_the_window_is_per_lane(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    host = swarm.host_of("drone_01")
    channels = (TELEMETRY, "survey/pose", "drone_01/other")
    envelopes = [host.seal(channel, TYPE, b"", wall, "drone_01") for _ in range(50) for channel in channels]
    nonces = {(envelope.lane, envelope.sealed[:12]) for envelope in envelopes}
    assert len(nonces) == len(envelopes)
    salts = {envelope.lane: envelope.sealed[:4] for envelope in envelopes}
    assert len(set(salts.values())) == len(salts)


def test_service_response_is_bound_to_its_request(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    drone, crypto, other = swarm.host_of("drone_01"), swarm.server.host, swarm.host_of("drone_02")
    mine = drone.seal_request("crypto/clock", "Q", b"t1", wall, "drone_01")
    theirs = other.seal_request("crypto/clock", "Q", b"t1", wall, "drone_02")
    assert crypto.open("crypto/clock/request", "Q", mine.envelope, wall).sender == "drone_01"
    response = crypto.seal_response("crypto/clock", "R", b"t2", wall, "crypto", mine.envelope)
    again = crypto.seal_response("crypto/clock", "R", b"t2 again", wall, "crypto", mine.envelope)
    with pytest.raises(Rejected, match="unmatched"):
        other.open_response("crypto/clock", "R", response, wall, [theirs])
    with pytest.raises(Rejected, match="unmatched"):
        other.open_response("crypto/clock", "R", response, wall, [])
    found, opened = drone.open_response("crypto/clock", "R", response, wall, [theirs, mine])
    assert found is mine
    assert opened.payload == b"t2"
    with pytest.raises(Rejected, match="already"):
        drone.open_response("crypto/clock", "R", again, wall, [mine])
    logger = swarm.host_of("leader")
    assert logger.open_response("crypto/clock", "R", response, wall, [PendingRequest.observed(mine.envelope)])
    assert refused(drone, "crypto/clock/response", again, wall, "R") is RejectReason.AUTHENTICATION


def test_signed_service(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    operator, crypto = swarm.host_of("operator"), swarm.server.host
    request = operator.seal_request("crypto/rotate", "Q", b"please", wall, "operator")
    assert crypto.open("crypto/rotate/request", "Q", request.envelope, wall).signed
    response = crypto.seal_response("crypto/rotate", "R", b"done", wall, "crypto", request.envelope)
    _, opened = operator.open_response("crypto/rotate", "R", response, wall, [request])
    assert opened.signed
    assert opened.payload == b"done"


def test_sealing_what_policy_forbids_is_refused_here_already(swarm: Swarm) -> None:
    with pytest.raises(Rejected, match=r"drone_01 \(drone\) may not publish on leader/command"):
        swarm.host_of("drone_01").seal(COMMAND, TYPE, b"", swarm.wire.wall_ns, "drone_01")
    with pytest.raises(Rejected, match="no rule for channel crypto/x"):
        swarm.host_of("drone_01").seal("crypto/x", TYPE, b"", swarm.wire.wall_ns, "drone_01")
    with pytest.raises(Rejected, match="size"):
        swarm.host_of("drone_01").seal("a/b", TYPE, bytes(MAX_SEALED), swarm.wire.wall_ns, "drone_01")


def test_not_ready_before_the_first_epoch(swarm: Swarm) -> None:
    identity = swarm.identities["drone_01"]
    host = SecureHost([identity], swarm.trust, {"drone_01": MemoryStore()})
    assert not host.ready("drone_01")
    assert host.epoch("drone_01") is None
    with pytest.raises(NotReady, match="drone_01 cannot send: it has not joined"):
        host.seal(TELEMETRY, TYPE, b"", 0, "drone_01")


def test_a_forked_process_cannot_seal(swarm: Swarm) -> None:
    wall = swarm.wire.wall_ns
    pid = os.fork()
    if pid == 0:  # the child tells the outcome by its exit status
        try:
            swarm.host_of("drone_01").seal(TELEMETRY, TYPE, b"", wall, "drone_01")
        except ForkedProcess:
            os._exit(7)
        except BaseException:
            os._exit(8)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    swarm.host_of("drone_01").seal(TELEMETRY, TYPE, b"", wall, "drone_01")
