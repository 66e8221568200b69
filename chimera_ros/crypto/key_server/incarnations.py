"""Incarnation of each member, as a crypto node knows it: which process a name stands for.

A process draws an incarnation when it starts, so a new one looks like a restart. It is accepted as one only
if its package answers a challenge that this node made after it had first seen the known incarnation: a
process that had ended by then cannot have signed that. A package of an earlier process, recorded and held
back until its successor flies, therefore changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ..errors import Rejected, RejectReason
from ..messages.announcement import RosterEntry

_MAX_RETIRED: Final = 64  # more than can retire while a challenge of theirs is good
NEVER: Final = float("-inf")


class OldChallenge(Rejected):
    """A new incarnation whose challenge is not newer than `since`, when the known one was first seen."""

    def __init__(self, name: str, since: float) -> None:
        super().__init__(RejectReason.CHALLENGE, f"{name} is known by another incarnation since then")
        self.since = since


@dataclass(frozen=True, slots=True)
class _Known:
    """Monotonic seconds; `restarted_at`: when it replaced an earlier one, `NEVER` for the first."""

    incarnation: bytes
    since: float
    restarted_at: float = NEVER


class Incarnations:
    """By name. Only names with a certificate of the authority are entered, which bounds the tables."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._retired: dict[str, deque[bytes]] = {}  # two processes with one key would alternate

    def is_restart(
        self, name: str, incarnation: bytes, challenge_at: float, now: float, restart_s: float
    ) -> bool:
        """True if this package would be a restart. `challenge_at`: when this node made the challenge that it
        answers, `NEVER` if another node did. Changes nothing.

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
        """A valid package of this incarnation, which `is_restart` has not refused."""
        known = self._known.get(name)
        if known is None:
            self._known[name] = _Known(incarnation, now)
        elif known.incarnation != incarnation:
            self.retire(name, known.incarnation)
            self._known[name] = _Known(incarnation, now, now)

    def note_roster(self, roster: Iterable[RosterEntry], now: float, *, newest: bool) -> None:
        """A crypto node's signed roster. `newest`: it is above every epoch we have had, so its
        incarnations are the present ones; one that a member proves may be older than what packages have
        shown.

        It retires no incarnation, for a member on one side of a split swarm is not yet on the other; for
        the same reason a member of the roster may return, though it was replaced here.
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
        """This incarnation has been replaced or has left."""
        self._retired.setdefault(name, deque(maxlen=_MAX_RETIRED)).append(incarnation)
