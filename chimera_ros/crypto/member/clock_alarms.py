"""What a process says when clocks differ: each sentence names a clock, rests on a signature or on the process
itself, and does not come too often.
"""

from __future__ import annotations

from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import ClockTrouble
from ..rate_limit import TokenBucket
from ..wire import ControlKind

_TOLD_S: Final = 10.0  # between two alarms about one kind of message
_TIMED: Final = {
    ControlKind.BEAT: "beats",
    ControlKind.STOP: "stops",
}  # whose signer is named


class ClockAlarms:
    """`name`: the member for whom the process speaks."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told = {kind: TokenBucket(1.0 / _TOLD_S, 1.0) for kind in _TIMED}
        self._apart_told = False

    def refused(self, kind: ControlKind, trouble: ClockTrouble, now: float) -> list[Effect]:
        """A message was refused for its age."""
        if not trouble.signer or not self._told[kind].take(now):
            return []
        what, side = _TIMED[kind], "ahead of" if trouble.ahead_s > 0 else "behind"
        return [
            SecurityAlarm(
                "warning",
                f"{trouble.signer}'s {what} are {abs(trouble.ahead_s):.1f} s {side} the clock of "
                f"{self._name} and refused: a clock is wrong, or somebody holds messages back",
            )
        ]

    def wanted(self, kind: ControlKind, now: float) -> bool:
        """Is it time to tell of such messages again?"""
        return self._told[kind].holds(now)

    def compared(self, apart_s: float, issuer: str) -> list[Effect]:
        """Do our clock and the crypto node's begin, or cease, to differ?"""
        told, self._apart_told = self._apart_told, apart_s != 0.0
        if self._apart_told == told:
            return []
        if not apart_s:
            return [SecurityAlarm("info", f"the clock of {self._name} agrees with {issuer}'s again")]
        side = "ahead of" if apart_s > 0 else "behind"
        return [
            SecurityAlarm(
                "warning",
                f"the clock of {self._name} is {abs(apart_s):.1f} s {side} {issuer}'s: what it sends may be "
                "refused until the wrong one is set right",
            )
        ]
