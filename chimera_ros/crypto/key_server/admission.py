"""Admission of key packages on the crypto node: validity, use, and proofs of earlier epochs.

Checks in the protocol's order: size, swarm, suite, challenge, duplicate, certificate, eviction, incarnation,
signature, proof. Only then does any state change.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from ..effects import Effect, SecurityAlarm
from ..errors import KeystoreError, Rejected, RejectReason
from ..member.context import MemberContext
from ..member.evictions import orders_for
from ..member.member import Member
from ..messages.announcement import MAX_JUMP, NO_HASH, Head, RosterEntry, SignedHead, parse_head
from ..messages.control import KeyPackage
from ..primitives import labels
from ..primitives.suite import PublicKey, digest
from ..trust.identity import CertifiedMember
from ..trust.policy import Limits
from ..trust.rank import fits_rank
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage
from .evictions import EvictionHandler
from .incarnations import NEVER, Incarnations

_MAX_SEEN: Final = 16384
_MAX_CHALLENGES: Final = 32
_MARGIN_S: Final = 5.0  # a package this close to its expiry is not used
_FRESH_S: Final = 50.0  # from this age on a new package is requested
_FORMER_GAP_S: Final = 0.5  # packets of a former process may be under way so long


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
    responder: bytes
    received_at: float


@dataclass(frozen=True, slots=True)
class _Challenge:
    """Monotonic seconds. `own_made_at` is exact for our own and `NEVER` for another crypto node's: its time
    rests on that node's clock, and a request may have been held back.
    """

    value: bytes
    made_at: float
    own_made_at: float


@dataclass(frozen=True, slots=True)
class ProvenHead:
    """A head above every one known here, sent by a member; the issuer's signature is verified."""

    head: Head
    issuer: CertifiedMember


class UnknownIssuer(Rejected):
    """The proof's issuer is a crypto node whose certificate is missing."""

    def __init__(self, fingerprint: bytes) -> None:
        super().__init__(RejectReason.NO_CERTIFICATE, "of a proof's issuer")
        self.fingerprint = fingerprint


@dataclass(slots=True)
class _Former:
    """Epoch and slot of a former process. `received_ns`: its last packet; any later one is an alarm."""

    epoch: int
    slot: int
    since: float
    received_ns: int | None = None


class Admission:
    """Candidates by name, one incarnation each. `own` is the crypto node's member."""

    def __init__(self, context: MemberContext, own: Member, evictions: EvictionHandler) -> None:
        self._context = context
        self._trust = context.trust
        self._own = own
        self._suite = context.suite
        self._evictions = evictions
        self._challenges: deque[_Challenge] = deque(maxlen=_MAX_CHALLENGES)
        self._seen: OrderedDict[bytes, float] = OrderedDict()
        self._candidates: dict[str, AdmissionCandidate] = {}
        self._incarnations = Incarnations()
        self._former: dict[str, _Former] = {}  # of restarted members, by name
        self._learned: tuple[int, bytes, tuple[RosterEntry, ...]] = (0, NO_HASH, ())
        self._claimed = 0
        self._unproven: dict[str, int] = {}  # by member: the epoch that its package named and did not prove
        self._learned_evictions = False

    @property
    def _limits(self) -> Limits:
        return self._trust.policy.limits

    # State

    def learned_epoch(self) -> int:
        """Highest epoch that members have proven, or that another crypto node claims to have announced."""
        return max(self._learned[0], self._claimed)

    def learned_hash(self) -> bytes:
        """Transcript hash of the highest proven epoch."""
        return self._learned[1]

    def learned_roster(self) -> tuple[RosterEntry, ...]:
        """Roster of the highest proven epoch: a restarted crypto node waits for these members' packages."""
        return self._learned[2]

    @property
    def unproven(self) -> int:
        """How many members name an unknown epoch whose proof is too large for their packages."""
        known = max(self._learned[0], self._installed_epoch)
        return sum(epoch > known for epoch in self._unproven.values())

    @property
    def _installed_epoch(self) -> int:
        return self._own.installed.epoch if self._own.installed is not None else 0

    @property
    def package_count(self) -> int:
        """Number of unused packages."""
        return len(self._candidates)

    def holds(self, name: str) -> bool:
        """True if an unused package of this member is here."""
        return name in self._candidates

    def holds_own(self, now: float) -> bool:
        """True if an own package is here that does not expire soon."""
        own = self._candidates.get(self._own.name)
        return own is not None and now - own.received_at < self._limits.package_life_s - 2 * _MARGIN_S

    def holds_fresh(self, entry: RosterEntry, now: float) -> bool:
        """True if no new package of this member is needed."""
        found = self._candidates.get(entry.name)
        young_s = min(_FRESH_S, self._limits.package_life_s / 2)
        return (
            found is not None and found.incarnation == entry.incarnation and now - found.received_at < young_s
        )

    def add_challenge(self, challenge: bytes, made_at: float, *, own: bool) -> None:
        """Packages may echo this challenge, our own or the active crypto node's. Only our own proves a
        restart; otherwise the active node decides which of two incarnations is valid, and its rosters
        show it.
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
        """The crypto node's own package, which is never sent."""
        self._candidates[member.name] = self._candidate(package, member, now)

    def check(
        self, message: ControlMessage, now: float, wall_ns: int
    ) -> tuple[AdmissionCandidate, list[Effect], ProvenHead | None]:
        """A package from the network: (candidate, alarms, what it proves).

        Raises Rejected; then nothing has changed.
        """
        body = message.parts[0]
        suite = self._suite
        package = KeyPackage.parse(body, self._trust.swarm, suite.name, suite.package_public_bytes)
        challenge = self._challenge(package.challenge, now)
        package_hash = digest(body)
        if package_hash in self._seen:
            raise Rejected(RejectReason.DUPLICATE)
        member = self._context.valid_signer(package.fingerprint, message, wall_ns)
        if self._evictions.is_excluded(member):
            raise Rejected(RejectReason.EVICTED, member.name)
        if member.name == self._own.name:
            raise Rejected(RejectReason.OWN)
        restarted = self._incarnations.is_restart(
            member.name, package.incarnation, challenge.own_made_at, now, self._limits.restart_s
        )
        roster = self._context.roster() or self._learned[2]
        named = any(e.name == member.name and e.incarnation == package.incarnation for e in roster)
        if not named and max(wall_ns, self._trust.wall_floor_ns) > self._trust.crl.expires_ns:
            raise Rejected(RejectReason.CERTIFICATE, "the revocation list has expired: nobody may join")
        self._context.check_signature(member, message, now)
        candidate = self._candidate(package, member, now)
        try:
            proven = self._learn_from(package, now, wall_ns)
        except UnknownIssuer as refusal:
            self._context.certificates.defer(refusal.fingerprint, message)
            raise
        if not package.proof and package.epoch <= self._own.state.highest_epoch + MAX_JUMP:
            if member.role is Role.CRYPTO:
                # Its announcement may have reached no member, but it follows nothing below: its claim counts
                # as much as its announcement.
                self._claimed = max(self._claimed, package.epoch)
            self._unproven[member.name] = package.epoch
        self._note_seen(package_hash, now)
        effects: list[Effect] = []
        self._incarnations.accept(member.name, package.incarnation, now)
        if restarted:
            effects += self._note_restart(member.name, now)
        self._candidates[member.name] = candidate
        return candidate, effects, proven

    def _candidate(self, package: KeyPackage, member: CertifiedMember, now: float) -> AdmissionCandidate:
        return AdmissionCandidate(
            name=member.name,
            role=member.role,
            fingerprint=member.fingerprint,
            serial=member.serial,
            incarnation=package.incarnation,
            public=self._suite.public_key(package.public),
            package_hash=digest(package.encode()),
            responder=package.responder,
            received_at=now,
        )

    def _note_seen(self, package_hash: bytes, now: float) -> None:
        self._seen[package_hash] = now
        life_s = self._limits.challenge_life_s
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] <= life_s and len(self._seen) <= _MAX_SEEN:
                break
            del self._seen[oldest]

    def _learn_from(self, package: KeyPackage, now: float, wall_ns: int) -> ProvenHead | None:
        """Takes over the proof of a package."""
        if not package.proof:
            return None
        proof = SignedHead.parse(package.proof)
        head = parse_head(proof.head_bytes)
        if head.epoch != package.epoch or proof.transcript_hash != package.transcript_hash:
            raise Rejected(RejectReason.MALFORMED, "the proof is of another epoch")
        return self.learn(proof, head, ControlKind.KEY_PACKAGE, now, wall_ns)

    def learn(
        self, proof: SignedHead, head: Head, purpose: ControlKind, now: float, wall_ns: int
    ) -> ProvenHead | None:
        """Takes over a proven head above all known ones, and the new evictions of any proven head.

        The issuer may have been revoked or evicted since. Then its head only shows which numbers are used up:
        with its key any member could be evicted.
        """
        newer = head.epoch > max(self._learned[0], self._installed_epoch)
        lacking = frozenset(head.evictions) - self._own.state.evictions
        if not newer and not lacking:
            return None
        if head.swarm != self._trust.swarm or head.epoch > self._own.state.highest_epoch + MAX_JUMP:
            raise Rejected(RejectReason.TOO_FAR)
        issuer = self._context.certificates.get(head.issuer)
        if issuer is None:
            raise UnknownIssuer(head.issuer)
        if issuer.role is not Role.CRYPTO:
            raise Rejected(RejectReason.ROLE)
        if not fits_rank(issuer.name, head.epoch):
            raise Rejected(RejectReason.ISSUER, "proof")
        if not self._context.rate_limiter.take(purpose, now):
            raise Rejected(RejectReason.BUDGET, "proof")
        if not issuer.verify(proof.signature, proof.signed_bytes(), labels.SIGN_ANNOUNCEMENT):
            raise Rejected(RejectReason.SIGNATURE, "proof")
        if self._evictions.is_excluded(issuer) or not self._context.certificates.is_valid(issuer, wall_ns):
            self._claimed = max(self._claimed, head.epoch)
            return None
        if lacking:
            certificates = self._context.certificates
            orders = orders_for(lacking, certificates, head.issuer, proof.transcript_hash, wall_ns)
            try:
                self._own.save_evictions(lacking, orders)
            except KeystoreError as error:
                raise Rejected(RejectReason.STORE, str(error)) from None
            self._learned_evictions = True
        if not newer:
            return None
        self._learned = (head.epoch, proof.transcript_hash, head.roster)
        self._incarnations.note_roster(head.roster, now, newest=False)
        self._consume(head)
        return ProvenHead(head, issuer)

    def take_learned_evictions(self) -> bool:
        """True, once, if members have proven evictions that were new here."""
        found, self._learned_evictions = self._learned_evictions, False
        return found

    def forget_own(self) -> None:
        """Drops our own package: another crypto node is active."""
        self._candidates.pop(self._own.name, None)

    def note_announced(self, head: Head, now: float) -> None:
        """Another crypto node has announced this epoch, which is above all that we have had."""
        self._incarnations.note_roster(head.roster, now, newest=True)
        self._consume(head)

    def _consume(self, head: Head) -> None:
        """The packages that this epoch names are used up."""
        for entry in head.roster:
            found = self._candidates.get(entry.name)
            if found is not None and found.package_hash == entry.package_hash:
                del self._candidates[entry.name]

    def expire(self, now: float) -> None:
        """Drops packages whose key the member is about to delete."""
        limit_s = self._limits.package_life_s - _MARGIN_S
        for name in [name for name, item in self._candidates.items() if now - item.received_at > limit_s]:
            del self._candidates[name]

    def take_all(self, now: float, wall_ns: int) -> list[AdmissionCandidate]:
        """All candidates whose package and certificate are still valid; they are used up."""
        self.expire(now)
        usable: list[AdmissionCandidate] = []
        for item in self._candidates.values():
            if item.fingerprint in self._own.state.evictions:
                continue
            try:
                self._context.certificates.get_valid(item.fingerprint, wall_ns)
            except Rejected:
                continue
            usable.append(item)
        self._candidates.clear()
        return sorted(usable, key=lambda item: item.name)

    def drop(self, name: str, incarnation: bytes | None = None) -> None:
        """Drops the package of a member that goes; an incarnation that is given is never accepted again."""
        found = self._candidates.get(name)
        if found is not None and incarnation in (None, found.incarnation):
            del self._candidates[name]
        if incarnation is not None:
            self._incarnations.retire(name, incarnation)

    def put_back(self, candidates: list[AdmissionCandidate]) -> None:
        """Returns candidates that were not used."""
        for item in candidates:
            self._candidates.setdefault(item.name, item)

    # Two processes of one name

    def _note_restart(self, name: str, now: float) -> list[Effect]:
        entry = next((item for item in self._context.roster() if item.name == name), None)
        sending = self._own.sending
        if entry is not None and sending is not None:
            self._former[name] = _Former(sending[0].epoch, entry.slot, now)
        return [SecurityAlarm("info", f"{name} has restarted and joins again")]

    def check_former(self, now: float) -> list[Effect]:
        """An alarm if the former process of a restarted member still sends."""
        effects: list[Effect] = []
        for name, former in list(self._former.items()):
            session = self._context.sessions.open.get(former.epoch)
            received_ns = session.received_ns.get(former.slot, 0) if session is not None else 0
            if session is None:
                del self._former[name]
            elif former.received_ns is None:
                if now >= former.since + _FORMER_GAP_S:  # packets under way have arrived
                    former.received_ns = received_ns
            elif received_ns != former.received_ns:  # whatever the clock says: another packet
                del self._former[name]
                effects.append(
                    SecurityAlarm(
                        "error",
                        f"two processes run as {name}: the old one still sends; the key is in use twice",
                    )
                )
        return effects
