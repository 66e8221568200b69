"""What a record proves: audit, disclosure of one message, signed totals, and what a forger cannot do."""

from __future__ import annotations

import json
import math
import re
import shutil
from types import SimpleNamespace

import pytest
from chimera_ros.msg import CommandAcks, DroneTelemetry
from cryptography.hazmat.primitives import serialization
from geometry_msgs.msg import Point
from mcap.writer import Writer
from rclpy.serialization import serialize_message

from chimera_ros import cli
from chimera_ros.commands.log_evidence import _decoded
from chimera_ros.crypto.evidence.signed_totals import sign_totals
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.member.host import HostConfig
from chimera_ros.crypto.testing.swarm import MemoryKeystore, Swarm
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.records.audit import Auditor
from chimera_ros.records.flight_files import Decoders, FlightFiles, SenderEvidence
from chimera_ros.records.flight_totals import DroneTotals, Fix, read_fix, totals_of, write_totals
from chimera_ros.records.mcap_log import FlightRecorder, decode_string
from chimera_ros.records.mcap_read import read_messages
from chimera_ros.ros.cdr import decode_checkpoint, decode_envelope, encode_envelope
from chimera_ros.ros.checkpoint_topics import checkpoint_to_cdr
from chimera_ros.ros.schema import schema_text

TELEMETRY, ACKS = "chimera_ros/msg/DroneTelemetry", "chimera_ros/msg/CommandAcks"
DECODERS = Decoders(decode_envelope, decode_checkpoint)
SPEED_M_S = 4.0


def telemetry(name: str, wall_ns: int, elapsed_s: float) -> bytes:
    """Up for the first second, then north at 4 m/s."""
    place = Point(x=12.5, y=100.0 + SPEED_M_S * elapsed_s, z=20.0)
    return serialize_message(
        DroneTelemetry(drone=name, stamp_ns=wall_ns, in_air=elapsed_s >= 1.0, position_enu_m=place)
    )


class Flight:
    """Two drones fly for a while, and the leader's process records as the telemetry logger does."""

    def __init__(self, folder, forge: bool = False) -> None:
        self.folder = folder
        self.swarm = swarm = Swarm(drones=2, shards=2, rotate_s=5.0)
        swarm.start_server()
        for group in swarm.groups:
            swarm.start_host(group)
        config = HostConfig(keep_evidence=True)
        host = swarm.new_host(
            "leader", [swarm.identities["leader"]], {"leader": MemoryStore()}, config=config
        )
        swarm.hosts["leader"] = self.host = host
        swarm.wire.add("leader", host)
        swarm.wire.run_until(swarm.together)
        self.recorder = FlightRecorder(folder)
        self.received_ns = 0
        self.forge = forge

    def record(self, channel, type_name, payload, name):
        wire = self.swarm.wire
        envelope = self.swarm.host_of(name).seal(channel, type_name, payload, wire.wall_ns, name)
        opened = self.host.open(channel, type_name, envelope, wire.wall_ns)
        self.received_ns = max(self.received_ns + 1, wire.wall_ns)
        kept = opened.payload
        if self.forge and name == "drone_02" and opened.counter == 20:
            kept = telemetry(name, wire.wall_ns, 99.0)
        schema = schema_text(type_name)
        self.recorder.write(channel, type_name, schema, kept, opened.sent_ns, self.received_ns, name)
        self.recorder.write_sealed(channel, encode_envelope(*envelope), self.received_ns)

    def checkpoints(self):
        wire = self.swarm.wire
        for name in ("drone_01", "drone_02"):
            for who, item in self.swarm.host_of(name).make_checkpoints(wire.now, wire.wall_ns):
                if self.host.take_checkpoint(who, item, wire.now, wire.wall_ns) is not None:
                    schema = schema_text("chimera_ros/msg/Checkpoint")
                    self.recorder.write_checkpoint(who, checkpoint_to_cdr(item), schema, wire.wall_ns)

    def evidence(self):
        while self.host.checkpoints.evidence:
            item = self.host.checkpoints.evidence.popleft()
            evidence = SenderEvidence(
                self.host.swarm,
                item.entry.name,
                item.epoch,
                item.entry.slot,
                item.lane,
                item.transcript_hash,
                item.key_tag,
                item.blind_key,
                self.host.certificate(item.entry.fingerprint).certificate_der,
            )
            self.recorder.write_evidence(evidence.to_json(), self.swarm.wire.wall_ns)

    def run(self, seconds: float) -> None:
        wire = self.swarm.wire
        began = wire.now
        for step in range(int(seconds * 10)):
            for name in ("drone_01", "drone_02"):
                data = telemetry(name, wire.wall_ns, wire.now - began)
                self.record(f"{name}/telemetry", TELEMETRY, data, name)
            if step % 20 == 0:
                self.record("drone_01/ack", ACKS, serialize_message(CommandAcks()), "drone_01")
            wire.run(0.1)
            self.checkpoints()
            self.evidence()
        for _ in range(6):
            wire.run(0.25)
            self.checkpoints()
        self.recorder.close()
        pem = self.swarm.keystore.authority.public_bytes(serialization.Encoding.PEM)
        (self.folder / "authority.pem").write_bytes(pem)


@pytest.fixture(scope="module")
def flight(tmp_path_factory):
    flight = Flight(tmp_path_factory.mktemp("flight") / "record")
    flight.run(9.0)
    return flight


def log(*arguments):
    return cli.main(["log", *map(str, arguments)])


def test_the_record_holds(flight, capsys):
    assert log("verify", flight.folder, "--authority", flight.folder / "authority.pem", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["good"] is True
    assert found["packets"]["confirmed"] == 180
    assert found["packets"]["signed"] == 5
    assert found["packets"]["unconfirmed"] == found["packets"]["contradicted"] == found["unpaired"] == 0
    assert found["checkpoints"] >= 16
    assert log("verify", flight.folder, "--authority", flight.folder / "authority.pem") == 0
    assert "the record holds" in capsys.readouterr().out


def as_before(flight, folder):
    """The record as the first versions wrote it: the evidence is a JSON channel of flight.mcap."""
    folder.mkdir()
    shutil.copy(flight.folder / "sealed.mcap", folder)
    with (folder / "flight.mcap").open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2", library="chimera_ros")
        schema = writer.register_schema("chimera_ros/Evidence", "jsonschema", b'{"type":"object"}')
        evidence = writer.register_channel("/chimera/record/evidence", "json", schema, {})
        for _, _, message in read_messages(flight.folder / "evidence.mcap"):
            text = decode_string(message.data)
            writer.add_message(evidence, message.log_time, text, message.publish_time)
        channels = {}
        for schema, channel, message in read_messages(flight.folder / "flight.mcap"):
            if channel.id not in channels:
                known = writer.register_schema(schema.name, schema.encoding, schema.data)
                channels[channel.id] = writer.register_channel(channel.topic, "cdr", known, channel.metadata)
            writer.add_message(channels[channel.id], message.log_time, message.data, message.publish_time)
        writer.finish()
    return folder


def test_records_of_the_first_versions_are_read_as_ever(flight, tmp_path, capsys):
    old, trust = as_before(flight, tmp_path / "old"), ("--authority", flight.folder / "authority.pem")
    shown = {}
    for folder in (old, flight.folder):
        assert log("verify", folder, *trust, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert log("totals", folder, *trust, "--json") == 0
        totals = json.loads(capsys.readouterr().out)
        proof = tmp_path / "proof.json"
        which = ("--channel", "drone_01/telemetry", "--time", str(flight.swarm.wire.wall_ns))
        assert log("disclose", folder, *which, "-o", proof, *trust) == 0
        assert log("verify-disclosure", proof, *trust) == 0
        capsys.readouterr()
        assert log("show", folder, "--json") == 0
        topics = [topic for file in json.loads(capsys.readouterr().out) for topic in file["topics"]]
        shown[folder] = found, totals, sorted((topic["topic"], topic["messages"]) for topic in topics)
    assert shown[old] == shown[flight.folder]


def test_what_was_changed_in_the_record_is_found(tmp_path, capsys):
    forged = Flight(tmp_path / "record", forge=True)
    forged.run(4.0)
    assert log("verify", forged.folder, "--authority", forged.folder / "authority.pem") == 1
    text = capsys.readouterr().out
    assert "1 contradicted" in text
    assert "drone_02/telemetry packet 20" in text
    totals = {item.drone: item for item in totals_of(auditor(forged))}
    assert totals["drone_02"].contradicted == 1
    assert totals["drone_02"].distance_m < 20.0  # the jump to 99 s is not in it
    other = MemoryKeystore().authority.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "other.pem").write_bytes(other)
    assert log("verify", forged.folder, "--authority", tmp_path / "other.pem") == 1
    assert "has no certificate of this authority" in capsys.readouterr().out


def auditor(flight):
    return Auditor(FlightFiles(flight.folder, DECODERS), flight.swarm.keystore.authority)


def test_one_message_is_disclosed_without_the_others_and_without_keys(flight, tmp_path, capsys):
    proof, authority = tmp_path / "proof.json", flight.folder / "authority.pem"
    trust = ("--authority", authority)
    which = ("--channel", "drone_01/telemetry", "--counter", 12)
    assert log("disclose", flight.folder, *which, "-o", proof, *trust) == 2
    text = capsys.readouterr().err
    epoch = re.search(r"occurs in epochs (\d+), \d+", text)[1]
    assert log("disclose", flight.folder, *which, "--epoch", epoch, "-o", proof, *trust) == 0
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(authority, alone / "authority.pem")
    capsys.readouterr()
    assert log("verify-disclosure", proof, "--authority", alone / "authority.pem", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["member"], shown["role"], shown["counter"]) == ("drone_01", "drone", 12)
    assert shown["message"]["drone"] == "drone_01"
    assert shown["message"]["position_enu_m"]["x"] == 12.5
    whole = proof.read_text()
    evidence = auditor(flight).evidence
    for item in evidence.values():
        assert item.blind_key.hex() not in whole
    assert len(whole) < 20_000
    assert proof.stat().st_mode & 0o777 == 0o600  # it holds a position


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("plaintext", lambda text: text[:20] + ("A" if text[20] != "A" else "B") + text[21:]),
        ("blind", lambda text: text[::-1]),
        ("root", lambda text: text[::-1]),
        ("channel", lambda text: "drone_02/telemetry"),
        ("type", lambda text: "std_msgs/msg/String"),
        ("counter", lambda number: number + 1),
        ("made_ns", lambda number: number + 1),
        ("epoch", lambda number: number + 4),
        ("slot", lambda number: number + 1),
        ("path", lambda path: path[:-1]),
        ("path", lambda path: [path[0][::-1], *path[1:]]),
        ("swarm", lambda text: "another"),
        ("signature", lambda text: "A" + text[1:] if text[0] != "A" else "B" + text[1:]),
    ],
)
def test_a_changed_disclosure_does_not_hold(flight, tmp_path, capsys, field, change):
    proof = tmp_path / "proof.json"
    trust = ("--authority", flight.folder / "authority.pem")
    which = ("--channel", "drone_01/telemetry", "--time", str(flight.swarm.wire.wall_ns))
    assert log("disclose", flight.folder, *which, "-o", proof, *trust) == 0
    value = json.loads(proof.read_text())
    assert log("verify-disclosure", proof, *trust) == 0
    value[field] = change(value[field])
    proof.write_text(json.dumps(value))
    capsys.readouterr()
    assert log("verify-disclosure", proof, *trust) == 1
    assert capsys.readouterr().err.startswith("chimera log: ")


def test_signed_messages_cannot_be_disclosed_that_way(flight, tmp_path, capsys):
    which = ("--channel", "drone_01/ack", "--time", "2030-03-17T17:46:40")
    trust = ("--authority", flight.folder / "authority.pem")
    assert log("disclose", flight.folder, *which, "-o", tmp_path / "p.json", *trust) == 1
    assert "not covered by a checkpoint" in capsys.readouterr().err


def test_totals_are_computed_signed_and_computed_again(flight, tmp_path, capsys):
    found = totals_of(auditor(flight))
    assert [item.drone for item in found] == ["drone_01", "drone_02"]
    for item in found:
        assert item.messages == 90
        assert item.airborne_ns == pytest.approx(7.9e9, rel=0.03)
        assert item.distance_m == pytest.approx(7.9 * SPEED_M_S, rel=0.03)
        squares = math.ceil(item.distance_m / 5)  # one more where it begins within one
        assert item.area_m2 in (25 * squares, 25 * (squares + 1))
        assert item.gaps == item.unusable == 0
    path = flight.folder / "totals.json"
    signer = flight.swarm.keystore.enroll("logger", Role.LOGGER)
    assert write_totals(path, auditor(flight), signer) == 2
    trust = ("--authority", flight.folder / "authority.pem")
    unsigned = tmp_path / "unsigned.json"
    assert log("totals", flight.folder, "-o", unsigned, *trust) == 0
    assert {item.stat().st_mode & 0o777 for item in (path, unsigned)} == {0o600}
    capsys.readouterr()
    assert log("verify-totals", path, flight.folder, *trust) == 0
    assert "signed by logger (logger); " in capsys.readouterr().out
    assert log("verify-totals", path, *trust) == 0
    assert "was not checked" in capsys.readouterr().out

    value = json.loads(path.read_text())
    value["totals"][0]["statement"]["distance_mm"] += 1
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(value))
    assert log("verify-totals", changed, *trust) == 1
    assert "is not signed by logger" in capsys.readouterr().err
    statement = {**value["totals"][0]["statement"], "area_m2": 10**6}
    changed.write_text(json.dumps({"totals": [sign_totals(signer, statement).to_json()]}))
    assert log("verify-totals", changed, *trust) == 0  # believed, because its signer is
    assert log("verify-totals", changed, flight.folder, *trust, "--json") == 1  # who has the record sees
    assert log("totals", flight.folder, *trust) == 0
    assert "not signed" in capsys.readouterr().out


def test_totals_never_grow_by_gaps_jumps_or_disorder():
    totals = DroneTotals("d")
    second = 1_000_000_000
    totals.add(Fix(1 * second, True, (0.0, 0.0, 0.0)))
    totals.add(Fix(2 * second, True, (3.0, 4.0, 0.0)))
    totals.add(Fix(2 * second, True, (99.0, 4.0, 0.0)))  # not later
    totals.add(Fix(9 * second, True, (30.0, 4.0, 0.0)))  # a gap
    totals.add(Fix(10 * second, True, (3000.0, 4.0, 0.0)))  # a jump
    totals.add(None)
    assert totals.distance_m == 5.0
    assert totals.airborne_ns == second
    assert (totals.gaps, totals.unusable) == (2, 2)


@pytest.mark.parametrize("name", ["", "d", "drone_01", "drone_1234567"])
@pytest.mark.parametrize("reason", ["", "why", "a longer reason for something"])
def test_fixes_are_what_rclpy_writes(name, reason):
    message = DroneTelemetry(
        drone=name, reason=reason, stamp_ns=2**60, in_air=True, position_enu_m=Point(x=1.5, y=-2.5, z=1e5)
    )
    data = serialize_message(message)
    assert read_fix(data) == Fix(2**60, True, (1.5, -2.5, 1e5))
    for end in range(0, 60):
        read_fix(data[:end])
    message.position_enu_m.x = float("nan")
    assert read_fix(serialize_message(message)) is None


def test_telemetry_recorded_before_its_last_field_is_read():
    message = DroneTelemetry(
        drone="drone_01", stamp_ns=2**60, in_air=True, position_enu_m=Point(x=1.5, y=-2.5, z=1e5), epoch=7
    )
    whole = serialize_message(message)
    older = whole[:-1]  # the definition ended with `epoch`
    assert list(message.get_fields_and_field_types())[-2:] == ["epoch", "reason_code"]
    assert read_fix(older) == read_fix(whole) == Fix(2**60, True, (1.5, -2.5, 1e5))
    shown = _decoded(SimpleNamespace(type_name=TELEMETRY, payload=older))
    now = _decoded(SimpleNamespace(type_name=TELEMETRY, payload=whole))
    assert shown["epoch"] == 7
    assert shown == {name: value for name, value in now.items() if name != "reason_code"}
    assert now["reason_code"] == DroneTelemetry.REASON_NONE
    assert _decoded(SimpleNamespace(type_name=TELEMETRY, payload=older[:-1])) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["verify", "nowhere", "--authority", "{a}"], "holds no flight.mcap"),
        (["verify-disclosure", "nowhere.json", "--authority", "{a}"], "No such file"),
        (["verify-disclosure", "{a}", "--authority", "{a}"], "is not JSON"),
        (["verify", "{r}", "--keystore", "nowhere"], "name the swarm's keystore"),
        (["verify", "{r}", "--authority", "{r}/flight.mcap"], "is no certificate"),
        (["totals", "{r}", "--sign", "logger", "--authority", "{a}"], "--sign needs --keystore"),
        (
            ["disclose", "{r}", "--channel", "x/y", "--counter", "1", "-o", "p", "--authority", "{a}"],
            "no message on",
        ),
        (
            ["disclose", "{r}", "--channel", "x", "--time", "noon", "-o", "p", "--authority", "{a}"],
            "ISO 8601",
        ),
    ],
)
def test_misuse_is_told_in_one_sentence(flight, capsys, arguments, sentence):
    filled = [text.format(a=flight.folder / "authority.pem", r=flight.folder) for text in arguments]
    assert log(*filled) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("value", [None, [], {}, {"format": "chimera-disclosure-1"}, {"totals": [{}]}])
def test_junk_is_refused(flight, tmp_path, capsys, value):
    path = tmp_path / "junk.json"
    path.write_text(json.dumps(value))
    trust = ("--authority", flight.folder / "authority.pem")
    assert log("verify-disclosure", path, *trust) == 1
    assert log("verify-totals", path, *trust) in (1, 2)
