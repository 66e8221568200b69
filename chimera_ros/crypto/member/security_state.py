"""Security status of one process for operators: epoch, roster, evictions, failover, entropy, checkpoints.

`SecurityState` is plain data for `/diagnostics`, `chimera swarm` and status lines. It has no key, position or
command; every text and list in it is bounded. It is filled by ros/diagnostics.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from ..evidence.ledgers import CheckpointCounts

MAX_TEXT: Final = 200
BEAT_LATE_S: Final = 3.0  # beats come every 0.3 s; a standby takes over within 2 s
_HASH_BYTES: Final = 8  # of a transcript hash: enough to detect a split view


class DiagnosticLevel(IntEnum):
    """As in diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class EvictedMember:
    """A member that is no longer in the roster: `why` is one sentence, `epoch` the first one without it."""

    name: str
    why: str
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class SecurityState:
    """Snapshot of one process. Defaults mean: none, or not known here."""

    members: tuple[str, ...] = ()  # hosted here
    suite: str = ""
    provider: str = "openssl"  # of ML-DSA and ML-KEM
    ready: bool = False  # every hosted member has an epoch to send under
    epoch: int | None = None  # of the first hosted member
    transcript: str = ""  # first bytes of the epoch's transcript hash, hexadecimal
    roster: tuple[str, ...] = ()  # members of the epoch
    evicted: tuple[EvictedMember, ...] = ()  # newest last
    evictions: int = 0  # entries of the eviction list that is in force here
    policy_version: int = 0
    crl_number: int = 0
    crypto_node: str = ""  # issuer of the epoch
    crypto_rank: int | None = None  # crypto nodes only
    crypto_active: bool | None = None  # crypto nodes only: active, or standby
    standbys: tuple[str, ...] = ()
    barred: tuple[str, ...] = ()  # hosted members that the others refuse, with the reason
    cautions: tuple[str, ...] = ()  # conditions that will prevent joining or starting
    beat_age_s: float | None = None  # since a crypto node's last beat
    silent: bool = False  # no beat for so long that nothing is sent
    degraded: str = ""  # why the swarm flies under its fallback secret; empty: normal operation
    entropy: Mapping[str, str] = field(default_factory=dict)  # by source: in use, off, failed: reason
    checkpoints: CheckpointCounts = field(default_factory=CheckpointCounts)
    checkpoints_on: bool = False  # others' checkpoints are verified here
    sealed: int = 0
    opened: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)  # envelopes, by reason
    control_rejected: Mapping[str, int] = field(default_factory=dict)  # control messages, by reason
    clock_offset_s: float = 0.0
    clock_error_s: float | None = None
    events: tuple[str, ...] = ()  # authentication events, newest last
    alarms: tuple[str, ...] = ()  # newest last

    def verdict(self) -> tuple[DiagnosticLevel, str]:
        """(level, text) of the worst condition, in one line."""
        if self.degraded:
            return DiagnosticLevel.ERROR, f"DEGRADED: {self.degraded}"[:MAX_TEXT]
        if self.silent:
            return DiagnosticLevel.ERROR, "no crypto node is heard: nothing is sent"
        if self.barred:
            return DiagnosticLevel.ERROR, listed(self.barred, 4)[:MAX_TEXT]
        if self.checkpoints.mismatched:
            return (
                DiagnosticLevel.ERROR,
                f"{self.checkpoints.mismatched} packets contradict their sender's checkpoint",
            )
        if not self.ready:
            return DiagnosticLevel.WARN, "security is on; waits for the keys of an epoch"
        failing = sorted(name for name, state in self.entropy.items() if state.startswith("failed"))
        if failing:
            return DiagnosticLevel.WARN, f"security is on; entropy without {', '.join(failing)}"[:MAX_TEXT]
        if self.beat_age_s is not None and self.beat_age_s > BEAT_LATE_S and not self.crypto_active:
            return (
                DiagnosticLevel.WARN,
                f"security is on; no crypto node is heard for {self.beat_age_s:.0f} s",
            )
        if self.cautions:
            return DiagnosticLevel.WARN, f"security is on; {listed(self.cautions, 4)}"[:MAX_TEXT]
        return DiagnosticLevel.OK, f"security is on: epoch {self.epoch}, {len(self.roster)} members in"

    def key_values(self) -> list[tuple[str, str]]:
        """Key and value texts for diagnostics, bounded."""
        counts = self.checkpoints
        pairs: list[tuple[str, object]] = [
            ("suite", self.suite),
            ("provider", self.provider),
            ("members here", listed(self.members)),
            ("epoch", "none" if self.epoch is None else self.epoch),
            ("transcript", self.transcript),
            ("members in", len(self.roster)),
            ("roster", listed(self.roster)),
            ("put out", "; ".join(f"{item.name}: {item.why}" for item in self.evicted[-8:]) or "nobody"),
            ("evictions", self.evictions),
            ("policy version", self.policy_version),
            ("revocation list", self.crl_number),
            ("crypto node", self.crypto_node),
            ("standbys", listed(self.standbys) or "none"),
            ("degraded", self.degraded or "no"),
            ("refused by others", listed(self.barred) or "nobody here"),
            ("crypto node heard, s ago", "never" if self.beat_age_s is None else f"{self.beat_age_s:.1f}"),
            ("entropy", "; ".join(f"{name}: {state}" for name, state in sorted(self.entropy.items()))),
            ("checkpoints verified here", "yes" if self.checkpoints_on else "no"),
            *((f"checkpoints, {name}", count) for name, count in counts.to_status().items()),
            ("sealed", self.sealed),
            ("opened", self.opened),
            ("rejected", _counts(self.rejected)),
            ("control rejected", _counts(self.control_rejected)),
            ("clock offset, s", f"{self.clock_offset_s:.6f}"),
            ("clock error, s", "unknown" if self.clock_error_s is None else f"{self.clock_error_s:.6f}"),
        ]
        if self.crypto_active is not None:
            pairs.append(("in charge", "yes" if self.crypto_active else "no, standby"))
        pairs += [(f"event {index}", text) for index, text in enumerate(self.events[-8:], 1)]
        pairs += [(f"alarm {index}", text) for index, text in enumerate(self.alarms[-8:], 1)]
        return [(name, str(value)[: 4 * MAX_TEXT]) for name, value in pairs]

    def to_status(self) -> dict[str, Any]:
        """For status lines: JSON-ready and short."""
        level, text = self.verdict()
        return {
            "level": int(level),
            "text": text,
            "provider": self.provider,
            "put_out": [
                {"name": item.name, "why": item.why[:MAX_TEXT], "epoch": item.epoch}
                for item in self.evicted[-16:]
            ],
            "degraded": self.degraded[:MAX_TEXT],
            "silent": self.silent,
            "crypto_node": self.crypto_node,
            "standbys": list(self.standbys[:8]),
            "entropy": {name[:32]: state[:MAX_TEXT] for name, state in sorted(self.entropy.items())[:16]},
            "checkpoints": self.checkpoints.to_status(),
            "events": [text[:MAX_TEXT] for text in self.events[-8:]],
        }


def short_hash(transcript_hash: bytes | None) -> str:
    """The first bytes of a transcript hash, hexadecimal."""
    return transcript_hash[:_HASH_BYTES].hex() if transcript_hash else ""


def listed(names: tuple[str, ...], most: int = 24) -> str:
    """Names for a line of text, at most `most` of them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())[:24] if count) or "none"
