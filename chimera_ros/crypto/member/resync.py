"""Resync of members on a stale epoch; split-view detection.

A member that receives a higher epoch than its own, in a beat or in others' packets, asks for it (`ready` with
the flag "behind"). The crypto node retransmits the announcement; if it does not, a member that holds the
epoch does, after a random delay, unless another one was faster. Requests and retransmissions are
rate-limited, because packets that name a higher epoch are not authenticated. A crypto node without its state
receives the newest epoch in the same way, if the roster is too large for a proof in every package.

Every `ready` names the transcript hash that its sender holds. Another one than ours for the same number,
under a valid signature, is a split view: a crypto node equivocates, or the sender does.
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

_REQUEST_GAP_S: Final = 0.5  # after a beat of a higher epoch, at most this often
_PACKET_WAIT_S: Final = 0.3  # after packets of a higher epoch: its announcement may be under way
_PACKET_GAP_S: Final = 2.0
_DELAY_S: Final = 0.15  # before a retransmission: the crypto node goes first
_SPREAD_S: Final = 0.3
_RETRANSMIT_GAP_S: Final = 2.0
_LOW_BEATS: Final = 3  # one may be under way while a new epoch is installed
_MAX_REPORTED: Final = 1024
_ALARM_S: Final = 30.0  # between two alarms about one member, which can make up any number of hashes


class Resync:
    """Times are monotonic seconds."""

    def __init__(self, context: MemberContext, installer: EpochInstaller) -> None:
        self._context = context
        self._installer = installer
        self._request_after = float("-inf")
        self._higher = 0  # an epoch that packets name and that we do not hold; 0: none
        self._higher_since: float | None = None
        self._packet_request_after = float("-inf")
        self._retransmit_at: float | None = None
        self._retransmit_after = float("-inf")
        self._low: dict[bytes, int] = {}  # issuer -> beats in a row below what we have had
        self._reported: set[bytes] = set()
        self._alarms: dict[bytes, TokenBucket] = {}  # by reporter

    # This process is behind

    def request_resync(self, now: float) -> list[Effect]:
        """Asks for the announcement of the newest epoch; at most twice a second."""
        if now < self._request_after:
            return []
        self._request_after = now + _REQUEST_GAP_S
        return [Send(self._context.ready_message(self._context.newest_installed(), BEHIND_FLAG))]

    def note_higher(self, epoch: int) -> None:
        """A packet, not authenticated, names an epoch that is not open here. Any thread may call this."""
        newest = self._context.newest_installed()
        if newest is not None and newest.epoch < epoch <= newest.epoch + MAX_JUMP and epoch > self._higher:
            self._higher = epoch

    # Others are behind, or hold another epoch

    def on_ready(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Another process's `ready`. Raises Rejected."""
        context = self._context
        ready = Ready.parse(message.parts[0], context.trust.swarm)
        if context.is_own(ready.fingerprint):
            raise Rejected(RejectReason.OWN)
        known = self._installer.known_hash(ready.epoch)
        alarms = self._alarms.get(ready.fingerprint)
        split = known not in (None, ready.transcript_hash) and ready.transcript_hash not in self._reported
        split = split and (alarms is None or alarms.holds(now))
        behind = bool(ready.flags & BEHIND_FLAG) and self._may_retransmit(ready.epoch, now)
        if not split and not behind:
            return []
        sender = context.certificates.get_valid(ready.fingerprint, wall_ns)
        if context.is_evicted(sender.fingerprint):
            raise Rejected(RejectReason.EVICTED, sender.name)
        context.check_signature(sender, message, now)
        if split:
            if len(self._reported) >= _MAX_REPORTED:
                self._reported.clear()
                self._alarms.clear()
            self._reported.add(ready.transcript_hash)
            self._alarms.setdefault(ready.fingerprint, TokenBucket(1.0 / _ALARM_S, 1.0)).take(now)
            return [
                SecurityAlarm(
                    "error",
                    f"split view: {sender.name} holds another epoch {ready.epoch} than this process: "
                    f"a crypto node or {sender.name} equivocates",
                )
            ]
        self._retransmit_soon(now)
        return []

    def send_newest(self, epoch: int, now: float) -> None:
        """A crypto node at `epoch` requests packages, and the proof of a higher epoch is too large for ours:
        one of the members that hold it sends the announcement instead.
        """
        if self._may_retransmit(epoch, now):
            self._retransmit_soon(now)

    def _may_retransmit(self, epoch: int, now: float) -> bool:
        """True if a higher epoch is installed here and was not sent a moment ago."""
        newest = self._context.newest_installed()
        higher = newest is not None and newest.epoch > epoch
        return higher and self._retransmit_at is None and now >= self._retransmit_after

    def _retransmit_soon(self, now: float) -> None:
        self._retransmit_at = now + _DELAY_S + _SPREAD_S * self._context.random(1)[0] / 256

    def on_retransmission(self, epoch: int) -> None:
        """Another process has just retransmitted the announcement of `epoch`."""
        newest = self._context.newest_installed()
        if newest is not None and newest.epoch == epoch:
            self._retransmit_at = None

    def on_beat(self, beat: Beat, issuer: CertifiedMember) -> list[Effect]:
        """A verified beat: an alarm if its epochs stay below what a hosted member has had."""
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
                "lower ones: restore the crypto node's state.json, or find the other active crypto node",
            )
        ]

    # Time

    def tick(self, now: float) -> list[Effect]:
        """Asks for the epoch that packets name, and retransmits for others, when due."""
        newest = self._context.newest_installed()
        if self._higher and (newest is None or newest.epoch >= self._higher):
            self._higher, self._higher_since = 0, None
        effects: list[Effect] = []
        if self._higher and self._higher_since is None:
            self._higher_since = now
        elif self._higher and self._higher_since is not None and now >= self._packet_request_at():
            self._higher, self._higher_since = 0, None
            self._packet_request_after = now + _PACKET_GAP_S
            effects += self.request_resync(now)
        if self._retransmit_at is not None and now >= self._retransmit_at:
            self._retransmit_at = None
            self._retransmit_after = now + _RETRANSMIT_GAP_S
            if newest is not None:
                effects.append(Send(newest.announcement.message))
        return effects

    def _packet_request_at(self) -> float:
        return max((self._higher_since or 0.0) + _PACKET_WAIT_S, self._packet_request_after)

    def next_timer(self) -> float | None:
        """When `tick` has something to do."""
        times = [self._retransmit_at]
        if self._higher:
            times.append(float("-inf") if self._higher_since is None else self._packet_request_at())
        return min((time for time in times if time is not None), default=None)
