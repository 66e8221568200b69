"""Checkpoint tracker of one process: ranges to sign, and received checkpoints compared with opened packets.

It is driven by a thread of its own: `drafts` and `sign` for hosted members, `take` for received checkpoints,
`tick` once a second. The host's lock is held only briefly.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import Rejected, RejectReason
from ..messages.announcement import RosterEntry
from ..messages.checkpoint import Checkpoint, make_checkpoint
from ..primitives.replay_window import WINDOW
from ..rate_limit import TokenBucket
from ..trust.identity import CertifiedMember, MemberIdentity
from .ledgers import CheckpointCounts, Comparison, CounterRange, Evidence, ReceiverLedger, SenderLedger

MEMBER_CHECKS_PER_S: Final = 128.0  # signature checks of one member's checkpoints
CHECKS_PER_S: Final = 512.0  # and of all together: at most a fifth of a core
ALARM_EVERY_S: Final = 5.0
MAX_LISTED: Final = 8  # counters in an alarm
PLAUSIBLE_NS: Final = 10_000_000_000  # a `made_ns` further off than this is not compared with
MISSING_TICKS: Final = 10
MAX_SPLIT_REPORTED: Final = 1024
MAX_EVIDENCE: Final = 4096

Certificates = Callable[[bytes], CertifiedMember | None]


class CheckpointTracker:
    """Ledgers by epoch, member and lane. `lock` is the host's, which guards counters and windows."""

    def __init__(
        self, swarm: str, lock: Lock, verify: bool, ahead_ns: int, keep_evidence: bool = False
    ) -> None:
        self.verify = verify
        self.evidence: deque[Evidence] | None = deque(maxlen=MAX_EVIDENCE) if keep_evidence else None
        self.unconfirmed_of: Counter[str] = Counter()  # by member
        self._swarm = swarm
        self._lock = lock
        self._ahead_ns = ahead_ns
        self._senders: dict[tuple[bytes, int, int], SenderLedger] = {}
        self._receivers: dict[tuple[bytes, str, int], ReceiverLedger] = {}
        self._closed: set[bytes] = set()
        self._rotated_at = float("-inf")
        self._checks = TokenBucket(CHECKS_PER_S)
        self._member_checks: dict[str, TokenBucket] = {}
        self._alarms: dict[str, TokenBucket] = {}
        self._split_reported: OrderedDict[tuple[str, bytes], None] = OrderedDict()
        self._missing: Counter[tuple[str, int]] = Counter()
        self._window_jump = False
        self._clock_set_back_s = 0.0
        self._sent = self._dropped = self._verified = self._refused = 0
        self._confirmed = self._unconfirmed = self._mismatched = 0

    @property
    def counts(self) -> CheckpointCounts:
        """Totals so far."""
        return CheckpointCounts(
            self._sent,
            self._dropped,
            self._verified,
            self._refused,
            self._confirmed,
            self._unconfirmed,
            self._mismatched,
        )

    def opened_senders(self) -> frozenset[str]:
        """Members whose unsigned packets are opened here: subscribe to their checkpoints."""
        with self._lock:
            return frozenset(name for _, name, _ in self._receivers)

    def take_window_jump(self) -> bool:
        """True, once, after forged counters moved a sender's replay window far beyond those it has issued."""
        found, self._window_jump = self._window_jump, False
        return found

    def take_clock_set_back(self) -> float:
        """Seconds by which the own clock was set back since a range was closed, reported once; else 0.

        Until it has caught up, hosted senders seal nothing on unsigned lanes.
        """
        with self._lock:
            found, self._clock_set_back_s = self._clock_set_back_s, 0.0
        return found

    # Called by epoch sessions; the caller holds the lock

    def sender(
        self, transcript_hash: bytes, epoch: int, entry: RosterEntry, lane: int, blind_key: bytes
    ) -> SenderLedger:
        """The ledger of a hosted sender."""
        key = (transcript_hash, entry.slot, lane)
        found = self._senders.get(key)
        if found is None:
            found = self._senders[key] = SenderLedger(transcript_hash, epoch, entry, lane, blind_key)
        return found

    def receiver(
        self,
        transcript_hash: bytes,
        epoch: int,
        key_tag: bytes,
        entry: RosterEntry,
        lane: int,
        blind_key: bytes,
    ) -> ReceiverLedger | None:
        """The ledger for packets of a sender; None where this process verifies none."""
        if not self.verify:
            return None
        key = (transcript_hash, entry.name, lane)
        found = self._receivers.get(key)
        if found is None:
            found = self._receivers[key] = ReceiverLedger(epoch, entry, lane, blind_key)
            if self.evidence is not None:
                self.evidence.append(Evidence(transcript_hash, epoch, key_tag, entry, lane, blind_key))
        return found

    def close_epoch(self, transcript_hash: bytes) -> None:
        """Hashes what is pending before the epoch's keys are wiped."""
        self._closed.add(transcript_hash)
        for sender in self._senders.values():
            if sender.transcript_hash == transcript_hash:
                sender.end()
        for key, receiver in self._receivers.items():
            if key[0] == transcript_hash:
                receiver.drop_key()

    def retire(self, transcript_hash: bytes) -> None:
        """Ends the epoch for sending: its last ranges are closed at the next `drafts`. Takes the lock."""
        with self._lock:
            for sender in self._senders.values():
                if sender.transcript_hash == transcript_hash:
                    sender.ended = True

    def end(self) -> None:
        """Ends all sending: every range is closed at the next `drafts`. Takes the lock."""
        with self._lock:
            for sender in self._senders.values():
                sender.ended = True

    # Sending

    def drafts(self, now: float, wall_ns: int) -> list[CounterRange]:
        """The ranges due for signing, oldest first."""
        found: list[CounterRange] = []
        with self._lock:
            for key, ledger in list(self._senders.items()):
                if not ledger.ended and wall_ns + self._ahead_ns < ledger.made_ns:
                    self._clock_set_back_s = max(self._clock_set_back_s, (ledger.made_ns - wall_ns) * 1e-9)
                ledger.poll(now, wall_ns)
                self._dropped += ledger.dropped
                ledger.dropped = 0
                found += ledger.closed
                ledger.closed.clear()
                if key[0] in self._closed:
                    del self._senders[key]
        return found

    def sign(self, draft: CounterRange, identity: MemberIdentity) -> Checkpoint:
        """Hashes and signs one range; about a millisecond."""
        leaves = draft.compute_leaves()
        checkpoint = make_checkpoint(
            identity,
            draft.transcript_hash,
            draft.epoch,
            draft.entry.slot,
            draft.lane,
            draft.first,
            draft.made_ns,
            leaves,
        )
        self._sent += 1
        return checkpoint

    # Receiving

    def take(
        self,
        name: str,
        checkpoint: Checkpoint,
        fingerprint: bytes | None,
        known: bytes | None,
        certificates: Certificates,
        now: float,
        wall_ns: int,
    ) -> list[Effect]:
        """Compares a checkpoint from `name`'s topic; returns alarms where it contradicts opened packets.

        Args:
            fingerprint: of the member's certificate in the newest epoch that names it, None if there is none.
            known: transcript hash of the checkpoint's epoch number as this process knows it.

        Raises Rejected; then nothing has changed but the rate limits.
        """
        try:
            return self._take(name, checkpoint, fingerprint, known, certificates, now, wall_ns)
        except Rejected:
            self._refused += 1
            raise

    def _take(
        self,
        name: str,
        checkpoint: Checkpoint,
        fingerprint: bytes | None,
        known: bytes | None,
        certificates: Certificates,
        now: float,
        wall_ns: int,
    ) -> list[Effect]:
        if not self.verify:
            raise Rejected(RejectReason.NOT_ADDRESSED, "this process verifies no checkpoints")
        ledger = self._receivers.get((checkpoint.transcript_hash, name, checkpoint.lane))
        split = known is not None and known != checkpoint.transcript_hash
        if ledger is None and not split:
            raise Rejected(
                RejectReason.UNKNOWN_EPOCH, f"nothing was opened of {name} in epoch {checkpoint.epoch}"
            )
        conflicting = ledger.conflict(checkpoint) if ledger is not None else None
        if ledger is not None:
            fingerprint = ledger.entry.fingerprint
            if (checkpoint.epoch, checkpoint.slot) != (ledger.epoch, ledger.entry.slot):
                raise Rejected(RejectReason.ROSTER, f"checkpoint of {name} for another place in the roster")
            if conflicting is not None and conflicting.signed_bytes(self._swarm) == checkpoint.signed_bytes(
                self._swarm
            ):
                raise Rejected(RejectReason.DUPLICATE)
        elif (name, checkpoint.transcript_hash) in self._split_reported:
            raise Rejected(RejectReason.DUPLICATE)
        if fingerprint is None:
            raise Rejected(RejectReason.UNKNOWN_SENDER, name)
        owner = certificates(fingerprint)
        if owner is None or owner.name != name:
            raise Rejected(RejectReason.NO_CERTIFICATE, name)
        bucket = self._member_checks.setdefault(name, TokenBucket(MEMBER_CHECKS_PER_S))
        if not (bucket.take(now) and self._checks.take(now)):
            raise Rejected(RejectReason.BUDGET, f"checkpoints of {name}")
        if not checkpoint.root_fits():
            raise Rejected(RejectReason.MALFORMED, "the leaves do not lead to the root")
        if not checkpoint.signed_by(owner, self._swarm):
            raise Rejected(RejectReason.SIGNATURE, f"checkpoint of {name}")
        if ledger is None:
            return self._split_view(name, checkpoint, now)
        self._verified += 1
        self._missing.pop((name, checkpoint.lane), None)
        effects: list[Effect] = []
        if conflicting is not None and self._may_alarm(name, now):
            effects.append(
                SecurityAlarm(
                    "error",
                    f"{name} has signed two different checkpoints for packets "
                    f"{max(conflicting.first, checkpoint.first)} to {min(conflicting.last, checkpoint.last)} "
                    f"of epoch {checkpoint.epoch}: it equivocates, or its key is used elsewhere too",
                )
            )
        plausible = abs(checkpoint.made_ns - wall_ns) <= PLAUSIBLE_NS
        with self._lock:
            key = ledger.blind_key
            taken = ledger.take(checkpoint, checkpoint.made_ns - self._ahead_ns if plausible else None)
            ledger.hold(checkpoint, now)
        return effects + self._alarms_for(name, ledger, ledger.compare(checkpoint, taken, key), now)

    def _may_alarm(self, name: str, now: float) -> bool:
        """True if the alarm rate limit of this member allows one."""
        return self._alarms.setdefault(name, TokenBucket(1.0 / ALARM_EVERY_S, 2.0)).take(now)

    def _split_view(self, name: str, checkpoint: Checkpoint, now: float) -> list[Effect]:
        self._split_reported[(name, checkpoint.transcript_hash)] = None
        while len(self._split_reported) > MAX_SPLIT_REPORTED:
            self._split_reported.popitem(last=False)
        if not self._may_alarm(name, now):
            return []
        return [
            SecurityAlarm(
                "error",
                f"split view: {name} holds another epoch {checkpoint.epoch} than this process: a crypto node "
                f"or {name} equivocates",
            )
        ]

    def _alarms_for(self, name: str, ledger: ReceiverLedger, result: Comparison, now: float) -> list[Effect]:
        self._confirmed += result.confirmed
        contradicted = (*result.mismatched, *result.beyond_range)
        if not contradicted:
            return []
        self._mismatched += len(contradicted)
        last = ledger.newest.last if ledger.newest is not None else 0
        self._window_jump |= any(counter - last >= WINDOW // 2 for _, counter in result.beyond_range)
        if not self._may_alarm(name, now):
            return []
        by_channel: dict[str, list[int]] = {}
        for channel, counter in contradicted:
            by_channel.setdefault(channel, []).append(counter)
        where = "; ".join(f"{channel} {_listed(counters)}" for channel, counters in by_channel.items())
        text = (
            f"{where} of epoch {ledger.epoch} contradict {name}'s signed checkpoint: another member has "
            f"forged them, or {name} equivocates"
        )
        return [SecurityAlarm("error", text)]

    def tick(self, now: float) -> list[Effect]:
        """Once a second: compares late packets, drops and counts those without a checkpoint."""
        if now - self._rotated_at < 0.95:
            return []
        self._rotated_at = now
        effects: list[Effect] = []
        for key, ledger in list(self._receivers.items()):
            name = ledger.entry.name
            with self._lock:
                blind_key = ledger.blind_key
                late = ledger.late()
                lost = ledger.rotate(now)
                if key[0] in self._closed and ledger.idle:
                    del self._receivers[key]
            for checkpoint, taken in late:
                effects += self._alarms_for(name, ledger, ledger.compare(checkpoint, taken, blind_key), now)
            if lost:
                self._unconfirmed += lost
                self.unconfirmed_of[name] += lost
                effects += self._checkpoint_missing(name, ledger.lane)
        self._prune()
        return effects

    def _checkpoint_missing(self, name: str, lane: int) -> list[Effect]:
        self._missing[(name, lane)] += 1
        if self._missing[(name, lane)] != MISSING_TICKS:
            return []
        text = f"{name} has sent no checkpoint for {MISSING_TICKS} s: packets in its name are unconfirmed"
        return [SecurityAlarm("warning", text)]

    def _prune(self) -> None:
        with self._lock:
            alive = {key[0] for key in (*self._senders, *self._receivers)}
            self._closed &= alive
            names = {name for _, name, _ in self._receivers}
        for table in (self._member_checks, self._alarms):
            for name in table.keys() - names:
                del table[name]


def _listed(counters: Iterable[int]) -> str:
    found = sorted(counters)
    more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
    return f"packet{'s' if len(found) > 1 else ''} {', '.join(map(str, found[:MAX_LISTED]))}{more}"
