"""Counters of sealed, opened and rejected messages, by reason."""

from __future__ import annotations

from collections import Counter

from .errors import RejectReason


class Counters:
    """Counters of one process; `snapshot` returns a copy for diagnostics and reports."""

    __slots__ = (
        "bytes_opened",
        "bytes_sealed",
        "checkpoints",
        "control",
        "opened",
        "rejected",
        "sealed",
        "signed",
        "verified",
    )

    def __init__(self) -> None:
        self.sealed = 0
        self.opened = 0
        self.signed = 0
        self.verified = 0
        self.bytes_sealed = 0
        self.bytes_opened = 0
        self.rejected: Counter[RejectReason] = Counter()  # envelopes
        self.control: Counter[RejectReason] = Counter()  # control messages
        self.checkpoints: Counter[RejectReason] = Counter()  # received checkpoints

    def snapshot(self) -> dict[str, int | dict[str, int]]:
        """A JSON-ready copy: sealed, opened, signed, verified, bytes, rejected and control by reason."""
        return {
            "sealed": self.sealed,
            "opened": self.opened,
            "signed": self.signed,
            "verified": self.verified,
            "bytes_sealed": self.bytes_sealed,
            "bytes_opened": self.bytes_opened,
            "rejected": _plain(self.rejected),
            "control": _plain(self.control),
            "checkpoints_refused": _plain(self.checkpoints),
        }


def _plain(counts: Counter[RejectReason]) -> dict[str, int]:
    return {reason.value: count for reason, count in sorted(counts.items(), key=_by_name)}


def _by_name(item: tuple[RejectReason, int]) -> str:
    return item[0].value
