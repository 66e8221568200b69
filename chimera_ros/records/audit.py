"""Audit of a flight's records against its senders' signatures and signed checkpoints.

The trust anchor is the authority's certificate (RFC 5280): every checkpoint must carry the signature of a
member that the authority has certified, and every plaintext message must be the one its sender committed to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cryptography import x509

from chimera_ros.crypto.encoding import fields
from chimera_ros.crypto.evidence.disclosure import Disclosure, disclose
from chimera_ros.crypto.messages.associated_data import associated_data
from chimera_ros.crypto.messages.checkpoint import Checkpoint
from chimera_ros.crypto.primitives import labels, merkle
from chimera_ros.crypto.primitives.suite import digest
from chimera_ros.crypto.trust.identity import (
    CertificateError,
    CertifiedMember,
    check_issuer,
    read_member_certificate,
)
from chimera_ros.records.flight_files import FlightFiles, Packet, SenderEvidence, StreamId

SHOWN: Final = 20


class AuditVerdict(Enum):
    """What the record proves about a packet."""

    CONFIRMED = "confirmed"  # its sender's signed checkpoint commits to it
    UNCONFIRMED = "unconfirmed"  # no checkpoint in the record covers it
    CONTRADICTED = "contradicted"  # the checkpoint commits to something else
    SIGNED = "signed"  # its sealed original carries its sender's signature
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN = "unknown"  # the record does not identify its sender
    DUPLICATE = "duplicate"  # recorded twice, though the replay window of the recorder rejects the second


WRONG: Final = (AuditVerdict.CONTRADICTED, AuditVerdict.BAD_SIGNATURE, AuditVerdict.DUPLICATE)


@dataclass(slots=True)
class Audit:
    """Result of `Auditor.audit`."""

    verdicts: dict[str, int] = field(default_factory=lambda: {item.value: 0 for item in AuditVerdict})
    checkpoints: int = 0
    bad_checkpoints: list[str] = field(default_factory=list)  # the first of them, one sentence each
    bad_checkpoint_count: int = 0
    unattributed: int = 0  # checkpoints whose sender the record does not identify
    committed: int = 0  # packets that checkpoints in the record commit to
    unpaired: int = 0  # messages without their envelope, and envelopes without their message
    broken: list[str] = field(default_factory=list)  # files that are truncated or damaged
    suspects: list[str] = field(default_factory=list)  # the first packets with a wrong verdict

    @property
    def contradicted(self) -> bool:
        """True if anything in the record contradicts its sender."""
        return bool(self.bad_checkpoint_count) or any(self.verdicts[item.value] for item in WRONG)

    @property
    def proven(self) -> int:
        """Number of packets that their sender has signed, singly or by a checkpoint."""
        return self.verdicts[AuditVerdict.CONFIRMED.value] + self.verdicts[AuditVerdict.SIGNED.value]

    @property
    def unproven(self) -> int:
        """Number of messages that no signature covers."""
        open_ = self.verdicts[AuditVerdict.UNCONFIRMED.value] + self.verdicts[AuditVerdict.UNKNOWN.value]
        return open_ + self.unpaired

    @property
    def good(self) -> bool:
        """True if something is proven and nothing contradicts its sender."""
        return self.proven > 0 and not self.contradicted

    def to_json(self) -> dict[str, Any]:
        """The counts and findings as a JSON object."""
        return {
            "good": self.good,
            "proven": self.proven,
            "unproven": self.unproven,
            "packets": self.verdicts,
            "checkpoints": self.checkpoints,
            "bad_checkpoints": self.bad_checkpoint_count,
            "unattributed": self.unattributed,
            "committed": self.committed,
            "unpaired": self.unpaired,
            "broken": self.broken,
            "suspects": [*self.bad_checkpoints, *self.suspects],
        }


class Auditor:
    """Auditor of one record: verifies all checkpoints when made; packets are classified as they are read."""

    def __init__(self, files: FlightFiles, authority: x509.Certificate) -> None:
        self.files = files
        self.evidence = files.evidence()
        self.bad: list[str] = []
        self.checkpoints = 0
        self.unattributed = 0
        self._authority = authority
        self._members: dict[bytes, CertifiedMember | None] = {}
        self._ranges: dict[StreamId, tuple[list[int], list[Checkpoint]]] = {}
        for checkpoint in files.checkpoints():
            self._add(checkpoint)
        for stream, (_, ranges) in self._ranges.items():
            kept = self._without_conflicts(ranges)
            self.checkpoints += len(kept)
            self._ranges[stream] = ([item.first for item in kept], kept)

    def member(self, evidence: SenderEvidence) -> CertifiedMember | None:
        """The certified member that evidence names; None if the authority has certified no such member."""
        der = evidence.certificate_der
        if der not in self._members:
            try:
                check_issuer(der, self._authority)
                found: CertifiedMember | None = read_member_certificate(der)
            except CertificateError:
                found = None
            self._members[der] = found
        member = self._members[der]
        fits = member is not None and (member.name, member.swarm) == (evidence.member, evidence.swarm)
        return member if fits else None

    def members(self) -> list[CertifiedMember]:
        """The certified members that the record names, by name."""
        found = {
            member.fingerprint: member for item in self.evidence.values() if (member := self.member(item))
        }
        return sorted(found.values(), key=lambda member: member.name)

    def _add(self, checkpoint: Checkpoint) -> None:
        stream = (checkpoint.epoch, checkpoint.slot, checkpoint.lane)
        evidence = self.evidence.get(stream)
        where = _where(checkpoint)
        if evidence is None or evidence.transcript_hash != checkpoint.transcript_hash:
            self.unattributed += 1
            return
        member = self.member(evidence)
        if member is None:
            self.bad.append(f"{where}: {evidence.member} has no certificate of this authority")
        elif not checkpoint.root_fits():
            self.bad.append(f"{where}: its leaves do not lead to its root")
        elif not checkpoint.signed_by(member, evidence.swarm):
            self.bad.append(f"{where}: it does not carry {member.name}'s signature")
        elif not member.not_before_ns <= checkpoint.made_ns <= member.not_after_ns:
            self.bad.append(f"{where}: made outside of the validity of {member.name}'s certificate")
        else:
            self._ranges.setdefault(stream, ([], []))[1].append(checkpoint)

    def _without_conflicts(self, ranges: list[Checkpoint]) -> list[Checkpoint]:
        """Checkpoints in order of counters; one that overlaps the one before and differs is bad."""
        kept: list[Checkpoint] = []
        for item in sorted(ranges, key=lambda item: (item.first, item.made_ns)):
            if kept and kept[-1].overlaps(item):
                before = kept[-1]
                if (before.first, before.last, before.root) != (item.first, item.last, item.root):
                    self.bad.append(
                        f"{_where(item)}: its sender has signed a different one for these packets"
                    )
            else:
                kept.append(item)
        return kept

    def ranges(self, stream: StreamId) -> list[Checkpoint]:
        """The good checkpoints of a stream, in order of counters."""
        return self._ranges.get(stream, ([], []))[1]

    def covering(self, packet: Packet) -> Checkpoint | None:
        """The good checkpoint that covers a packet's counter; None if there is none."""
        firsts, ranges = self._ranges.get(packet.stream, ([], []))
        at = bisect_right(firsts, packet.counter) - 1
        return ranges[at] if at >= 0 and ranges[at].covers(packet.counter) else None

    def classify(self, packet: Packet) -> AuditVerdict:
        """What the record proves about one packet."""
        evidence = self.evidence.get(packet.stream) or self._same_slot(packet.stream)
        member = self.member(evidence) if evidence is not None else None
        if evidence is None or member is None:
            return AuditVerdict.UNKNOWN
        if member.name != packet.sender:  # only a signature under this evidence shows whose stream it is
            return AuditVerdict.CONTRADICTED if packet.stream in self._ranges else AuditVerdict.UNKNOWN
        epoch, slot, lane = packet.stream
        aad = associated_data(
            evidence.swarm, evidence.transcript_hash, lane, slot, epoch, packet.channel, packet.type_name
        )
        if packet.signed:
            signed = fields(evidence.swarm.encode(), evidence.transcript_hash, evidence.key_tag)
            signed += fields(digest(aad)) + fields(digest(packet.envelope.sealed))
            good = member.verify(packet.envelope.signature, signed, labels.SIGN_ENVELOPE)
            good = good and member.not_before_ns <= packet.received_ns <= member.not_after_ns
            return AuditVerdict.SIGNED if good else AuditVerdict.BAD_SIGNATURE
        checkpoint = self.covering(packet)
        if checkpoint is None:
            return AuditVerdict.UNCONFIRMED
        counter = packet.counter
        leaf = merkle.leaf(counter, merkle.blind(evidence.blind_key, counter), digest(aad), packet.plaintext)
        fits = leaf == checkpoint.leaves[counter - checkpoint.first]
        return AuditVerdict.CONFIRMED if fits else AuditVerdict.CONTRADICTED

    def _same_slot(self, stream: StreamId) -> SenderEvidence | None:
        """Evidence of the same sender on another lane: signed lanes have none of their own."""
        epoch, slot, _ = stream
        lanes = (self.evidence.get((epoch, slot, lane)) for lane in range(4))
        return next((item for item in lanes if item is not None), None)

    def classified(self) -> Iterator[tuple[Packet, AuditVerdict]]:
        """All packets of the record, in order, with their verdicts."""
        seen: dict[tuple[StreamId, int], int] = {}  # bitmaps of 256 counters each
        for packet in self.files.packets():
            verdict, key = self.classify(packet), (packet.stream, packet.counter >> 8)
            if verdict in (AuditVerdict.CONFIRMED, AuditVerdict.SIGNED):
                before, bit = seen.get(key, 0), 1 << (packet.counter & 255)
                seen[key] = before | bit
                verdict = AuditVerdict.DUPLICATE if before & bit else verdict
            yield packet, verdict

    def audit(self) -> Audit:
        """Result for the whole record, whose packets are all classified."""
        result = Audit(checkpoints=self.checkpoints, bad_checkpoints=self.bad[:SHOWN])
        result.unattributed = self.unattributed
        result.bad_checkpoint_count = len(self.bad)
        result.committed = sum(
            item.last - item.first + 1 for _, ranges in self._ranges.values() for item in ranges
        )
        for packet, verdict in self.classified():
            result.verdicts[verdict.value] += 1
            if verdict in WRONG and len(result.suspects) < SHOWN:
                result.suspects.append(
                    f"{packet.channel} packet {packet.counter} of epoch {packet.envelope.epoch}: "
                    f"{verdict.value.replace('_', ' ')}"
                )
        result.unpaired = self.files.unpaired
        result.broken = self.files.broken
        return result

    def disclose(self, packet: Packet) -> Disclosure | None:
        """The disclosure of one packet; None where no good checkpoint covers it. Raises DisclosureError."""
        checkpoint, evidence = self.covering(packet), self.evidence.get(packet.stream)
        if checkpoint is None or evidence is None:
            return None
        return disclose(
            evidence.swarm,
            packet.channel,
            packet.type_name,
            checkpoint,
            packet.counter,
            evidence.blind_key,
            packet.plaintext,
            evidence.certificate_der,
        )


def _where(checkpoint: Checkpoint) -> str:
    counters = f"{checkpoint.first} to {checkpoint.last}"
    return f"checkpoint {counters} of slot {checkpoint.slot}, epoch {checkpoint.epoch}"
