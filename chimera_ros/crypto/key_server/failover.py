"""What a key server does with the signs of other crypto nodes: it overhears their packages, and judges by
`FailoverState` whether it steps down or takes over.

While it stands by it is a member like the others. The packages that members send answer the request of the
node in charge; they echo a challenge that every crypto node has heard, so a standby holds an unused package
of everybody too and can announce the moment it takes over, without costing anybody a second package.
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
COLD_S: Final = 4.0  # where no crypto node was ever heard: processes start seconds apart
COLD_STAGGER_S: Final = 1.0
MAX_PATIENCE: Final = 8  # times longer, for a node that is deposed again and again by one it does not hear
_FRESH_NS: Final = 2_000_000_000  # a key request this young shows that its sender lives


class FailoverState:
    """One node's view. `now` is monotonic seconds."""

    def __init__(self, name: str, rank: int, takeover_s: float) -> None:
        self.name = name
        self.rank = rank
        self.in_charge = False
        self.chief: str | None = None  # who is, or was last
        self.seen_epoch = 0  # highest epoch of another node that was proven to us
        self._takeover_s = takeover_s
        self._sign_at = float("-inf")
        self._in_vain = 0  # takeovers since another one's beat was last heard
        self._cold = True  # no sign of another node in charge yet

    def start(self, now: float) -> None:
        """Rank 0 begins in charge (it steps down as soon as it sees another at work), the others stand by."""
        self._sign_at = now
        self.in_charge = self.rank == 0

    # Signs: each returns True when this node steps down by it

    def beat(self, issuer: str, epoch: int, own_epoch: int, own_issue: bool, now: float) -> bool:
        """A verified, fresh beat. `own_epoch` is our newest, `own_issue` says whether we announced it."""
        if not self.in_charge:
            self._in_vain = 0
            self._sign(issuer, now)
            return False
        if epoch < own_epoch or (epoch == own_epoch and own_issue):
            return False  # it steps down when it hears of us
        self._in_vain = 0
        return self._step_down(issuer, now)

    def head(self, issuer: str, epoch: int, own_epoch: int, now: float) -> bool:
        """A verified announcement that is new to us."""
        self.seen_epoch = max(self.seen_epoch, epoch)
        if not self.in_charge:
            self._sign(issuer, now)
            return False
        return epoch > own_epoch and self._step_down(issuer, now)

    def proof(self, issuer: str, epoch: int, own_epoch: int, own_issue: bool, now: float) -> bool:
        """A head that a member has proven. It may be old: one of our own earlier process, or of the node that
        we have replaced, is no reason to wait. But whoever goes above an epoch that we have announced lives,
        though we do not hear it: two nodes that only members hear must not outbid each other for ever.
        """
        self.seen_epoch = max(self.seen_epoch, epoch)
        if not self.in_charge or epoch <= own_epoch or issuer == self.name:
            return False
        if issuer == self.chief and not own_issue:
            return False
        return self._step_down(issuer, now)

    def request(self, issuer: str, sent_ns: int, wall_ns: int, now: float) -> None:
        """A verified key request: before anybody is in charge, a node of lower rank that asks is waited
        for. `sent_ns`: no later than this was it sent; after a restart its sequences are ahead of the time.
        """
        rank = rank_of(issuer)
        if not self.in_charge and self._cold and rank < self.rank and wall_ns - sent_ns <= _FRESH_NS:
            self._sign_at = now

    def _sign(self, issuer: str, now: float) -> None:
        self.chief, self._sign_at, self._cold = issuer, now, False

    def _step_down(self, issuer: str, now: float) -> bool:
        self.in_charge = False
        self._sign(issuer, now)
        return True

    # Time

    def due_at(self, others: Iterable[str], warm: bool = True) -> float | None:
        """When this node takes over if it hears nothing; None while it is in charge.

        `others` are the crypto members of the newest epoch. Those of lower rank go first, the lost one aside.
        `warm` says that this node holds an epoch; one that has just started hears the first beats late. Two
        nodes whose clocks differ refuse each other's beats and depose each other: they do it ever less often.
        """
        if self.in_charge:
            return None
        if self._cold:
            return self._sign_at + COLD_S + COLD_STAGGER_S * self.rank
        ranks = {rank_of(name) for name in others if name not in (self.chief, self.name)}
        before = sum(1 for rank in ranks if rank < self.rank)
        patience = max(min(2**self._in_vain, MAX_PATIENCE), 1 if warm else UNREADY_PATIENCE)
        return self._sign_at + self._takeover_s * patience + STAGGER_S * before

    def take_over(self) -> None:
        """In charge from now on."""
        self._in_vain += 1
        self.in_charge = True


_CORRECT_GAP_S: Final = 5.0  # between two takeovers because the one in charge lacks an eviction


class Failover:
    """`own_epoch` tells the newest epoch that is known to be in force and whether we announced it;
    `stand_by` is called, once, when this node steps down.
    """

    def __init__(
        self,
        duty: FailoverState,
        context: MemberContext,
        member: Member,
        admission: Admission,
        own_epoch: Callable[[], tuple[int, bool]],
        stand_by: Callable[[], None],
    ) -> None:
        self.crl_number = 0  # highest that a head has named
        self.takeovers = 0
        self._duty = duty
        self._member = member
        self._admission = admission
        self._limits = context.limits  # those of the start
        self._own_epoch = own_epoch
        self._stand_by = stand_by
        self._untold = False  # the newest head of another node lacks evictions that we hold
        self._correct_at = float("inf")
        self._corrected_at = float("-inf")

    @property
    def in_charge(self) -> bool:
        return self._duty.in_charge

    @property
    def chief(self) -> str | None:
        """Who is in charge, as far as this node knows."""
        return self._duty.name if self._duty.in_charge else self._duty.chief

    # Signs

    def heard_request(self, request: KeyRequest, issuer: CertifiedMember, now: float, wall_ns: int) -> None:
        """Another crypto node asks for packages: the answers are good for us too."""
        sent_ns = request.sequence * 1_000_000  # see Voice
        age_s = max(0.0, (wall_ns - sent_ns) * 1e-9)
        if age_s <= self._limits.challenge_life_s:
            self._admission.add_challenge(request.challenge, now - age_s, own=False)
        self._duty.request(issuer.name, sent_ns, wall_ns, now)

    def heard_beat(self, beat: Beat, issuer: CertifiedMember, now: float) -> list[Effect]:
        """Another crypto node beats."""
        if self._correcting:
            return []
        epoch, own_issue = self._own_epoch()
        return self._follow(issuer.name, self._duty.beat(issuer.name, beat.epoch, epoch, own_issue, now))

    def heard_head(self, head: Head, issuer: CertifiedMember, now: float) -> list[Effect]:
        """Another crypto node has announced an epoch that is new to us."""
        self._admission.announced(head, now)
        self.crl_number = max(self.crl_number, head.crl_number)
        newest = head.epoch > self._duty.seen_epoch
        told = self._follow(issuer.name, self._duty.head(issuer.name, head.epoch, self._own_epoch()[0], now))
        if newest:
            self._untold = self._lacks_evictions(head)
            if self._untold:
                self._correct_at = max(now, self._corrected_at + _CORRECT_GAP_S)
        return told

    def _lacks_evictions(self, head: Head) -> bool:
        """Do we know of evictions that this head lacks? They were ordered, so it must not stay like that."""
        own = self._member.identity.fingerprint
        known = self._member.state.evictions
        return own not in known and own not in head.evictions and not known.issubset(head.evictions)

    @property
    def _correcting(self) -> bool:
        """In charge so that everybody learns of an eviction, and not announced yet."""
        return self._untold and self.in_charge and self._own_epoch()[0] < self._duty.seen_epoch

    def heard_proof(self, proven: ProvenHead, now: float) -> list[Effect]:
        """A member has proven an epoch that is new to us."""
        head, issuer = proven.head, proven.issuer
        self.crl_number = max(self.crl_number, head.crl_number)
        epoch, own_issue = self._own_epoch()
        down = not self._correcting and self._duty.proof(issuer.name, head.epoch, epoch, own_issue, now)
        return self._follow(issuer.name, down)

    def _follow(self, chief: str, down: bool) -> list[Effect]:
        if not down:
            return []
        self._stand_by()
        return [SecurityAlarm("info", f"{chief} is in charge: {self._duty.name} stands by")]

    # Taking over

    def due_at(self) -> float | None:
        """When this node takes over if it hears nothing; None while it is in charge."""
        installed = self._member.installed
        roster = installed.roster if installed is not None else ()
        names = [entry.name for entry in roster if entry.role is Role.CRYPTO]
        due_at = self._duty.due_at(names, warm=installed is not None)
        return min(due_at, self._correct_at) if due_at is not None and self._untold else due_at

    def holds_newest(self) -> bool:
        """Have we installed the newest epoch that was proven to us?"""
        installed = self._member.installed
        newest = max(self._admission.learned_epoch(), self._duty.seen_epoch)
        return installed is not None and installed.epoch >= newest

    def take_over(self, now: float) -> SecurityAlarm:
        """In charge from now on."""
        lost = self._duty.chief
        self._duty.take_over()
        self.takeovers += 1
        if self._untold:
            self._corrected_at, self._correct_at = now, float("inf")
            return SecurityAlarm(
                "warning",
                f"{lost} does not know whom {self._duty.name} has put out: {self._duty.name} takes over",
            )
        silence = (
            f"no beat of {lost} for {self._limits.takeover_s:g} s" if lost else "no crypto node is heard"
        )
        return SecurityAlarm("warning", f"{silence}: {self._duty.name} takes over")
