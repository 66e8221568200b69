"""Who is behind, and who sees another swarm than the rest.

A member that sees a higher epoch than its own, in a beat or in others' packets, asks for it (`ready` with
the flag "behind"). The crypto node announces again; where it does not, any member that holds the epoch does,
after a random pause in which it listens whether somebody else was quicker. Asking and repeating are limited,
because packets that name a higher epoch cost a stranger nothing. A crypto node that has lost its memory is
shown the newest epoch in the same way, where the roster is too large for a proof in every package.

Every `ready` names the transcript hash that its sender holds. One that differs from ours for the same number,
under a good signature, is a split view: some crypto node has shown two faces.
"""

from __future__ import annotations

from typing import Final

from ..effects import Effect, SecurityAlarm, Send
from ..errors import Rejected, RejectReason
from ..messages.announcement import MAX_JUMP
from ..messages.control import BEHIND_FLAG, Beat, Ready
from ..rate_limit import TokenBucket
from ..trust.identity import CertifiedMember
from ..wire import ControlMessage
from .context import MemberContext
from .epoch_installer import EpochInstaller

_ASK_S: Final = 0.5  # after a beat of a higher epoch, at most this often
_HINT_WAIT_S: Final = 0.3  # packets of a higher epoch: its announcement may just be on its way
_HINT_GAP_S: Final = 2.0
_PAUSE_S: Final = 0.15  # before repeating for somebody else: the crypto node goes first
_SPREAD_S: Final = 0.3
_REPEAT_GAP_S: Final = 2.0
_LOW_BEATS: Final = 3  # one may be on its way while a new epoch is installed
_MAX_TOLD: Final = 1024
_TELL_S: Final = 30.0  # between two alarms about what one member says: it may make up as much as it likes


class Resync:
    """Times are monotonic seconds."""

    def __init__(self, context: MemberContext, installer: EpochInstaller) -> None:
        self._context = context
        self._installer = installer
        self._ask_after = float("-inf")
        self._higher = 0  # an epoch that packets name and that we do not hold; 0: none
        self._higher_since: float | None = None
        self._hint_after = float("-inf")
        self._repeat_at: float | None = None
        self._repeat_after = float("-inf")
        self._low: dict[bytes, int] = {}  # issuer -> beats in a row below what we have had
        self._told: set[bytes] = set()
        self._tellers: dict[bytes, TokenBucket] = {}  # by who said it

    # We are behind

    def ask(self, now: float) -> list[Effect]:
        """Please announce again; at most twice a second."""
        if now < self._ask_after:
            return []
        self._ask_after = now + _ASK_S
        return [Send(self._context.ready_message(self._context.newest_installed(), BEHIND_FLAG))]

    def note_higher(self, epoch: int) -> None:
        """A packet, not yet authenticated, names an epoch that is not open here. Any thread may say so."""
        newest = self._context.newest_installed()
        if newest is not None and newest.epoch < epoch <= newest.epoch + MAX_JUMP and epoch > self._higher:
            self._higher = epoch

    # Others are behind, or see something else

    def on_ready(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Another process's `ready`. Raises Rejected."""
        context = self._context
        ready = Ready.parse(message.parts[0], context.trust.swarm)
        if context.is_own(ready.fingerprint):
            raise Rejected(RejectReason.OWN)
        known = self._installer.known_hash(ready.epoch)
        teller = self._tellers.get(ready.fingerprint)
        split = known not in (None, ready.transcript_hash) and ready.transcript_hash not in self._told
        split = split and (teller is None or teller.holds(now))
        lags = bool(ready.flags & BEHIND_FLAG) and self._may_show(ready.epoch, now)
        if not split and not lags:
            return []
        sender = context.certificates.good(ready.fingerprint, wall_ns)
        if context.is_evicted(sender.fingerprint):
            raise Rejected(RejectReason.EVICTED, sender.name)
        context.check_signature(sender, message, now)
        if split:
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
                self._tellers.clear()
            self._told.add(ready.transcript_hash)
            self._tellers.setdefault(ready.fingerprint, TokenBucket(1.0 / _TELL_S, 1.0)).take(now)
            return [
                SecurityAlarm(
                    "error",
                    f"{sender.name} holds another epoch {ready.epoch} than this process: a crypto node shows "
                    f"two faces, or {sender.name} lies",
                )
            ]
        self._show_soon(now)
        return []

    def show_newest(self, epoch: int, now: float) -> None:
        """A crypto node at `epoch` asks for packages, and ours cannot carry the proof of a higher one: one of
        the members that hold it sends the announcement, which proves the same.
        """
        if self._may_show(epoch, now):
            self._show_soon(now)

    def _may_show(self, epoch: int, now: float) -> bool:
        """Do we hold a higher epoch, and have not just said so?"""
        newest = self._context.newest_installed()
        higher = newest is not None and newest.epoch > epoch
        return higher and self._repeat_at is None and now >= self._repeat_after

    def _show_soon(self, now: float) -> None:
        self._repeat_at = now + _PAUSE_S + _SPREAD_S * self._context.random(1)[0] / 256

    def heard_again(self, epoch: int) -> None:
        """Somebody has just announced `epoch` again."""
        newest = self._context.newest_installed()
        if newest is not None and newest.epoch == epoch:
            self._repeat_at = None

    def on_beat(self, beat: Beat, issuer: CertifiedMember) -> list[Effect]:
        """A verified beat: an alarm when its epochs stay below what a hosted member has had."""
        member = max(self._context.members.values(), key=lambda item: item.state.highest_epoch)
        highest = member.state.highest_epoch
        if beat.epoch >= highest:
            self._low.pop(issuer.fingerprint, None)
            return []
        count = self._low[issuer.fingerprint] = self._low.get(issuer.fingerprint, 0) + 1
        if count != _LOW_BEATS:
            return []
        return [
            SecurityAlarm(
                "error",
                f"{issuer.name} is at epoch {beat.epoch}, but {member.name} has had {highest} and refuses "
                "lower ones: restore the crypto node's state.json, or look for another crypto node in charge",
            )
        ]

    # Time

    def tick(self, now: float) -> list[Effect]:
        newest = self._context.newest_installed()
        if self._higher and (newest is None or newest.epoch >= self._higher):
            self._higher, self._higher_since = 0, None
        effects: list[Effect] = []
        if self._higher and self._higher_since is None:
            self._higher_since = now
        elif self._higher and self._higher_since is not None and now >= self._hint_due():
            self._higher, self._higher_since = 0, None
            self._hint_after = now + _HINT_GAP_S
            effects += self.ask(now)
        if self._repeat_at is not None and now >= self._repeat_at:
            self._repeat_at = None
            self._repeat_after = now + _REPEAT_GAP_S
            if newest is not None:
                effects.append(Send(newest.announcement.message))
        return effects

    def _hint_due(self) -> float:
        return max((self._higher_since or 0.0) + _HINT_WAIT_S, self._hint_after)

    def next_timer(self) -> float | None:
        """When `tick` has something to do."""
        times = [self._repeat_at]
        if self._higher:
            times.append(float("-inf") if self._higher_since is None else self._hint_due())
        return min((time for time in times if time is not None), default=None)
