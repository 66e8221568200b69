"""Checkpoints and diagnostics over real DDS: confirmed telemetry, a forger found, nothing in the clear."""

from chimera_ros.msg import Checkpoint as CheckpointMessage
from chimera_ros.msg import DroneTelemetry, SecureEnvelope
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point
from rclpy.serialization import deserialize_message, serialize_message

from chimera_ros.crypto.member.host import HostConfig
from chimera_ros.crypto.messages.associated_data import associated_data
from chimera_ros.crypto.primitives.key_schedule import sender_key
from chimera_ros.crypto.wire import ENVELOPE_VERSION, Lane
from chimera_ros.ros import SecureSession, SessionConfig, qos
from chimera_ros.ros.cdr import encode_envelope

QUIET = SessionConfig(synchronise_clock=False)
PLACE = Point(x=1234.567891, y=-9876.543211, z=444.333222111)


def telemetry(drone: str = "drone_01") -> DroneTelemetry:
    return DroneTelemetry(drone=drone, position_enu_m=PLACE, reason="recognisable reason")


def forged(session: SecureSession, victim: str, counter: int, payload: bytes, sent_ns: int) -> bytes:
    """What an insider can make of the epoch's keys: an envelope in the victim's name."""
    (member,) = session.host.context.members.values()
    epoch, _ = member.sending
    entry = next(item for item in epoch.roster if item.name == victim)
    aead, salt = sender_key(epoch._keys.lanes[Lane.TELEMETRY], entry.slot, entry.incarnation)
    channel, type_name = f"{victim}/telemetry", "chimera_ros/msg/DroneTelemetry"
    aad = associated_data(
        session.host.swarm,
        epoch.transcript_hash,
        Lane.TELEMETRY,
        entry.slot,
        epoch.epoch,
        channel,
        type_name,
    )
    nonce = salt + counter.to_bytes(8, "big")
    sealed = nonce + aead.encrypt(nonce, sent_ns.to_bytes(8, "big") + payload, aad)
    return encode_envelope(ENVELOPE_VERSION, Lane.TELEMETRY, entry.slot, epoch.epoch, sealed, b"")


def test_telemetry_is_confirmed_and_a_forger_is_found(party):
    party.join("crypto_0")
    drone = party.join("drone_01", "drone_02", config=QUIET)
    leader, insider = party.join("leader_0", config=QUIET), party.join("drone_03", config=QUIET)
    bystander = party.join(
        "drone_04",
        config=SessionConfig(host=HostConfig(verify_checkpoints=False), synchronise_clock=False),
    )
    publishers = {
        name: drone.create_publisher(DroneTelemetry, f"{name}/telemetry", member=name)
        for name in ("drone_01", "drone_02")
    }
    got = []
    for session in (leader, bystander):
        for name in publishers:
            session.create_subscription(DroneTelemetry, f"{name}/telemetry", lambda m, s: got.append(s))
    taken, alarms = [], []
    leader.on_checkpoint(lambda name, cdr: taken.append((name, deserialize_message(cdr, CheckpointMessage))))
    leader.on_alarm(lambda severity, text: alarms.append((severity, text)))
    party.all_ready()
    timer = drone.node.create_timer(
        0.05, lambda: [pub.publish(telemetry(name)) for name, pub in publishers.items()]
    )

    def counts(session):
        return session.host.checkpoints.counts

    party.wait(lambda: counts(leader).confirmed > 40, "for confirmed telemetry")
    assert {name for name, _ in taken} == {"drone_01", "drone_02"}
    assert counts(leader).mismatched == 0
    assert alarms == []

    # The switch to another epoch loses nobody's checkpoint.
    before = counts(leader)
    epoch = leader.epoch()
    party.wait(lambda: party.sessions["crypto_0"].status()["key_server"]["packages_ready"], "for packages")
    party.sessions["crypto_0"].rotate()
    party.wait(
        lambda: leader.epoch() != epoch and counts(leader).confirmed > before.confirmed + 200, "for the next"
    )
    assert counts(leader).mismatched == 0
    assert counts(leader).unconfirmed == before.unconfirmed

    payload = serialize_message(telemetry())
    sender = drone.host.context.members["drone_01"].sending
    counter = sender[0]._seal_states[(sender[1], Lane.TELEMETRY)].counter + 100_000
    channel = "drone_01/telemetry"
    raw = insider.node.create_publisher(SecureEnvelope, f"/chimera/{channel}", qos.for_publisher(channel))
    party.wait(lambda: raw.get_subscription_count() >= 2, "for the forger's readers")
    raw.publish(forged(insider, "drone_01", counter, payload, insider.swarm_ns()))
    party.wait(lambda: alarms, "for the forgery to be found")
    (severity, text), *_ = alarms
    assert severity == "error"
    assert f"drone_01/telemetry packet {counter} of epoch {leader.epoch()}" in text
    assert leader.security_state().verdict()[0] == 2
    assert "contradict" in leader.security_state().verdict()[1]
    timer.cancel()

    assert counts(bystander).confirmed == counts(bystander).verified == 0
    assert bystander.host.counters.opened > 40


def test_diagnostics_say_how_security_stands_and_never_where_anybody_is(party):
    party.join("crypto_0")
    drone, leader = party.join("drone_01", config=QUIET), party.join("leader_0", config=QUIET)
    publisher = drone.create_publisher(DroneTelemetry, "drone_01/telemetry")
    leader.create_subscription(DroneTelemetry, "drone_01/telemetry", lambda message, sender: None)
    seen = {}
    raw = []
    monitor = party.node("monitor")
    monitor.create_subscription(
        DiagnosticArray, "/diagnostics", lambda data: raw.append(bytes(data)), 50, raw=True
    )
    party.all_ready()
    timer = drone.node.create_timer(0.05, lambda: publisher.publish(telemetry()))

    def look():
        for data in raw:
            for status in deserialize_message(data, DiagnosticArray).status:
                seen[status.name] = status
        leading = seen.get("/chimera/leader_0_node: security")
        if len(seen) < 3 or leading is None:
            return False
        values = {item.key: item.value for item in leading.values}
        return leading.level == b"\x00" and int(values["checkpoints, confirmed"]) > 20

    party.wait(look, "for diagnostics of all three")
    timer.cancel()
    status = seen["/chimera/leader_0_node: security"]
    values = {item.key: item.value for item in status.values}
    assert status.hardware_id == "test"
    assert "security is on: epoch" in status.message
    assert values["crypto node"] == "crypto_0"
    assert set(values["roster"].split(", ")) == {"crypto_0", "drone_01", "leader_0"}
    assert values["put out"] == "nobody"
    everything = b"".join(raw)
    assert len(max(raw, key=len)) < 16_384
    for session in party.sessions.values():
        for epoch in session.host.context.sessions.open.values():
            for key in epoch._keys.lanes:
                assert key.hex().encode() not in everything
    for word in (b"1234.5", b"9876.5", b"444.33", b"recognisable"):
        assert word not in everything
