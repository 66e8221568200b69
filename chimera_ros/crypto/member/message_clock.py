"""Clock for the age of key protocol messages: the crypto node's signed time, advanced by the boot-time clock.

A wall clock may be set at any moment, the boot-time clock may not. Setting the clock of a process therefore
neither makes it refuse messages nor makes an old message fresh. Without a crypto node it is the wall clock.

Not handled here: validity of certificates, lists and policies. There a clock must not go back, so a stored
floor applies (`Trust.wall_floor_ns`), which may be ahead of the time of messages.
"""

from __future__ import annotations

from typing import Final

from ..errors import ClockTrouble
from ..messages.stop import check_age

BEAT_AGE_S: Final = 2.0
APART_S: Final = 0.5  # a larger difference is an alarm
DRIFT: Final = 1e-4  # s/s, bound of two quartzes against each other: delays slow time no faster
_NS: Final = 1e9


class MessageClock:
    """`now` is boot-time seconds, `wall_ns` the own wall clock; times are ns since the Unix epoch."""

    def __init__(self) -> None:
        self.proven_ns = 0  # newest time of an accepted beat of another process
        self.apart_s = 0.0  # how far the own wall clock is ahead of the crypto node's; 0: they agree
        self._apart = 0  # consecutive beats by which they differ
        self._offset_ns = 0  # crypto node's clock minus boot-time clock, by the beat of least delay
        self._at: float | None = None  # when a beat was last accepted

    def reckoned_ns(self, now: float) -> int | None:
        """The crypto node's time by the beats accepted so far; None before the first."""
        return None if self._at is None else self._offset_ns + int(now * _NS)

    def at(self, now: float, wall_ns: int, trusted_s: float) -> int:
        """The reference for ages of messages: the crypto node's time if one was heard within `trusted_s`
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
        self.apart_s = apart_s if self._apart > 1 else 0.0  # one beat may be delayed

    def accept_own(self, sent_ns: int, now: float) -> None:
        """Our own beat: it anchors the time too, unless our clock was set since the last."""
        reckoned_ns = self.reckoned_ns(now)
        if reckoned_ns is None or abs(sent_ns - reckoned_ns) <= BEAT_AGE_S * _NS:
            self._anchor(sent_ns, now)

    def _anchor(self, sent_ns: int, now: float) -> None:
        offset_ns = sent_ns - int(now * _NS)
        if self._at is not None and abs(offset_ns - self._offset_ns) <= BEAT_AGE_S * _NS:
            # A delayed beat must not slow time down by more than the drift of a quartz.
            offset_ns = max(offset_ns, self._offset_ns - int((now - self._at) * DRIFT * _NS))
        self._offset_ns, self._at = offset_ns, now
