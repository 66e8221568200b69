"""Key packages on the crypto node: which are good, which are unused, and what they prove about earlier
epochs.

Checks in the protocol's order: size, swarm, suite, challenge, duplicate, cached certificate, revocation and
eviction, role, signature. Only then does anything change.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..effects import Effect, SecurityAlarm
from ..errors import KeystoreError, Rejected, RejectReason
from ..member.evictions import lines_of
from ..messages.announcement import MAX_JUMP, NO_HASH, Head, RosterEntry, SignedHead, parse_head
from ..messages.control import KeyPackage
from ..primitives import labels
from ..primitives.suite import PublicKey, digest
from ..trust.identity import CertifiedMember, Trust
from ..trust.policy import Limits
from ..trust.rank import fits_rank
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage
from .incarnations import NEVER, Incarnations

if TYPE_CHECKING:
    from ..member.control_plane import ControlPlane
    from ..member.host import SecureHost
    from ..member.member import Member
    from .evictions import EvictionHandler

_MAX_SEEN: Final = 16384
_MAX_CHALLENGES: Final = 32
_MARGIN_S: Final = 5.0  # a package this close to its end is not used any more
_FRESH_S: Final = 50.0  # from this age on a new package is asked for
_ALIVE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class AdmissionCandidate:
    """A member with a valid, unused package."""

    name: str
    role: Role
    fingerprint: bytes
    serial: int
    incarnation: bytes
    public: PublicKey = field(repr=False, compare=False)
    package_hash: bytes
    speaker: bytes
    received_at: float


@dataclass(frozen=True, slots=True)
class _Challenge:
    """Monotonic seconds. `asked_at` is exact for our own and `NEVER` for another crypto node's: for when that
    one was made we only have its word and its clock, and a request may have been held back.
    """

    value: bytes
    made_at: float
    asked_at: float


class UnknownIssuer(Rejected):
    """A proof by a crypto node whose certificate has not come yet."""

    def __init__(self, fingerprint: bytes) -> None:
        super().__init__(RejectReason.NO_CERTIFICATE, "of a proof's issuer")
        self.fingerprint = fingerprint


@dataclass(slots=True)
class _Former:
    """Where an earlier process was heard; `heard_ns` marks its last packet, from when it must be silent."""

    epoch: int
    slot: int
    since: float
    heard_ns: int | None = None


class Admission:
    """Candidates by name, one incarnation each."""

    def __init__(self, trust: Trust, control: ControlPlane, own: Member, desk: EvictionHandler) -> None:
        self._trust = trust
        self._control = control
        self._own = own
        self._suite = control.suite
        self._desk = desk
        self._challenges: deque[_Challenge] = deque(maxlen=_MAX_CHALLENGES)
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._candidates: dict[str, AdmissionCandidate] = {}
        self._incarnations = Incarnations()
        self._old: dict[str, _Former] = {}  # restarted, by name
        self._learned: tuple[int, bytes, tuple[RosterEntry, ...]] = (0, NO_HASH, ())
        self._claimed = 0
        self._unproven: dict[str, int] = {}  # by member: the epoch that its package named and did not prove
        self._learned_evictions = False
        self.on_proof: Callable[[Head, CertifiedMember, float], None] | None = None  # the key server's

    @property
    def _limits(self) -> Limits:
        return self._trust.policy.limits

    # What is known

    def learned_epoch(self) -> int:
        """Highest epoch that members have proven, or another crypto node claims to have announced."""
        return max(self._learned[0], self._claimed)

    def learned_hash(self) -> bytes:
        """Its transcript hash."""
        return self._learned[1]

    def learned_roster(self) -> tuple[RosterEntry, ...]:
        """Its roster: whose packages a restarted crypto node waits for."""
        return self._learned[2]

    @property
    def unproven(self) -> int:
        """How many members name an epoch that we do not know, and that their packages cannot prove."""
        known = max(self._learned[0], self._held)
        return sum(epoch > known for epoch in self._unproven.values())

    @property
    def _held(self) -> int:
        return self._own.installed.epoch if self._own.installed is not None else 0

    @property
    def held(self) -> int:
        """How many unused packages are here."""
        return len(self._candidates)

    def holds(self, name: str) -> bool:
        """Do we hold an unused package of this member?"""
        return name in self._candidates

    def holds_own(self, now: float) -> bool:
        """Do we hold one of our own that is not about to expire?"""
        own = self._candidates.get(self._own.name)
        return own is not None and now - own.received_at < self._limits.package_life_s - 2 * _MARGIN_S

    def fresh(self, entry: RosterEntry, now: float) -> bool:
        """Is there no need to ask this member for a package?"""
        found = self._candidates.get(entry.name)
        young_s = min(_FRESH_S, self._limits.package_life_s / 2)
        return (
            found is not None and found.incarnation == entry.incarnation and now - found.received_at < young_s
        )

    def add_challenge(self, challenge: bytes, made_at: float, *, own: bool) -> None:
        """Packages may echo this challenge, our own or that of the crypto node in charge. Only our own shows
        that a process lives: which of two does, the one in charge finds out, and its rosters tell us.
        """
        if all(challenge != known.value for known in self._challenges):
            self._challenges.append(_Challenge(challenge, made_at, made_at if own else NEVER))

    def _challenge(self, value: bytes, now: float) -> _Challenge:
        for known in self._challenges:
            if known.value == value and now - known.made_at <= self._limits.challenge_life_s:
                return known
        raise Rejected(RejectReason.CHALLENGE)

    # Packages

    def accept_own(self, package: KeyPackage, member: CertifiedMember, now: float) -> None:
        """The crypto node's own package, which never travelled."""
        self._candidates[member.name] = self._candidate(package, member, now)

    def check(
        self, message: ControlMessage, now: float, wall_ns: int, host: SecureHost
    ) -> tuple[AdmissionCandidate, list[Effect]]:
        """A package from the network. Raises Rejected; then nothing has changed."""
        body = message.parts[0]
        suite = self._suite
        package = KeyPackage.parse(body, self._trust.swarm, suite.name, suite.package_public_bytes)
        challenge = self._challenge(package.challenge, now)
        package_hash = digest(body)
        if package_hash in self._seen:
            raise Rejected(RejectReason.DUPLICATE)
        try:
            member = self._control.directory.get_valid(package.fingerprint, wall_ns)
        except Rejected as refusal:
            if refusal.reason is RejectReason.NO_CERTIFICATE:
                self._control.directory.defer(package.fingerprint, message)
            raise
        if self._desk.bars(member):
            raise Rejected(RejectReason.EVICTED, member.name)
        if member.name == self._own.name:
            raise Rejected(RejectReason.OWN)
        restarted = self._incarnations.judge(
            member.name, package.incarnation, challenge.asked_at, now, self._limits.restart_s
        )
        roster = host.roster() or self._learned[2]
        flying = any(e.name == member.name and e.incarnation == package.incarnation for e in roster)
        if not flying and max(wall_ns, self._trust.wall_floor_ns) > self._trust.crl.expires_ns:
            raise Rejected(RejectReason.CERTIFICATE, "the revocation list has expired: nobody may join")
        self._control.check_signature(member, message, now)
        candidate = self._candidate(package, member, now)
        try:
            self._prove(package, now, wall_ns)
        except UnknownIssuer as refusal:
            self._control.directory.defer(refusal.fingerprint, message)
            raise
        if not package.proof and package.epoch <= self._own.state.highest_epoch + MAX_JUMP:
            if member.role is Role.CRYPTO:
                # What it announced may have reached nobody, but it follows nothing below. Its word on this is
                # as good as its announcement.
                self._claimed = max(self._claimed, package.epoch)
            self._unproven[member.name] = package.epoch
        self._remember(package_hash, now)
        effects: list[Effect] = []
        self._incarnations.take(member.name, package.incarnation, now)
        if restarted:
            effects += self._note_restart(member.name, host, now)
        self._candidates[member.name] = candidate
        return candidate, effects

    def _candidate(self, package: KeyPackage, member: CertifiedMember, now: float) -> AdmissionCandidate:
        return AdmissionCandidate(
            name=member.name,
            role=member.role,
            fingerprint=member.fingerprint,
            serial=member.serial,
            incarnation=package.incarnation,
            public=self._suite.public_key(package.public),
            package_hash=digest(package.encode()),
            speaker=package.responder,
            received_at=now,
        )

    def _remember(self, package_hash: bytes, now: float) -> None:
        self._seen[package_hash] = now
        life_s = self._limits.challenge_life_s
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] <= life_s and len(self._seen) <= _MAX_SEEN:
                break
            del self._seen[oldest]

    def _prove(self, package: KeyPackage, now: float, wall_ns: int) -> None:
        """Takes over what a package proves."""
        if not package.proof:
            return
        proof = SignedHead.parse(package.proof)
        head = parse_head(proof.head_bytes)
        if head.epoch != package.epoch or proof.transcript_hash != package.transcript_hash:
            raise Rejected(RejectReason.MALFORMED, "the proof is of another epoch")
        self.learn(proof, head, ControlKind.KEY_PACKAGE, now, wall_ns)

    def learn(self, proof: SignedHead, head: Head, purpose: ControlKind, now: float, wall_ns: int) -> None:
        """Takes over a proven head that is higher than what we know, and evictions that we lack from any; a
        bare claim counts for nothing.

        The issuer may have been revoked or put out since. Then its head still shows which numbers are used
        up, and nothing else: whoever has its key could put anybody out with it.
        """
        newer = head.epoch > max(self._learned[0], self._held)
        lacking = frozenset(head.evictions) - self._own.state.evictions
        if not newer and not lacking:
            return
        if head.swarm != self._trust.swarm or head.epoch > self._own.state.highest_epoch + MAX_JUMP:
            raise Rejected(RejectReason.TOO_FAR)
        issuer = self._control.directory.get(head.issuer)
        if issuer is None:
            raise UnknownIssuer(head.issuer)
        if issuer.role is not Role.CRYPTO:
            raise Rejected(RejectReason.ROLE)
        if not fits_rank(issuer.name, head.epoch):
            raise Rejected(RejectReason.ISSUER, "proof")
        if not self._control.purse.take(purpose, now):
            raise Rejected(RejectReason.BUDGET, "proof")
        if not issuer.verify(proof.signature, proof.signed_bytes(), labels.SIGN_ANNOUNCEMENT):
            raise Rejected(RejectReason.SIGNATURE, "proof")
        if self._desk.bars(issuer) or not self._control.directory.is_valid(issuer, wall_ns):
            self._claimed = max(self._claimed, head.epoch)
            return
        if lacking:
            lines = lines_of(lacking, self._control.directory, head.issuer, proof.transcript_hash, wall_ns)
            try:
                self._own.remember_evictions(lacking, lines)
            except KeystoreError as error:
                raise Rejected(RejectReason.STORE, str(error)) from None
            self._learned_evictions = True
        if not newer:
            return
        self._learned = (head.epoch, proof.transcript_hash, head.roster)
        self._incarnations.note(head.roster, now, newest=False)
        self.used(head)
        if self.on_proof is not None:
            self.on_proof(head, issuer, now)

    def take_learned_evictions(self) -> bool:
        """Have members shown us evictions that we did not know? Says so once."""
        found, self._learned_evictions = self._learned_evictions, False
        return found

    def forget_own(self) -> None:
        """Another crypto node is in charge: our own package to ourselves is of no use."""
        self._candidates.pop(self._own.name, None)

    def announced(self, head: Head, now: float) -> None:
        """Another crypto node has announced this epoch, which is above every one that we have had."""
        self._incarnations.note(head.roster, now, newest=True)
        self.used(head)

    def used(self, head: Head) -> None:
        """The packages that this epoch names are used up."""
        for entry in head.roster:
            found = self._candidates.get(entry.name)
            if found is not None and found.package_hash == entry.package_hash:
                del self._candidates[entry.name]

    def expire(self, now: float) -> None:
        """Forgets packages whose key the member is about to delete."""
        limit_s = self._limits.package_life_s - _MARGIN_S
        for name in [name for name, item in self._candidates.items() if now - item.received_at > limit_s]:
            del self._candidates[name]

    def take_all(self, now: float, wall_ns: int) -> list[AdmissionCandidate]:
        """All candidates whose package and certificate are still good; they are used up."""
        self.expire(now)
        usable: list[AdmissionCandidate] = []
        for item in self._candidates.values():
            if item.fingerprint in self._own.state.evictions:
                continue
            try:
                self._control.directory.get_valid(item.fingerprint, wall_ns)
            except Rejected:
                continue
            usable.append(item)
        self._candidates.clear()
        return sorted(usable, key=lambda item: item.name)

    def drop(self, name: str, incarnation: bytes | None = None) -> None:
        """This member goes: its package is not used. An incarnation that is named never comes back."""
        found = self._candidates.get(name)
        if found is not None and incarnation in (None, found.incarnation):
            del self._candidates[name]
        if incarnation is not None:
            self._incarnations.retire(name, incarnation)

    def put_back(self, candidates: list[AdmissionCandidate]) -> None:
        """They were not used after all."""
        for item in candidates:
            self._candidates.setdefault(item.name, item)

    # Two processes under one name

    def _note_restart(self, name: str, host: SecureHost, now: float) -> list[Effect]:
        entry = next((item for item in host.roster() if item.name == name), None)
        epoch = host.epoch(self._own.name)
        if entry is not None and epoch is not None:
            self._old[name] = _Former(epoch, entry.slot, now)
        return [SecurityAlarm("info", f"{name} has restarted and joins again")]

    def watch(self, host: SecureHost, now: float) -> list[Effect]:
        """An alarm when the old incarnation of a restarted member still sends."""
        effects: list[Effect] = []
        for name, old in list(self._old.items()):
            session = self._control.sessions.open.get(old.epoch)
            heard_ns = session.received_ns.get(old.slot, 0) if session is not None else 0
            if session is None:
                del self._old[name]
            elif old.heard_ns is None:
                if now >= old.since + _ALIVE_S:  # what was on its way has come in
                    old.heard_ns = heard_ns
            elif heard_ns != old.heard_ns:  # whatever the clock says: a packet more
                del self._old[name]
                effects.append(
                    SecurityAlarm(
                        "error",
                        f"two processes run as {name}: the old one still sends; one key is in two hands",
                    )
                )
        return effects
