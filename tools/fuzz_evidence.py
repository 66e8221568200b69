"""Fuzz targets of evidence: checkpoints, disclosures, totals and the keys of a record.

A mutated checkpoint with a valid signature is one of a captured member: it may cause alarms, but it confirms
only packets whose own leaf it has. Documents are checked with real signatures: only the genuine one verifies.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import Final

from fuzz_fixture import Bug, accept_all_signatures, fixture

from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.evidence.checkpoint_tracker import CheckpointTracker
from chimera_ros.crypto.evidence.disclosure import Disclosure, DisclosureError, disclose, read_disclosure
from chimera_ros.crypto.evidence.ledgers import POLL_S
from chimera_ros.crypto.evidence.signed_totals import NUMBERS, SignedTotals, read_totals, sign_totals
from chimera_ros.crypto.messages.announcement import RosterEntry
from chimera_ros.crypto.messages.associated_data import associated_data
from chimera_ros.crypto.messages.checkpoint import Checkpoint, parse_checkpoint
from chimera_ros.crypto.primitives import merkle
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.testing.swarm import WALL_START_NS, MemoryKeystore
from chimera_ros.crypto.trust.identity import MemberIdentity
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import SIGNATURE_BYTES, Lane
from chimera_ros.records.flight_files import SenderEvidence
from chimera_ros.ros import cdr

_SWARM: Final = "testswarm"
_CHANNEL: Final = "drone_01/telemetry"
_KEY: Final = bytes(range(32))
_TRANSCRIPT: Final = digest(b"epoch")
_EPOCH: Final = 8
_SLOT: Final = 3
_SENT: Final = 24  # packets, of which every third is lost
_AAD: Final = digest(associated_data(_SWARM, _TRANSCRIPT, Lane.TELEMETRY, _SLOT, _EPOCH, _CHANNEL, "T"))


@cache
def _keystore() -> MemoryKeystore:
    return MemoryKeystore()


@cache
def _drone(accept_all: bool) -> MemberIdentity:
    """A drone with real signatures, or with signatures that always verify."""
    if not accept_all:
        return _keystore().enroll("drone_01", Role.DRONE)
    with accept_all_signatures():
        return _keystore().enroll("drone_01", Role.DRONE)


def _entry(identity: MemberIdentity) -> RosterEntry:
    return RosterEntry(_SLOT, "drone_01", Role.DRONE, identity.fingerprint, bytes(16), bytes(32))


def _plain(counter: int) -> bytes:
    return WALL_START_NS.to_bytes(8) + b"telemetry %d" % counter


def _tracker() -> CheckpointTracker:
    return CheckpointTracker(_SWARM, Lock(), True, 200_000_000)


@cache
def _genuine(accept_all: bool) -> tuple[Checkpoint, ...]:
    """Two checkpoints, of 16 packets and of 8."""
    identity, tracker, found = _drone(accept_all), _tracker(), []
    ledger = tracker.sender(_TRANSCRIPT, _EPOCH, _entry(identity), Lane.TELEMETRY, _KEY)
    now = 0.0
    for first, last in ((1, 17), (17, _SENT + 1)):
        for counter in range(first, last):
            ledger.add(_AAD, _plain(counter), WALL_START_NS)
        for _ in range(8):
            now += POLL_S
            drafts = tracker.drafts(now, WALL_START_NS + 1_000_000_000)
            found += [tracker.sign(draft, identity) for draft in drafts]
    return tuple(found)


def _to_cdr(item: Checkpoint) -> bytes:
    return cdr.encode_checkpoint(
        item.transcript_hash,
        item.epoch,
        item.slot,
        item.lane,
        item.first,
        item.last,
        item.made_ns,
        item.root,
        b"".join(item.leaves),
        item.signature,
    )


# Checkpoints ---------------------------------------------------------------------------------------------


_HONEST_ROOT: Final = 4  # the root is computed from the leaves
_SIGNED: Final = 8  # the signature is appended, and is not in the input
_TAIL: Final = SIGNATURE_BYTES.to_bytes(4, "little") + bytes(SIGNATURE_BYTES)


def checkpoint_corpus() -> list[bytes]:
    """CDR; flags in the first byte: the epoch that the receiver knows, and what is completed here."""
    made = [(flags, _to_cdr(item)) for flags in (0, 1, 2, 4) for item in _genuine(True)]
    made += [(flags | _SIGNED, data[: -len(_TAIL)]) for flags, data in made]
    return [bytes([flags]) + data for flags, data in made]


def checkpoint(data: bytes) -> None:
    """A checkpoint from the network, then the genuine ones."""
    if not data:
        return
    flags, raw = data[0], data[1:]
    try:
        found = parse_checkpoint(*cdr.decode_checkpoint(raw + _TAIL if flags & _SIGNED else raw))
    except (Rejected, cdr.CdrError):
        return
    if flags & _HONEST_ROOT:
        found = replace(found, root=merkle.root(found.leaves))
    if parse_checkpoint(*cdr.decode_checkpoint(_to_cdr(found))) != found:
        raise Bug("a checkpoint changes when it is encoded and decoded")
    with accept_all_signatures():
        swarm = fixture().joined()
        for host in swarm.hosts.values():
            effects = host.take_checkpoint("drone_01", found, swarm.wire.now, swarm.wire.wall_ns)
            if effects is not None and len(effects) > 2:
                raise Bug(f"one checkpoint caused {len(effects)} alarms")
    identity, tracker = _drone(True), _tracker()
    ledger = tracker.receiver(_TRANSCRIPT, _EPOCH, bytes(32), _entry(identity), Lane.TELEMETRY, _KEY)
    assert ledger is not None
    received = [counter for counter in range(1, _SENT + 1) if counter % 3]
    for counter in received:
        ledger.add(counter, (_CHANNEL, _AAD, _plain(counter), WALL_START_NS))
    known = (None, _TRANSCRIPT, bytes(32))[flags % 4 % 3]
    now, wall_ns = 1.0, WALL_START_NS + 1_500_000_000
    for item in (found, found, *_genuine(True)):
        before = tracker.counts
        try:
            effects = tracker.take(
                "drone_01", item, identity.fingerprint, known, lambda _: identity.member, now, wall_ns
            )
        except Rejected:
            continue
        if len(effects) > 2:
            raise Bug(f"one checkpoint caused {len(effects)} alarms")
        genuine = {leaf for good in _genuine(True) for leaf in good.leaves}
        confirmed = tracker.counts.confirmed - before.confirmed
        if confirmed > sum(leaf in genuine for leaf in item.leaves):
            raise Bug(f"{confirmed} packets were confirmed by a checkpoint without them")
    for _ in range(12):
        now += 1.0
        tracker.tick(now)
    counts = tracker.counts
    counted = counts.confirmed + counts.unconfirmed + counts.mismatched
    if counted != len(received):
        raise Bug(f"{len(received)} packets were opened and {counted} counted")


# Documents -----------------------------------------------------------------------------------------------


@cache
def _disclosure() -> Disclosure:
    identity, item = _drone(False), _genuine(False)[0]
    return disclose(_SWARM, _CHANNEL, "T", item, 5, _KEY, _plain(5), identity.certificate_der)


@cache
def _totals() -> SignedTotals:
    place = {"epoch": _EPOCH, "slot": _SLOT, "lane": 1, "transcript_hash": _TRANSCRIPT.hex()}
    ranges = [[1, 16, 11, "11" * 32], [17, 24, 5, "22" * 32]]
    statement = {
        "record": "flight",
        "member": "drone_01",
        "drones": ["drone_01"],
        "roots": [{**place, "ranges": ranges}],
        **{name: 12 for name in NUMBERS},
    }
    return sign_totals(_keystore().enroll("logger", Role.LOGGER), statement)


def _keys() -> SenderEvidence:
    certificate = _drone(False).certificate_der
    return SenderEvidence(
        _SWARM, "drone_01", _EPOCH, _SLOT, Lane.TELEMETRY, _TRANSCRIPT, bytes(32), _KEY, certificate
    )


def _long(index: int) -> dict[str, str]:
    """The long fields of a genuine document; inputs may have their names instead."""
    value = (_disclosure(), _totals(), _keys())[index].to_json()
    return {name: value[name] for name in ("certificate", "signature") if name in value}


def document_corpus() -> list[bytes]:
    """JSON; the first byte is the kind of document."""
    values = [item.to_json() for item in (_disclosure(), _totals(), _keys())]
    short = [{**value, **{name: name for name in _long(index)}} for index, value in enumerate(values)]
    return [bytes([index % 3]) + json.dumps(value).encode() for index, value in enumerate([*values, *short])]


def document(data: bytes) -> None:
    """A document about a flight from a third party."""
    if not data:
        return
    authority, kind = _keystore().authority, data[0] % 3
    text = data[1:]
    for name, genuine in _long(kind).items():
        text = text.replace(f': "{name}"'.encode(), f': "{genuine}"'.encode())
    if kind == 2:
        keys = SenderEvidence.parse(text)
        if keys is not None and SenderEvidence.parse(json.dumps(keys.to_json()).encode()) != keys:
            raise Bug("keys change when they are encoded and decoded")
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # as the commands do
        return
    try:
        if kind == 0:
            disclosure = read_disclosure(value)
            if read_disclosure(disclosure.to_json()) != disclosure:
                raise Bug("a disclosure changes when it is encoded and decoded")
            disclosure.check(authority)
            if (disclosure.channel, disclosure.counter, disclosure.plaintext) != (_CHANNEL, 5, _plain(5)):
                raise Bug("a forged disclosure verifies")
        else:
            signed = read_totals(value)
            signed.check(authority)
            if signed.statement != _totals().statement:
                raise Bug("forged totals verify")
    except DisclosureError:
        return
