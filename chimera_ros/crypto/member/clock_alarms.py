"""Alarms about clocks that differ, each with a verified signer or the own clock, rate-limited."""

from __future__ import annotations

from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import ClockTrouble
from ..rate_limit import TokenBucket
from ..wire import ControlKind

_ALARM_S: Final = 10.0  # between two alarms about one kind of message
_TIMED: Final = {
    ControlKind.BEAT: "beats",
    ControlKind.STOP: "stops",
}  # whose signer is named


class ClockAlarms:
    """`name`: the hosted member that stands for the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limits = {kind: TokenBucket(1.0 / _ALARM_S, 1.0) for kind in _TIMED}
        self._apart = False

    def refused(self, kind: ControlKind, trouble: ClockTrouble, now: float) -> list[Effect]:
        """A message was refused for its age."""
        if not trouble.signer or not self._limits[kind].take(now):
            return []
        what, side = _TIMED[kind], "ahead of" if trouble.ahead_s > 0 else "behind"
        return [
            SecurityAlarm(
                "warning",
                f"{trouble.signer}'s {what} are {abs(trouble.ahead_s):.1f} s {side} the clock of "
                f"{self._name} and refused: a clock is wrong, or messages are held back",
            )
        ]

    def wanted(self, kind: ControlKind, now: float) -> bool:
        """True if an alarm about such messages is due."""
        return self._limits[kind].holds(now)

    def compared(self, apart_s: float, issuer: str) -> list[Effect]:
        """An alarm when our clock and the crypto node's begin, or cease, to differ."""
        before, self._apart = self._apart, apart_s != 0.0
        if self._apart == before:
            return []
        if not apart_s:
            return [SecurityAlarm("info", f"the clock of {self._name} agrees with {issuer}'s again")]
        side = "ahead of" if apart_s > 0 else "behind"
        return [
            SecurityAlarm(
                "warning",
                f"the clock of {self._name} is {abs(apart_s):.1f} s {side} {issuer}'s: its messages may be "
                "refused until the wrong clock is corrected",
            )
        ]
