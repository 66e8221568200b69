"""Attacks by a stranger on the network, who records everything and holds no key."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

from attack_scene import CAPTURED, NAMESPACE, OBSERVER, Scene, make_keystore
from attack_trial import Attack, Trial
from chimera_ros.msg import (
    Certificate,
    EpochAnnouncement,
    KeyPackage,
    KeyRequest,
    OperatorStop,
    SwarmCommands,
)
from diagnostic_msgs.msg import KeyValue
from rosgraph_msgs.msg import Clock

from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.messages.announcement import encode_head, parse_head
from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.control import KeyPackage as Package
from chimera_ros.crypto.messages.control import KeyRequest as Request
from chimera_ros.crypto.messages.stop import make_stop
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.ros import names
from chimera_ros.ros.cdr import decode_envelope, encode_envelope
from chimera_ros.ros.control_topics import decode_control, encode_control

DRONE = "drone_01"
TELEMETRY = names.telemetry(DRONE)
BATCH = 40
RANDOM = random.Random(20261121)


def record(trial: Trial, count: int = BATCH) -> list[bytes]:
    """The newest packets of a drone's telemetry, heard now."""
    stranger = trial.scene.stranger
    stranger.listen(TELEMETRY)
    heard = stranger.heard[TELEMETRY]
    heard.clear()
    trial.scene.wait(lambda: len(heard) >= count, 20.0, "for telemetry to record")
    return list(heard)[-count:]


def stamps(scene: Scene) -> list[int]:
    """Stamps of a drone's telemetry as the observer accepted it."""
    return [message.stamp_ns for _, message in scene.telemetry[DRONE]]


def taken_twice(scene: Scene) -> str:
    """Whether the observer accepted one packet twice."""
    heard = stamps(scene)
    return "a packet was accepted twice" if len(set(heard)) < len(heard) else ""


def _replay(trial: Trial, packets: list[bytes]) -> str:
    trial.connect(TELEMETRY)
    trial.start()
    for packet in packets:
        trial.send(TELEMETRY, packet)
        trial.scene.spin(0.01)
    return taken_twice(trial.scene)


def replay_within_epoch(trial: Trial) -> str:
    """The same packets again."""
    return _replay(trial, record(trial))


def reordering(trial: Trial) -> str:
    """Doubled and in another order."""
    packets = record(trial) * 2
    RANDOM.shuffle(packets)
    return _replay(trial, packets)


def replay_across_epochs(trial: Trial) -> str:
    """Packets of an epoch that is over."""
    packets, scene = record(trial), trial.scene
    before = scene.epoch()
    scene.rotate()
    scene.wait(lambda: scene.epoch() > before, 10.0, "for the next epoch")
    scene.spin(6.0)  # the old epoch stays open for five seconds at most
    return _replay(trial, packets)


def replay_across_runs(trial: Trial) -> str:
    """Packets of an earlier flight with the same keystore."""
    return _replay(trial, trial.scene.earlier)


def delay(trial: Trial) -> str:
    """Packets held back until they are older than their channel allows, to somebody who never saw them."""
    scene, channel = trial.scene, f"{CAPTURED}/survey"
    stranger = scene.stranger
    stranger.listen(channel)
    speaker = scene.captured().create_publisher(KeyValue, channel)
    heard = stranger.heard[channel]
    scene.wait(lambda: speaker.publish(KeyValue(value="late")) and len(heard) > 0, 15.0, "for a recording")
    for number in range(20):
        speaker.publish(KeyValue(value=str(number)))
        scene.spin(0.02)
    packets = list(heard)
    scene.spin(5.5)
    got: list[Any] = []
    subscription = scene.observer.create_subscription(KeyValue, channel, lambda m, sender: got.append(m))
    publisher = stranger.publisher(channel)
    scene.wait(lambda: publisher.get_subscription_count() >= 2, 15.0, "for the late listener")
    trial.start()
    for packet in packets:
        trial.send(channel, packet)
        scene.spin(0.01)
    scene.spin(1.0)
    subscription.destroy()
    return "a message was accepted after its lifespan" if got else ""


def injection(trial: Trial) -> str:
    """Well-formed envelopes with invented contents, in the name of every member."""
    version, lane, _, epoch, sealed, _ = decode_envelope(record(trial, 2)[-1])
    trial.connect(TELEMETRY)
    trial.start()
    slots = [entry.slot for entry in trial.scene.observer.host.roster()]
    for number in range(200):
        invented = RANDOM.randbytes(len(sealed))
        slot = slots[number % len(slots)]
        trial.send(TELEMETRY, encode_envelope(version, lane, slot, epoch, invented, b""))
        trial.scene.spin(0.005)
    return ""


def bit_flips(trial: Trial) -> str:
    """One bit changed in recorded packets, everywhere."""
    packets = record(trial)
    trial.connect(TELEMETRY)
    trial.start()
    for number in range(200):
        changed = bytearray(packets[number % len(packets)])
        place = RANDOM.randrange(4 * 8, len(changed) * 8)
        changed[place // 8] ^= 1 << place % 8
        trial.send(TELEMETRY, bytes(changed))
        trial.scene.spin(0.005)
    return taken_twice(trial.scene)


def truncation(trial: Trial) -> str:
    """Packets cut short, and made longer."""
    packet = record(trial, 2)[-1]
    trial.connect(TELEMETRY)
    trial.start()
    for number in range(100):
        length = RANDOM.randrange(4, len(packet))
        trial.send(TELEMETRY, packet[:length] if number % 5 else packet + bytes(8))
        trial.scene.spin(0.005)
    return taken_twice(trial.scene)


def forged_certificate(trial: Trial) -> str:
    """A certificate that another authority made out to a member's name, and a package under it."""
    scene = trial.scene
    foreign = Keystore(make_keystore(scene.folder / "foreign", {DRONE: "drone", "crypto_0": "crypto"}))
    identity = foreign.load_identity(DRONE, wall_ns=time.time_ns())
    trial.connect(names.CRYPTO_CERTIFICATES, Certificate, latched=True)
    trial.start()
    for _ in range(20):
        message = ControlMessage(ControlKind.CERTIFICATE, (identity.certificate_der,))
        trial.send(names.CRYPTO_CERTIFICATES, encode_control(message), Certificate, latched=True)
        scene.spin(0.02)
    return ""


def stolen_certificate(trial: Trial) -> str:
    """Somebody else's certificate without its key: packages in a drone's name, signed with another key."""
    scene = trial.scene
    stranger = scene.stranger
    stranger.listen(names.CRYPTO_KEY_REQUEST, KeyRequest, latched=True)
    heard = stranger.heard[names.CRYPTO_KEY_REQUEST]
    scene.wait(lambda: len(heard) > 0, 15.0, "for a key request")
    request = decode_control(ControlKind.KEY_REQUEST, heard[-1])
    policy = scene.observer.policy
    asked = Request.parse(request.parts[0], policy.swarm, policy.suite)
    foreign = Keystore(make_keystore(scene.folder / "thief", {DRONE: "drone"}))
    thief = foreign.load_identity(DRONE, wall_ns=time.time_ns())
    victim = next(entry for entry in scene.observer.host.roster() if entry.name == DRONE)
    public_bytes = scene.observer.host.context.suite.package_public_bytes
    trial.connect(names.CRYPTO_KEY_PACKAGES, KeyPackage, readers=1)
    before = victim.incarnation
    trial.start()
    for _ in range(20):
        body = Package(
            policy.swarm,
            policy.suite,
            victim.fingerprint,
            RANDOM.randbytes(16),
            RANDOM.randbytes(public_bytes),
            asked.challenge,
            victim.fingerprint,
            asked.epoch,
            asked.transcript_hash,
            b"",
        ).encode()
        message = encode_control(signed(ControlKind.KEY_PACKAGE, body, thief))
        trial.send(names.CRYPTO_KEY_PACKAGES, message, KeyPackage)
        scene.spin(0.05)
    scene.spin(1.0)
    now = next(entry for entry in scene.observer.host.roster() if entry.name == DRONE)
    return "" if now.incarnation == before else "the drone was replaced"


def _announcement(trial: Trial) -> ControlMessage:
    stranger = trial.scene.stranger
    stranger.listen(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    heard = stranger.heard[names.CRYPTO_EPOCH]
    trial.scene.wait(lambda: len(heard) > 0, 15.0, "for an announcement")
    return decode_control(ControlKind.ANNOUNCEMENT, heard[-1])


def _announce(trial: Trial, messages: list[ControlMessage]) -> str:
    scene = trial.scene
    trial.connect(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    before = scene.epoch()
    trial.start()
    for message in messages:
        trial.send(names.CRYPTO_EPOCH, encode_control(message), EpochAnnouncement, latched=True)
        scene.spin(0.1)
    scene.spin(1.0)
    return "" if scene.epoch() == before else f"the swarm went from epoch {before} to {scene.epoch()}"


def stale_announcement(trial: Trial) -> str:
    """Genuine announcements again, of this epoch and of an earlier one."""
    scene, old = trial.scene, _announcement(trial)
    before = scene.epoch()
    scene.rotate()
    scene.wait(lambda: scene.epoch() > before, 10.0, "for the next epoch")
    scene.spin(6.0)
    return _announce(trial, [old, _announcement(trial)] * 5)


def forged_announcement(trial: Trial) -> str:
    """A genuine announcement with a higher number, its old signature, and its key tag."""
    genuine = _announcement(trial)
    head = parse_head(genuine.parts[0])
    forged = [
        ControlMessage(
            ControlKind.ANNOUNCEMENT,
            (encode_head(replace(head, epoch=head.epoch + 4 * n)), *genuine.parts[1:]),
        )
        for n in range(1, 11)
    ]
    return _announce(trial, forged)


def epoch_exhaustion(trial: Trial) -> str:
    """Numbers near the end of their range, so that none would be left."""
    genuine = _announcement(trial)
    head = parse_head(genuine.parts[0])
    numbers = [2**32 - 4 - head.epoch % 4 - 4 * n for n in range(5)] + [
        head.epoch + 2**20 + 4 * n for n in range(1, 6)
    ]
    forged = [
        ControlMessage(ControlKind.ANNOUNCEMENT, (encode_head(replace(head, epoch=n)), *genuine.parts[1:]))
        for n in numbers
    ]
    return _announce(trial, forged)


def downgrade(trial: Trial) -> str:
    """Older protocol versions in envelopes, another suite in an announcement."""
    _, lane, sender, epoch, sealed, signature = decode_envelope(record(trial, 2)[-1])
    genuine = _announcement(trial)
    head = parse_head(genuine.parts[0])
    weaker = ControlMessage(
        ControlKind.ANNOUNCEMENT,
        (encode_head(replace(head, suite="CHIMERA-0", epoch=head.epoch + 4)), *genuine.parts[1:]),
    )
    trial.connect(TELEMETRY)
    trial.connect(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    trial.start()
    for number in (0, 2, 255) * 5:
        trial.send(TELEMETRY, encode_envelope(number, lane, sender, epoch, sealed, signature))
        trial.scene.spin(0.02)
    for _ in range(5):
        trial.send(names.CRYPTO_EPOCH, encode_control(weaker), EpochAnnouncement, latched=True)
        trial.scene.spin(0.05)
    return taken_twice(trial.scene)


def forged_stop(trial: Trial) -> str:
    """An operator's stop with a signature that is not the operator's."""
    scene = trial.scene
    foreign = Keystore(make_keystore(scene.folder / "operator", {"operator_0": "operator"}))
    thief = foreign.load_identity("operator_0", wall_ns=time.time_ns())
    operator = Keystore(scene.keystore).load_identity("operator_0", wall_ns=time.time_ns())
    trial.connect(names.OPERATOR_STOP, OperatorStop, latched=True)
    trial.start()
    for counter in range(1, 11):
        body = make_stop(thief, counter, "land", [], time.time_ns()).parts[0]
        body = body.replace(thief.fingerprint, operator.fingerprint).replace(
            thief.swarm.encode(), operator.swarm.encode()
        )
        message = signed(ControlKind.STOP, body, thief)
        trial.send(names.OPERATOR_STOP, encode_control(message), OperatorStop, latched=True)
        scene.spin(0.05)
    scene.spin(1.0)
    return ""


def unsealed_command(trial: Trial) -> str:
    """A command as plain bytes, and sealed commands without signature."""
    from chimera_ros.msg import SwarmCommand
    from rclpy.serialization import serialize_message

    version, _, sender, epoch, sealed, _ = decode_envelope(record(trial, 2)[-1])
    trial.connect(names.LEADER_COMMAND)
    trial.start()
    plain = serialize_message(SwarmCommands(commands=[SwarmCommand(targets=[DRONE], kind=SwarmCommand.LAND)]))
    for _ in range(10):
        trial.send(names.LEADER_COMMAND, plain)
        trial.send(names.LEADER_COMMAND, encode_envelope(version, 0, sender, epoch, sealed, b""))
        trial.scene.spin(0.02)
    return ""


def flooding(trial: Trial) -> str:
    """Junk envelopes in a drone's name, as many as a process can send."""
    version, lane, sender, epoch, sealed, _ = decode_envelope(record(trial, 2)[-1])
    junk = [
        encode_envelope(version, lane, sender, epoch, sealed[:12] + RANDOM.randbytes(len(sealed) - 12), b"")
        for _ in range(1000)
    ]
    return trial.flood(TELEMETRY, lambda: junk, "flood from outside")


def control_flooding(trial: Trial) -> str:
    """Forged announcements, which are large and signed, as many as a process can send."""
    genuine = _announcement(trial)
    head = parse_head(genuine.parts[0])
    numbers = RANDOM.sample(range(1, 2**17), 200)
    junk = [
        encode_control(
            ControlMessage(
                ControlKind.ANNOUNCEMENT,
                (encode_head(replace(head, epoch=head.epoch + 4 * number)), *genuine.parts[1:]),
            )
        )
        for number in numbers
    ]
    return trial.flood(names.CRYPTO_EPOCH, lambda: junk, "flood of announcements", "EpochAnnouncement")


def lifecycle_door(trial: Trial) -> str:
    """ROS's own lifecycle services, with which anyone could shut a node down."""
    from lifecycle_msgs.srv import ChangeState

    return _door(trial, ChangeState, "change_state")


def parameter_door(trial: Trial) -> str:
    """ROS's own parameter services, with which anyone could change limits in flight."""
    from rcl_interfaces.srv import SetParameters

    return _door(trial, SetParameters, "set_parameters")


def _door(trial: Trial, service_type: type, service: str) -> str:
    scene = trial.scene
    node = scene.sessions[OBSERVER].node
    nodes = ["leader", "crypto", "telemetry_logger", "follower_0", "follower_1"]
    clients = {name: node.create_client(service_type, f"{NAMESPACE}/{name}/{service}") for name in nodes}
    scene.spin(3.0)
    open_ = [name for name, client in clients.items() if client.service_is_ready()]
    for client in clients.values():
        node.destroy_client(client)
    return f"{service} of {', '.join(open_)} is open" if open_ else ""


def false_clock(trial: Trial) -> str:
    """A /clock that runs an hour ahead and then back."""
    scene = trial.scene
    node = scene.sessions[OBSERVER].node
    publisher = node.create_publisher(Clock, "/clock", 10)
    for hour in (1, -1) * 15:
        message = Clock()
        message.clock.sec = int(time.time()) + 3600 * hour
        publisher.publish(message)
        scene.spin(0.1)
    node.destroy_publisher(publisher)
    return ""


def latched_junk(trial: Trial) -> str:
    """Junk on latched topics, so that a newcomer would hear that instead of the genuine samples."""
    scene = trial.scene
    topics = {
        names.CRYPTO_EPOCH: EpochAnnouncement,
        names.CRYPTO_CERTIFICATES: Certificate,
        names.CRYPTO_KEY_REQUEST: KeyRequest,
    }
    for topic, message_type in topics.items():
        trial.connect(topic, message_type, latched=True)
    trial.start()
    for _ in range(100):
        for topic, message_type in topics.items():
            trial.send(topic, RANDOM.randbytes(600), message_type, latched=True)
        scene.spin(0.01)
    scene.leave(OBSERVER)
    scene.rejoin_observer()
    return "" if scene.until(lambda: scene.observer.ready, 20.0) else "a newcomer could not join"


ATTACKS = (
    Attack("replay within the epoch", "outside", replay_within_epoch, ("rejected.replay",)),
    Attack("reordering and doubling", "outside", reordering, ("rejected.replay",)),
    Attack("replay across epochs", "outside", replay_across_epochs, ("rejected.unknown_epoch",)),
    Attack("replay across runs", "outside", replay_across_runs, ("rejected.unknown_epoch",)),
    Attack("delay beyond the lifespan", "outside", delay, ("rejected.age", "rejected.unknown_epoch")),
    Attack("injection", "outside", injection, ("rejected.", "shell.malformed_packet")),
    Attack("bit flips", "outside", bit_flips, ("rejected.", "shell.malformed_packet")),
    Attack("truncation", "outside", truncation, ("rejected.", "shell.malformed_packet")),
    Attack(
        "commands without seal or signature", "outside", unsealed_command, ("rejected.", "shell.malformed")
    ),
    Attack("forged certificate", "outside", forged_certificate, ("control.certificate",)),
    Attack(
        "stolen certificate",
        "outside",
        stolen_certificate,
        ("control.signature", "control.challenge", "control.too_soon"),
    ),
    Attack("stale announcement", "outside", stale_announcement, ("control.stale", "control.duplicate")),
    Attack("forged announcement", "outside", forged_announcement, ("control.signature",)),
    Attack("epoch exhaustion", "outside", epoch_exhaustion, ("control.",)),
    Attack("downgrade", "outside", downgrade, ("rejected.version", "control.suite")),
    Attack("forged operator's stop", "outside", forged_stop, ("control.signature",)),
    Attack("flooding with envelopes", "outside", flooding, ("rejected.",), share=0.005),
    Attack("flooding with announcements", "outside", control_flooding, ("control.",), share=0.005),
    Attack("ROS lifecycle services", "outside", lifecycle_door),
    Attack("ROS parameter services", "outside", parameter_door),
    Attack("false /clock", "outside", false_clock),
    Attack("junk on latched topics", "outside", latched_junk, ("shell.malformed_control",)),
)
