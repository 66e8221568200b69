"""`crypto/evict` and `crypto/rotate` on real middleware: the crypto node's process and a captured drone."""

import json
import subprocess
import sys

import pytest
from chimera_ros.srv import EvictMember, RotateEpoch
from diagnostic_msgs.msg import KeyValue


@pytest.fixture
def crypto_node(party):
    """The crypto node in a process of its own."""
    options = ["-r", "__ns:=/chimera", "-p", f"keystore:={party.keystore}", "-p", "member:=crypto_0"]
    node = subprocess.Popen(
        [sys.executable, "-m", "chimera_ros.nodes.crypto", "--ros-args", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    yield node
    node.terminate()
    node.wait(10)


def call(party, session, service_type, name, request):
    client = session.create_client(service_type, name)
    party.wait(client.service_is_ready, f"for {name}")
    replies = []
    client.call_async(request, 2.0, replies.append)
    party.wait(lambda: replies, f"for the answer of {name}")
    client.destroy()
    return replies[0]


def test_an_operator_puts_a_member_out_and_rotates(party, crypto_node):
    drone, captured = party.join("drone_01"), party.join("drone_02")
    leader, operator = party.join("leader_0"), party.join("operator_0")
    party.all_ready()
    with pytest.raises(PermissionError, match="lets operator publish on crypto/evict/request"):
        drone.create_client(EvictMember, "crypto/evict")

    reply = call(party, operator, EvictMember, "crypto/evict", EvictMember.Request(member="drone_77"))
    assert not reply.response.accepted
    assert "no certificate of drone_77" in reply.response.reason
    reply = call(party, operator, EvictMember, "crypto/evict", EvictMember.Request(member="operator_0"))
    assert not reply.response.accepted
    assert "last operator" in reply.response.reason

    epoch = leader.epoch()
    reply = call(party, operator, RotateEpoch, "crypto/rotate", RotateEpoch.Request(reason="test"))
    assert reply.response.accepted
    party.wait(lambda: leader.epoch() > epoch, "for the ordered epoch")

    heard = {"drone_02": [], "leader_0": []}
    captured.create_subscription(KeyValue, "survey/a", lambda message, _: heard["drone_02"].append(message))
    leader.create_subscription(KeyValue, "survey/a", lambda message, _: heard["leader_0"].append(message))
    publisher = drone.create_publisher(KeyValue, "survey/a")

    def flows():
        publisher.publish(KeyValue(value="before"))
        return all(heard.values())

    party.wait(flows, "for data")
    epoch = leader.epoch()
    call(party, operator, EvictMember, "crypto/evict", EvictMember.Request(member="drone_02"))
    party.wait(
        lambda: (drone.epoch() or 0) > epoch and (leader.epoch() or 0) > epoch, "for the evicting epoch"
    )
    assert "drone_02" not in {entry.name for entry in leader.host.roster()}
    for messages in heard.values():
        messages.clear()

    def goes_on():
        publisher.publish(KeyValue(value="after"))
        return len([message for message in heard["leader_0"] if message.value == "after"]) >= 3

    party.wait(goes_on, "for data under the new epoch")
    party.spin_for(1.0)
    assert [message for message in heard["drone_02"] if message.value == "after"] == []
    assert not captured.ready or captured.epoch() == epoch
    reply = call(party, operator, EvictMember, "crypto/evict", EvictMember.Request(member="drone_02"))
    assert (reply.response.accepted, reply.response.reason) == (True, "drone_02 is evicted already")


def test_chimera_command_evict(party, crypto_node):
    drone, captured = party.join("drone_01"), party.join("drone_02")
    party.all_ready()

    def order(*words):
        options = ["--operator", "operator_0", "--keystore", str(party.keystore), "--json"]
        process = subprocess.Popen(
            [sys.executable, "-m", "chimera_ros.cli", "command", *words, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        party.wait(lambda: process.poll() is not None, f"for chimera command {words[0]}", 40.0)
        return process.returncode, json.loads(process.stdout.read())

    status, answer = order("evict", "drone_02")
    assert (status, answer["accepted"]) == (0, True), answer
    party.wait(lambda: {e.name for e in drone.host.roster()} == {"crypto_0", "drone_01"}, "for the farewell")
    assert not captured.ready
