"""Totals of each drone's flight from its confirmed telemetry: distance flown, area covered, time in the air.

Distance is the length of the line through the reported positions in the air (3D, metres); area the number of
squares of a 5 m grid on the map frame over which that line leads, times 25 m²; time the sum of the intervals
that began in the air. An interval of more than five seconds without a confirmed message counts for nothing,
so gaps make totals smaller, never larger. Positions and times are the drone's own.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chimera_ros import private_files
from chimera_ros.crypto.evidence.signed_totals import sign_totals
from chimera_ros.crypto.messages.checkpoint import Checkpoint
from chimera_ros.crypto.trust.identity import MemberIdentity
from chimera_ros.records.audit import WRONG, Auditor, AuditVerdict

TELEMETRY: Final = "chimera_ros/msg/DroneTelemetry"
CELL_M: Final = 5.0
MAX_CELLS: Final = 1_000_000
GAP_NS: Final = 5_000_000_000
MAX_STEP_M: Final = 500.0  # in five seconds: anything more is no flight

Vec3 = tuple[float, float, float]
_U32: Final = struct.Struct("<I")
_FIXED: Final = struct.Struct("<QBBB")
_POINT: Final = struct.Struct("<3d")


@dataclass(frozen=True, slots=True)
class Fix:
    """The part of a DroneTelemetry that totals are made of."""

    stamp_ns: int
    in_air: bool
    position_enu_m: Vec3


def read_fix(cdr: bytes) -> Fix | None:
    """Decode it from a DroneTelemetry's CDR (little-endian XCDR1); None if it is malformed."""
    try:
        if cdr[:2] != b"\x00\x01":
            return None
        body = cdr[4:]
        at = -(-(4 + _U32.unpack_from(body, 0)[0]) // 8) * 8  # after `drone`
        stamp_ns, _, _, in_air = _FIXED.unpack_from(body, at)
        at += 12  # stamp, state, three flags
        at += 4 + _U32.unpack_from(body, at)[0]  # `reason`
        position = _POINT.unpack_from(body, -(-at // 8) * 8)
    except (struct.error, IndexError):
        return None
    if not all(math.isfinite(value) and abs(value) < 1e7 for value in position):
        return None
    return Fix(stamp_ns, bool(in_air), position)


@dataclass(slots=True)
class DroneTotals:
    """Sums over one drone's confirmed telemetry."""

    drone: str
    messages: int = 0
    unconfirmed: int = 0
    contradicted: int = 0
    unusable: int = 0  # confirmed, but older than the one before, or no position
    gaps: int = 0
    distance_m: float = 0.0
    airborne_ns: int = 0
    first_ns: int = 0
    last_ns: int = 0
    cells: set[tuple[int, int]] = field(default_factory=set, repr=False)
    used: dict[tuple[int, int, int], dict[int, int]] = field(default_factory=dict, repr=False)
    _last: Fix | None = None

    def add(self, fix: Fix | None) -> None:
        """Add the next confirmed message."""
        last = self._last
        if fix is None or (last is not None and fix.stamp_ns <= last.stamp_ns):
            self.unusable += 1
            return
        self._last = fix
        self.first_ns = self.first_ns or fix.stamp_ns
        self.last_ns = fix.stamp_ns
        if last is None:
            return
        step_m = math.dist(last.position_enu_m, fix.position_enu_m)
        if fix.stamp_ns - last.stamp_ns > GAP_NS or step_m > MAX_STEP_M:
            self.gaps += 1
            return
        if last.in_air:
            self.airborne_ns += fix.stamp_ns - last.stamp_ns
            if fix.in_air:
                self.distance_m += step_m
                self._cover(last.position_enu_m, fix.position_enu_m, step_m)

    def _cover(self, start: Vec3, end: Vec3, step_m: float) -> None:
        pieces = max(1, math.ceil(step_m / (CELL_M / 2)))
        for piece in range(pieces + 1):
            part = piece / pieces
            if len(self.cells) < MAX_CELLS:
                east = start[0] + part * (end[0] - start[0])
                north = start[1] + part * (end[1] - start[1])
                self.cells.add((math.floor(east / CELL_M), math.floor(north / CELL_M)))

    @property
    def area_m2(self) -> int:
        """Area of the squares flown over."""
        return len(self.cells) * round(CELL_M * CELL_M)

    def statement(self, roots: list[dict[str, Any]], drones: list[str]) -> dict[str, Any]:
        """The statement that is signed: whole numbers, the roots of the checkpoints used, and all drones of
        the record, so that a withheld statement is noticed.
        """
        return {
            "member": self.drone,
            "drones": drones,
            "from_ns": self.first_ns,
            "to_ns": self.last_ns,
            "messages": self.messages,
            "unconfirmed": self.unconfirmed,
            "contradicted": self.contradicted,
            "unusable": self.unusable,
            "gaps": self.gaps,
            "distance_mm": round(self.distance_m * 1000),
            "airborne_ms": self.airborne_ns // 1_000_000,
            "area_m2": self.area_m2,
            "cell_m": round(CELL_M),
            "roots": roots,
        }


def totals_of(auditor: Auditor) -> list[DroneTotals]:
    """Totals of every drone in the record, by name."""
    found: dict[str, DroneTotals] = {}
    for packet, verdict in auditor.classified():
        if packet.type_name != TELEMETRY or packet.channel != f"{packet.sender}/telemetry":
            continue
        totals = found.setdefault(packet.sender, DroneTotals(packet.sender))
        if verdict is AuditVerdict.CONFIRMED:
            checkpoint = auditor.covering(packet)
            assert checkpoint is not None
            used = totals.used.setdefault(packet.stream, {})
            used[checkpoint.first] = used.get(checkpoint.first, 0) + 1
            totals.messages += 1
            totals.add(read_fix(packet.payload))
        elif verdict in WRONG:
            totals.contradicted += 1
        else:
            totals.unconfirmed += 1
    return [found[name] for name in sorted(found)]


def statements_of(auditor: Auditor) -> list[dict[str, Any]]:
    """Unsigned statements of every drone in the record."""
    found = totals_of(auditor)
    drones = [totals.drone for totals in found]
    return [totals.statement(list(_roots(auditor, totals)), drones) for totals in found]


def write_totals(path: Path, auditor: Auditor, identity: MemberIdentity) -> int:
    """Signs the statements of every drone in the record and writes them to `path` atomically.

    Returns how many there are. Raises OSError where the disk refuses, RecordError where the record cannot be
    read.
    """
    signed = [sign_totals(identity, statement).to_json() for statement in statements_of(auditor)]
    if signed:
        private_files.write_file(path, (json.dumps({"totals": signed}, indent=1) + "\n").encode())
    return len(signed)


def _roots(auditor: Auditor, totals: DroneTotals) -> Iterator[dict[str, Any]]:
    for stream in sorted(totals.used):
        epoch, slot, lane = stream
        used = totals.used[stream]
        ranges: list[Checkpoint] = [item for item in auditor.ranges(stream) if item.first in used]
        yield {
            "epoch": epoch,
            "slot": slot,
            "lane": lane,
            "transcript_hash": auditor.evidence[stream].transcript_hash.hex(),
            # first and last counter, how many of these packets were received, root
            "ranges": [[item.first, item.last, used[item.first], item.root.hex()] for item in ranges],
        }
