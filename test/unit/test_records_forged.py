"""Records, disclosures and totals that somebody has tampered with: nothing is called proven that is not."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from chimera_ros import cli
from chimera_ros.commands import log_evidence
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.crypto.evidence.disclosure import DisclosureError, read_disclosure
from chimera_ros.crypto.evidence.signed_totals import NUMBERS, Coverage, coverage, read_totals, sign_totals
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.records.flight_totals import statements_of, totals_of
from chimera_ros.records.mcap_log import (
    CHECKPOINT_TYPE,
    ENVELOPE_TYPE,
    EVIDENCE_TYPE,
    FlightRecorder,
    decode_string,
)
from chimera_ros.records.mcap_read import read_messages

_spec = importlib.util.spec_from_file_location(
    "records_evidence", Path(__file__).with_name("test_records_evidence.py")
)
_evidence = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_evidence)
TELEMETRY, Flight, auditor, log = (
    getattr(_evidence, name) for name in ("TELEMETRY", "Flight", "auditor", "log")
)


@pytest.fixture(scope="module")
def flight(tmp_path_factory):
    flight = Flight(tmp_path_factory.mktemp("flight") / "record")
    flight.run(4.0)
    return flight


def rewritten(flight, folder, change):
    """A copy of the record; `change(kind, channel, message)` gives how often a message is written, or the
    sender to name instead."""
    recorder = FlightRecorder(folder)
    for name in ("flight.mcap", "sealed.mcap", "evidence.mcap"):
        for schema, channel, message in read_messages(flight.folder / name):
            found = change(schema.name, channel, message)
            sender = found if isinstance(found, str) else channel.metadata.get("sender", "")
            at, sent = message.log_time, message.publish_time
            about = channel.metadata.get("channel", "")
            for again in range(1 if isinstance(found, str) else found):
                if schema.name == EVIDENCE_TYPE:
                    recorder.write_evidence(json.loads(decode_string(message.data)), at)
                elif schema.name == CHECKPOINT_TYPE:
                    recorder.write_checkpoint(sender, message.data, schema.data.decode(), at)
                elif schema.name == ENVELOPE_TYPE:
                    recorder.write_sealed(channel.topic.removeprefix("/chimera/"), message.data, at + again)
                else:
                    text = schema.data.decode()
                    recorder.write(about, schema.name, text, message.data, sent, at + again, sender)
    recorder.close()
    return folder


def verified(flight, folder, capsys, status):
    trust = ("--authority", flight.folder / "authority.pem")
    assert log("verify", folder, *trust, "--json") == status
    found = json.loads(capsys.readouterr().out)
    assert log("verify", folder, *trust) == status
    return found, capsys.readouterr().out


def test_a_record_without_checkpoints_proves_nothing(flight, tmp_path, capsys):
    def bare(kind, channel, message):
        return int(kind in (ENVELOPE_TYPE, TELEMETRY))

    found, text = verified(flight, rewritten(flight, tmp_path / "r", bare), capsys, 1)
    assert (found["good"], found["proven"], found["packets"]["unknown"]) == (False, 0, 80)
    assert text.splitlines()[-1] == "NOTHING IN THIS RECORD IS PROVEN"


def test_lost_evidence_is_no_contradiction_and_is_said(flight, tmp_path, capsys):
    def forgetful(kind, channel, message):
        return int(kind != EVIDENCE_TYPE or json.loads(decode_string(message.data))["member"] != "drone_02")

    found, text = verified(flight, rewritten(flight, tmp_path / "r", forgetful), capsys, 0)
    assert found["unattributed"] > 0
    assert found["unproven"] == found["packets"]["unknown"] == 40
    assert "the record holds, but for 40 that nothing proves" in text


def test_evidence_may_be_written_after_its_epoch_was_wiped(tmp_path, capsys):
    late = Flight(tmp_path / "record")
    evidence, close = late.evidence, late.recorder.close
    late.evidence = lambda: None
    late.recorder.close = lambda: (evidence(), close())
    late.run(9.0)
    found, _ = verified(late, late.folder, capsys, 0)
    assert late.swarm.epochs()["leader"] > min(place[0] for place in auditor(late).evidence)
    assert (found["packets"]["signed"], found["packets"]["confirmed"]) == (5, 180)


def test_a_packet_that_stands_in_the_record_twice_does_not_stand_for_a_missing_one(flight, tmp_path, capsys):
    dropped = []

    def double(kind, channel, message):
        if channel.topic != "/chimera/drone_01/telemetry":
            return 1
        if not dropped or message.log_time in dropped:
            dropped[:] = dropped or [message.log_time]
            return 0
        return 2 if message.log_time == max(times) else 1

    times = [
        message.log_time
        for _, channel, message in read_messages(flight.folder / "flight.mcap")
        if channel.topic == "/chimera/drone_01/telemetry"
    ]
    folder = rewritten(flight, tmp_path / "r", double)
    found, text = verified(flight, folder, capsys, 1)
    assert found["packets"]["duplicate"] == 1
    assert found["packets"]["confirmed"] == 79
    assert "duplicate" in text
    copy = argparse.Namespace(folder=folder, swarm=flight.swarm)
    (first, _) = totals_of(auditor(copy))
    assert (first.messages, first.contradicted) == (39, 1)


def test_a_message_under_anothers_name_contradicts_the_one_who_signed_it(flight, tmp_path, capsys):
    def renamed(kind, channel, message):
        return "drone_02" if kind == TELEMETRY and channel.metadata["sender"] == "drone_01" else 1

    found, _ = verified(flight, rewritten(flight, tmp_path / "r", renamed), capsys, 1)
    assert found["packets"]["contradicted"] == 40


def test_a_record_that_breaks_off_says_so(flight, tmp_path, capsys):
    folder = rewritten(flight, tmp_path / "r", lambda *_: 1)
    found, _ = verified(flight, folder, capsys, 0)
    assert found["broken"] == []
    data = (folder / "sealed.mcap").read_bytes()
    (folder / "sealed.mcap").write_bytes(data[: len(data) // 2])
    trust = ("--authority", flight.folder / "authority.pem")
    log("verify", folder, *trust)
    assert "! sealed.mcap breaks off or is damaged" in capsys.readouterr().out
    (folder / "sealed_1.mcap").write_bytes(b"")  # what a full disk leaves
    log("verify", folder, *trust)
    assert "! sealed_1.mcap breaks off" in capsys.readouterr().out


def statement(flight):
    return statements_of(auditor(flight))[0]


def test_only_loggers_and_operators_sign_totals(flight):
    authority = flight.swarm.keystore.authority
    drone = flight.swarm.identities["drone_01"]
    with pytest.raises(DisclosureError, match="drone_01 is a drone"):
        sign_totals(drone, statement(flight))
    logger = flight.swarm.keystore.enroll("logger", Role.LOGGER)
    signed = sign_totals(logger, statement(flight)).to_json()
    assert read_totals(signed).check(authority).name == "logger"


def test_a_statement_that_is_kept_back_is_missed(flight, tmp_path, capsys):
    logger = flight.swarm.keystore.enroll("logger", Role.LOGGER)
    path = tmp_path / "totals.json"
    first = sign_totals(logger, statement(flight)).to_json()
    path.write_text(json.dumps({"totals": [first]}))
    trust = ("--authority", flight.folder / "authority.pem")
    assert log("verify-totals", path, *trust) == 0
    text = capsys.readouterr().out
    assert "! not in this file: the totals of drone_02" in text
    assert "drone_01: 0 of 40 packets under its roots were not received" in text
    assert log("verify-totals", path, *trust, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["absent"], found["revoked"]) == (["drone_02"], None)
    assert found["statements"][0]["coverage"] == {"committed": 40, "received": 40, "between": 0}


def place(*ranges, epoch=5):
    return {"epoch": epoch, "slot": 1, "lane": 1, "transcript_hash": "00" * 32, "ranges": list(ranges)}


ROOT = "11" * 32


def test_ranges_that_were_left_out_are_counted():
    whole = {"roots": [place([1, 10, 9, ROOT], [11, 20, 10, ROOT])]}
    assert coverage(whole) == Coverage(20, 19, 0)
    holes = {"roots": [place([3, 10, 8, ROOT], [21, 25, 5, ROOT]), place([1, 2, 2, ROOT], epoch=9)]}
    assert coverage(holes) == Coverage(15, 15, 12)


@pytest.mark.parametrize(
    "roots",
    [
        5,
        "abc",
        [5],
        [place([1, 10, 11, ROOT])],
        [place([1, 10, 5, ROOT], [10, 12, 1, ROOT])],
        [place([1, 300, 5, ROOT])],
        [place([1, 10, True, ROOT])],
        [place([1, 10, 5, "zz"])],
        [place([1, 10, 5])],
        [place(), place()],
    ],
)
def test_statements_that_cannot_be_are_refused(flight, tmp_path, capsys, roots):
    logger = flight.swarm.keystore.enroll("logger", Role.LOGGER)
    path = tmp_path / "totals.json"
    whole = {**statement(flight), "roots": roots}
    try:
        path.write_text(json.dumps({"totals": [sign_totals(logger, whole).to_json()]}))
    except DisclosureError:
        return
    for form in ([], ["--json"]):
        assert log("verify-totals", path, "--authority", flight.folder / "authority.pem", *form) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("member", "\x1b[2J"), ("member", "\ud800"), ("distance_mm", 10**400), ("drones", [5]), ("gaps", -1)],
)
def test_fields_that_cannot_be_are_refused(flight, tmp_path, capsys, name, value):
    logger = flight.swarm.keystore.enroll("logger", Role.LOGGER)
    path = tmp_path / "totals.json"
    path.write_text(
        json.dumps({"totals": [sign_totals(logger, {**statement(flight), name: value}).to_json()]})
    )
    assert log("verify-totals", path, "--authority", flight.folder / "authority.pem") == 1
    assert capsys.readouterr().err.count("\n") == 1


def proof_of(flight, path):
    which = ("--channel", "drone_01/telemetry", "--time", str(flight.swarm.wire.wall_ns))
    assert (
        log("disclose", flight.folder, *which, "-o", path, "--authority", flight.folder / "authority.pem")
        == 0
    )
    return json.loads(path.read_text())


def test_what_is_shown_of_a_proof_cannot_steer_a_terminal(flight, tmp_path):
    value = proof_of(flight, tmp_path / "proof.json")
    value["channel"] = "drone_01/\x1b[2Jtelemetry"
    with pytest.raises(DisclosureError, match="printable"):
        read_disclosure(value)


def test_no_module_is_imported_because_a_proof_names_it(flight, tmp_path):
    value = proof_of(flight, tmp_path / "proof.json")
    assert log_evidence._decoded(read_disclosure(value))["drone"] == "drone_01"
    for name in ("this/msg/X", "this/is/X", "chimera_ros/nodes/leader", "this"):
        assert log_evidence._decoded(read_disclosure({**value, "type": name})) is None
    assert "this" not in sys.modules


def test_whether_a_certificate_was_revoked_is_looked_up_or_said_to_be_unknown(flight, tmp_path, capsys):
    proof = tmp_path / "proof.json"
    proof_of(flight, proof)
    folder = tmp_path / "keys"
    folder.mkdir()
    store = flight.swarm.keystore
    pem = store.authority.public_bytes(serialization.Encoding.PEM)
    (folder / "authority.pem").write_bytes(pem)
    capsys.readouterr()
    for trust in (("--authority", folder / "authority.pem"), ("--keystore", folder)):
        assert log("verify-disclosure", proof, *trust, "--json") == 0
        assert json.loads(capsys.readouterr().out)["revoked"] is None
        assert log("verify-disclosure", proof, *trust) == 0
        assert "was not looked up" in capsys.readouterr().out


def test_of_a_revoked_signer_it_is_said(tmp_path, capsys):
    store = tmp_path / "keys"
    assert cli.main(["keys", "create", str(store), "--no-passphrase", "--swarm", "testswarm"]) == 0
    assert cli.main(["keys", "enroll", "logger", "logger", "--keystore", str(store)]) == 0
    identity = Keystore(store).load_identity("logger", wall_ns=time.time_ns())
    zeros = dict.fromkeys(NUMBERS, 0)
    path = tmp_path / "totals.json"
    signed = sign_totals(identity, {"member": "drone_01", "roots": [], **zeros})
    path.write_text(json.dumps({"totals": [signed.to_json()]}))
    for revoked in ([], ["logger"]):
        if revoked:
            assert cli.main(["keys", "revoke", "logger", "--keystore", str(store)]) == 0
        capsys.readouterr()
        assert log("verify-totals", path, "--keystore", store, "--json") == 0
        assert json.loads(capsys.readouterr().out)["revoked"] == revoked
    assert log("verify-totals", path, "--keystore", store) == 0
    assert "! the certificate of logger has been revoked" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["²", "9" * 5000, "2030-13-01", ""])
def test_times_that_are_none(text):
    with pytest.raises(CommandFailed, match="give ISO 8601"):
        log_evidence._time_ns(text)


def test_an_endless_file_is_not_read_to_its_end(flight, capsys):
    assert log("verify-disclosure", Path("/dev/zero"), "--authority", flight.folder / "authority.pem") == 2
    assert "is a device, not a file" in capsys.readouterr().err


def test_a_proof_is_written_whole_or_not_at_all(flight, tmp_path, monkeypatch, capsys):
    path = tmp_path / "proof.json"
    before = proof_of(flight, path)
    capsys.readouterr()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    which = ("--channel", "drone_02/telemetry", "--time", str(flight.swarm.wire.wall_ns))
    trust = ("--authority", flight.folder / "authority.pem")
    assert log("disclose", flight.folder, *which, "-o", path, *trust) == 1
    assert "No space left" in capsys.readouterr().err
    assert json.loads(path.read_text()) == before
    assert list(tmp_path.iterdir()) == [path]
