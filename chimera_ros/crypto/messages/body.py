"""Common parts of signed control messages: the opening fields and the signature."""

from __future__ import annotations

from typing import Final

from ..encoding import MAX_NAME, Reader, text
from ..errors import Rejected, RejectReason
from ..primitives import labels
from ..trust.identity import MemberIdentity
from ..wire import ControlKind, ControlMessage

CONTEXT_OF: Final = {
    ControlKind.KEY_REQUEST: labels.SIGN_KEY_REQUEST,
    ControlKind.KEY_PACKAGE: labels.SIGN_KEY_PACKAGE,
    ControlKind.READY: labels.SIGN_READY,
    ControlKind.SWITCH: labels.SIGN_SWITCH,
    ControlKind.BEAT: labels.SIGN_BEAT,
    ControlKind.STOP: labels.SIGN_STOP,
    ControlKind.STOP_ACK: labels.SIGN_STOP_ACK,
    ControlKind.FALLBACK_HELLO: labels.SIGN_FALLBACK_HELLO,
}


def opening(swarm: str) -> bytes:
    """The first two fields of every body."""
    return bytes((labels.PROTOCOL_VERSION,)) + text(swarm)


def read_opening(data: bytes, swarm: str) -> Reader:
    """Reads and checks the first two fields. Raises Rejected(VERSION, SWARM or MALFORMED)."""
    reader = Reader(data)
    if reader.u8() != labels.PROTOCOL_VERSION:
        raise Rejected(RejectReason.VERSION)
    if reader.name() != swarm:
        raise Rejected(RejectReason.SWARM)
    return reader


def read_suite(reader: Reader, suite: str) -> None:
    """Raises Rejected(SUITE) unless the next field is this suite."""
    if reader.var(MAX_NAME) != suite.encode():
        raise Rejected(RejectReason.SUITE)


def signed(kind: ControlKind, body: bytes, identity: MemberIdentity) -> ControlMessage:
    """A control message with the identity's signature under the kind's context string."""
    return ControlMessage(kind, (body, identity.sign(body, CONTEXT_OF[kind])))
