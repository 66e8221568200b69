"""The secure layer on real middleware: topics, services, rotation, several members in one process, stop."""

import time

import pytest
from chimera_ros.msg import CommandAck, DroneTelemetry, SecureEnvelope
from diagnostic_msgs.msg import KeyValue
from geometry_msgs.msg import Point, PoseStamped
from rclpy.serialization import deserialize_message
from std_srvs.srv import SetBool

from chimera_ros.crypto.errors import KeystoreError, Rejected
from chimera_ros.ros import SecureSession, qos
from chimera_ros.ros.endpoints import RawMessage
from chimera_ros.ros.schema import schema_text


def rejected(session):
    return {reason: count for reason, count in session.status()["rejected"].items() if count}


def test_publish_and_subscribe(party):
    party.join("crypto_0")
    one, other = party.join("drone_01"), party.join("leader_0")
    got = []
    joined = []
    one.on_ready(lambda: joined.append("now"))
    other.create_subscription(
        PoseStamped, "survey/pose", lambda message, sender: got.append((sender, message))
    )
    publisher = one.create_publisher(PoseStamped, "survey/pose")
    assert publisher.publish(PoseStamped()) is False  # no epoch yet
    assert not joined
    party.all_ready()
    assert joined == ["now"]
    message = PoseStamped()
    message.pose.position = Point(x=1.0, y=-2.5, z=1e9)

    def heard():
        publisher.publish(message)
        return got

    party.wait(heard, "for a message")
    assert got[0] == ("drone_01", message)
    assert one.status()["shell"]["not_ready"] == 1
    with pytest.raises(TypeError, match="geometry_msgs/msg/PoseStamped, not Point"):
        publisher.publish(Point())


def test_signed_commands_and_policy(party):
    party.join("crypto_0")
    drone, leader = party.join("drone_01"), party.join("leader_0")
    got = []
    leader.create_subscription(CommandAck, "drone_01/ack", lambda raw: got.append(raw), raw=True)
    publisher = drone.create_publisher(CommandAck, "drone_01/ack")
    with pytest.raises(PermissionError, match=r"lets leader publish on leader/command; drone_01 is a drone"):
        drone.create_publisher(CommandAck, "leader/command")
    foreign = drone.create_publisher(CommandAck, "drone_02/ack")
    party.all_ready()
    ack = CommandAck(drone="drone_01", command_id=7, status=CommandAck.ACCEPTED)

    def heard():
        publisher.publish(ack)
        return got

    party.wait(heard, "for a signed acknowledgement")
    raw = got[0]
    assert isinstance(raw, RawMessage)
    assert raw.opened.signed
    assert raw.opened.sender == "drone_01"
    assert deserialize_message(raw.opened.payload, CommandAck) == ack
    assert len(deserialize_message(raw.envelope_cdr, SecureEnvelope).signature) == 4627
    assert "uint64 command_id" in schema_text(raw.type_name)
    with pytest.raises(Rejected, match="not_permitted"):
        foreign.publish(ack)  # another drone's channel


def test_service(party):
    party.join("crypto_0")
    caller, bystander, server = party.join("drone_01"), party.join("drone_02"), party.join("leader_0")
    asked = []

    def on_start(request, sender):
        asked.append(sender)
        if request.data:
            return SetBool.Response(success=True, message=f"started for {sender}")
        raise RuntimeError("secret")

    server.create_service(SetBool, "survey/start", on_start)
    client, other = (each.create_client(SetBool, "survey/start") for each in (caller, bystander))
    early = []
    assert client.call_async(SetBool.Request(), 1.0, early.append) is False
    assert "not joined" in early[0].failure
    party.all_ready()
    party.wait(lambda: client.service_is_ready() and other.service_is_ready(), "for the service")
    replies = {"drone_01": [], "drone_02": []}
    assert client.call_async(SetBool.Request(data=True), 10.0, replies["drone_01"].append)
    assert other.call_async(SetBool.Request(data=True), 10.0, replies["drone_02"].append)
    party.wait(lambda: all(replies.values()), "for both answers")
    for name, (reply,) in replies.items():
        assert reply.failure is None
        assert reply.sender == "leader_0"
        assert reply.response.message == f"started for {name}"
    # A server that fails says nothing; the caller learns it by the time-out, once.
    none = []
    client.call_async(SetBool.Request(data=False), 0.5, none.append)
    party.wait(lambda: none, "for the time-out")
    party.spin_for(0.3)
    assert [reply.response for reply in none] == [None]
    assert "no answer from survey/start" in none[0].failure
    assert server.status()["shell"]["callback_errors"] == 1
    with pytest.raises(ValueError, match="already served by this session"):
        server.create_service(SetBool, "survey/start", on_start)


def test_rotation_under_traffic_loses_nothing(party):
    crypto = party.join("crypto_0")
    sender, receiver = party.join("drone_01"), party.join("leader_0")
    got, epochs = [], set()
    receiver.create_subscription(KeyValue, "survey/count", lambda message, _: got.append(int(message.value)))
    publisher = sender.create_publisher(KeyValue, "survey/count")
    party.all_ready()

    def settled():
        publisher.publish(KeyValue(value="-1"))
        return got

    party.wait(settled, "for the topic to be matched")
    sent = 0

    def send():
        nonlocal sent
        assert publisher.publish(KeyValue(value=str(sent)))
        epochs.add(sender.epoch())
        sent += 1

    timer = party.nodes[1].create_timer(0.005, send)
    for _ in range(4):
        before = sender.epoch()
        party.wait(lambda: crypto.status()["key_server"]["packages_ready"], "for the next packages")
        crypto.rotate()
        party.wait(lambda before=before: max(epochs, default=-1) > before, "for the switch")
    timer.cancel()
    party.wait(lambda: got and got[-1] == sent - 1, "for the last message")
    assert [number for number in got if number >= 0] == list(range(sent))
    assert len(epochs) >= 5
    assert rejected(receiver) == {}


def test_members_of_one_process_open_a_packet_once(party):
    party.join("crypto_0")
    shard = party.join("drone_01", "drone_02", "drone_03")
    other = party.join("drone_04")
    got = []
    for _ in range(3):
        shard.create_subscription(
            DroneTelemetry, "drone_04/telemetry", lambda message, sender: got.append(sender)
        )
    own = []
    shard.create_subscription(
        DroneTelemetry, "drone_01/telemetry", lambda message, sender: own.append(sender)
    )
    with pytest.raises(ValueError, match="name the member"):
        shard.create_publisher(DroneTelemetry, "drone_01/telemetry")
    neighbour = shard.create_publisher(DroneTelemetry, "drone_01/telemetry", member="drone_01")
    publisher = other.create_publisher(DroneTelemetry, "drone_04/telemetry")
    party.all_ready()
    assert {shard.epoch(name) for name in shard.members} == {other.epoch()}
    sent = 0

    def heard():
        nonlocal sent
        sent += publisher.publish(DroneTelemetry(drone="drone_04"))
        neighbour.publish(DroneTelemetry(drone="drone_01"))
        return len(got) >= 30 and own

    party.wait(heard, "for telemetry")
    party.spin_for(0.2)
    topics = party.nodes[1].get_subscriptions_info_by_topic("/chimera/drone_04/telemetry")
    assert len(topics) == 1
    assert len(got) % 3 == 0
    assert len(got) // 3 <= sent
    assert own
    assert set(own) == {"drone_01"}  # a neighbour in the same process is heard like any other
    assert rejected(shard) == {}


def test_latched_message_reaches_latecomers_and_is_resealed(party):
    crypto = party.join("crypto_0")
    sender, early = party.join("leader_0"), party.join("drone_01")
    publisher = sender.create_publisher(KeyValue, "survey/area", latched=True)
    publisher.publish(KeyValue(key="before", value="joining"))
    got = []
    early.create_subscription(
        KeyValue, "survey/area", lambda message, _: got.append(message.value), latched=True
    )
    party.wait(lambda: got == ["joining"], "for what was published before joining")
    publisher.publish(KeyValue(value="north"))
    party.wait(lambda: got == ["joining", "north"], "for the second")
    before = early.epoch()
    party.wait(lambda: crypto.status()["key_server"]["packages_ready"], "for packages")
    crypto.rotate()
    party.wait(lambda: early.epoch() != before, "for the switch")
    late = party.join("drone_02")
    heard = []
    late.create_subscription(
        KeyValue, "survey/area", lambda message, _: heard.append(message.value), latched=True
    )
    party.wait(lambda: heard == ["north"], "for the latecomer")
    party.spin_for(0.5)
    assert got == ["joining", "north"]  # resealed samples are not delivered again
    assert heard == ["north"]
    # Long after, the sample that DDS keeps is too old for the policy: it is resealed for the newcomer.
    party.spin_for(5.5)
    third = party.join("drone_03")
    party.all_ready()
    also = []
    third.create_subscription(
        KeyValue, "survey/area", lambda message, _: also.append(message.value), latched=True
    )
    party.wait(lambda: also == ["north"], "for the second latecomer")


def test_operator_stop_reaches_every_drone_without_leader(party):
    party.join("crypto_0")
    shard, single, operator = (
        party.join("drone_01", "drone_02"),
        party.join("drone_03"),
        party.join("operator_0"),
    )
    orders = []
    shard.on_stop(lambda order: orders.append(("shard", order.level, sorted(order.targets))))
    single.on_stop(lambda order: orders.append(("single", order.level, sorted(order.targets))))
    done = []
    operator.stop_drones("land", ["drone_01", "drone_02", "drone_03"], done.append, timeout_s=15.0)
    party.wait(lambda: done, "for all acknowledgements")
    assert done == [frozenset({"drone_01", "drone_02", "drone_03"})]
    assert sorted(orders) == [("shard", "land", ["drone_01", "drone_02"]), ("single", "land", ["drone_03"])]
    missing = []
    operator.stop_drones("hold", ["drone_03", "drone_05"], missing.append, timeout_s=5.0)
    party.wait(lambda: missing, "for the time-out")
    assert missing == [frozenset({"drone_03"})]
    with pytest.raises(PermissionError, match="role operator"):
        shard.stop_drones("hold", [], done.append)


def test_clock_offset_is_measured(party, monkeypatch):
    party.join("crypto_0")
    drone = party.join("drone_01", "drone_02")
    assert not drone.clock_synchronised()
    assert drone.clock_error_s == float("inf")
    party.wait(drone.clock_synchronised, "for the clock")
    assert abs(drone.clock_offset_s) < 0.02
    assert abs(drone.swarm_ns() - time.time_ns()) < 0.02e9
    assert drone.status()["clock"]["synchronised"]
    assert rejected(drone) == {}


def test_mistakes_are_said_in_one_sentence(party):
    with pytest.raises(KeystoreError):
        SecureSession(party.node("nobody"), member="drone_77", keystore=party.keystore)
    with pytest.raises(KeystoreError):
        SecureSession(party.node("nowhere"), member="drone_01", keystore=party.keystore / "none")
    with pytest.raises(ValueError, match="at least one member"):
        SecureSession(party.node("none"), keystore=party.keystore)
    with pytest.raises(ValueError, match="hosted alone"):
        SecureSession(party.node("two"), members=["crypto_0", "drone_01"], keystore=party.keystore)
    session = party.join("drone_01", autostart=False)
    with pytest.raises(ValueError, match="allowed are"):
        session.create_publisher(Point, "Survey/pose")
    session.create_subscription(Point, "survey/point", lambda message, sender: None)
    with pytest.raises(ValueError, match="subscribed as geometry_msgs/msg/Point"):
        session.create_subscription(KeyValue, "survey/point", lambda message, sender: None)


def test_closing_leaves_nothing_behind(party):
    party.join("crypto_0")
    session = party.join("drone_01")
    session.create_publisher(Point, "survey/point")
    subscription = session.create_subscription(Point, "survey/other", lambda message, sender: None)
    session.create_client(SetBool, "survey/start")
    session.create_service(SetBool, "survey/stop", lambda request, sender: SetBool.Response())
    party.all_ready()
    node = party.nodes[1]
    before = {name for name, _ in node.get_subscriber_names_and_types_by_node("drone_01_node", "/chimera")}
    assert "/chimera/survey/other" in before
    subscription.destroy()
    session.close()
    session.close()

    def left():
        published = node.get_publisher_names_and_types_by_node("drone_01_node", "/chimera")
        subscribed = node.get_subscriber_names_and_types_by_node("drone_01_node", "/chimera")
        return {name for name, _ in (*published, *subscribed)} - {"/rosout", "/parameter_events"}

    party.wait(lambda: not left(), "for the last topic to go")


def test_qos_is_that_of_the_design():
    assert qos.for_subscription("survey/area", latched=True).depth >= 16
    for profile in (qos.for_publisher("drone_01/telemetry"), qos.for_subscription("leader/heartbeat")):
        assert profile.reliability == qos.ReliabilityPolicy.BEST_EFFORT
    for channel in (
        "crypto/epoch",
        "crypto/switch",
        "crypto/beat",
        "crypto/key_request",
        "crypto/certificates",
    ):
        for reader in (True, False):
            profile = qos.for_control(channel, reader=reader)
            assert profile.durability == qos.DurabilityPolicy.TRANSIENT_LOCAL
            assert profile.reliability == qos.ReliabilityPolicy.RELIABLE
        assert qos.for_control(channel, reader=True).depth >= 16
    assert qos.for_control("crypto/ready", reader=True).durability == qos.DurabilityPolicy.VOLATILE


def test_a_timer_that_was_due_when_the_session_closed_does_nothing(party):
    session = party.join("drone_01")
    session.close()
    session._driver._on_timer()
