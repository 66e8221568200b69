"""Which crypto node is in charge, as one of them sees it.

A crypto node is in charge or stands by. It judges by verified signs only: beats, announcements, key requests
and proven heads of other crypto nodes. Epoch numbers order everything: who sees a higher epoch of another
steps down, and since epoch modulo 4 is the issuer's rank, two nodes that are in charge at once (a split
network, a stalled process) never announce one number.

A plain object: signs and time in, decisions out; the key server acts on them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from .effects import Alarm

RANKS: Final = 4
STAGGER_S: Final = 0.2  # between two standbys: far longer than a beat takes to arrive
UNREADY_PATIENCE: Final = 3  # times longer, while a node has not joined an epoch
COLD_S: Final = 4.0  # where no crypto node was ever heard: processes start seconds apart
COLD_STAGGER_S: Final = 1.0
MAX_PATIENCE: Final = 8  # times longer, for a node that is deposed again and again by one it does not hear
_FRESH_NS: Final = 2_000_000_000  # a key request this young shows that its sender lives

_RANKED: Final = re.compile(r".*_([0-3])")


def rank_of(name: str) -> int:
    """The rank that a crypto node's name ends in (crypto_0 to crypto_3); one that shows none has rank 0."""
    match = _RANKED.fullmatch(name)
    return int(match[1]) if match else 0


def fits_rank(name: str, epoch: int) -> bool:
    """May the crypto node of this name announce this epoch?"""
    return epoch % RANKS == rank_of(name)


class RankWatch:
    """Tells when two crypto nodes have one rank: both could announce the same number. `stands` says whether
    a certificate, by fingerprint, is good and not evicted. Tables are bounded by who was enrolled.
    """

    def __init__(self, stands: Callable[[bytes, int], bool]) -> None:
        self._stands = stands
        self._holders: dict[int, tuple[str, bytes]] = {}  # by rank: name, fingerprint
        self._told: set[tuple[str, str]] = set()

    def seen(self, name: str, fingerprint: bytes, wall_ns: int) -> list[Alarm]:
        """A crypto node whose signature, or whose place in a signed roster, was verified."""
        rank = rank_of(name)
        former, known = self._holders.get(rank, (name, fingerprint))
        if former == name or not self._stands(known, wall_ns):
            self._holders[rank] = (name, fingerprint)
            return []
        if (former, name) in self._told:
            return []
        self._told.add((former, name))
        return [
            Alarm(
                "error",
                f"the crypto nodes {former} and {name} both have rank {rank} and could announce the same "
                "epoch numbers: revoke one, and enrol another under a name that ends in a free rank",
            )
        ]


class Duty:
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
