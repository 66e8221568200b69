"""Attacks with keys that were good once, or still are: evicted members, a crypto node that equivocates."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

from attack_inside import Insider, resting
from attack_outside import TELEMETRY, record
from attack_scene import CAPTURED, REVOKED, SECOND_CRYPTO, Scene
from attack_trial import Attack, Trial
from chimera_ros.msg import EpochAnnouncement, TrustUpdate
from rclpy.node import Node

from chimera_ros.crypto.encoding import fields
from chimera_ros.crypto.key_server.epoch_builder import number_above
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.messages.announcement import encode_head, parse_head
from chimera_ros.crypto.primitives import labels
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.ros import SecureSession, convert, names
from chimera_ros.ros.control_topics import decode_control, encode_control


def _order(scene: Scene, *command: str) -> None:
    done = scene.operate(*command)
    if done.returncode != 0:
        raise SystemExit(f"chimera {' '.join(command)} ended with {done.returncode}: {done.stdout}")


def revoked_member(trial: Trial) -> str:
    """A member whose certificate was revoked in flight asks to join, with all its keys."""
    scene = trial.scene
    stolen = scene.folder / "stolen_keys"
    shutil.copytree(scene.keystore, stolen)
    _order(scene, "keys", "revoke", REVOKED)
    scene.wait(
        lambda: any("revocation list 2" in text for _, text in scene.alarms), 20.0, "for the revocation list"
    )
    node: Node = scene.node("revoked")
    trial.start()
    trial.sent = 1
    session = SecureSession(node, member=REVOKED, keystore=stolen)
    scene.spin(8.0)
    joined = session.ready
    session.close()
    return "it joined" if joined else ""


def rollback(trial: Trial) -> str:
    """The revocation list and the policy of before, as the authority once signed them."""
    scene = trial.scene
    policy = scene.folder / "policy.yaml"
    text = (scene.keystore / "policy.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("swarm:", "issued:", "expires:"))]
    policy.write_text("\n".join(lines).replace("version: 1", "version: 2", 1) + "\n")
    old = [decode_control(ControlKind.TRUST, data) for data in scene.stranger.heard[names.CRYPTO_TRUST]]
    _order(scene, "keys", "policy", str(policy))
    scene.wait(lambda: any("policy 2" in text for _, text in scene.alarms), 20.0, "for the new policy")
    scene.rotate()
    scene.spin(2.0)
    trial.connect(names.CRYPTO_TRUST, TrustUpdate, latched=True)
    trial.start()
    for message in old * 3:
        trial.send(names.CRYPTO_TRUST, encode_control(message), TrustUpdate, latched=True)
        scene.spin(0.1)
    return ""


def equivocation(trial: Trial) -> str:
    """A crypto node of rank 2 whose key was stolen announces two different epochs under one number."""
    scene = trial.scene
    identity = Keystore(scene.keystore).load_identity(SECOND_CRYPTO, wall_ns=time.time_ns())
    scene.stranger.listen(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    heard = scene.stranger.heard[names.CRYPTO_EPOCH]
    scene.wait(lambda: len(heard) > 0, 15.0, "for an announcement")
    genuine = decode_control(ControlKind.ANNOUNCEMENT, heard[-1])
    head = parse_head(genuine.parts[0])
    trial.connect(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    scene.show_certificate(identity)
    before = scene.epoch()
    trial.start()
    number = number_above(head.epoch, 2)
    for challenge in (b"\x01" * 32, b"\x02" * 32) * 2:
        forged = encode_head(replace(head, epoch=number, issuer=identity.fingerprint, challenge=challenge))
        tag, seeds = genuine.parts[1], genuine.parts[2]
        signature = identity.sign(fields(digest(forged), tag, digest(seeds)), labels.SIGN_ANNOUNCEMENT)
        message = ControlMessage(ControlKind.ANNOUNCEMENT, (forged, tag, seeds, signature))
        trial.send(names.CRYPTO_EPOCH, encode_control(message), EpochAnnouncement, latched=True)
        scene.spin(0.3)
    # Whatever the equivocation has caused: the honest crypto node announces above its number.
    if not scene.until(lambda: scene.epoch() > before and scene.observer.ready, 15.0):
        scene.rotate()
        if not scene.until(lambda: scene.epoch() > number, 15.0):
            return "the swarm did not get a new epoch afterwards"
    return ""


def evicted_member(trial: Trial) -> str:
    """The captured member is evicted in flight; it continues to send, listen and ask for admission."""
    scene = trial.scene
    insider = Insider(scene)
    session = scene.captured()
    channel = names.telemetry(CAPTURED)
    before = scene.epoch()
    began = time.monotonic()
    _order(scene, "command", "evict", CAPTURED)
    scene.wait(lambda: scene.epoch() > before, 5.0, "for the evicting epoch")
    scene.notes["evict: command typed to observer switched"] = (time.monotonic() - began, "s")
    scene.spin(0.5)
    packets = record(trial)
    opened = session.host.counters.opened
    for packet in packets:
        scene.stranger.publisher(TELEMETRY).publish(packet)
    trial.connect(channel)
    trial.start()
    heard = scene.heard[CAPTURED]
    for number in range(20):
        report = convert.telemetry_to_msg(resting(session.swarm_ns()))
        trial.send(channel, insider.forge(CAPTURED, channel, report, 10**7 + number))
        scene.spin(0.1)
    scene.spin(3.0)
    if session.host.counters.opened > opened:
        return "the evicted member opened something"
    if scene.heard[CAPTURED] > heard:
        return "something of the evicted member was accepted"
    return "" if session.epoch() in (None, before) else "the evicted member is in a new epoch"


ATTACKS = (
    Attack("revoked member", "inside", revoked_member, ("control.revoked", "control.evicted")),
    Attack(
        "rollback of policy and revocation list", "inside", rollback, ("control.stale", "control.duplicate")
    ),
    Attack("equivocating crypto node", "inside", equivocation, ("alarm:two different epochs",)),
    Attack("evicted member", "inside", evicted_member, ("rejected.unknown_epoch",)),
)
