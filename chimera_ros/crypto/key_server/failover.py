"""Failover between crypto nodes: one is active, the others are standbys.

`FailoverState` decides by the beats, heads and proofs of other nodes when this one steps down or takes over.
`Failover` feeds it. A standby is a member like the others. The key packages that members send answer the
active node's request; they echo a challenge that every crypto node has received, so a standby holds an unused
package of each member and can announce as soon as it takes over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from ..effects import Effect, SecurityAlarm
from ..member.context import MemberContext
from ..member.member import Member
from ..messages.announcement import Head
from ..messages.control import Beat, KeyRequest
from ..trust.identity import CertifiedMember
from ..trust.rank import rank_of
from ..trust.roles import Role
from .admission import Admission, ProvenHead

STAGGER_S: Final = 0.2  # between two standbys: far longer than a beat takes to arrive
UNREADY_PATIENCE: Final = 3  # times longer, while a node has not joined an epoch
COLD_S: Final = 4.0  # after a cold start, when no other node was heard: processes start seconds apart
COLD_STAGGER_S: Final = 1.0
MAX_PATIENCE: Final = 8  # times longer, for a node that is deposed repeatedly by one it does not hear
_FRESH_NS: Final = 2_000_000_000  # a key request this young proves that its sender is alive


class FailoverState:
    """One node's view. `now` is monotonic seconds."""

    def __init__(self, name: str, rank: int, takeover_s: float) -> None:
        self.name = name
        self.rank = rank
        self.active = False
        self.active_node: str | None = None  # the other node that is active, or was last
        self.seen_epoch = 0  # highest epoch of another node that was proven to us
        self._takeover_s = takeover_s
        self._heard_at = float("-inf")
        self._takeovers_unheard = 0  # takeovers since another node's beat was last heard
        self._cold = True  # no sign of another active node yet

    def start(self, now: float) -> None:
        """Rank 0 starts active (it steps down when it hears another active node), the others standby."""
        self._heard_at = now
        self.active = self.rank == 0

    # Signs of other nodes: each returns True if this node steps down by it

    def on_beat(self, issuer: str, epoch: int, own_epoch: int, own_issue: bool, now: float) -> bool:
        """A verified, fresh beat. `own_epoch` is our newest, `own_issue` says whether we announced it."""
        if not self.active:
            self._takeovers_unheard = 0
            self._note_active(issuer, now)
            return False
        if epoch < own_epoch or (epoch == own_epoch and own_issue):
            return False  # it steps down when it hears us
        self._takeovers_unheard = 0
        return self._step_down(issuer, now)

    def on_head(self, issuer: str, epoch: int, own_epoch: int, now: float) -> bool:
        """A verified announcement that is new to us."""
        self.seen_epoch = max(self.seen_epoch, epoch)
        if not self.active:
            self._note_active(issuer, now)
            return False
        return epoch > own_epoch and self._step_down(issuer, now)

    def on_proof(self, issuer: str, epoch: int, own_epoch: int, own_issue: bool, now: float) -> bool:
        """A head that a member has proven. It may be old: one of an earlier process of ours, or of the
        node that we have replaced, is no reason to step down. But a node that goes above an epoch that we
        have announced is alive, though we do not hear it: two nodes that only members hear must not
        outbid each other for ever.
        """
        self.seen_epoch = max(self.seen_epoch, epoch)
        if not self.active or epoch <= own_epoch or issuer == self.name:
            return False
        if issuer == self.active_node and not own_issue:
            return False
        return self._step_down(issuer, now)

    def on_request(self, issuer: str, sent_ns: int, wall_ns: int, now: float) -> None:
        """A verified key request: after a cold start, a node of lower rank that requests packages is
        waited for. `sent_ns` is an upper bound: after a restart its sequences are ahead of the time.
        """
        rank = rank_of(issuer)
        if not self.active and self._cold and rank < self.rank and wall_ns - sent_ns <= _FRESH_NS:
            self._heard_at = now

    def _note_active(self, issuer: str, now: float) -> None:
        self.active_node, self._heard_at, self._cold = issuer, now, False

    def _step_down(self, issuer: str, now: float) -> bool:
        self.active = False
        self._note_active(issuer, now)
        return True

    # Time

    def due_at(self, others: Iterable[str], warm: bool = True) -> float | None:
        """When this node takes over if it hears no other one; None while it is active.

        `others` are the crypto members of the newest epoch; those of lower rank go first, except the lost
        one. `warm`: this node holds an epoch; one that has just started receives the first beats late. Two
        nodes whose clocks differ refuse each other's beats and depose each other: the wait doubles each time.
        """
        if self.active:
            return None
        if self._cold:
            return self._heard_at + COLD_S + COLD_STAGGER_S * self.rank
        ranks = {rank_of(name) for name in others if name not in (self.active_node, self.name)}
        before = sum(1 for rank in ranks if rank < self.rank)
        patience = max(min(2**self._takeovers_unheard, MAX_PATIENCE), 1 if warm else UNREADY_PATIENCE)
        return self._heard_at + self._takeover_s * patience + STAGGER_S * before

    def take_over(self) -> None:
        """Active from now on."""
        self._takeovers_unheard += 1
        self.active = True


_CORRECTION_GAP_S: Final = 5.0  # between two takeovers because the active node lacks an eviction


class Failover:
    """`own_epoch` returns the newest epoch known to be in force and whether we announced it; `become_standby`
    is called once when this node steps down.
    """

    def __init__(
        self,
        state: FailoverState,
        context: MemberContext,
        member: Member,
        admission: Admission,
        own_epoch: Callable[[], tuple[int, bool]],
        become_standby: Callable[[], None],
    ) -> None:
        self.crl_number = 0  # highest that a head has named
        self.takeovers = 0
        self._state = state
        self._member = member
        self._admission = admission
        self._limits = context.limits  # those of the start
        self._own_epoch = own_epoch
        self._become_standby = become_standby
        self._peer_lacks_evictions = False  # the newest head of another node
        self._correct_at = float("inf")
        self._corrected_at = float("-inf")

    @property
    def active(self) -> bool:
        return self._state.active

    @property
    def active_node(self) -> str | None:
        """The active crypto node, as far as this one knows."""
        return self._state.name if self._state.active else self._state.active_node

    # Signs of other nodes

    def on_request(self, request: KeyRequest, issuer: CertifiedMember, now: float, wall_ns: int) -> None:
        """Another crypto node's key request: the answers are good for us too."""
        sent_ns = request.sequence * 1_000_000  # see beacon.py
        age_s = max(0.0, (wall_ns - sent_ns) * 1e-9)
        if age_s <= self._limits.challenge_life_s:
            self._admission.add_challenge(request.challenge, now - age_s, own=False)
        self._state.on_request(issuer.name, sent_ns, wall_ns, now)

    def on_beat(self, beat: Beat, issuer: CertifiedMember, now: float) -> list[Effect]:
        """Another crypto node's beat."""
        if self._correcting:
            return []
        epoch, own_issue = self._own_epoch()
        return self._follow(issuer.name, self._state.on_beat(issuer.name, beat.epoch, epoch, own_issue, now))

    def on_head(self, head: Head, issuer: CertifiedMember, now: float) -> list[Effect]:
        """Another crypto node's announcement of an epoch that is new to us."""
        self._admission.note_announced(head, now)
        self.crl_number = max(self.crl_number, head.crl_number)
        newest = head.epoch > self._state.seen_epoch
        own_epoch, _ = self._own_epoch()
        effects = self._follow(issuer.name, self._state.on_head(issuer.name, head.epoch, own_epoch, now))
        if newest:
            self._peer_lacks_evictions = self._lacks_evictions(head)
            if self._peer_lacks_evictions:
                self._correct_at = max(now, self._corrected_at + _CORRECTION_GAP_S)
        return effects

    def on_proof(self, proven: ProvenHead, now: float) -> list[Effect]:
        """An epoch that is new to us, proven by a member."""
        head, issuer = proven.head, proven.issuer
        self.crl_number = max(self.crl_number, head.crl_number)
        epoch, own_issue = self._own_epoch()
        down = not self._correcting and self._state.on_proof(issuer.name, head.epoch, epoch, own_issue, now)
        return self._follow(issuer.name, down)

    def _lacks_evictions(self, head: Head) -> bool:
        """True if this head lacks evictions that are stored here; they were ordered, so it is corrected."""
        own = self._member.identity.fingerprint
        known = self._member.state.evictions
        return own not in known and own not in head.evictions and not known.issubset(head.evictions)

    @property
    def _correcting(self) -> bool:
        """True while active only to announce an eviction that the other node lacks."""
        return self._peer_lacks_evictions and self.active and self._own_epoch()[0] < self._state.seen_epoch

    def _follow(self, active_node: str, down: bool) -> list[Effect]:
        if not down:
            return []
        self._become_standby()
        return [SecurityAlarm("info", f"{active_node} is active: {self._state.name} is standby")]

    # Taking over

    def due_at(self) -> float | None:
        """When this node takes over if it hears no other one; None while it is active."""
        installed = self._member.installed
        roster = installed.roster if installed is not None else ()
        names = [entry.name for entry in roster if entry.role is Role.CRYPTO]
        due_at = self._state.due_at(names, warm=installed is not None)
        return min(due_at, self._correct_at) if due_at is not None and self._peer_lacks_evictions else due_at

    def holds_newest(self) -> bool:
        """True if the newest epoch that was proven to us is installed."""
        installed = self._member.installed
        newest = max(self._admission.learned_epoch(), self._state.seen_epoch)
        return installed is not None and installed.epoch >= newest

    def take_over(self, now: float) -> SecurityAlarm:
        """Active from now on."""
        name, lost = self._state.name, self._state.active_node
        self._state.take_over()
        self.takeovers += 1
        if self._peer_lacks_evictions:
            self._corrected_at, self._correct_at = now, float("inf")
            return SecurityAlarm(
                "warning", f"{lost} lacks evictions that {name} has stored: {name} takes over"
            )
        silence = (
            f"no beat of {lost} for {self._limits.takeover_s:g} s" if lost else "no crypto node is heard"
        )
        return SecurityAlarm("warning", f"{silence}: {name} takes over")
