"""`chimera log verify|disclose|verify-disclosure|totals|verify-totals`: use of the evidence in a record."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chimera_ros.command_line import member_name, some_path, some_text, whole
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.evidence_files import MAX_FILE, Revocations, authority_of, read_json, write_json
from chimera_ros.commands.keys import KEYSTORE_VARIABLE
from chimera_ros.crypto.errors import CryptoError
from chimera_ros.crypto.evidence.disclosure import Disclosure, read_disclosure
from chimera_ros.records.status_line import finite
from chimera_ros.terminal.lines import print_json, print_line

if TYPE_CHECKING:
    from chimera_ros.records.audit import Auditor
    from chimera_ros.records.flight_files import Packet

OWN = "chimera_ros"
# Field appended to a message type, and its size in CDR, bytes; older records lack it.
APPENDED: Final = {"chimera_ros/msg/DroneTelemetry": ("reason_code", 1)}


def register(verbs: Any) -> None:
    """Declares these verbs of `chimera log`; the others are in log.py."""
    verify = verbs.add_parser("verify", help="verify a record by its senders' signed checkpoints")
    verify.add_argument("path", type=some_path, metavar="RECORD_DIR")
    disclose = verbs.add_parser("disclose", help="export the proof of one message, without others or keys")
    disclose.add_argument("path", type=some_path, metavar="RECORD_DIR")
    disclose.add_argument(
        "--channel", type=some_text, required=True, metavar="NAME", help="such as drone_07/telemetry"
    )
    which = disclose.add_mutually_exclusive_group(required=True)
    which.add_argument("--counter", type=whole, metavar="N", help="the sender's counter (see --epoch)")
    which.add_argument(
        "--time", type=some_text, metavar="T", help="the message sent nearest to this: ISO 8601 in UTC, or ns"
    )
    disclose.add_argument("--epoch", type=whole, metavar="N", help="where a counter occurs in several epochs")
    disclose.add_argument("-o", "--output", required=True, type=some_path, metavar="FILE.json")
    check = verbs.add_parser("verify-disclosure", help="verify a disclosed message")
    check.add_argument("path", type=some_path, metavar="FILE.json")
    totals = verbs.add_parser("totals", help="distance, area and time in the air of each drone, signed")
    totals.add_argument("path", type=some_path, metavar="RECORD_DIR")
    totals.add_argument(
        "--sign", type=member_name, metavar="MEMBER", help="sign as this member (needs --keystore)"
    )
    totals.add_argument(
        "-o", "--output", type=some_path, metavar="FILE.json", help="write the statements here"
    )
    check_totals = verbs.add_parser("verify-totals", help="verify signed totals, with the record or without")
    check_totals.add_argument("path", type=some_path, metavar="FILE.json")
    check_totals.add_argument(
        "record", nargs="?", type=some_path, metavar="RECORD_DIR", help="recompute them"
    )
    for verb in (verify, disclose, check, totals, check_totals):
        whom = verb.add_mutually_exclusive_group()
        whom.add_argument(
            "--keystore",
            type=some_path,
            metavar="DIR",
            help=f"keystore whose authority is the trust anchor (${KEYSTORE_VARIABLE})",
        )
        whom.add_argument(
            "--authority", type=some_path, metavar="FILE", help="authority.pem as the trust anchor"
        )
        verb.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace) -> int:
    """Runs one verb. Exit status 0 if everything is verified, else 1."""
    from chimera_ros.records.flight_files import RecordError

    verb = {
        "verify": _verify,
        "disclose": _disclose,
        "verify-disclosure": _verify_disclosure,
        "totals": _totals,
        "verify-totals": _verify_totals,
    }[arguments.verb]
    try:
        return verb(arguments)
    except RecordError as error:
        raise CommandFailed(str(error), MISUSE) from error
    except CryptoError as error:
        raise CommandFailed(str(error)) from error


def _auditor(directory: Path, arguments: argparse.Namespace) -> Auditor:
    from chimera_ros.records.audit import Auditor
    from chimera_ros.records.flight_files import Decoders, FlightFiles
    from chimera_ros.ros.cdr import decode_checkpoint, decode_envelope

    files = FlightFiles(directory, Decoders(decode_envelope, decode_checkpoint))
    return Auditor(files, authority_of(arguments))


def _verify(arguments: argparse.Namespace) -> int:
    auditor = _auditor(arguments.path, arguments)
    audit = auditor.audit()
    revocations = Revocations(arguments)
    revoked = [member.name for member in auditor.members() if revocations.revoked(member)]
    if arguments.json:
        print_json({**audit.to_json(), "revoked": revoked if revocations.known else None}, indent=2)
        return 0 if audit.good else 1
    verdicts = audit.verdicts
    print_line(f"checkpoints   {audit.checkpoints} good, {audit.bad_checkpoint_count} bad")
    print_line(
        f"unsigned      {verdicts['confirmed']} confirmed by their sender's checkpoint, "
        f"{verdicts['unconfirmed']} without one, {verdicts['contradicted']} contradicted"
    )
    print_line(f"signed        {verdicts['signed']} good, {verdicts['bad_signature']} bad")
    received = verdicts["confirmed"] + verdicts["contradicted"]
    print_line(
        f"not recorded  {max(0, audit.committed - received)} of {audit.committed} that checkpoints commit to"
    )
    if verdicts["unknown"] or audit.unpaired:
        print_line(
            f"not checked   {verdicts['unknown']} of unknown senders, {audit.unpaired} without counterpart"
        )
    if audit.unattributed:
        print_line(f"not used      {audit.unattributed} checkpoints of unknown senders")
    for name in audit.broken:
        print_line(f"! {name} breaks off or is damaged: what follows is not included")
    for name in revoked:
        print_line(
            f"! the certificate of {name} has been revoked: any holder of its key can have signed as {name}"
        )
    for text in (*audit.bad_checkpoints, *audit.suspects):
        print_line(f"! {text}")
    if audit.contradicted:
        print_line("THE RECORD CONTRADICTS ITS SENDERS")
    elif not audit.proven:
        print_line("NOTHING IN THIS RECORD IS PROVEN")
    else:
        print_line(
            "the record holds" + (f", but for {audit.unproven} that nothing proves" if audit.unproven else "")
        )
    return 0 if audit.good else 1


def _disclose(arguments: argparse.Namespace) -> int:
    auditor = _auditor(arguments.path, arguments)
    packet = _choose(auditor, arguments)
    found = auditor.disclose(packet)
    if found is None:
        raise CommandFailed(
            f"packet {packet.counter} of {packet.channel} in epoch {packet.envelope.epoch} is not covered by "
            "a checkpoint; signed messages and unconfirmed ones cannot be disclosed"
        )
    write_json(arguments.output, found.to_json())
    summary = {"file": str(arguments.output), "channel": packet.channel, "counter": packet.counter}
    if arguments.json:
        print_json({**summary, "epoch": packet.envelope.epoch, "sent_ns": packet.sent_ns})
    else:
        print_line(
            f"{arguments.output}: packet {packet.counter} of {packet.channel}, epoch "
            f"{packet.envelope.epoch}, sent {_when(packet.sent_ns)}; it is checked with authority.pem"
        )
    return 0


def _choose(auditor: Auditor, arguments: argparse.Namespace) -> Packet:
    wanted_ns = None if arguments.time is None else _time_ns(arguments.time)
    best: Packet | None = None
    epochs: set[int] = set()
    on_channel = 0
    for packet in auditor.files.packets():
        if packet.channel != arguments.channel:
            continue
        on_channel += 1
        if arguments.epoch is not None and packet.envelope.epoch != arguments.epoch:
            continue
        if wanted_ns is None:
            if packet.counter == arguments.counter:
                best = packet
                epochs.add(packet.envelope.epoch)
        elif best is None or abs(packet.sent_ns - wanted_ns) < abs(best.sent_ns - wanted_ns):
            best = packet
    if len(epochs) > 1:
        shown = ", ".join(map(str, sorted(epochs)))
        raise CommandFailed(
            f"counter {arguments.counter} occurs in epochs {shown}; choose with --epoch", MISUSE
        )
    if best is None:
        what = f"{on_channel} messages, none of them the one asked for" if on_channel else "no message"
        raise CommandFailed(f"{arguments.path} holds {what} on channel {arguments.channel}", MISUSE)
    return best


def _time_ns(text: str) -> int:
    try:
        if text.isdecimal():
            return int(text)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"--time {text}: give ISO 8601 in UTC, such as 2030-03-17T17:46:40, or ns", MISUSE
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


def _verify_disclosure(arguments: argparse.Namespace) -> int:
    found = read_disclosure(read_json(arguments.path))
    member = found.check(authority_of(arguments))
    revocations = Revocations(arguments)
    revoked = revocations.revoked(member) if revocations.known else None
    message = _decoded(found)
    if arguments.json:
        shown = {
            "holds": True,
            "member": member.name,
            "role": member.role.value,
            "swarm": member.swarm,
            "channel": found.channel,
            "type": found.type_name,
            "sent_ns": found.sent_ns,
            "epoch": found.checkpoint.epoch,
            "counter": found.counter,
            "revoked": revoked,
            "message": message,
            "cdr": found.payload.hex(),
        }
        print_json(shown, indent=2)
        return 0
    print_line(f"{member.name} ({member.role.value} of {member.swarm}) signed that it sent this message")
    print_line(f"channel  {found.channel} ({found.type_name})")
    print_line(f"sent     {_when(found.sent_ns)} by its own clock")
    print_line(f"packet   {found.counter} of epoch {found.checkpoint.epoch}")
    if revoked:
        print_line(
            "! its certificate has been revoked: any holder of its key can have made this, at any time"
        )
    elif revoked is None:
        print_line("whether its certificate was revoked was not looked up (--keystore has the list)")
    if message is not None:
        print_json(message, indent=2)
    else:
        print_line(f"cdr      {found.payload.hex()}", limit=MAX_FILE)
    return 0


def _decoded(found: Disclosure) -> Any:
    """The message as plain data; None if its type is not installed or does not fit."""
    try:
        from ament_index_python.resources import has_resource
        from rclpy.serialization import deserialize_message

        from chimera_ros.ros.cdr import checked_payload

        package, kind, name = found.type_name.split("/")
        if kind != "msg" or not (package == OWN or has_resource("rosidl_interfaces", package)):
            return None  # untrusted name: only message packages are imported
        message_type = getattr(importlib.import_module(f"{package}.{kind}"), name)
        payload = checked_payload(found.payload)
        try:
            return finite(_plain(deserialize_message(payload, message_type)))
        except Exception:
            field, size = APPENDED[found.type_name]
            plain = _plain(deserialize_message(payload + bytes(size), message_type))
            return finite({name: value for name, value in plain.items() if name != field})
    except Exception:  # no ROS, or type not installed: the proof does not need it
        return None


def _plain(value: Any) -> Any:
    if hasattr(value, "get_fields_and_field_types"):
        return {name: _plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        return [_plain(item) for item in value]
    return value


def _totals(arguments: argparse.Namespace) -> int:
    from chimera_ros.crypto.evidence.signed_totals import sign_totals
    from chimera_ros.crypto.keystore.keystore import Keystore
    from chimera_ros.records.flight_totals import statements_of

    if arguments.sign and not arguments.keystore:
        raise CommandFailed("--sign needs --keystore with that member's key", MISUSE)
    statements = statements_of(_auditor(arguments.path, arguments))
    if not statements:
        raise CommandFailed(f"{arguments.path} holds no telemetry of a drone", MISUSE)
    documents: Sequence[Mapping[str, Any]] = statements
    if arguments.sign:
        identity = Keystore(arguments.keystore).load_identity(arguments.sign, wall_ns=time.time_ns())
        documents = [sign_totals(identity, statement).to_json() for statement in statements]
    if arguments.output is not None:
        write_json(arguments.output, {"totals": documents})
    if arguments.json:
        print_json({"totals": documents}, indent=2)
    else:
        _table(statements)
        if not arguments.sign:
            print_line("not signed; --sign MEMBER --keystore DIR makes statements that others can verify")
    return 0


def _verify_totals(arguments: argparse.Namespace) -> int:
    from chimera_ros.crypto.evidence.signed_totals import coverage, read_totals
    from chimera_ros.records.flight_totals import statements_of

    content = read_json(arguments.path)
    documents = content.get("totals") if isinstance(content, Mapping) else None
    if not isinstance(documents, list) or not documents:
        raise CommandFailed(f"{arguments.path} holds no totals", MISUSE)
    authority = authority_of(arguments)
    signed = [read_totals(item) for item in documents]
    members = {member.name: member for member in (item.check(authority) for item in signed)}
    signers = [f"{name} ({member.role})" for name, member in sorted(members.items())]
    revocations = Revocations(arguments)
    revoked = [name for name, member in sorted(members.items()) if revocations.revoked(member)]
    statements = [dict(item.statement) for item in signed]
    covered = [coverage(statement) for statement in statements]
    here = {statement["member"] for statement in statements}
    absent = sorted({name for item in statements for name in item.get("drones", ())} - here)
    differing: list[str] = []
    if arguments.record is not None:
        again = {item["member"]: item for item in statements_of(_auditor(arguments.record, arguments))}
        for statement in statements:
            own = again.get(str(statement.get("member")))
            if own is None or any(statement.get(name) != value for name, value in own.items()):
                differing.append(str(statement.get("member")))
        absent = sorted({*absent, *again.keys()} - here)
    if arguments.json:
        print_json(
            {
                "holds": not differing,
                "signers": sorted(members),
                "revoked": revoked if revocations.known else None,
                "absent": absent,
                "recomputed": arguments.record is not None,
                "differing": differing,
                "statements": [
                    {**item, "roots": len(item["roots"]), "coverage": dataclasses.asdict(found)}
                    for item, found in zip(statements, covered, strict=True)
                ],
            },
            indent=2,
        )
        return 1 if differing else 0
    _table(statements)
    for statement, found in zip(statements, covered, strict=True):
        missing = found.committed - found.received
        lacking = f"{missing} of {found.committed} packets under its roots were not received"
        gaps = f", {found.between} more have no root" if found.between else ""
        print_line(f"{statement['member']}: {lacking}{gaps}")
    if absent:
        print_line(f"! not in this file: the totals of {', '.join(absent)}")
    for name in revoked:
        print_line(
            f"! the certificate of {name} has been revoked: any holder of its key can have signed this"
        )
    if arguments.record is None:
        origin = "whether they follow from a record was not checked"
    elif differing:
        origin = f"NOT what {arguments.record} gives for {', '.join(differing)}"
    else:
        origin = f"{arguments.record} gives the same"
    print_line(f"signed by {', '.join(signers)}; {origin}")
    return 1 if differing else 0


def _table(statements: list[dict[str, Any]]) -> None:
    print_line(
        f"{'drone':<12}{'distance m':>12}{'airborne s':>12}{'area m²':>10}{'messages':>10}{'unconfirmed':>13}"
    )
    for item in statements:
        print_line(
            f"{item['member']:<12}{item['distance_mm'] / 1000:>12.1f}{item['airborne_ms'] / 1000:>12.1f}"
            f"{item['area_m2']:>10}{item['messages']:>10}{item['unconfirmed']:>13}"
        )


def _when(time_ns: int) -> str:
    return datetime.fromtimestamp(min(time_ns, 2**61) / 1e9, UTC).isoformat(timespec="milliseconds")
