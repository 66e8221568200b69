"""Fuzz targets: every parser of bytes from the network, and the cores behind them.

A target takes any bytes. It may reject them (`Rejected`, `CdrError`, `CertificateError`); any other exception
is a bug, and so is a body that is accepted in two encodings. The cores run with signatures that always
verify, because otherwise only the signature check would be fuzzed: this is what a captured member or crypto
node could send.

Input: the first byte selects the kind of message, the rest is CDR as received from DDS, or a body.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import fuzz_evidence
import fuzz_fallback
import fuzz_qkd
from fuzz_fixture import SUITE, Bug, accept_all_signatures, fixture

from chimera_ros.crypto.effects import Effect
from chimera_ros.crypto.errors import NotReady, Rejected
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.member.host import SecureHost
from chimera_ros.crypto.messages.announcement import SignedHead, encode_head, parse_announcement
from chimera_ros.crypto.messages.control import Beat, KeyPackage, KeyRequest, Ready, Switch
from chimera_ros.crypto.messages.fallback_hello import FallbackHello
from chimera_ros.crypto.messages.stop import Stop, StopReceipt
from chimera_ros.crypto.session.epoch_session import Opened
from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust.identity import CertificateError, read_member_certificate
from chimera_ros.crypto.trust.signed_documents import read_signed_crl, read_signed_policy
from chimera_ros.crypto.wire import CONTROL_LIMITS, SIGNATURE_BYTES, ControlKind, ControlMessage, Envelope
from chimera_ros.ros import cdr

KINDS: Final = tuple(ControlKind)
_SWARM: Final = "testswarm"
_TYPE: Final = "T"
_MAX_EFFECTS: Final = 64
_STEP_S: Final = 0.05


# Targets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """`run` takes any bytes; `corpus` makes genuine ones. `slow`: duration of an input, relative to
    others.
    """

    name: str
    run: Callable[[bytes], None]
    corpus: Callable[[], list[bytes]]
    slow: int = 1


def _control_corpus() -> list[bytes]:
    return [
        bytes([KINDS.index(message.kind)]) + cdr.encode_parts(message.parts, CONTROL_LIMITS[message.kind])
        for message in fixture().messages
    ]


def _control(data: bytes) -> ControlMessage | None:
    """The control message in an input, or None if the codec rejects it."""
    if not data:
        return None
    kind = KINDS[data[0] % len(KINDS)]
    try:
        parts = cdr.decode_parts(data[1:], CONTROL_LIMITS[kind])
    except cdr.CdrError:
        return None
    if cdr.decode_parts(cdr.encode_parts(parts, CONTROL_LIMITS[kind]), CONTROL_LIMITS[kind]) != parts:
        raise Bug(f"{kind.value}: it changes when it is encoded and decoded")
    return ControlMessage(kind, parts)


Encoder = Callable[[bytes], bytes]
BODIES: Final[dict[ControlKind, Encoder]] = {
    ControlKind.KEY_REQUEST: lambda body: KeyRequest.parse(body, _SWARM, SUITE.name).encode(),
    ControlKind.KEY_PACKAGE: lambda body: KeyPackage.parse(
        body, _SWARM, SUITE.name, SUITE.package_public_bytes
    ).encode(),
    ControlKind.READY: lambda body: Ready.parse(body, _SWARM).encode(),
    ControlKind.SWITCH: lambda body: Switch.parse(body, _SWARM).encode(),
    ControlKind.BEAT: lambda body: Beat.parse(body, _SWARM).encode(),
    ControlKind.STOP: lambda body: Stop.parse(body, _SWARM).encode(),
    ControlKind.FALLBACK_HELLO: lambda body: FallbackHello.parse(body, _SWARM).encode(),
    ControlKind.STOP_ACK: lambda body: StopReceipt.parse(body, _SWARM).encode(),
}
"""Decodes and encodes a body. Announcements and certificates have targets of their own."""
BODY_KINDS: Final = tuple(BODIES)


def _body_corpus() -> list[bytes]:
    return [
        bytes([BODY_KINDS.index(message.kind)]) + message.parts[0]
        for message in fixture().messages
        if message.kind in BODIES
    ]


def bodies(data: bytes) -> None:
    """The body of a signed message has one encoding."""
    if not data:
        return
    kind = BODY_KINDS[data[0] % len(BODY_KINDS)]
    try:
        again = BODIES[kind](data[1:])
    except Rejected:
        return
    if again != data[1:]:
        raise Bug(f"{kind.value}: accepted in a second encoding")


def control(data: bytes) -> None:
    """CDR of the control messages."""
    _control(data)


def _announcements() -> list[ControlMessage]:
    return [message for message in fixture().messages if message.kind is ControlKind.ANNOUNCEMENT]


def _announcement_corpus() -> list[bytes]:
    limits = CONTROL_LIMITS[ControlKind.ANNOUNCEMENT]
    return [cdr.encode_parts(message.parts, limits) for message in _announcements()]


def announcement(data: bytes) -> None:
    """Head, seeds and proof of an announcement."""
    try:
        parts = cdr.decode_parts(data, CONTROL_LIMITS[ControlKind.ANNOUNCEMENT])
        found = parse_announcement(ControlMessage(ControlKind.ANNOUNCEMENT, parts), SUITE)
    except (Rejected, cdr.CdrError):
        return
    if encode_head(found.head) != parts[0]:
        raise Bug("a head is accepted in a second encoding")
    if SignedHead.parse(found.proof.encode()) != found.proof:
        raise Bug("a proof changes when it is encoded and decoded")


def _proof_corpus() -> list[bytes]:
    return [parse_announcement(message, SUITE).proof.encode() for message in _announcements()]


def proof(data: bytes) -> None:
    """The proven head in a key package."""
    try:
        found = SignedHead.parse(data)
    except Rejected:
        return
    if found.encode() != data:
        raise Bug("a proof is accepted in a second encoding")


def _certificate_corpus() -> list[bytes]:
    return [identity.certificate_der for identity in fixture().swarm.identities.values()]


def certificate(data: bytes) -> None:
    """A member's certificate, and whether the authority issued it."""
    swarm = fixture().swarm
    try:
        read_member_certificate(data)
        found = swarm.trust.certify(data, swarm.wire.wall_ns)
    except CertificateError:
        return
    if data not in _certificate_corpus():
        raise Bug(f"a forged certificate of {found.name} is accepted")


def _envelope_corpus() -> list[bytes]:
    return [
        cdr.encode_envelope(1, 1, 2, 3, bytes(60), b""),
        cdr.encode_envelope(1, 0, 2, 3, bytes(61), bytes(SIGNATURE_BYTES)),
        *(item.data for item in _sealed()),
    ]


def envelope(data: bytes) -> None:
    """CDR of an envelope."""
    try:
        found = cdr.decode_envelope(data)
    except cdr.CdrError:
        return
    if cdr.decode_envelope(cdr.encode_envelope(*found)) != found:
        raise Bug("an envelope changes when it is encoded and decoded")


def payload(data: bytes) -> None:
    """The guard in front of the deserialiser."""
    try:
        found = cdr.checked_payload(data)
    except cdr.CdrError:
        return
    if found[:4] != cdr.HEADER or found[4:] != data[4:] or len(found) <= 4:
        raise Bug("the guard accepts a malformed payload")


def _payload_corpus() -> list[bytes]:
    return [cdr.HEADER + bytes(8), cdr.HEADER[:3] + b"\x03" + bytes(5)]


_CHANNELS: Final = ("drone_01/telemetry", "drone_01/ack", "survey/anything")
_SERVICE: Final = "crypto/clock"


@dataclass(frozen=True, slots=True)
class _Sealed:
    """CDR and payload of a genuine envelope of the epoch in force, and how its receiver opens it."""

    data: bytes
    open: Callable[[Envelope], Opened]
    payload: bytes


def _sealed() -> list[_Sealed]:
    """One for each channel, and a response."""
    with accept_all_signatures():
        swarm = fixture().joined()
        shard, leader, now_ns = swarm.host_of("drone_01"), swarm.hosts["leader"], swarm.wire.wall_ns
        made = []
        for channel in _CHANNELS:
            text = channel.encode() * 3
            data = cdr.encode_envelope(*shard.seal(channel, _TYPE, text, now_ns, "drone_01"))
            made.append(_Sealed(data, partial(leader.open, channel, _TYPE, wall_ns=now_ns), text))
        pending = shard.seal_request(_SERVICE, _TYPE, b"question", now_ns, "drone_01")
        crypto = swarm.server.host
        answer = crypto.seal_response(_SERVICE, _TYPE, b"answer", now_ns, "crypto", pending.envelope)

        def answered(envelope: Envelope) -> Opened:
            return shard.open_response(_SERVICE, _TYPE, envelope, now_ns, [pending])[1]

        return [*made, _Sealed(cdr.encode_envelope(*answer), answered, b"answer")]


def opening(data: bytes) -> None:
    """Opens a genuine envelope XORed with the input; only the genuine one may open."""
    if len(data) < 2:
        return
    with accept_all_signatures():
        try:
            made = _sealed()
        except NotReady:
            return
        genuine = made[data[0] % len(made)]
        offset, mask = data[1] * 3, data[2:]
        altered = bytearray(genuine.data)
        for index, value in enumerate(mask):
            altered[(offset + index) % len(altered)] ^= value
        opened = 0
        for attempt in (bytes(altered), genuine.data):
            try:
                found = genuine.open(Envelope(*cdr.decode_envelope(attempt)))
            except (Rejected, cdr.CdrError):
                continue
            opened += 1
            if found.payload != genuine.payload:
                raise Bug("another message than the sealed one was opened")
        # Unprotected bytes (padding; here, signatures) may be mutated; then the genuine one is a replay.
        if opened != 1:
            raise Bug(f"a mutated envelope and the genuine one were opened {opened} times")


def _opening_corpus() -> list[bytes]:
    return [bytes([kind, at, 1]) for kind in range(len(_CHANNELS) + 1) for at in range(0, 40, 3)]


def _deliver(core: SecureHost | KeyServer, host: SecureHost, message: ControlMessage, swarm: Swarm) -> None:
    """Delivers a message to a core and checks its effects and state."""
    before = {name: member.state for name, member in host.context.members.items()}
    wire = swarm.wire
    wire.now += _STEP_S
    effects: list[Effect] = core.handle(message, wire.now, wire.wall_ns)
    effects += core.tick(wire.now, wire.wall_ns)
    if len(effects) > _MAX_EFFECTS:
        raise Bug(f"one message caused {len(effects)} effects")
    for name, member in host.context.members.items():
        if member.state.highest_epoch < before[name].highest_epoch:
            raise Bug(f"{name} returned to epoch {member.state.highest_epoch}")
        if not set(before[name].evictions) <= set(member.state.evictions):
            raise Bug(f"{name} lost an eviction")
        sending, installed = member.sending, member.installed
        if sending is not None and installed is not None and sending[0].epoch > installed.epoch:
            raise Bug(f"{name} sends under an epoch that it has not installed")
    if len(host.context.sessions.open) > 6:
        raise Bug(f"{len(host.context.sessions.open)} epochs are open")


def member(data: bytes) -> None:
    """Processes of drones, leader and operator: a control message from the network."""
    message = _control(data)
    if message is None:
        return
    with accept_all_signatures():
        swarm = fixture().joined()
        for host in swarm.hosts.values():
            _deliver(host, host, message, swarm)


def key_server(data: bytes) -> None:
    """The crypto node: a control message from the network."""
    message = _control(data)
    if message is None:
        return
    with accept_all_signatures():
        swarm = fixture().joined()
        _deliver(swarm.server, swarm.server.host, message, swarm)


def key_distribution(data: bytes) -> None:
    """Messages of quantum key distribution."""
    again = fuzz_qkd.read(data)
    if again is not None and again != data:
        raise Bug("a message of key distribution is accepted in a second encoding")


def trust(data: bytes) -> None:
    """A revocation list or a policy. The policy's signature always verifies: one signed by mistake must not
    cause a failure either.
    """
    if not data:
        return
    swarm, content = fixture().swarm, data[1:]
    try:
        if data[0] % 2 == 0:
            found = read_signed_crl(content, swarm.trust.authority)
            if content not in _trust_documents()[0]:
                raise Bug(f"a forged revocation list {found.number} is accepted")
            return
        with accept_all_signatures():
            policy = read_signed_policy(content, bytes(SIGNATURE_BYTES), swarm.trust)
    except Rejected:
        return
    if (policy.swarm, policy.suite) != (swarm.trust.swarm, swarm.trust.policy.suite):
        raise Bug("a policy of another swarm or suite is accepted")
    for channel in _CHANNELS:
        policy.rule_for(channel)


@cache
def _trust_documents() -> tuple[list[bytes], list[bytes]]:
    keystore, drone = fixture().swarm.keystore, fixture().swarm.identities["drone_01"]
    return [keystore.crl(2), keystore.crl(3, drone)], [keystore.policy(version)[0] for version in (1, 2)]


def _trust_corpus() -> list[bytes]:
    lists, policies = _trust_documents()
    return [b"\x00" + item for item in lists] + [b"\x01" + item for item in policies]


TARGETS: Final = {
    target.name: target
    for target in (
        Target("envelope", envelope, _envelope_corpus),
        Target("payload", payload, _payload_corpus),
        Target("control", control, _control_corpus),
        Target("bodies", bodies, _body_corpus),
        Target("announcement", announcement, _announcement_corpus),
        Target("proof", proof, _proof_corpus),
        Target("certificate", certificate, _certificate_corpus),
        Target("opening", opening, _opening_corpus),
        Target("member", member, _control_corpus),
        Target("key_server", key_server, _control_corpus),
        Target("key_distribution", key_distribution, fuzz_qkd.corpus),
        Target("key_session", fuzz_qkd.session, fuzz_qkd.session_corpus, slow=8),
        Target("trust", trust, _trust_corpus, slow=4),
        Target("checkpoint", fuzz_evidence.checkpoint, fuzz_evidence.checkpoint_corpus),
        Target("document", fuzz_evidence.document, fuzz_evidence.document_corpus),
        Target("fallback", fuzz_fallback.run, fuzz_fallback.corpus),
    )
}

_NUMBERS: Final = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """`data` mutated in one to four ways, as a fuzzer does it."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        choice = rng.randrange(7)
        if choice == 0 and changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        elif choice == 1 and changed:
            changed[at % len(changed)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif choice == 2:
            del changed[at:]
        elif choice == 3:
            changed[at:at] = rng.randbytes(rng.randint(1, 40))
        elif choice == 4:
            number = rng.choice(_NUMBERS).to_bytes(4, rng.choice(("big", "little")))
            changed[at : at + 4] = number
        elif choice == 5:
            del changed[at : at + rng.randint(1, 40)]
        else:
            changed[at:at] = changed[at : at + rng.randint(1, 64)]
    return bytes(changed)
