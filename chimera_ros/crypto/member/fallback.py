"""Fallback (epoch 0): messages that a swarm without a crypto node carries under a pre-shared secret.

    sealed = incarnation 16, counter u64, nonce 12 (random), AES-256-GCM-SIV(sent_ns u64, addressed, CDR)
    key    = Expand(Extract(issue time u64, secret), fields(label, swarm, incarnation), 32)

It carries telemetry and the leader's commands, of which followers obey hold, land and return only. Every
message is signed: the secret alone, which an evicted drone has too, authenticates no sender. A signed
FallbackHello binds an incarnation to a certificate; a command names the incarnations of the drones it is
addressed to, so that a recorded one has no effect on a drone that has restarted. Messages of evicted and
revoked members are refused.

With the secret, messages can be made in any member's name that only the signature check refuses. Each check
therefore counts against the rate limit of the claimed sender, commands apart from telemetry: a flood in one
name blocks that name only.

Not handled here: when fallback is in force (beat_watchdog.py), which commands are obeyed
(flight/fallback.py).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Final

from ..effects import Effect, SecurityAlarm, Send
from ..encoding import fields, u16, u32, u64
from ..errors import ForkedProcess, NotReady, Rejected, RejectReason
from ..keystore.fallback_secret import FallbackSecret
from ..messages.announcement import INCARNATION_BYTES, MAX_ROSTER
from ..messages.body import signed
from ..messages.fallback_hello import FallbackHello
from ..messages.stop import check_age
from ..primitives import labels
from ..primitives.replay_window import ReplayWindow
from ..primitives.suite import AESGCMSIV, InvalidTag, digest, expand, extract
from ..rate_limit import TokenBucket
from ..session.epoch_session import Opened
from ..trust.identity import CertifiedMember
from ..trust.policy import Rule
from ..trust.roles import Role
from ..wire import (
    ENVELOPE_VERSION,
    MAX_SEALED,
    NONCE_BYTES,
    SIGNATURE_BYTES,
    STAMP_BYTES,
    TAG_BYTES,
    ControlKind,
    ControlMessage,
    Envelope,
    Lane,
)
from .context import MemberContext

COMMAND_CHANNEL: Final = "leader/command"
TELEMETRY_END: Final = "/telemetry"
HELLO_S: Final = 1.0
_HELLO_GAP_S: Final = 0.1
_HELLO_AGE_S: Final = 5.0
_COMMAND_CHECKS_PER_S: Final = 100.0  # signatures, for each sender of commands; the leader repeats every 2 s
_TELEMETRY_CHECKS_PER_S: Final = 400.0  # shared evenly among the members with a hello,
_LEAST_TELEMETRY_CHECKS_PER_S: Final = 5.0  # but at least this for each
_MAX_ADDRESSED: Final = 1024
_MAX_CLAIMANTS: Final = 4  # certificates that claim one incarnation and may publish on the channel
_U64: Final = struct.Struct(">Q")
_U32: Final = struct.Struct(">I")
_PREFIX: Final = INCARNATION_BYTES + 8
_MIN_SEALED: Final = _PREFIX + NONCE_BYTES + STAMP_BYTES + 4 + TAG_BYTES


def _limiters() -> dict[int, TokenBucket]:
    return {
        Lane.COMMAND: TokenBucket(_COMMAND_CHECKS_PER_S),
        Lane.TELEMETRY: TokenBucket(_TELEMETRY_CHECKS_PER_S),
    }


@dataclass(slots=True)
class _Peer:
    """A member whose hello bound an incarnation to its certificate."""

    member: CertifiedMember
    incarnation: bytes
    hello_ns: int  # of the first hello of this incarnation
    checks: dict[int, TokenBucket]  # by lane; a new incarnation inherits them
    windows: dict[int, ReplayWindow] = field(default_factory=dict)  # by lane


def is_carried(channel: str) -> bool:
    """True if fallback carries this channel."""
    return channel == COMMAND_CHANNEL or channel.endswith(TELEMETRY_END)


class Fallback:
    """Seals and opens under the secret, for all members of a process."""

    def __init__(self, secret: FallbackSecret, context: MemberContext) -> None:
        self._secret = secret
        self._context = context
        self._swarm = context.trust.swarm
        self._members = members = context.members
        self._ahead_ns = int(context.limits.clock_ahead_s * 1e9)
        self._extracted = extract(u64(secret.issued_ns), secret.secret)
        self._own = {member.incarnation: name for name, member in members.items()}
        self._counters = dict.fromkeys(members, 0)
        self._keys: dict[bytes, AESGCMSIV] = {}
        self._peers: dict[str, _Peer] = {}
        self._pid = os.getpid()
        self._hello_at: float | None = None
        self._hello_sent_at = float("-inf")
        self._expiry_reported = False

    def __repr__(self) -> str:
        return "Fallback()"

    # Hellos

    def tick(self, now: float, wall_ns: int) -> list[Effect]:
        """Call while the process is silent: a hello of every hosted member once a second."""
        if self._hello_at is not None and now < self._hello_at:
            return []
        self._hello_at = now + HELLO_S
        self._hello_sent_at = now
        if not self.usable(wall_ns):
            reported, self._expiry_reported = self._expiry_reported, True
            expired = "the fallback secret is older than 24 hours or from the future: nothing is sent"
            return [] if reported else [SecurityAlarm("error", expired)]
        effects: list[Effect] = []
        for member in self._members.values():
            hello = FallbackHello(
                self._swarm,
                member.identity.fingerprint,
                member.incarnation,
                self._secret.issued_ns,
                wall_ns,
            )
            effects.append(Send(signed(ControlKind.FALLBACK_HELLO, hello.encode(), member.identity)))
        return effects

    def reset(self) -> None:
        """The silence has ended."""
        self._hello_at = None
        self._expiry_reported = False

    def next_timer(self) -> float:
        """When `tick` is due, monotonic seconds."""
        return float("-inf") if self._hello_at is None else self._hello_at

    def on_hello(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """Raises Rejected; then nothing has changed."""
        hello = FallbackHello.parse(message.parts[0], self._swarm)
        if hello.issued_ns != self._secret.issued_ns or not self.usable(wall_ns):
            raise Rejected(RejectReason.FALLBACK, "another secret, or an expired one")
        if self._context.is_own(hello.fingerprint):
            raise Rejected(RejectReason.OWN)
        member = self._context.valid_signer(hello.fingerprint, message, wall_ns)
        if self._context.is_evicted(hello.fingerprint):
            raise Rejected(RejectReason.EVICTED, member.name)
        check_age(hello.sent_ns, wall_ns, _HELLO_AGE_S, self._ahead_ns * 1e-9)
        known = self._peers.get(member.name)
        if known is not None and known.incarnation == hello.incarnation and known.member == member:
            raise Rejected(RejectReason.DUPLICATE)  # nothing new, so no signature check
        if known is not None and hello.sent_ns <= known.hello_ns:
            raise Rejected(RejectReason.STALE, f"an earlier hello of {member.name}")
        if known is None and len(self._peers) >= MAX_ROSTER:
            raise Rejected(RejectReason.SIZE, "more members than a swarm may have")
        self._context.check_signature(member, message, now)
        checks = _limiters() if known is None else known.checks
        self._peers[member.name] = _Peer(member, hello.incarnation, hello.sent_ns, checks)
        if self._hello_at is not None:  # it may lack our hello
            self._hello_at = min(self._hello_at, max(now, self._hello_sent_at + _HELLO_GAP_S))
        return []

    # Use

    def usable(self, wall_ns: int) -> bool:
        """True if the secret is valid; setting the clock back does not extend it."""
        return self._secret.valid_at(max(wall_ns, self._context.trust.wall_floor_ns), self._ahead_ns)

    def _rule(self, channel: str, name: str, role: Role) -> Rule:
        """The policy's rule for a channel that fallback carries. Raises Rejected."""
        rule = self._context.policy.rule_for(channel)
        lane = Lane.COMMAND if channel == COMMAND_CHANNEL else Lane.TELEMETRY
        if rule is None or rule.lane != lane or not is_carried(channel):
            raise Rejected(RejectReason.FALLBACK, f"{channel} is not carried without an epoch")
        names = frozenset((*self._peers, *self._members))
        if not rule.permits(channel, name, role, names):
            raise Rejected(RejectReason.NOT_PERMITTED, f"{name} ({role}) may not publish on {channel}")
        return rule

    def _key(self, incarnation: bytes) -> AESGCMSIV:
        key = self._keys.get(incarnation)
        if key is None:
            if len(self._keys) >= MAX_ROSTER:
                self._keys.clear()
            info = fields(labels.FALLBACK_KEY, self._swarm.encode(), incarnation)
            key = self._keys[incarnation] = AESGCMSIV(expand(self._extracted, info, 32))
        return key

    def _aad(self, lane: int, channel: str, type_name: str, prefix: bytes) -> bytes:
        return fields(
            labels.FALLBACK_AAD,
            bytes((ENVELOPE_VERSION,)),
            self._swarm.encode(),
            bytes((lane,)),
            u16(0),
            u32(0),
            channel.encode(),
            type_name.encode(),
            prefix,
        )

    def _signed(self, aad: bytes, sealed: bytes) -> bytes:
        return fields(self._swarm.encode(), u64(self._secret.issued_ns), digest(aad), digest(sealed))

    def seal(self, channel: str, type_name: str, payload: bytes, sent_ns: int, name: str) -> Envelope:
        """`payload` (CDR) sealed under the secret and signed by a hosted member.

        Raises NotReady when the secret has expired or fallback does not carry the channel,
        Rejected(FALLBACK, NOT_PERMITTED or SIZE), ForkedProcess.
        """
        member = self._members[name]
        if not self.usable(sent_ns):
            raise NotReady(f"{name} cannot send: the fallback secret has expired")
        if os.getpid() != self._pid:
            raise ForkedProcess(
                "this host was made in another process; spawn workers instead of forking them"
            )
        if not is_carried(channel):
            raise NotReady(f"{name} cannot send on {channel}: the crypto node is silent")
        rule = self._rule(channel, name, member.role)
        addressed: list[bytes] = []
        if rule.lane == Lane.COMMAND:
            drones = [peer.incarnation for peer in self._peers.values() if peer.member.role is Role.DRONE]
            addressed = drones[:_MAX_ADDRESSED]
        plaintext = b"".join((_U64.pack(sent_ns), u32(len(addressed)), *addressed, payload))
        if _PREFIX + NONCE_BYTES + len(plaintext) + TAG_BYTES > MAX_SEALED:
            raise Rejected(RejectReason.SIZE, f"message of {len(payload)} bytes")
        with self._context.lock:
            self._counters[name] += 1
            counter = self._counters[name]
        prefix = member.incarnation + _U64.pack(counter)
        nonce = self._context.random(NONCE_BYTES)
        aad = self._aad(rule.lane, channel, type_name, prefix)
        sealed = prefix + nonce + self._key(member.incarnation).encrypt(nonce, plaintext, aad)
        signature = member.identity.sign(self._signed(aad, sealed), labels.SIGN_FALLBACK)
        return Envelope(ENVELOPE_VERSION, rule.lane, 0, 0, sealed, signature)

    def open(self, channel: str, type_name: str, envelope: Envelope, wall_ns: int) -> Opened:
        """The message in an envelope of epoch 0. Raises Rejected; then nothing has changed."""
        sealed, lane = bytes(envelope.sealed), envelope.lane
        if len(sealed) < _MIN_SEALED or len(sealed) > MAX_SEALED:
            raise Rejected(RejectReason.SIZE, f"{len(sealed)} sealed bytes")
        if envelope.version != ENVELOPE_VERSION:
            raise Rejected(RejectReason.VERSION, f"version {envelope.version}")
        if len(envelope.signature) != SIGNATURE_BYTES:
            raise Rejected(RejectReason.SIGNATURE, "no signature")
        if envelope.sender != 0:
            raise Rejected(RejectReason.UNKNOWN_SENDER, "fallback has sender 0")
        if not self.usable(wall_ns):
            raise Rejected(RejectReason.FALLBACK, "the secret has expired")
        prefix, nonce = sealed[:_PREFIX], sealed[_PREFIX : _PREFIX + NONCE_BYTES]
        incarnation = prefix[:INCARNATION_BYTES]
        counter: int = _U64.unpack_from(prefix, INCARNATION_BYTES)[0]
        claimants = [peer for peer in list(self._peers.values()) if peer.incarnation == incarnation]
        if not claimants:
            raise Rejected(RejectReason.UNKNOWN_SENDER, "no hello of this incarnation")
        refusal: Rejected | None = None
        allowed: list[_Peer] = []
        for peer in claimants:
            try:
                self._context.certificates.get_valid(peer.member.fingerprint, wall_ns)
                if self._context.is_evicted(peer.member.fingerprint):
                    raise Rejected(RejectReason.EVICTED, peer.member.name)
                rule = self._rule(channel, peer.member.name, peer.member.role)
                if rule.lane != lane:
                    raise Rejected(RejectReason.LANE, f"{channel} belongs to another lane")
                if not self._window(peer, lane).fresh(counter):
                    raise Rejected(RejectReason.REPLAY)
            except Rejected as error:
                refusal = error
                continue
            allowed.append(peer)
            if len(allowed) == _MAX_CLAIMANTS:
                break
        if not allowed:
            raise refusal or Rejected(RejectReason.UNKNOWN_SENDER)
        aad = self._aad(lane, channel, type_name, prefix)
        try:
            plaintext = self._key(incarnation).decrypt(nonce, sealed[_PREFIX + NONCE_BYTES :], aad)
        except InvalidTag:
            raise Rejected(RejectReason.AUTHENTICATION, channel) from None
        # Before the signature: recordings that are too old or addressed to others cost no check.
        sent_ns: int = _U64.unpack_from(plaintext)[0]
        check_age(sent_ns, wall_ns, rule.lifespan_ns * 1e-9, self._ahead_ns * 1e-9)
        names, payload = self._addressed(plaintext[STAMP_BYTES:])
        hosts_drones = any(member.role is Role.DRONE for member in self._members.values())
        if lane == Lane.COMMAND and hosts_drones and not names:
            raise Rejected(
                RejectReason.NOT_ADDRESSED, f"{channel} names no drone of this process as it is now"
            )
        peer = self._signer(allowed, lane, envelope.signature, self._signed(aad, sealed), wall_ns)
        with self._context.lock:
            if not self._window(peer, lane).accept(counter):
                raise Rejected(RejectReason.REPLAY)
        member = peer.member
        return Opened(member.name, member.role, payload, sent_ns, True, 0, lane, counter, 0, names)

    def _signer(
        self, allowed: list[_Peer], lane: int, signature: bytes, signed_bytes: bytes, wall_ns: int
    ) -> _Peer:
        """The peer that signed. Each check counts against the rate limit of the peer whose key is tried."""
        most = _TELEMETRY_CHECKS_PER_S / _LEAST_TELEMETRY_CHECKS_PER_S
        cost = 1.0 if lane == Lane.COMMAND else min(float(len(self._peers)), most)
        reason = RejectReason.SIGNATURE
        for peer in allowed:
            if not peer.checks[lane].take(wall_ns * 1e-9, cost):
                reason = RejectReason.BUDGET
            elif peer.member.verify(signature, signed_bytes, labels.SIGN_FALLBACK):
                return peer
        raise Rejected(reason, "fallback")

    @staticmethod
    def _window(peer: _Peer, lane: int) -> ReplayWindow:
        return peer.windows.setdefault(lane, ReplayWindow())

    def _addressed(self, data: bytes) -> tuple[tuple[str, ...], bytes]:
        """(hosted members that are addressed, the rest)."""
        count = _U32.unpack_from(data)[0]
        end = 4 + count * INCARNATION_BYTES
        if count > _MAX_ADDRESSED or end > len(data):
            raise Rejected(RejectReason.MALFORMED, "addressees")
        named = {data[at : at + INCARNATION_BYTES] for at in range(4, end, INCARNATION_BYTES)}
        return tuple(sorted(self._own[item] for item in named if item in self._own)), data[end:]
