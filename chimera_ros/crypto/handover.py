"""What a key server does with the signs of other crypto nodes: it overhears their packages, and judges by
`Duty` whether it steps down or takes over.

While it stands by it is a member like the others. The packages that members send answer the request of the
node in charge; they echo a challenge that every crypto node has heard, so a standby holds an unused package
of everybody too and can announce the moment it takes over, without costing anybody a second package.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .admission import Admission
from .effects import Alarm, Effect
from .epochs import Head
from .identity import CertifiedMember
from .joining import Beat, KeyRequest
from .member import Member
from .policy import Limits
from .roles import Role
from .standby import Duty

_CORRECT_GAP_S: Final = 5.0  # between two takeovers because the one in charge lacks an eviction


class Handover:
    """`own_epoch` tells the newest epoch that is known to be in force and whether we announced it;
    `stand_by` is called, once, when this node steps down.
    """

    def __init__(
        self,
        duty: Duty,
        member: Member,
        admission: Admission,
        limits: Limits,
        own_epoch: Callable[[], tuple[int, bool]],
        stand_by: Callable[[], None],
    ) -> None:
        self.crl_number = 0  # highest that a head has named
        self.takeovers = 0
        self._duty = duty
        self._member = member
        self._admission = admission
        self._limits = limits
        self._own_epoch = own_epoch
        self._stand_by = stand_by
        self._told: list[Effect] = []
        self._untold = False  # the newest head of another node lacks evictions that we hold
        self._correct_at = float("inf")
        self._corrected_at = float("-inf")
        admission.on_proof = self.heard_proof

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

    def heard_proof(self, head: Head, issuer: CertifiedMember, now: float) -> None:
        """A member has proven an epoch that is new to us; what follows is told by `take_told`."""
        self.crl_number = max(self.crl_number, head.crl_number)
        epoch, own_issue = self._own_epoch()
        down = not self._correcting and self._duty.proof(issuer.name, head.epoch, epoch, own_issue, now)
        self._told += self._follow(issuer.name, down)

    def take_told(self) -> list[Effect]:
        """What proofs have led to since the last call."""
        told, self._told = self._told, []
        return told

    def _follow(self, chief: str, down: bool) -> list[Effect]:
        if not down:
            return []
        self._stand_by()
        return [Alarm("info", f"{chief} is in charge: {self._duty.name} stands by")]

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

    def take_over(self, now: float) -> Alarm:
        """In charge from now on."""
        lost = self._duty.chief
        self._duty.take_over()
        self.takeovers += 1
        if self._untold:
            self._corrected_at, self._correct_at = now, float("inf")
            return Alarm(
                "warning",
                f"{lost} does not know whom {self._duty.name} has put out: {self._duty.name} takes over",
            )
        silence = (
            f"no beat of {lost} for {self._limits.takeover_s:g} s" if lost else "no crypto node is heard"
        )
        return Alarm("warning", f"{silence}: {self._duty.name} takes over")
