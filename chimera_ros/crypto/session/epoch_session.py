"""One epoch at work: sealing and opening envelopes under its keys.

Opening goes from cheap to dear: size, version, epoch (host.py), sender, channel permission, replay window,
AEAD, signature, age; only then does the window move. Everything that does not change from packet to packet
(associated data, keys, permission) is prepared once per sender, channel and type, and kept in a `Route`.

A session belongs to the process that made it and to one lock, the host's.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from ..encoding import fields, u16
from ..errors import ForkedProcess, NotReady, Rejected, RejectReason
from ..evidence.checkpoint_tracker import CheckpointTracker
from ..evidence.ledgers import LARGE, Pending, ReceiverLedger, SenderLedger
from ..messages.announcement import Announcement, RosterEntry
from ..messages.associated_data import associated_data
from ..primitives import labels
from ..primitives.key_schedule import EpochKeys, blind_key, sender_key
from ..primitives.replay_window import ReplayWindow
from ..primitives.suite import AESGCM, InvalidTag, digest
from ..trust.identity import CertifiedMember, MemberIdentity
from ..trust.policy import Policy, Rule
from ..trust.roles import Role
from ..wire import (
    ENVELOPE_VERSION,
    MAX_SEALED,
    NONCE_BYTES,
    SIGNATURE_BYTES,
    STAMP_BYTES,
    TAG_BYTES,
    Envelope,
    Lane,
)

_U64: Final = struct.Struct(">Q")
_MIN_SEALED: Final = NONCE_BYTES + STAMP_BYTES + TAG_BYTES
_BURST_S: Final = 4.0  # what a sender may save up of its telemetry rate
_MAX_COUNTER: Final = 2**48  # far below AES-GCM's limits for one key; volume rotation comes long before
_MAX_ROUTES: Final = 8192

Certificates = Callable[[bytes], CertifiedMember | None]


@dataclass(slots=True)
class Opened:
    """An accepted message. `payload` is the CDR of the ROS message; `sent_ns` is the sender's wall clock."""

    sender: str
    role: Role
    payload: bytes = field(repr=False)
    sent_ns: int
    signed: bool
    epoch: int
    lane: int
    counter: int
    slot: int
    addressed: tuple[str, ...] = ()  # fallback commands: hosted members whose incarnation is named


class _SenderState:
    """Keys and window of one sender on one lane; the ledger where its packets wait for a checkpoint."""

    __slots__ = ("_seen_ns", "_spent_s", "aead", "ledger", "salt", "window")

    def __init__(self, aead: AESGCM, salt: bytes, ledger: ReceiverLedger | None) -> None:
        self.aead = aead
        self.salt = salt
        self.ledger = ledger
        self.window = ReplayWindow()
        self._spent_s = 0.0
        self._seen_ns = 0

    def spent(self, wall_ns: int) -> bool:
        """Has the sender used up what may be opened of it now? Only accepted packets count."""
        passed_s = (wall_ns - self._seen_ns) * 1e-9
        self._seen_ns = wall_ns
        if passed_s > 0.0:  # a clock that was set back gives nothing
            self._spent_s = max(0.0, self._spent_s - passed_s)
        return self._spent_s > _BURST_S

    def spend(self, seconds: float) -> None:
        """One packet was accepted: as if so much time were used up."""
        self._spent_s += seconds


class _SealState:
    """Keys and counter of one hosted sender on one lane."""

    __slots__ = ("aead", "counter", "ledger", "salt", "volume_bytes")

    def __init__(self, aead: AESGCM, salt: bytes, ledger: SenderLedger | None) -> None:
        self.aead = aead
        self.salt = salt
        self.ledger = ledger
        self.counter = 0
        self.volume_bytes = 0


class _Route:
    """All that is constant for packets of one sender on one channel with one type."""

    __slots__ = ("aad", "aad_hash", "entry", "lane", "lifespan_ns", "outlet", "prefix", "signed", "source")

    def __init__(self, entry: RosterEntry, rule: Rule, aad: bytes, sign_prefix: bytes) -> None:
        self.entry = entry
        self.lane = rule.lane
        self.signed = rule.signed
        self.lifespan_ns = rule.lifespan_ns
        self.aad = aad
        self.aad_hash = digest(aad)
        self.prefix = sign_prefix + fields(self.aad_hash)
        self.source: _SenderState | None = None
        self.outlet: _SealState | None = None


class EpochSession:
    """Keys, windows and counters of one epoch in this process. Secrets live in memory only."""

    def __init__(
        self,
        announcement: Announcement,
        keys: EpochKeys,
        policy: Policy,
        lock: Lock,
        book: CheckpointTracker | None = None,
    ) -> None:
        head = announcement.head
        self.announcement = announcement
        self.epoch = head.epoch
        self.transcript_hash = announcement.transcript_hash
        self.roster = head.roster
        self.by_slot = {entry.slot: entry for entry in head.roster}
        self.heard_ns: dict[int, int] = {}  # slot -> wall clock of the last opened packet
        self.closed = False
        self._barred: set[int] = set()
        self._names = frozenset(entry.name for entry in head.roster)
        self._keys: EpochKeys | None = keys
        self._policy = policy
        self._lock = lock
        self._book = book
        self._pid = os.getpid()
        self._telemetry_s = 1.0 / policy.limits.telemetry_hz
        self._ahead_ns = int(policy.limits.clock_ahead_s * 1e9)
        self._key_tag = announcement.key_tag
        self._sign_prefix = fields(policy.swarm.encode(), self.transcript_hash, announcement.key_tag)
        self._sources: dict[tuple[int, int], _SenderState] = {}
        self._outlets: dict[tuple[int, int], _SealState] = {}
        self._open_routes: dict[tuple[int, str, str], _Route] = {}
        self._seal_routes: dict[tuple[int, str, str], _Route] = {}

    def __repr__(self) -> str:
        return f"EpochSession({self.epoch})"

    def close(self) -> None:
        """Forgets the keys (best effort: Python may keep copies until memory is reused). The caller holds
        the lock.
        """
        self.closed = True
        if self._book is not None:
            self._book.close_epoch(self.transcript_hash)
        self._keys = None
        for table in (self._sources, self._outlets, self._open_routes, self._seal_routes):
            table.clear()

    def retire(self) -> None:
        """Senders have left this epoch: its last checkpoints are due."""
        if self._book is not None:
            self._book.retire(self.transcript_hash)

    def bar(self, fingerprints: frozenset[bytes]) -> None:
        """Opens nothing more from these senders: their certificates were revoked."""
        with self._lock:
            self._barred |= {entry.slot for entry in self.roster if entry.fingerprint in fingerprints}
            for key in [key for key in self._open_routes if key[0] in self._barred]:
                del self._open_routes[key]

    def packets(self) -> dict[tuple[str, int], int]:
        """(sender, lane) -> highest counter accepted from it."""
        return {
            (self.by_slot[slot].name, lane): source.window.highest
            for (slot, lane), source in list(self._sources.items())  # other threads open meanwhile
            if source.window.highest
        }

    def volume_bytes(self, slot: int) -> int:
        """Most bytes that the hosted member in `slot` has sealed under one key."""
        return max(
            (outlet.volume_bytes for (owner, _), outlet in list(self._outlets.items()) if owner == slot),
            default=0,
        )

    def _rule(self, entry: RosterEntry, channel: str) -> Rule:
        rule = self._policy.rule_for(channel)
        if rule is None:
            raise Rejected(RejectReason.NOT_PERMITTED, f"the policy has no rule for channel {channel}")
        if not rule.permits(channel, entry.name, entry.role, self._names):
            raise Rejected(
                RejectReason.NOT_PERMITTED, f"{entry.name} ({entry.role}) may not publish on {channel}"
            )
        return rule

    def _route(self, slot: int, channel: str, type_name: str) -> _Route:
        entry = self.by_slot.get(slot)
        if entry is None:
            raise Rejected(
                RejectReason.UNKNOWN_SENDER, f"slot {slot} is not in the roster of epoch {self.epoch}"
            )
        rule = self._rule(entry, channel)
        aad = associated_data(
            self._policy.swarm, self.transcript_hash, rule.lane, slot, self.epoch, channel, type_name
        )
        return _Route(entry, rule, aad, self._sign_prefix)

    def _lane_key(self, lane: int) -> bytes:
        if self._keys is None:
            raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {self.epoch} is closed")
        return self._keys.lanes[lane]

    def _open_route(self, slot: int, channel: str, type_name: str) -> _Route:
        if slot in self._barred:
            raise Rejected(RejectReason.REVOKED, f"slot {slot} of epoch {self.epoch}")
        route = self._route(slot, channel, type_name)
        with self._lock:
            source = self._sources.get((slot, route.lane))
            if source is None:
                lane_key, entry = self._lane_key(route.lane), route.entry
                ledger = None
                if self._book is not None and not route.signed:
                    blind = blind_key(lane_key, slot, entry.incarnation)
                    ledger = self._book.receiver(
                        self.transcript_hash, self.epoch, self._key_tag, entry, route.lane, blind
                    )
                source = _SenderState(*sender_key(lane_key, slot, entry.incarnation), ledger)
                self._sources[(slot, route.lane)] = source
            route.source = source
            if len(self._open_routes) >= _MAX_ROUTES:
                self._open_routes.clear()
            self._open_routes[(slot, channel, type_name)] = route
        return route

    def _seal_route(self, slot: int, channel: str, type_name: str) -> _Route:
        """The caller holds the lock."""
        route = self._route(slot, channel, type_name)
        outlet = self._outlets.get((slot, route.lane))
        if outlet is None:
            lane_key, entry = self._lane_key(route.lane), route.entry
            ledger = None
            if self._book is not None and not route.signed:
                blind = blind_key(lane_key, slot, entry.incarnation)
                ledger = self._book.sender(self.transcript_hash, self.epoch, entry, route.lane, blind)
            outlet = _SealState(*sender_key(lane_key, slot, entry.incarnation), ledger)
            self._outlets[(slot, route.lane)] = outlet
        route.outlet = outlet
        if len(self._seal_routes) >= _MAX_ROUTES:
            self._seal_routes.clear()
        self._seal_routes[(slot, channel, type_name)] = route
        return route

    def seal(
        self,
        slot: int,
        identity: MemberIdentity,
        channel: str,
        type_name: str,
        payload: bytes,
        sent_ns: int,
        binding: bytes = b"",
    ) -> Envelope:
        """Seals `payload` for everybody in the epoch. `binding` is appended to the associated data
        (services).

        Raises Rejected(NOT_PERMITTED or SIZE), NotReady, ForkedProcess.
        """
        if os.getpid() != self._pid:
            raise ForkedProcess(
                "this session was made in another process; spawn workers instead of forking them"
            )
        size = len(payload) + _MIN_SEALED
        if size > MAX_SEALED:
            raise Rejected(
                RejectReason.SIZE, f"message of {len(payload)} bytes, at most {MAX_SEALED - _MIN_SEALED}"
            )
        plaintext = _U64.pack(sent_ns) + payload
        with self._lock:
            if self.closed:
                raise NotReady(f"epoch {self.epoch} is closed")
            route = self._seal_routes.get((slot, channel, type_name))
            if route is None:
                route = self._seal_route(slot, channel, type_name)
            outlet = route.outlet
            assert outlet is not None
            ledger = outlet.ledger
            if ledger is not None and sent_ns + self._ahead_ns < ledger.made_ns:
                # A checkpoint says that what comes now is later: receivers would take it for a forgery.
                back_s = (ledger.made_ns - sent_ns) * 1e-9
                raise NotReady(
                    f"the clock of {route.entry.name} went back by {back_s:.1f} s: nothing unsigned goes out "
                    f"under epoch {self.epoch} any more"
                )
            counter = outlet.counter + 1
            if counter > _MAX_COUNTER:
                raise NotReady("the sender key's counter is used up; rotate the epoch")
            outlet.counter = counter
            outlet.volume_bytes += size
            if ledger is not None:
                aad_hash = digest(route.aad, binding) if binding else route.aad_hash
                ledger.add(aad_hash, plaintext, sent_ns)
        nonce = outlet.salt + _U64.pack(counter)
        aad = route.aad + binding if binding else route.aad
        sealed = nonce + outlet.aead.encrypt(nonce, plaintext, aad)
        signature = b""
        if route.signed:
            signature = identity.sign(self._signed(route, binding, sealed), labels.SIGN_ENVELOPE)
        return Envelope(ENVELOPE_VERSION, route.lane, slot, self.epoch, sealed, signature)

    def _signed(self, route: _Route, binding: bytes, sealed: bytes) -> bytes:
        prefix = route.prefix if not binding else self._sign_prefix + fields(digest(route.aad, binding))
        return prefix + fields(digest(sealed))

    def open(
        self,
        channel: str,
        type_name: str,
        envelope: Envelope,
        wall_ns: int,
        certificates: Certificates,
        bindings: tuple[bytes, ...] = (b"",),
        veto: Callable[[int], None] | None = None,
    ) -> tuple[Opened, int]:
        """(message, index of the binding that fitted). Size, version and epoch have been checked by the
        caller.

        `veto` is called with that index, under the lock, before the window moves; it may raise Rejected.

        Raises Rejected; then nothing has changed.
        """
        _, lane, slot, _, sealed, signature = envelope
        route = self._open_routes.get((slot, channel, type_name))
        if route is None:
            route = self._open_route(slot, channel, type_name)
        if lane != route.lane:
            raise Rejected(RejectReason.LANE, f"{channel} belongs to another lane")
        if len(signature) != (SIGNATURE_BYTES if route.signed else 0):
            raise Rejected(RejectReason.SIGNATURE, f"{channel}: signature of {len(signature)} bytes")
        source = route.source
        assert source is not None
        nonce = bytes(sealed[:NONCE_BYTES])
        if nonce[:4] != source.salt:
            raise Rejected(RejectReason.AUTHENTICATION, "nonce of another sender key")
        counter: int = _U64.unpack_from(nonce, 4)[0]
        if not source.window.fresh(counter):
            raise Rejected(RejectReason.REPLAY)
        limited = lane == Lane.TELEMETRY
        if limited and source.spent(wall_ns):
            raise Rejected(RejectReason.BUDGET, f"more than {1 / self._telemetry_s:g} messages a second")
        aad = route.aad
        for index, binding in enumerate(bindings):  # noqa: B007  # the one that fits is used below
            try:
                plaintext = source.aead.decrypt(
                    nonce, sealed[NONCE_BYTES:], aad + binding if binding else aad
                )
                break
            except InvalidTag:
                continue
        else:
            plain = bindings == (b"",)
            raise Rejected(RejectReason.AUTHENTICATION if plain else RejectReason.UNMATCHED_RESPONSE, channel)
        if route.signed:
            owner = certificates(route.entry.fingerprint)
            if owner is None:
                raise Rejected(RejectReason.NO_CERTIFICATE, f"no good certificate of {route.entry.name}")
            if owner.name != route.entry.name or owner.role is not route.entry.role:
                raise Rejected(RejectReason.ROSTER, f"{route.entry.name} is not what its certificate says")
            if not owner.verify(signature, self._signed(route, binding, sealed), labels.SIGN_ENVELOPE):
                raise Rejected(RejectReason.SIGNATURE, route.entry.name)
        sent_ns: int = _U64.unpack_from(plaintext)[0]
        age_ns = wall_ns - sent_ns
        if age_ns > route.lifespan_ns or -age_ns > self._ahead_ns:
            raise Rejected(
                RejectReason.AGE, f"{channel} from {route.entry.name} is {age_ns * 1e-9:.3f} s old"
            )
        ledger = source.ledger
        waits: Pending = (channel, route.aad_hash, plaintext, sent_ns)
        if ledger is not None and (binding or len(plaintext) > LARGE):
            waits = _hashed(ledger, counter, digest(aad, binding) if binding else route.aad_hash, waits)
        with self._lock:
            if self.closed:
                raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {self.epoch} is closed")
            if not source.window.fresh(counter):
                raise Rejected(RejectReason.REPLAY)
            if veto is not None:
                veto(index)
            source.window.accept(counter)
            if limited:
                source.spend(self._telemetry_s)
            if ledger is not None:
                ledger.add(counter, waits)
            self.heard_ns[slot] = wall_ns
        entry = route.entry
        return (
            Opened(
                entry.name,
                entry.role,
                plaintext[STAMP_BYTES:],
                sent_ns,
                route.signed,
                self.epoch,
                lane,
                counter,
                slot,
            ),
            index,
        )


def _hashed(ledger: ReceiverLedger, counter: int, aad_hash: bytes, waits: Pending) -> Pending:
    """What waits for a checkpoint as its leaf: large plaintexts are not kept."""
    found = ledger.leaf(counter, aad_hash, waits[2])
    if found is None:
        raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {ledger.epoch} is closed")
    return (waits[0], b"", found, waits[3])


def check_shape(envelope: Envelope) -> None:
    """Size and version, before anything is looked up. Raises Rejected(SIZE, VERSION or FALLBACK)."""
    size = len(envelope.sealed)
    if size < _MIN_SEALED or size > MAX_SEALED or len(envelope.signature) > SIGNATURE_BYTES:
        raise Rejected(RejectReason.SIZE, f"{size} sealed bytes")
    if envelope.version != ENVELOPE_VERSION:
        raise Rejected(RejectReason.VERSION, f"version {envelope.version}")
    if envelope.epoch == 0:
        raise Rejected(RejectReason.FALLBACK, "a crypto node is heard, or there is no fallback secret")


def response_binding(request: Envelope) -> bytes:
    """What a response's associated data has more: BLAKE3 of the request envelope and the requester's slot."""
    return fields(digest(request.canonical()), u16(request.sender))
