"""Epoch session: sealing and opening of envelopes under one epoch's keys.

Opening checks in order of cost: size, version, epoch (host.py), sender, channel permission, replay window,
AEAD, signature, age; only then does the window advance. What is constant from packet to packet (associated
data, keys, permission) is computed once per sender, channel and type and cached in a `_ChannelContext`.

A session is bound to the process that made it; it shares the host's lock.
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
from ..primitives.key_schedule import SALT_BYTES, EpochKeys, blind_key, sender_key
from ..primitives.replay_window import ReplayWindow
from ..primitives.suite import AESGCM, InvalidTag, digest
from ..trust.identity import CertifiedMember, MemberIdentity
from ..trust.policy import Policy, Rule
from ..trust.roles import Role
from ..wire import (
    ENVELOPE_VERSION,
    MAX_COUNTER,
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
_BURST_S: Final = 4.0  # burst allowed on top of the telemetry rate
_MAX_CONTEXTS: Final = 8192

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


class _OpenState:
    """Sender key, replay window, rate limit and ledger of one sender on one lane."""

    __slots__ = ("_level_s", "_updated_ns", "aead", "ledger", "salt", "window")

    def __init__(self, aead: AESGCM, salt: bytes, ledger: ReceiverLedger | None) -> None:
        self.aead = aead
        self.salt = salt
        self.ledger = ledger
        self.window = ReplayWindow()
        self._level_s = 0.0
        self._updated_ns = 0

    def over_rate(self, wall_ns: int) -> bool:
        """True if the sender exceeds its rate limit (leaky bucket); only accepted packets are counted."""
        passed_s = (wall_ns - self._updated_ns) * 1e-9
        self._updated_ns = wall_ns
        if passed_s > 0.0:  # nothing leaks while the clock is set back
            self._level_s = max(0.0, self._level_s - passed_s)
        return self._level_s > _BURST_S

    def count_packet(self, seconds: float) -> None:
        """Counts one accepted packet, which takes `seconds` to leak."""
        self._level_s += seconds


class _SealState:
    """Sender key, counter and ledger of one hosted sender on one lane."""

    __slots__ = ("aead", "counter", "ledger", "salt", "volume_bytes")

    def __init__(self, aead: AESGCM, salt: bytes, ledger: SenderLedger | None) -> None:
        self.aead = aead
        self.salt = salt
        self.ledger = ledger
        self.counter = 0
        self.volume_bytes = 0


class _ChannelContext:
    """Constants of one sender on one channel with one type."""

    __slots__ = (
        "aad",
        "aad_hash",
        "entry",
        "lane",
        "lifespan_ns",
        "open_state",
        "prefix",
        "seal_state",
        "signed",
    )

    def __init__(self, entry: RosterEntry, rule: Rule, aad: bytes, sign_prefix: bytes) -> None:
        self.entry = entry
        self.lane = rule.lane
        self.signed = rule.signed
        self.lifespan_ns = rule.lifespan_ns
        self.aad = aad
        self.aad_hash = digest(aad)
        self.prefix = sign_prefix + fields(self.aad_hash)
        self.open_state: _OpenState | None = None
        self.seal_state: _SealState | None = None


class EpochSession:
    """Keys, windows and counters of one epoch in this process. Secrets are held in memory only."""

    def __init__(
        self,
        announcement: Announcement,
        keys: EpochKeys,
        policy: Policy,
        lock: Lock,
        checkpoints: CheckpointTracker | None = None,
    ) -> None:
        head = announcement.head
        self.announcement = announcement
        self.epoch = head.epoch
        self.transcript_hash = announcement.transcript_hash
        self.roster = head.roster
        self.by_slot = {entry.slot: entry for entry in head.roster}
        self.received_ns: dict[int, int] = {}  # slot -> wall clock of the last opened packet
        self.closed = False
        self._revoked: set[int] = set()
        self._names = frozenset(entry.name for entry in head.roster)
        self._keys: EpochKeys | None = keys
        self._policy = policy
        self._lock = lock
        self._checkpoints = checkpoints
        self._pid = os.getpid()
        self._telemetry_s = 1.0 / policy.limits.telemetry_hz
        self._ahead_ns = int(policy.limits.clock_ahead_s * 1e9)
        self._key_tag = announcement.key_tag
        self._sign_prefix = fields(policy.swarm.encode(), self.transcript_hash, announcement.key_tag)
        self._open_states: dict[tuple[int, int], _OpenState] = {}
        self._seal_states: dict[tuple[int, int], _SealState] = {}
        self._open_contexts: dict[tuple[int, str, str], _ChannelContext] = {}
        self._seal_contexts: dict[tuple[int, str, str], _ChannelContext] = {}

    def __repr__(self) -> str:
        return f"EpochSession({self.epoch})"

    def close(self) -> None:
        """Drops the keys (best effort: Python may keep copies in memory). The caller holds the lock."""
        self.closed = True
        if self._checkpoints is not None:
            self._checkpoints.close_epoch(self.transcript_hash)
        self._keys = None
        for table in (self._open_states, self._seal_states, self._open_contexts, self._seal_contexts):
            table.clear()

    def retire(self) -> None:
        """Ends the epoch for sending: its last checkpoints are due."""
        if self._checkpoints is not None:
            self._checkpoints.retire(self.transcript_hash)

    def revoke(self, fingerprints: frozenset[bytes]) -> None:
        """Rejects all further packets of these senders: their certificates were revoked."""
        with self._lock:
            self._revoked |= {entry.slot for entry in self.roster if entry.fingerprint in fingerprints}
            for key in [key for key in self._open_contexts if key[0] in self._revoked]:
                del self._open_contexts[key]

    def packets(self) -> dict[tuple[str, int], int]:
        """(sender, lane) -> highest counter accepted from it."""
        return {
            (self.by_slot[slot].name, lane): state.window.highest
            for (slot, lane), state in list(self._open_states.items())  # other threads open concurrently
            if state.window.highest
        }

    def volume_bytes(self, slot: int) -> int:
        """Most bytes that the hosted member in `slot` has sealed under one key."""
        return max(
            (state.volume_bytes for (owner, _), state in list(self._seal_states.items()) if owner == slot),
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

    def _context(self, slot: int, channel: str, type_name: str) -> _ChannelContext:
        entry = self.by_slot.get(slot)
        if entry is None:
            raise Rejected(
                RejectReason.UNKNOWN_SENDER, f"slot {slot} is not in the roster of epoch {self.epoch}"
            )
        rule = self._rule(entry, channel)
        aad = associated_data(
            self._policy.swarm, self.transcript_hash, rule.lane, slot, self.epoch, channel, type_name
        )
        return _ChannelContext(entry, rule, aad, self._sign_prefix)

    def _lane_key(self, lane: int) -> bytes:
        if self._keys is None:
            raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {self.epoch} is closed")
        return self._keys.lanes[lane]

    def _open_context(self, slot: int, channel: str, type_name: str) -> _ChannelContext:
        if slot in self._revoked:
            raise Rejected(RejectReason.REVOKED, f"slot {slot} of epoch {self.epoch}")
        context = self._context(slot, channel, type_name)
        with self._lock:
            state = self._open_states.get((slot, context.lane))
            if state is None:
                lane_key, entry = self._lane_key(context.lane), context.entry
                ledger = None
                if self._checkpoints is not None and not context.signed:
                    blind = blind_key(lane_key, slot, entry.incarnation)
                    ledger = self._checkpoints.receiver(
                        self.transcript_hash, self.epoch, self._key_tag, entry, context.lane, blind
                    )
                state = _OpenState(*sender_key(lane_key, slot, entry.incarnation), ledger)
                self._open_states[(slot, context.lane)] = state
            context.open_state = state
            if len(self._open_contexts) >= _MAX_CONTEXTS:
                self._open_contexts.clear()
            self._open_contexts[(slot, channel, type_name)] = context
        return context

    def _seal_context(self, slot: int, channel: str, type_name: str) -> _ChannelContext:
        """The caller holds the lock."""
        context = self._context(slot, channel, type_name)
        state = self._seal_states.get((slot, context.lane))
        if state is None:
            lane_key, entry = self._lane_key(context.lane), context.entry
            ledger = None
            if self._checkpoints is not None and not context.signed:
                blind = blind_key(lane_key, slot, entry.incarnation)
                ledger = self._checkpoints.sender(
                    self.transcript_hash, self.epoch, entry, context.lane, blind
                )
            state = _SealState(*sender_key(lane_key, slot, entry.incarnation), ledger)
            self._seal_states[(slot, context.lane)] = state
        context.seal_state = state
        if len(self._seal_contexts) >= _MAX_CONTEXTS:
            self._seal_contexts.clear()
        self._seal_contexts[(slot, channel, type_name)] = context
        return context

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
        """Seals `payload` for all members of the epoch; `binding` extends the associated data (services).

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
            context = self._seal_contexts.get((slot, channel, type_name))
            if context is None:
                context = self._seal_context(slot, channel, type_name)
            state = context.seal_state
            assert state is not None
            ledger = state.ledger
            if ledger is not None and sent_ns + self._ahead_ns < ledger.made_ns:
                # The last checkpoint puts later counters after its `made_ns`: receivers would see a forgery.
                back_s = (ledger.made_ns - sent_ns) * 1e-9
                raise NotReady(
                    f"the clock of {context.entry.name} went back by {back_s:.1f} s: nothing unsigned is "
                    f"sent under epoch {self.epoch} any more"
                )
            counter = state.counter + 1
            if counter > MAX_COUNTER:
                raise NotReady("the sender key's counter is used up; rotate the epoch")
            state.counter = counter
            state.volume_bytes += size
            if ledger is not None:
                aad_hash = digest(context.aad, binding) if binding else context.aad_hash
                ledger.add(aad_hash, plaintext, sent_ns)
        nonce = state.salt + _U64.pack(counter)
        aad = context.aad + binding if binding else context.aad
        sealed = nonce + state.aead.encrypt(nonce, plaintext, aad)
        signature = b""
        if context.signed:
            signature = identity.sign(self._signed(context, binding, sealed), labels.SIGN_ENVELOPE)
        return Envelope(ENVELOPE_VERSION, context.lane, slot, self.epoch, sealed, signature)

    def _signed(self, context: _ChannelContext, binding: bytes, sealed: bytes) -> bytes:
        prefix = context.prefix if not binding else self._sign_prefix + fields(digest(context.aad, binding))
        return prefix + fields(digest(sealed))

    def open(
        self,
        channel: str,
        type_name: str,
        envelope: Envelope,
        wall_ns: int,
        certificates: Certificates,
        bindings: tuple[bytes, ...] = (b"",),
        accept_check: Callable[[int], None] | None = None,
    ) -> tuple[Opened, int]:
        """(message, index of the matching binding). The caller has checked size, version and epoch.

        `accept_check` is called with that index, under the lock, before the window advances; it may raise
        Rejected.

        Raises Rejected; then nothing has changed.
        """
        _, lane, slot, _, sealed, signature = envelope
        context = self._open_contexts.get((slot, channel, type_name))
        if context is None:
            context = self._open_context(slot, channel, type_name)
        if lane != context.lane:
            raise Rejected(RejectReason.LANE, f"{channel} belongs to another lane")
        if len(signature) != (SIGNATURE_BYTES if context.signed else 0):
            raise Rejected(RejectReason.SIGNATURE, f"{channel}: signature of {len(signature)} bytes")
        state = context.open_state
        assert state is not None
        nonce = bytes(sealed[:NONCE_BYTES])
        if nonce[:SALT_BYTES] != state.salt:
            raise Rejected(RejectReason.AUTHENTICATION, "nonce of another sender key")
        counter: int = _U64.unpack_from(nonce, SALT_BYTES)[0]
        if not state.window.fresh(counter):
            raise Rejected(RejectReason.REPLAY)
        limited = lane == Lane.TELEMETRY
        if limited and state.over_rate(wall_ns):
            raise Rejected(RejectReason.BUDGET, f"more than {1 / self._telemetry_s:g} messages a second")
        aad = context.aad
        for index, binding in enumerate(bindings):  # noqa: B007  # the one that matches is used below
            try:
                plaintext = state.aead.decrypt(nonce, sealed[NONCE_BYTES:], aad + binding if binding else aad)
                break
            except InvalidTag:
                continue
        else:
            plain = bindings == (b"",)
            raise Rejected(RejectReason.AUTHENTICATION if plain else RejectReason.UNMATCHED_RESPONSE, channel)
        if context.signed:
            owner = certificates(context.entry.fingerprint)
            if owner is None:
                raise Rejected(RejectReason.NO_CERTIFICATE, f"no valid certificate of {context.entry.name}")
            if owner.name != context.entry.name or owner.role is not context.entry.role:
                raise Rejected(RejectReason.ROSTER, f"{context.entry.name} differs from its certificate")
            if not owner.verify(signature, self._signed(context, binding, sealed), labels.SIGN_ENVELOPE):
                raise Rejected(RejectReason.SIGNATURE, context.entry.name)
        sent_ns: int = _U64.unpack_from(plaintext)[0]
        age_ns = wall_ns - sent_ns
        if age_ns > context.lifespan_ns or -age_ns > self._ahead_ns:
            raise Rejected(
                RejectReason.AGE, f"{channel} from {context.entry.name} is {age_ns * 1e-9:.3f} s old"
            )
        ledger = state.ledger
        pending: Pending = (channel, context.aad_hash, plaintext, sent_ns)
        if ledger is not None and (binding or len(plaintext) > LARGE):
            pending = _as_leaf(
                ledger, counter, digest(aad, binding) if binding else context.aad_hash, pending
            )
        with self._lock:
            if self.closed:
                raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {self.epoch} is closed")
            if not state.window.fresh(counter):
                raise Rejected(RejectReason.REPLAY)
            if accept_check is not None:
                accept_check(index)
            state.window.accept(counter)
            if limited:
                state.count_packet(self._telemetry_s)
            if ledger is not None:
                ledger.add(counter, pending)
            self.received_ns[slot] = wall_ns
        entry = context.entry
        return (
            Opened(
                entry.name,
                entry.role,
                plaintext[STAMP_BYTES:],
                sent_ns,
                context.signed,
                self.epoch,
                lane,
                counter,
                slot,
            ),
            index,
        )


def _as_leaf(ledger: ReceiverLedger, counter: int, aad_hash: bytes, pending: Pending) -> Pending:
    """The pending entry reduced to its leaf, so that large plaintexts are not kept."""
    found = ledger.leaf(counter, aad_hash, pending[2])
    if found is None:
        raise Rejected(RejectReason.UNKNOWN_EPOCH, f"epoch {ledger.epoch} is closed")
    return (pending[0], b"", found, pending[3])


def check_shape(envelope: Envelope) -> None:
    """Checks size and version before any look-up. Raises Rejected(SIZE, VERSION or FALLBACK)."""
    size = len(envelope.sealed)
    if size < _MIN_SEALED or size > MAX_SEALED or len(envelope.signature) > SIGNATURE_BYTES:
        raise Rejected(RejectReason.SIZE, f"{size} sealed bytes")
    if envelope.version != ENVELOPE_VERSION:
        raise Rejected(RejectReason.VERSION, f"version {envelope.version}")
    if envelope.epoch == 0:
        raise Rejected(RejectReason.FALLBACK, "a crypto node is active, or there is no fallback secret")


def response_binding(request: Envelope) -> bytes:
    """Suffix of a response's associated data: BLAKE3 of the request envelope, and the requester's slot."""
    return fields(digest(request.canonical()), u16(request.sender))
