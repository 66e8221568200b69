"""Incarnation of each member, as a crypto node knows it: the process that runs under a member's name.

A process draws a random incarnation when it starts, so an unknown one may be a restart. It is accepted as a
restart only if its key package answers a challenge that this node made after it first saw the present
incarnation: a process that had ended by then cannot have signed the answer. So an earlier process's package
that an attacker has delayed until its successor runs is rejected.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import Rejected, RejectReason
from ..messages.announcement import RosterEntry

_MAX_RETIRED: Final = 64  # more than can be replaced while a challenge is valid
NEVER: Final = float("-inf")


class OldChallenge(Rejected):
    """Rejection of a new incarnation: its challenge is no newer than `since`, the known one's first sight."""

    def __init__(self, name: str, since: float) -> None:
        super().__init__(RejectReason.CHALLENGE, f"{name} is known by another incarnation since then")
        self.since = since


@dataclass(frozen=True, slots=True)
class _Known:
    """Present incarnation of a member. Times are monotonic seconds: `since`, when it was first seen;
    `restarted_at`, when it replaced an earlier one, `NEVER` for the first.
    """

    incarnation: bytes
    since: float
    restarted_at: float = NEVER


class Incarnations:
    """Incarnations by member name. Only members that the authority has certified are entered, which bounds
    the tables. `now` is monotonic seconds.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._retired: dict[str, deque[bytes]] = {}  # two processes with one key would alternate

    def is_restart(
        self, name: str, incarnation: bytes, challenge_at: float, now: float, restart_s: float
    ) -> bool:
        """True if a key package with this incarnation would be a restart. `challenge_at` is the time at which
        this node made the challenge that the package answers, `NEVER` if another node did. Changes no state.

        Raises Rejected(STALE) for an incarnation that was replaced or has left, Rejected(TOO_SOON) if the
        last restart is less than `restart_s` ago, OldChallenge.
        """
        if incarnation in self._retired.get(name, ()):
            raise Rejected(RejectReason.STALE, f"an earlier incarnation of {name}")
        known = self._known.get(name)
        if known is None or known.incarnation == incarnation:
            return False
        if now - known.restarted_at < restart_s:
            raise Rejected(RejectReason.TOO_SOON, f"{name} has restarted a moment ago")
        if challenge_at <= known.since:
            raise OldChallenge(name, known.since)
        return True

    def accept(self, name: str, incarnation: bytes, now: float) -> None:
        """Notes a valid key package of this incarnation; `is_restart` must be called first, and not raise."""
        known = self._known.get(name)
        if known is None:
            self._known[name] = _Known(incarnation, now)
        elif known.incarnation != incarnation:
            self.retire(name, known.incarnation)
            self._known[name] = _Known(incarnation, now, now)

    def note_roster(self, roster: Iterable[RosterEntry], now: float, *, newest: bool) -> None:
        """Notes the incarnations in another crypto node's signed roster.

        `newest` is True for an epoch later than all known here: its incarnations replace those known. The
        roster of an epoch that a member proves may be older than the key packages received.

        No incarnation is retired, because in a partitioned swarm a member may be in one roster and not yet
        in the other; for the same reason, an incarnation of the roster that was retired here is accepted
        again.
        """
        for entry in roster:
            known = self._known.get(entry.name)
            if known is None or (newest and known.incarnation != entry.incarnation):
                self._known[entry.name] = _Known(entry.incarnation, now)
                retired = self._retired.get(entry.name, ())
                if newest and entry.incarnation in retired:
                    self._retired[entry.name] = deque(
                        (item for item in retired if item != entry.incarnation), _MAX_RETIRED
                    )

    def retire(self, name: str, incarnation: bytes) -> None:
        """Retires an incarnation that was replaced or has left: its packages are rejected from now on."""
        self._retired.setdefault(name, deque(maxlen=_MAX_RETIRED)).append(incarnation)
