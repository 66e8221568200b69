"""Key protocol state of one member: its key packages, the epochs it installs, its stored numbers.

States: outside (no epoch), installed (receives), sending (switched); a further epoch is installed while the
member still sends under the previous one. Signatures of crypto nodes are checked once per process
(announcements.py); the checks of this one member are made here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import KeystoreError, Rejected, RejectReason
from ..keystore.member_state import StateStore, StoredState
from ..messages.announcement import INCARNATION_BYTES, MAX_JUMP, NO_HASH, Announcement, SignedHead, seed_info
from ..messages.body import CONTEXT_OF
from ..messages.control import MAX_PROOF, KeyPackage, KeyRequest
from ..messages.eviction import MAX_EVICTIONS, EvictionOrder
from ..primitives.key_schedule import EpochKeys, derive_keys
from ..primitives.suite import SEED_BYTES, PackageKey, Suite, digest
from ..session.epoch_session import EpochSession
from ..trust.identity import MemberIdentity, Trust
from ..trust.roles import Role
from ..wire import ControlKind, ControlMessage

MAX_PACKAGES: Final = 2


@dataclass(slots=True)
class OwnPackage:
    """A package that this member has offered and not used yet."""

    key: PackageKey = field(repr=False)
    hash: bytes
    challenge: bytes
    requested_hash: bytes  # transcript hash of the epoch that the request named
    made_at: float
    message: ControlMessage | None


@dataclass(slots=True)
class Opening:
    """An opened seed; storing the epoch number and making the session remain."""

    member: Member
    slot: int
    keys: EpochKeys = field(repr=False)


class Member:
    """A hosted member. `incarnation` is drawn once per process start."""

    def __init__(
        self,
        identity: MemberIdentity,
        trust: Trust,
        store: StateStore,
        suite: Suite,
        random: Callable[[int], bytes],
    ) -> None:
        self.identity = identity
        self.name = identity.name
        self.role = identity.role
        self.incarnation = random(INCARNATION_BYTES)
        self.responder = identity.fingerprint  # who sends `ready` for this member
        self.installed: EpochSession | None = None  # highest epoch installed in this process
        self.installed_slot = 0
        self.sending: tuple[EpochSession, int] | None = None  # session and own slot, replaced together
        self.proof: SignedHead | None = None
        self.request: KeyRequest | None = None  # answered at `answer_at`
        self.answer_at: float | None = None
        self.certificate_at: float | None = None
        self.certificate_sent_at = float("-inf")
        self.resent_at = float("-inf")
        self._trust = trust
        self._store = store
        self._suite = suite
        self._packages: list[OwnPackage] = []
        self._stored = StoredState()  # what is on disk; less than `state` if the disk refused
        self.state = self._first_state(store.load())

    def _first_state(self, state: StoredState) -> StoredState:
        policy, crl = self._trust.policy, self._trust.crl
        if policy.version < state.policy_version:
            raise KeystoreError(
                f"policy.yaml has version {policy.version}, but {self.name} has already seen "
                f"{state.policy_version}; install the newer policy."
            )
        if crl.number < state.crl_number:
            raise KeystoreError(
                f"crl.pem has number {crl.number}, but {self.name} has already seen {state.crl_number}; "
                "install the newer revocation list."
            )
        fresh = dataclasses.replace(
            state,
            policy_version=policy.version,
            crl_number=crl.number,
            time_floor_ns=max(state.time_floor_ns, policy.issued_ns, crl.issued_ns),
        )
        if fresh != state:
            self._store.save(fresh)
        self._stored = fresh
        self._trust.raise_floor(fresh.time_floor_ns)
        return fresh

    def save(self, **changes: object) -> None:
        """Stores changed state, then applies it. Raises KeystoreError; then nothing has changed."""
        state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]  # names are StoredState's
        self._store.save(state)
        self.state = self._stored = state

    def save_numbers(self, **changes: object) -> None:
        """`save` for numbers that rise in every rotation. Where the disk has no room for a stop or an
        eviction that is obeyed in memory, they are stored without it: one stop or eviction on a full disk
        must not exclude the member from later epochs.
        """
        try:
            self.save(**changes)
        except KeystoreError:
            if self._stored == self.state:
                raise
            stored = dataclasses.replace(self._stored, **changes)  # type: ignore[arg-type]
            self._store.save(stored)
            self._stored = stored
            self.state = dataclasses.replace(self.state, **changes)  # type: ignore[arg-type]

    def next_stop_counter(self) -> int:
        """The counter of an operator's next stop, above those of its other processes on this keystore."""
        with contextlib.suppress(KeystoreError):
            return max(self.state.stop_counter, self._store.load().stop_counter) + 1
        return self.state.stop_counter + 1

    def save_stop(self, operator: str, counter: int) -> KeystoreError | None:
        """Stores a stop's counter; if the disk refuses, it is kept in memory: stops are always obeyed."""
        counters = {**self.state.operator_counters, operator: counter}
        try:
            self.save(operator_counters=counters)
        except KeystoreError as error:
            self.state = dataclasses.replace(self.state, operator_counters=counters)
            return error
        return None

    def save_evictions(self, fingerprints: Iterable[bytes], orders: Iterable[EvictionOrder] = ()) -> None:
        """Stores the union with these, in one write. Raises KeystoreError or Rejected(SIZE)."""
        evictions = self.state.evictions.union(fingerprints)
        if len(evictions) > MAX_EVICTIONS:
            raise Rejected(RejectReason.SIZE, f"more than {MAX_EVICTIONS} evictions")
        self.save(evictions=evictions, orders=(*self.state.orders, *orders))

    def obey_evictions(
        self, fingerprints: Iterable[bytes], orders: Iterable[EvictionOrder]
    ) -> KeystoreError | None:
        """The same for announced evictions; if the disk refuses, they are kept in memory: a captured member
        would otherwise read on.
        """
        try:
            self.save_evictions(fingerprints, orders)
        except KeystoreError as error:
            self.state = dataclasses.replace(
                self.state,
                evictions=self.state.evictions.union(fingerprints),
                orders=(*self.state.orders, *orders),
            )
            return error
        return None

    def flush(self) -> None:
        """Syncs stored evictions: until then they survive a crash of the process, not a power cut."""
        self._store.flush()

    def save_document(self, name: str, data: bytes, **changes: int) -> None:
        """Stores a signed document and then its number. Raises KeystoreError."""
        self._store.save_document(name, data)
        self.save(**changes)

    # Packages

    def needs_answer(self, request: KeyRequest) -> bool:
        """True if the crypto node lacks an unused package of this member."""
        if self.installed is not None and request.transcript_hash == self.installed.transcript_hash:
            return not request.has(self.installed_slot)
        return True

    @property
    def proof_fits(self) -> bool:
        """True if the proof of the installed epoch fits into a package; that of a large roster does not."""
        return self.proof is None or len(self.proof.encode()) <= MAX_PROOF

    def answer(self, request: KeyRequest, now: float) -> ControlMessage:
        """The package for a request: the last one again if it answered the same challenge of the same epoch,
        otherwise a new one: the last may have been used up by an announcement that was lost.
        """
        self.expire(now)
        if self._packages:
            last = self._packages[-1]
            same = last.challenge == request.challenge and last.requested_hash == request.transcript_hash
            if last.message is not None and same:
                return last.message
        return self._make(request, now, signed=True)

    def own_package(self, request: KeyRequest, now: float) -> KeyPackage:
        """The crypto node's package for itself; it is never sent, so it is not signed."""
        self.expire(now)
        message = self._make(request, now, signed=False)
        self._packages[-1].message = None
        suite = self._suite
        return KeyPackage.parse(message.parts[0], request.swarm, suite.name, suite.package_public_bytes)

    def _make(self, request: KeyRequest, now: float, signed: bool) -> ControlMessage:
        key = self._suite.package_key()
        # A crypto node claims its highest stored number, even if no other node has received it.
        epoch = self.state.highest_epoch if self.role is Role.CRYPTO else 0
        transcript_hash, proof = NO_HASH, b""
        if self.proof is not None and self.installed is not None:
            epoch, transcript_hash = self.installed.epoch, self.installed.transcript_hash
            if transcript_hash != request.transcript_hash and self.proof_fits:
                proof = self.proof.encode()
        body = KeyPackage(
            swarm=request.swarm,
            suite=request.suite,
            fingerprint=self.identity.fingerprint,
            incarnation=self.incarnation,
            public=key.public,
            challenge=request.challenge,
            responder=self.responder,
            epoch=epoch,
            transcript_hash=transcript_hash,
            proof=proof,
        ).encode()
        kind = ControlKind.KEY_PACKAGE
        signature = self.identity.sign(body, CONTEXT_OF[kind]) if signed else b""
        message = ControlMessage(kind, (body, signature))
        self._packages.append(
            OwnPackage(key, digest(body), request.challenge, request.transcript_hash, now, message)
        )
        del self._packages[:-MAX_PACKAGES]
        return message

    def expire(self, now: float) -> None:
        """Deletes package keys that are too old."""
        life_s = self._trust.policy.limits.package_life_s
        self._packages = [item for item in self._packages if now - item.made_at < life_s]

    def wipe(self) -> None:
        """Deletes all package keys and stops sending."""
        self._packages.clear()
        self.sending = None

    # Epochs

    def open_seed(self, announcement: Announcement) -> Opening:
        """This member's own checks, then the seed. Changes nothing; the head's evictions are stored before.

        Raises Rejected(STALE, TOO_FAR, NOT_NAMED, EVICTED, SEED or KEY_TAG).
        """
        head = announcement.head
        if head.epoch <= self.state.highest_epoch:
            raise Rejected(
                RejectReason.STALE, f"epoch {head.epoch}, {self.name} has had {self.state.highest_epoch}"
            )
        if head.epoch > self.state.highest_epoch + MAX_JUMP:
            raise Rejected(RejectReason.TOO_FAR, f"epoch {head.epoch}")
        entry = head.entry_of(self.identity.fingerprint, self.incarnation)
        package = next((item for item in self._packages if entry and item.hash == entry.package_hash), None)
        if entry is None or package is None or entry.name != self.name or entry.role is not self.role:
            raise Rejected(RejectReason.NOT_NAMED, f"{self.name} in epoch {head.epoch}")
        evicted = self.state.evictions
        if any(item.fingerprint in evicted for item in head.roster):
            raise Rejected(RejectReason.EVICTED, f"epoch {head.epoch} names an evicted member")
        index = head.roster.index(entry)
        seed = package.key.open(
            announcement.seeds[index], seed_info(announcement.transcript_hash, entry.slot, entry.package_hash)
        )
        if len(seed) != SEED_BYTES:
            raise Rejected(RejectReason.SEED)
        keys = derive_keys(announcement.transcript_hash, seed)
        if not hmac.compare_digest(keys.key_tag, announcement.key_tag):
            raise Rejected(RejectReason.KEY_TAG)
        return Opening(self, entry.slot, keys)

    def store_epoch(self, announcement: Announcement, floor_ns: int) -> None:
        """Stores the number before the epoch is used, and the time floor."""
        head = announcement.head
        self.save_numbers(
            highest_epoch=head.epoch,
            time_floor_ns=max(self.state.time_floor_ns, floor_ns),
        )
        self._trust.raise_floor(self.state.time_floor_ns)

    def install(self, session: EpochSession, slot: int) -> None:
        """Receives under the session from now on; the package key is deleted."""
        entry = session.by_slot[slot]
        self._packages = [item for item in self._packages if item.hash != entry.package_hash]
        self.installed = session
        self.installed_slot = slot
        self.proof = session.announcement.proof

    @property
    def sending_wiped(self) -> bool:
        """True if the epoch it sends under was wiped."""
        return self.sending is not None and self.sending[0].closed

    def switch(self, session: EpochSession) -> bool:
        """Sends under the session from now on. False if it does so already, or has installed another one."""
        if self.installed is not session or (self.sending is not None and self.sending[0] is session):
            return False
        self.sending = (session, self.installed_slot)
        return True


Mapper = Callable[..., Iterable[Any]]


def open_seeds(
    announcement: Announcement, members: Iterable[Member], mapper: Mapper, refused: Counter[RejectReason]
) -> list[Opening]:
    """The opened seeds of members that pass their own checks; the others are counted by reason."""

    def attempt(member: Member) -> Opening | Rejected:
        try:
            return member.open_seed(announcement)
        except Rejected as refusal:
            return refusal

    openings: list[Opening] = []
    for outcome in mapper(attempt, members):
        if isinstance(outcome, Rejected):
            refused[outcome.reason] += 1
        else:
            openings.append(outcome)
    return openings


def store_numbers(
    announcement: Announcement, openings: Sequence[Opening], floor_ns: int, mapper: Mapper
) -> tuple[list[Opening], list[KeystoreError]]:
    """(openings whose number is stored, errors of the others): a member uses no number that is not stored.

    All in one call of `mapper`, because a write may wait for the disk.
    """

    def store(opening: Opening) -> KeystoreError | None:
        try:
            opening.member.store_epoch(announcement, floor_ns)
        except KeystoreError as error:
            return error
        return None

    outcomes = list(zip(openings, mapper(store, openings), strict=True))
    kept = [opening for opening, error in outcomes if error is None]
    return kept, [error for _, error in outcomes if error is not None]
