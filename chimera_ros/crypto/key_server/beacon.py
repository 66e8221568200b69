"""Periodic sender of key requests and beats.

Sequence numbers are the wall clock's milliseconds while it goes forward. A number above those in use is
stored ahead, so that they also rise when the clock is set back, and across a restart.
"""

from __future__ import annotations

import contextlib
from typing import Final

from ..effects import Effect, Send
from ..errors import KeystoreError
from ..member.context import MemberContext
from ..member.member import Member
from ..messages.announcement import NO_HASH
from ..messages.body import signed
from ..messages.control import Beat, KeyRequest, bitmap
from ..primitives.suite import HASH_BYTES
from ..wire import ControlKind
from .admission import Admission
from .current_epoch import CurrentEpoch

_REQUEST_STARTING_S: Final = 0.3
_REQUEST_PER_ANSWER_S: Final = 0.005  # each member answers again
_REQUEST_MISSING_S: Final = 1.0
_REQUEST_IDLE_S: Final = 5.0
_REQUEST_GAP_S: Final = 0.5
_CHALLENGE_FRESH_S: Final = 30.0
_RESERVED: Final = 5000  # sequence numbers (ms) reserved by one write to the disk
_LOST: Final = 3_600_000  # a power cut loses reservations since the last rotation, which is synced


class Beacon:
    """`request_at` and `beat_at`: when the next one is due, monotonic seconds; None: not before an epoch is
    announced, or `request_soon` is called.
    """

    def __init__(
        self,
        context: MemberContext,
        member: Member,
        admission: Admission,
    ) -> None:
        self.challenge = b""
        self.request_at: float | None = None
        self.beat_at: float | None = None
        self._context = context
        self._member = member
        self._identity = member.identity
        self._admission = admission
        self._sequence = 0
        self._beat_sequence = 0
        self._challenge_at = float("-inf")
        self._challenge_after = float("-inf")  # one made no later than this is too old
        self._last_request = float("-inf")

    def start(self, wall_ns: int) -> None:
        """Sets the first sequence number."""
        wall_ms, stored = wall_ns // 1_000_000, self._member.state.sequence
        # A stored one above the clock: the clock was ahead, and numbers above it may have been used.
        if wall_ms < stored <= wall_ms + _RESERVED:  # it ran a moment ago
            wall_ms = stored
        self._sequence = self._beat_sequence = wall_ms if wall_ms >= stored else stored + _LOST

    def _next_sequence(self, last: int, wall_ns: int) -> int:
        """The next sequence number; it is stored before it is used."""
        sequence = max(last + 1, wall_ns // 1_000_000)
        if sequence > self._member.state.sequence:
            with contextlib.suppress(KeystoreError):  # it matters only if the clock is set back as well
                self._member.save_numbers(sequence=sequence + _RESERVED)
        return sequence

    def request_soon(self, now: float, after: float = float("-inf")) -> None:
        """Schedules a key request, because a member may want to join: at most twice a second, with a
        challenge made later than `after`.
        """
        self._challenge_after = max(self._challenge_after, after)
        soon = max(now, self._last_request + _REQUEST_GAP_S)
        self.request_at = soon if self.request_at is None else min(self.request_at, soon)

    def request(self, current: CurrentEpoch | None, missing: bool, now: float, wall_ns: int) -> KeyRequest:
        """The next key request, not yet signed. `missing`: the package of a member is missing."""
        aged = now - self._challenge_at >= _CHALLENGE_FRESH_S
        if aged or self._challenge_at <= self._challenge_after:
            self.challenge = self._context.random(HASH_BYTES)
            self._challenge_at = now
            self._admission.add_challenge(self.challenge, now, own=True)
        self._sequence = self._next_sequence(self._sequence, wall_ns)
        epoch, transcript_hash, have = 0, NO_HASH, b""
        if current is not None:
            epoch, transcript_hash = current.epoch, current.announcement.transcript_hash
            have = bitmap({entry.slot for entry in current.roster if self._admission.holds_fresh(entry, now)})
        self._last_request = now
        self.request_at = now + self._pause_s(current, missing)
        return KeyRequest(
            self._identity.swarm,
            self._context.suite.name,
            self._identity.fingerprint,
            self._sequence,
            self.challenge,
            epoch,
            transcript_hash,
            have,
        )

    def _pause_s(self, current: CurrentEpoch | None, missing: bool) -> float:
        if current is None:  # just started: discovery goes on; large swarms get fewer requests
            each_s = _REQUEST_STARTING_S + _REQUEST_PER_ANSWER_S * self._admission.package_count
            return min(_REQUEST_MISSING_S, each_s)
        return _REQUEST_MISSING_S if missing else _REQUEST_IDLE_S

    def send_request(self, request: KeyRequest) -> Effect:
        """The signed request."""
        return Send(signed(ControlKind.KEY_REQUEST, request.encode(), self._identity))

    def beat(self, current: CurrentEpoch, now: float, wall_ns: int) -> Effect:
        """The beat of the newest epoch."""
        self.beat_at = now + self._context.limits.beat_s
        self._beat_sequence = self._next_sequence(self._beat_sequence, wall_ns)
        body = Beat(
            self._identity.swarm,
            current.epoch,
            current.announcement.transcript_hash,
            self._identity.fingerprint,
            self._beat_sequence,
            wall_ns,
            current.switched_at is not None,
        ).encode()
        return Send(signed(ControlKind.BEAT, body, self._identity))
