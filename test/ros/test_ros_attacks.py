"""An attacker who repeats, reorders, cuts and changes packets gets nothing accepted twice or wrongly."""

import random
from collections import Counter

import pytest
from chimera_ros.msg import CommandAck, SecureEnvelope
from diagnostic_msgs.msg import KeyValue
from rclpy.qos import DurabilityPolicy, QoSProfile

from chimera_ros.crypto.wire import ControlKind
from chimera_ros.ros import SessionConfig, qos
from chimera_ros.ros.cdr import decode_envelope, encode_envelope
from chimera_ros.ros.control_topics import TOPICS

BATCH = 20
# Said only when no crypto node is left, and when revocation list or policy change.
SELDOM = (ControlKind.FALLBACK_HELLO, ControlKind.TRUST)


class Attacker:
    """A stranger's node: hears a topic raw and sends bytes on it."""

    def __init__(self, party, channel, message_type=SecureEnvelope, latched=False):
        if not hasattr(party, "stranger"):
            party.stranger = party.node("stranger")
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        quality = QoSProfile(depth=500, durability=durability)
        topic = f"/chimera/{channel}"
        self.heard = []
        self.party = party
        self.subscription = party.stranger.create_subscription(
            message_type, topic, self.heard.append, quality, raw=True
        )
        self.publisher = party.stranger.create_publisher(message_type, topic, quality)

    def send_all(self, packets, accounted, limit_s=60.0):
        """Send in batches, each once `accounted()` shows that the victim has dealt with the last one."""
        start = accounted()
        for first in range(0, len(packets), BATCH):
            for packet in packets[first : first + BATCH]:
                self.publisher.publish(packet)
            expected = start + min(first + BATCH, len(packets))
            self.party.wait(lambda expected=expected: accounted() >= expected, "for the victim", limit_s)
        self.party.spin_for(0.1)
        assert accounted() == start + len(packets)


def dealt_with(session, got):
    """How many packets of a channel a session has accepted or refused."""
    status = session.status()
    return len(got) + sum(status["rejected"].values()) + status["shell"].get("malformed_packet", 0)


@pytest.fixture
def swarm(party):
    """crypto_0, drone_01 (speaks), leader_0 (hears); no clock exchange, so that every count is ours."""
    quiet = SessionConfig(synchronise_clock=False)
    crypto = party.join("crypto_0")
    return crypto, party.join("drone_01", config=quiet), party.join("leader_0", config=quiet)


def say(party, publisher, attacker, messages):
    """Publish messages once DDS has matched the attacker; returns the packets as recorded."""
    party.wait(lambda: publisher._writer.publisher.get_subscription_count() > 0, "for the recorder")
    before = len(attacker.heard)
    for message in messages:
        assert publisher.publish(message)
    party.wait(lambda: len(attacker.heard) == before + len(messages), "for the recording")
    return attacker.heard[before:]


def test_replayed_changed_and_cut_envelopes(party, swarm):
    _, drone, leader = swarm
    randomly = random.Random(20)
    cases = {
        "survey/count": ([KeyValue(value=str(number)) for number in range(10)], KeyValue),
        "drone_01/ack": (
            [CommandAck(drone="drone_01", command_id=n, status=1) for n in range(10)],
            CommandAck,
        ),
    }
    for channel, (messages, message_type) in cases.items():
        got = []
        leader.create_subscription(
            message_type, channel, lambda message, sender, got=got: got.append((sender, message))
        )
        publisher = drone.create_publisher(message_type, channel)
        attacker = Attacker(party, channel)
        party.all_ready()
        party.wait(
            lambda publisher=publisher: publisher._writer.publisher.get_subscription_count() == 2,
            "for readers",
        )
        packets = say(party, publisher, attacker, messages)
        party.wait(lambda got=got, messages=messages: len(got) == len(messages), "for the originals")
        expected = [("drone_01", message) for message in messages]
        assert got == expected

        def accounted(got=got):
            return dealt_with(leader, got)

        party.wait(
            lambda attacker=attacker: attacker.publisher.get_subscription_count() == 2,
            "for the victim's reader",
        )
        # As they were, in another order, twice.
        again = packets * 2
        randomly.shuffle(again)
        before = leader.status()["rejected"].get("replay", 0)
        attacker.send_all(again, accounted)
        assert leader.status()["rejected"]["replay"] == before + 20
        # Bits flipped: everywhere in the head, at many places of what is sealed and of the signature.
        fresh = packets[-1]
        places = [*range(4 * 8, 16 * 8), *randomly.sample(range(16 * 8, len(fresh) * 8), 150)]
        flipped = []
        for place in places:
            changed = bytearray(fresh)
            changed[place // 8] ^= 1 << (place % 8)
            flipped.append(bytes(changed))
        attacker.send_all(flipped, accounted)
        # Cut at many lengths, and made longer.
        cut = [fresh[:length] for length in randomly.sample(range(4, len(fresh)), 60)] + [fresh + bytes(8)]
        attacker.send_all(cut, accounted)
        # Head fields as another sender, lane or epoch would have them; nonce and tag of another packet.
        version, lane, sender, epoch, sealed, signature = decode_envelope(fresh)
        other = decode_envelope(packets[0])
        forged = [encode_envelope(version, lane, number, epoch, sealed, signature) for number in range(8)]
        forged += [encode_envelope(version, number, sender, epoch, sealed, signature) for number in range(5)]
        forged += [encode_envelope(version, lane, sender, number, sealed, signature) for number in range(12)]
        forged += [encode_envelope(number, lane, sender, epoch, sealed, signature) for number in (0, 2, 255)]
        for part in (slice(0, 12), slice(4, 12), slice(-16, None)):
            mixed = bytearray(sealed)
            mixed[part] = other[4][part]
            forged.append(encode_envelope(version, lane, sender, epoch, bytes(mixed), signature))
        later = bytearray(sealed)
        later[11] += 100  # a counter that has not been used
        forged.append(encode_envelope(version, lane, sender, epoch, bytes(later), signature))
        forged += [encode_envelope(version, lane, sender, epoch, sealed, other[5][::-1]), b"\x00\x01\x00\x00"]
        attacker.send_all(forged, accounted)
        assert got == expected
        assert publisher.publish(messages[0])  # and the genuine sender is still heard
        party.wait(lambda got=got, messages=messages: len(got) == len(messages) + 1, "for the genuine sender")


def test_packets_of_another_channel_or_from_the_past(party, swarm):
    crypto, drone, leader = swarm
    got = {"survey/here": [], "survey/there": []}
    attackers = {channel: Attacker(party, channel) for channel in got}
    publisher = drone.create_publisher(KeyValue, "survey/here")
    party.all_ready()
    # Recorded while the leader does not listen: to it they are fresh, so that order and place alone decide.
    packets = say(party, publisher, attackers["survey/here"], [KeyValue(value=str(n)) for n in range(40)])
    for channel, heard in got.items():
        leader.create_subscription(
            KeyValue, channel, lambda message, sender, heard=heard: heard.append(message.value)
        )

    def accounted():
        return dealt_with(leader, got["survey/here"] + got["survey/there"])

    for attacker in attackers.values():
        party.wait(
            lambda attacker=attacker: attacker.publisher.get_subscription_count() >= 2, "for the victim"
        )
    attackers["survey/there"].send_all(packets, accounted)
    assert got["survey/there"] == []
    assert leader.status()["rejected"]["authentication"] == 40
    # Late and in another order each is taken once at most; doubled ones never twice.
    shuffled = packets * 3
    random.Random(7).shuffle(shuffled)
    attackers["survey/here"].send_all(shuffled, accounted)
    assert Counter(got["survey/here"]) == Counter(str(n) for n in range(40))
    # Kept back until it is too old (5 s on this channel).
    kept = say(party, publisher, attackers["survey/here"], [KeyValue(value="old")])
    party.wait(lambda: "old" in got["survey/here"], "for the genuine one")
    first_seen_late = leader  # a second listener that has never seen them
    assert first_seen_late.status()["rejected"].get("age", 0) == 0
    late = party.join("drone_02")
    party.all_ready()
    party.spin_for(5.2)
    heard = []
    late.create_subscription(KeyValue, "survey/here", lambda message, sender: heard.append(message.value))
    party.wait(lambda: attackers["survey/here"].publisher.get_subscription_count() >= 3, "for the late one")
    attackers["survey/here"].send_all(kept, accounted)
    refused = late.status()["rejected"]
    assert heard == []
    assert refused.get("age", 0) + refused.get("unknown_epoch", 0) == 1
    # From an epoch that is over and wiped.
    before = drone.epoch()
    party.wait(lambda: crypto.status()["key_server"]["packages_ready"], "for packages")
    crypto.rotate()
    party.wait(
        lambda: drone.epoch() != before and before not in leader.host.context.sessions.open, "for its end"
    )
    attackers["survey/here"].send_all(packets[:10], accounted)
    assert leader.status()["rejected"]["unknown_epoch"] >= 10
    assert Counter(got["survey/here"]) == Counter([*(str(n) for n in range(40)), "old"])


def test_replayed_and_changed_control_messages(party):
    crypto = party.join("crypto_0")
    attackers = {
        kind: Attacker(party, channel, message_type, latched=qos.is_latched_control(channel))
        for kind, (channel, message_type) in TOPICS.items()
        if kind not in SELDOM
    }
    drone, operator = party.join("drone_01"), party.join("operator_0")
    orders = []
    drone.on_stop(orders.append)
    party.all_ready()
    done = []
    operator.stop_drones("hold", ["drone_01"], done.append)
    party.wait(lambda: done, "for the stop")
    before = drone.epoch()
    party.wait(lambda: crypto.status()["key_server"]["packages_ready"], "for packages")
    crypto.rotate()
    party.wait(lambda: drone.epoch() != before, "for the switch")
    party.wait(lambda: all(attacker.heard for attacker in attackers.values()), "for one of each kind")
    epochs = {session.epoch() for session in party.sessions.values()}
    assert len(epochs) == 1
    randomly = random.Random(3)
    for attacker in attackers.values():
        recorded = list(attacker.heard)[-8:]
        for packet in recorded:
            attacker.publisher.publish(packet)
            for _ in range(6):
                changed = bytearray(packet)
                place = randomly.randrange(4, len(changed))
                changed[place] ^= 1 << randomly.randrange(8)
                attacker.publisher.publish(bytes(changed))
            attacker.publisher.publish(packet[: randomly.randrange(4, len(packet))])
            party.spin_for(0.02)
    party.spin_for(1.0)
    assert len(orders) == 1
    assert {session.epoch() for session in party.sessions.values()} == epochs
    assert all(session.ready for session in party.sessions.values())
    refused = drone.status()
    assert sum(refused["control"].values()) + refused["shell"]["malformed_control"] > 40
    # The swarm goes on: the next epoch comes as if nothing had been.
    party.wait(lambda: crypto.status()["key_server"]["packages_ready"], "for packages after the attack")
    crypto.rotate()
    party.wait(
        lambda: drone.epoch() not in epochs and operator.epoch() == drone.epoch(), "for the next epoch"
    )
