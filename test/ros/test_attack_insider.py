"""A member sends what is sealed well and malformed inside: no process ends, nothing of it is delivered."""

import struct

import pytest
from chimera_ros.msg import CommandAck, SwarmCommand, Trajectory
from chimera_ros.srv import ClockSync
from diagnostic_msgs.msg import KeyValue
from rclpy.serialization import serialize_message

from chimera_ros.crypto.messages.stop import make_stop
from chimera_ros.crypto.testing.swarm import MemoryKeystore, Role
from chimera_ros.ros import SessionConfig
from chimera_ros.ros.cdr import CdrError, checked_payload
from chimera_ros.ros.stop_call import StopCall


def hostile(message):
    """Payloads that are not what rmw writes; the first few crash a process that hands them to Fast CDR."""
    good = serialize_message(message)
    yield b"\x00\x01\x00\x25"  # announces padding that is not there
    yield b"\x00\x01\x00\x03"
    yield b"\x00\x01\x00\x01" + good[4:5]
    yield b"\x00\x00\x00\x01"
    yield b""
    yield b"\x00"
    yield b"\x00\x01\x00\x00"
    for kind in (0x00, 0x02, 0x03, 0x06, 0x07, 0x0A, 0xFF):  # big endian, parameter lists, XCDR2
        yield bytes((0, kind, 0, 0)) + good[4:]
    for length in (0xFFFFFFFF, 0x7FFFFFFF, 0x10000000):
        for at in range(4, min(len(good), 40), 4):
            yield good[:at] + struct.pack("<I", length) + good[at + 4 :]
    for end in range(4, len(good), max(1, len(good) // 16)):
        yield good[:end]


def test_hostile_payloads_through_a_real_session(party):
    quiet = SessionConfig(synchronise_clock=False)
    party.join("crypto_0")
    drone, leader = party.join("drone_01", config=quiet), party.join("leader_0", config=quiet)
    party.all_ready()
    got = []
    cases = {
        "survey/count": (KeyValue(key="a", value="b"), drone, leader),
        "drone_01/ack": (CommandAck(drone="drone_01", reason="x"), drone, leader),
        "leader/command": (SwarmCommand(targets=["drone_01", "drone_02"]), leader, drone),
    }
    for channel, (message, speaker, hearer) in cases.items():
        got.clear()
        publisher = speaker.create_publisher(type(message), channel)
        hearer.create_subscription(type(message), channel, lambda m, sender: got.append(sender))
        party.wait(lambda p=publisher: p._writer.publisher.get_subscription_count() > 0, "for the hearer")
        before = hearer.host.counters.opened
        payloads = list(hostile(message))
        for number, payload in enumerate(payloads, 1):
            assert publisher.publish(payload)
            party.wait(lambda n=number, b=before, h=hearer: h.host.counters.opened >= b + n, "for the victim")
        delivered = len(got)
        assert hearer.counts["malformed_payload"] >= 10
        assert publisher.publish(message)
        party.wait(lambda d=delivered: len(got) > d, "for a good message after all the bad ones")
    assert leader.counts["callback_errors"] == drone.counts["callback_errors"] == 0


def test_only_what_rmw_writes_reaches_the_deserialiser():
    for message in (Trajectory(), ClockSync.Request(), KeyValue(), SwarmCommand()):
        good = serialize_message(message)
        assert checked_payload(good) == good
        assert checked_payload(good[:3] + b"\x03" + good[4:] + b"\0\0\0")[:4] == b"\x00\x01\x00\x00"
    for payload in (b"", b"\x00\x01\x00\x00", b"\x00\x01\x00\x04\0\0\0\0", b"\x00\x00\x00\x00\0\0\0\0"):
        with pytest.raises(CdrError):
            checked_payload(payload)


def test_a_receipt_of_another_stop_ends_no_stop():
    identity = MemoryKeystore().enroll("operator", Role.OPERATOR)
    over = []
    call = StopCall(make_stop(identity, 7, "land", ["d"], 10**18), frozenset({"d"}), over.append, 0.0, 8.0)
    call.acknowledged_by("d", 6)
    assert not call.finished(1.0)
    assert call.due(1.0) is not None
    call.acknowledged_by("d", 7)
    assert call.finished(1.0)
    assert call.acknowledged == {"d"}
