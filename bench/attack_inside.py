"""Attacks by a captured member: its keys, the group's keys and its certificate are the attacker's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from attack_outside import DRONE, TELEMETRY
from attack_scene import CAPTURED, Scene
from attack_trial import Attack, Trial
from chimera_ros.msg import DroneTelemetry, EpochAnnouncement, OperatorStop, SwarmCommand, SwarmCommands
from rclpy.serialization import serialize_message

from chimera_ros.crypto.encoding import fields, u16, u32
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.messages.announcement import encode_head, parse_head
from chimera_ros.crypto.messages.stop import make_stop
from chimera_ros.crypto.primitives import labels
from chimera_ros.crypto.primitives.key_schedule import sender_key
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.session.epoch_session import EpochSession
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.flight import messages as flight
from chimera_ros.ros import convert, names
from chimera_ros.ros.cdr import encode_envelope
from chimera_ros.ros.control_topics import decode_control, encode_control

RANDOM = random.Random(4711)
LIES_HZ = 10.0
LIE_S = 1.0


class Insider:
    """What whoever holds the captured member can compute: every lane's keys, for every sender."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.session = scene.captured()
        self.identity = Keystore(scene.keystore).load_identity(CAPTURED, wall_ns=time.time_ns())
        self.keep_keys()

    @property
    def epoch(self) -> EpochSession:
        """The epoch that everyone sends under, with its keys."""
        self.keep_keys()
        return self._kept[0]

    def keep_keys(self) -> None:
        """An attacker does not wipe what an honest member would."""
        sending = self.session.host.context.members[CAPTURED].sending
        if sending is not None and sending[0]._keys is not None:
            self._kept = (sending[0], sending[0]._keys)

    def slot_of(self, name: str) -> int:
        """A member's slot."""
        return next(entry.slot for entry in self.epoch.roster if entry.name == name)

    def forge(
        self,
        name: str,
        channel: str,
        message: Any,
        counter: int,
        *,
        sign: bool = False,
    ) -> bytes:
        """An envelope in anybody's name, under the sender key that every member can derive."""
        session = self.epoch
        slot = self.slot_of(name)
        rule = self.session.policy.rule_for(channel)
        assert rule is not None
        entry = session.by_slot[slot]
        aead, salt = sender_key(self._kept[1].lanes[rule.lane], slot, entry.incarnation)
        associated = fields(
            labels.ENVELOPE_AAD,
            bytes((1,)),
            self.session.policy.swarm.encode(),
            session.transcript_hash,
            bytes((rule.lane,)),
            u16(slot),
            u32(session.epoch),
            channel.encode(),
            names.type_name(type(message)).encode(),
        )
        nonce = salt + counter.to_bytes(8, "big")
        stamped = self.session.swarm_ns().to_bytes(8, "big") + serialize_message(message)
        sealed = nonce + aead.encrypt(nonce, stamped, associated)
        signature = b""
        if sign:
            prefix = fields(
                self.session.policy.swarm.encode(), session.transcript_hash, session.announcement.key_tag
            )
            signed = prefix + fields(digest(associated)) + fields(digest(sealed))
            signature = self.identity.sign(signed, labels.SIGN_ENVELOPE)
        return encode_envelope(1, rule.lane, slot, session.epoch, sealed, signature)

    def counter_of(self, name: str, lane: int) -> int:
        """The highest counter that the captured member has heard from a sender."""
        return self.epoch.packets().get((name, lane), 0)


def _listen(insider: Insider, channel: str) -> list[DroneTelemetry]:
    """The captured member receives a drone's telemetry and so learns its counters."""
    heard: list[DroneTelemetry] = []
    insider.session.create_subscription(DroneTelemetry, channel, lambda m, sender: heard.append(m))
    insider.scene.wait(lambda: len(heard) > 5, 15.0, "for the captured member to hear a drone")
    return heard


def forged_telemetry(trial: Trial) -> str:
    """Another drone's telemetry, plausible and false by a metre, with the counter that comes next."""
    insider = Insider(trial.scene)
    heard = _listen(insider, TELEMETRY)
    place = heard[-1].position_enu_m
    trial.connect(TELEMETRY)
    trial.start()
    for _ in range(20):
        false = heard[-1]
        false.position_enu_m.x = place.x + 1.0
        counter = insider.counter_of(DRONE, 1) + 1
        trial.send(TELEMETRY, insider.forge(DRONE, TELEMETRY, false, counter))
        trial.scene.spin(0.1)
    return ""


def counter_jump(trial: Trial) -> str:
    """Another drone's telemetry with a counter far ahead, so that its own would come too late."""
    insider = Insider(trial.scene)
    victim = "drone_02"
    channel = names.telemetry(victim)
    heard = _listen(insider, channel)
    trial.connect(channel)
    trial.start()
    trial.send(channel, insider.forge(victim, channel, heard[-1], 2**40))
    scene = trial.scene
    scene.spin(2.0)
    # It costs that drone its telemetry at most until the alarm and the rotation that heals it.
    kept = scene.telemetry[victim]
    healed = scene.until(lambda: bool(kept) and time.monotonic() - kept[-1][0] < 0.3, 8.0)
    return "" if healed else "the drone's own telemetry never came back"


def channel_hijack(trial: Trial) -> str:
    """The captured member's own key on channels that belong to others."""
    insider = Insider(trial.scene)
    command = SwarmCommands(
        commands=[SwarmCommand(targets=[DRONE], kind=SwarmCommand.LAND, command_id=10**6)]
    )
    trial.connect(TELEMETRY)
    trial.connect(names.LEADER_COMMAND)
    trial.start()
    for number in range(20):
        false = DroneTelemetry(drone=DRONE, state=DroneTelemetry.LANDED)
        trial.send(TELEMETRY, insider.forge(CAPTURED, TELEMETRY, false, 10**6 + number))
        packet = insider.forge(CAPTURED, names.LEADER_COMMAND, command, 10**6 + number, sign=True)
        trial.send(names.LEADER_COMMAND, packet)
        trial.scene.spin(0.05)
    return ""


def forged_command(trial: Trial) -> str:
    """Commands in the leader's name: the group key is at hand, the leader's signature is not."""
    insider = Insider(trial.scene)
    trial.connect(names.LEADER_COMMAND)
    trial.start()
    for number in range(20):
        order = SwarmCommand(
            targets=[DRONE], kind=SwarmCommand.LAND, command_id=10**6 + number, term=2**32 - 1
        )
        order.deadline_ns = insider.session.swarm_ns() + 2_000_000_000
        command = SwarmCommands(commands=[order])
        packet = insider.forge(
            "leader_0", names.LEADER_COMMAND, command, 10**4 + number, sign=bool(number % 2)
        )
        trial.send(names.LEADER_COMMAND, packet)
        trial.scene.spin(0.05)
    return ""


def member_stop(trial: Trial) -> str:
    """A stop under the captured drone's own good signature: it is no operator."""
    scene = trial.scene
    identity = Keystore(scene.keystore).load_identity(CAPTURED, wall_ns=time.time_ns())
    trial.connect(names.OPERATOR_STOP, OperatorStop, latched=True)
    trial.start()
    for counter in range(1, 6):
        message = make_stop(identity, counter, "land", [], time.time_ns())
        trial.send(names.OPERATOR_STOP, encode_control(message), OperatorStop, latched=True)
        scene.spin(0.05)
    scene.spin(1.0)
    return ""


def member_announcement(trial: Trial) -> str:
    """An epoch announced under the captured drone's own good signature: it is no crypto node."""
    scene = trial.scene
    insider = Insider(scene)
    scene.stranger.listen(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    heard = scene.stranger.heard[names.CRYPTO_EPOCH]
    scene.wait(lambda: len(heard) > 0, 15.0, "for an announcement")
    genuine = decode_control(ControlKind.ANNOUNCEMENT, heard[-1])
    head = parse_head(genuine.parts[0])
    trial.connect(names.CRYPTO_EPOCH, EpochAnnouncement, latched=True)
    before = scene.epoch()
    trial.start()
    for number in range(1, 6):
        forged = encode_head(
            replace(head, epoch=head.epoch + 4 * number, issuer=insider.identity.fingerprint)
        )
        tag, seeds = genuine.parts[1], genuine.parts[2]
        signed = fields(digest(forged), tag, digest(seeds))
        signature = insider.identity.sign(signed, labels.SIGN_ANNOUNCEMENT)
        message = ControlMessage(ControlKind.ANNOUNCEMENT, (forged, tag, seeds, signature))
        trial.send(names.CRYPTO_EPOCH, encode_control(message), EpochAnnouncement, latched=True)
        scene.spin(0.1)
    scene.spin(1.0)
    return "" if scene.epoch() == before else "the swarm followed a drone's epoch"


def member_flood(trial: Trial) -> str:
    """Genuine messages of a member on its own channel, as many as a process can send."""
    scene = trial.scene
    insider = Insider(scene)
    channel = names.telemetry(CAPTURED)
    first = insider.counter_of(CAPTURED, 1) + 10_000

    def make() -> list[bytes]:
        report = convert.telemetry_to_msg(resting(insider.session.swarm_ns()))
        return [insider.forge(CAPTURED, channel, report, first + number) for number in range(20_000)]

    return trial.flood(channel, make, "flood by a member")


def resting(stamp_ns: int) -> flight.DroneTelemetry:
    """A report of a drone that hovers."""
    return flight.DroneTelemetry(
        CAPTURED,
        stamp_ns,
        flight.DroneState.HOLDING,
        armed=True,
        in_air=True,
        position_enu_m=(30.0, 30.0, 10.0),
        battery_fraction=0.8,
    )


def _jump(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    x, y, z = report.position_enu_m
    return replace(report, position_enu_m=(x + 3.0 + 30.0 * size, y, z))


def _drift(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    x, y, z = report.position_enu_m
    return replace(report, position_enu_m=(x, y + (2.0 + 10.0 * size) * age_s, z))


def _speed(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    return replace(report, velocity_enu_m_s=(30.0 + 200.0 * size, 0.0, 0.0))


def _shake(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    sign = 1.0 if int(age_s * LIES_HZ) % 2 else -1.0
    return replace(report, velocity_enu_m_s=(0.0, sign * (4.0 + 10.0 * size), 0.0))


def _upside_down(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    return replace(report, orientation=(1.0, 0.0, 0.0, 0.0))


def _charging(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    return replace(report, battery_fraction=min(1.0, 0.91 + 0.09 * size))


def _past(report: flight.DroneTelemetry, age_s: float, size: float) -> flight.DroneTelemetry:
    return replace(report, stamp_ns=report.stamp_ns - int((1.5 + 60.0 * size) * 1e9))


Lie = Callable[[flight.DroneTelemetry, float, float], flight.DroneTelemetry]
LIES: tuple[Lie, ...] = (_jump, _drift, _speed, _shake, _upside_down, _charging, _past)


def implausible_telemetry(trial: Trial) -> str:
    """A valid member reports impossible motion, in seven ways and many sizes; true reports in between."""
    scene = trial.scene
    channel = names.telemetry(CAPTURED)
    session = scene.captured()
    publisher = session.create_publisher(DroneTelemetry, channel)
    scene.wait(lambda: publisher._writer.publisher.get_subscription_count() >= 2, 15.0, "for readers")

    def report_for(lie: Lie | None, seconds: float, size: float) -> None:
        began = time.monotonic()
        while (age_s := time.monotonic() - began) < seconds:
            report = resting(session.swarm_ns())
            sent = report if lie is None else lie(report, age_s, size)
            publisher.publish(convert.telemetry_to_msg(sent))
            trial.sent += lie is not None
            scene.spin(1.0 / LIES_HZ)

    report_for(None, 2.0, 0.0)
    trial.start()
    rounds = scene.lie_rounds
    flagged = total = 0
    for number in range(rounds * len(LIES)):
        before = _doubts(scene)
        report_for(LIES[number % len(LIES)], LIE_S, RANDOM.random())
        # What the logger has flagged by then shows on its next status line, half a second later at most.
        scene.until(lambda before=before: _doubts(scene) > before, 0.8)
        total += 1
        flagged += _doubts(scene) > before
        report_for(None, 1.2, 0.0)
    scene.notes["implausible telemetry flagged"] = (100.0 * flagged / total, "% of false reports")
    scene.notes["implausible telemetry: false reports"] = (float(total), "")
    return "" if flagged >= 0.99 * total else f"{total - flagged} of {total} false reports were not flagged"


def _doubts(scene: Scene) -> int:
    return sum(n for name, n in scene.counters().items() if name.startswith(f"doubt.{CAPTURED}."))


ATTACKS = (
    Attack("insider forges a command", "inside", forged_command, ("rejected.signature",), share=0.5),
    Attack("channel hijack", "inside", channel_hijack, ("rejected.not_permitted",)),
    Attack("drone signs a stop", "inside", member_stop, ("control.role",)),
    Attack("drone announces an epoch", "inside", member_announcement, ("control.role",)),
    Attack("insider forges telemetry", "inside", forged_telemetry, ("alarm:forged",)),
    Attack("counter jump", "inside", counter_jump, ("alarm:forged",)),
    Attack(
        "physically impossible telemetry", "inside", implausible_telemetry, (f"doubt.{CAPTURED}",), share=0.01
    ),
    Attack(
        "flooding by a member", "inside", member_flood, ("rejected.budget", "rejected.replay"), share=0.005
    ),
)
