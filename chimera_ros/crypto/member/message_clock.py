"""What time it is for the messages of the key protocol.

A wall clock may be set at any moment, the boot-time clock may not. So while a crypto node is heard, the time
is the one that it has signed, gone on since by the boot-time clock: whoever sets the clock of a process
neither deafens it nor makes it take an old message for a new one. Without a crypto node it is the wall
clock's.

Not handled here: until when certificates, lists and policies are good. There a clock must not go back, so a
stored floor holds (`Trust.wall_floor_ns`); it is no time for messages, because it may be ahead.
"""

from __future__ import annotations

from typing import Final

from ..errors import ClockTrouble
from ..messages.stop import check_age

BEAT_AGE_S: Final = 2.0
APART_S: Final = 0.5  # clocks that differ by more are told of
DRIFT: Final = 1e-4  # s/s, bound of two quartzes against each other: nobody slows time down faster than that
_NS: Final = 1e9


class MessageClock:
    """`now` is boot-time seconds, `wall_ns` the own wall clock; times are ns since the Unix epoch."""

    def __init__(self) -> None:
        self.proven_ns = 0  # newest time of a beat that was accepted from somebody else
        self.apart_s = 0.0  # how far the own wall clock is ahead of the crypto node's; 0: they agree
        self._apart = 0  # beats in a row by which they do not
        self._offset_ns = 0  # crypto node's clock less boot-time clock, by the beat that took least time
        self._at: float | None = None  # when a beat was last accepted

    def reckoned_ns(self, now: float) -> int | None:
        """The crypto node's time by the beats accepted so far; None before the first."""
        return None if self._at is None else self._offset_ns + int(now * _NS)

    def at(self, now: float, wall_ns: int, trusted_s: float) -> int:
        """What ages of messages are measured by: the crypto node's time if one was heard within `trusted_s`
        seconds, else the wall clock.
        """
        if self._at is None or now - self._at > trusted_s:
            return wall_ns
        return self._offset_ns + int(now * _NS)

    def check_beat(self, sent_ns: int, now: float, wall_ns: int, ahead_s: float) -> None:
        """Raises ClockTrouble for a beat that neither fits the wall clock nor continues the beats before."""
        try:
            check_age(sent_ns, wall_ns, BEAT_AGE_S, ahead_s)
        except ClockTrouble as trouble:
            reckoned_ns = self.reckoned_ns(now)
            if reckoned_ns is None:
                raise
            try:
                check_age(sent_ns, reckoned_ns, BEAT_AGE_S, ahead_s)
            except ClockTrouble:
                raise trouble from None

    def accept(self, sent_ns: int, now: float, wall_ns: int) -> None:
        """A beat of another crypto node that passed every check."""
        self.proven_ns = max(self.proven_ns, sent_ns)
        self._anchor(sent_ns, now)
        apart_s = (wall_ns - self._offset_ns) / _NS - now
        self._apart = self._apart + 1 if abs(apart_s) > APART_S else 0
        self.apart_s = apart_s if self._apart > 1 else 0.0  # one beat may just have come late

    def accept_own(self, sent_ns: int, now: float) -> None:
        """Our own beat: it anchors the time too, unless our clock was set since the last."""
        reckoned_ns = self.reckoned_ns(now)
        if reckoned_ns is None or abs(sent_ns - reckoned_ns) <= BEAT_AGE_S * _NS:
            self._anchor(sent_ns, now)

    def _anchor(self, sent_ns: int, now: float) -> None:
        offset_ns = sent_ns - int(now * _NS)
        if self._at is not None and abs(offset_ns - self._offset_ns) <= BEAT_AGE_S * _NS:
            # Whatever comes late must not slow time down; only a quartz does.
            offset_ns = max(offset_ns, self._offset_ns - int((now - self._at) * DRIFT * _NS))
        self._offset_ns, self._at = offset_ns, now
