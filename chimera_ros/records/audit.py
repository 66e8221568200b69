"""Holds a flight's records against its senders' signed checkpoints and signatures.

Trust begins at the authority's certificate: every checkpoint must bear the signature of a member that the
authority has certified, and every message in clear must be the one its sender committed to.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cryptography import x509

from chimera_ros.crypto import labels, merkle
from chimera_ros.crypto.checkpoint import Checkpoint
from chimera_ros.crypto.disclosure import Disclosure, disclose
from chimera_ros.crypto.encoding import fields
from chimera_ros.crypto.envelope import associated_data
from chimera_ros.crypto.identity import (
    CertificateError,
    CertifiedMember,
    check_issuer,
    read_member_certificate,
)
from chimera_ros.crypto.suite import digest
from chimera_ros.records.flight_files import FlightFiles, Packet, Place, SenderEvidence

SHOWN: Final = 20


class Verdict(Enum):
    """What a packet in the record is worth."""

    CONFIRMED = "confirmed"  # its sender's signed checkpoint commits to it
    UNCONFIRMED = "unconfirmed"  # no checkpoint in the record covers it
    CONTRADICTED = "contradicted"  # the checkpoint commits to something else
    SIGNED = "signed"  # its sealed original bears its sender's signature
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN = "unknown"  # the record does not say who its sender was


@dataclass(slots=True)
class Audit:
    """Result of `Auditor.audit`."""

    verdicts: dict[str, int] = field(default_factory=lambda: {item.value: 0 for item in Verdict})
    checkpoints: int = 0
    bad_checkpoints: list[str] = field(default_factory=list)  # the first of them, one sentence each
    bad_checkpoint_count: int = 0
    committed: int = 0  # packets that checkpoints in the record commit to
    unpaired: int = 0
    suspects: list[str] = field(default_factory=list)  # the first packets that are not what they should be

    @property
    def good(self) -> bool:
        """Nothing contradicts its sender."""
        wrong = (Verdict.CONTRADICTED, Verdict.BAD_SIGNATURE)
        return not self.bad_checkpoint_count and not any(self.verdicts[item.value] for item in wrong)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "good": self.good,
            "packets": self.verdicts,
            "checkpoints": self.checkpoints,
            "bad_checkpoints": self.bad_checkpoint_count,
            "committed": self.committed,
            "unpaired": self.unpaired,
            "suspects": [*self.bad_checkpoints, *self.suspects],
        }


class Auditor:
    """Checks all checkpoints of a record once; packets are then judged as they are read."""

    def __init__(self, files: FlightFiles, authority: x509.Certificate) -> None:
        self.files = files
        self.evidence = files.evidence()
        self.bad: list[str] = []
        self.checkpoints = 0
        self._authority = authority
        self._members: dict[bytes, CertifiedMember | None] = {}
        self._ranges: dict[Place, tuple[list[int], list[Checkpoint]]] = {}
        for checkpoint in files.checkpoints():
            self._add(checkpoint)
        for place, (_, ranges) in self._ranges.items():
            ranges.sort(key=lambda item: item.first)
            self._ranges[place] = ([item.first for item in ranges], ranges)

    def member(self, evidence: SenderEvidence) -> CertifiedMember | None:
        """The certified member that evidence names; None where the authority knows no such member."""
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

    def _add(self, checkpoint: Checkpoint) -> None:
        place = (checkpoint.epoch, checkpoint.slot, checkpoint.lane)
        evidence = self.evidence.get(place)
        where = f"checkpoint {checkpoint.first} to {checkpoint.last} of slot {checkpoint.slot}"
        where = f"{where}, epoch {checkpoint.epoch}"
        if evidence is None or evidence.transcript_hash != checkpoint.transcript_hash:
            self.bad.append(f"{where}: the record does not say whose it is")
            return
        member = self.member(evidence)
        if member is None:
            self.bad.append(f"{where}: {evidence.member} has no certificate of this authority")
        elif not checkpoint.root_fits():
            self.bad.append(f"{where}: its leaves do not lead to its root")
        elif not checkpoint.signed_by(member, evidence.swarm):
            self.bad.append(f"{where}: it does not bear {member.name}'s signature")
        else:
            known = self._ranges.setdefault(place, ([], []))[1]
            for other in known[-64:]:
                if other.overlaps(checkpoint) and other.root != checkpoint.root:
                    self.bad.append(f"{where}: {member.name} has signed another one for these packets")
                    return
            if not any(other.first == checkpoint.first for other in known[-64:]):
                known.append(checkpoint)
                self.checkpoints += 1

    def ranges(self, place: Place) -> list[Checkpoint]:
        """The good checkpoints of one sender, epoch and lane, in order."""
        return self._ranges.get(place, ([], []))[1]

    def places(self) -> list[Place]:
        """Where there are good checkpoints."""
        return sorted(self._ranges)

    def covering(self, packet: Packet) -> Checkpoint | None:
        """The good checkpoint whose range a packet's counter is in."""
        firsts, ranges = self._ranges.get(packet.place, ([], []))
        at = bisect_right(firsts, packet.counter) - 1
        return ranges[at] if at >= 0 and ranges[at].covers(packet.counter) else None

    def judge(self, packet: Packet) -> Verdict:
        """What the record proves about one packet."""
        evidence = self.evidence.get(packet.place) or self._same_slot(packet.place)
        member = self.member(evidence) if evidence is not None else None
        if evidence is None or member is None or member.name != packet.sender:
            return Verdict.UNKNOWN
        epoch, slot, lane = packet.place
        aad = associated_data(
            evidence.swarm, evidence.transcript_hash, lane, slot, epoch, packet.channel, packet.type_name
        )
        if packet.signed:
            signed = fields(evidence.swarm.encode(), evidence.transcript_hash, evidence.key_tag)
            signed += fields(digest(aad)) + fields(digest(packet.envelope.sealed))
            good = member.verify(packet.envelope.signature, signed, labels.SIGN_ENVELOPE)
            return Verdict.SIGNED if good else Verdict.BAD_SIGNATURE
        checkpoint = self.covering(packet)
        if checkpoint is None:
            return Verdict.UNCONFIRMED
        counter = packet.counter
        leaf = merkle.leaf(counter, merkle.blind(evidence.blind_key, counter), digest(aad), packet.plaintext)
        fits = leaf == checkpoint.leaves[counter - checkpoint.first]
        return Verdict.CONFIRMED if fits else Verdict.CONTRADICTED

    def _same_slot(self, place: Place) -> SenderEvidence | None:
        """Signed lanes have no evidence of their own: the sender's of another lane names it as well."""
        epoch, slot, _ = place
        lanes = (self.evidence.get((epoch, slot, lane)) for lane in range(4))
        return next((item for item in lanes if item is not None), None)

    def judged(self) -> Iterator[tuple[Packet, Verdict]]:
        """All packets of the record, in order, each with what it is worth."""
        for packet in self.files.packets():
            yield packet, self.judge(packet)

    def audit(self) -> Audit:
        """Goes through the whole record."""
        result = Audit(checkpoints=self.checkpoints, bad_checkpoints=self.bad[:SHOWN])
        result.bad_checkpoint_count = len(self.bad)
        result.committed = sum(
            item.last - item.first + 1 for _, ranges in self._ranges.values() for item in ranges
        )
        for packet, verdict in self.judged():
            result.verdicts[verdict.value] += 1
            if verdict in (Verdict.CONTRADICTED, Verdict.BAD_SIGNATURE) and len(result.suspects) < SHOWN:
                result.suspects.append(
                    f"{packet.channel} packet {packet.counter} of epoch {packet.envelope.epoch}: "
                    f"{verdict.value.replace('_', ' ')}"
                )
        result.unpaired = self.files.unpaired
        return result

    def disclose(self, packet: Packet) -> Disclosure | None:
        """The disclosure of one packet; None where no good checkpoint covers it. Raises DisclosureError."""
        checkpoint, evidence = self.covering(packet), self.evidence.get(packet.place)
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
