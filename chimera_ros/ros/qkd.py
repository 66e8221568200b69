"""BB84 key distribution over two secure, signed channels: the crypto node is Alice, the leader is Bob.

Bob sends a hello every few seconds; Alice begins a session or answers BUSY. Bob repeats each message until
it is answered, `_REPEATS` times at most. The quantum channel is simulated: its photons are data on the same
channels, and the keys are no more secret than those channels.

All callbacks run in the node's executor; the simulator runs in a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from std_msgs.msg import UInt8MultiArray

from chimera_ros.crypto.entropy.conditioning import Bits
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.qkd.messages import ABORT_TEXTS, Abort, AbortReason, Kind, kind_of
from chimera_ros.crypto.qkd.quantum_channel import QuantumChannel, Simulator, transmit
from chimera_ros.crypto.qkd.session import Alice, Bob, QkdConfig, QkdOutcome
from chimera_ros.crypto.trust.identity import CertifiedMember
from chimera_ros.crypto.trust.roles import Role

from . import names
from .session import SecureSession

PERIOD_S: Final = 10.0  # between two sessions
TICK_S: Final = 0.5
_REPEAT_S: Final = 1.0
_REPEATS: Final = 3
_MIN_INTERVAL_S: Final = 2.0  # between two sessions that Alice takes part in
_MAX_BYTES: Final = 262_144


def _issuer(session: SecureSession, member: str) -> bytes | None:
    """Fingerprint of the active crypto node, the issuer of the member's epoch."""
    epoch = session.host.epoch(member)
    announcement = None if epoch is None else session.host.announcement(epoch)
    return None if announcement is None else announcement.head.issuer


def _member_named(session: SecureSession, name: str, role: Role) -> CertifiedMember | None:
    for entry in session.host.roster():
        if entry.name == name and entry.role is role:
            return session.host.certificate(entry.fingerprint)
    return None


class QkdAnswerer:
    """Alice, in the crypto node.

    Args:
        wanted: True while keys are needed; otherwise a hello is answered BUSY.
        on_outcome: called once at the end of every session.

    Raises PermissionError when the swarm's policy has no rule for the channel.
    """

    def __init__(
        self,
        session: SecureSession,
        wanted: Callable[[], bool],
        on_outcome: Callable[[QkdOutcome], None],
        config: QkdConfig | None = None,
    ) -> None:
        self._session = session
        self._wanted = wanted
        self._on_outcome = on_outcome
        self._config = config or QkdConfig()
        self._alice: Alice | None = None
        self._peer = ""
        self._hello = b""
        self._reported = False
        self._began_at = float("-inf")
        self._publisher = session.create_publisher(UInt8MultiArray, names.CRYPTO_QKD)
        session.create_subscription(UInt8MultiArray, names.LEADER_QKD, self._on_message)

    def _on_message(self, message: Any, sender: str) -> None:
        data = bytes(message.data)
        if len(data) > _MAX_BYTES:
            return
        try:
            kind = kind_of(data)
        except Rejected:
            return
        if kind is Kind.HELLO and data != self._hello and not self._begin(data, sender):
            return  # a session in progress continues; Bob repeats the hello
        if self._alice is None or sender != self._peer:
            return
        answer = self._alice.handle(data)
        self._publisher.publish(UInt8MultiArray(data=answer))
        if self._alice.outcome is not None and not self._reported:
            self._reported = True
            self._on_outcome(self._alice.outcome)

    def _begin(self, hello: bytes, sender: str) -> bool:
        """Begin a session; False if none begins."""
        now = self._session.now()
        peer = _member_named(self._session, sender, Role.LEADER)
        key_server = self._session.key_server
        if key_server is None or _issuer(self._session, key_server.identity.name) != (
            key_server.identity.fingerprint
        ):
            return False  # a standby: the active node answers
        if peer is None or now < self._began_at + _MIN_INTERVAL_S:
            return False
        self._began_at = now
        if not self._wanted():
            self._alice = None
            busy = Abort(bytes(16), int(AbortReason.BUSY)).encode()
            self._publisher.publish(UInt8MultiArray(data=busy))
            return False
        self._hello, self._peer, self._reported = hello, sender, False
        self._alice = Alice(self._config, key_server.identity, peer, os.urandom)
        return True


class QkdAsker:
    """Bob, in the leader; call `tick` every `TICK_S`.

    Args:
        simulator: runs the photons; called in a thread, may raise any Exception. line: what it simulates.
        on_outcome: called once for every session, with `failure`, one sentence, if it failed.
    """

    def __init__(
        self,
        session: SecureSession,
        member: str,
        simulator: Simulator,
        on_outcome: Callable[[QkdOutcome | None, str], None],
        line: QuantumChannel | None = None,
        config: QkdConfig | None = None,
        period_s: float = PERIOD_S,
    ) -> None:
        self._session = session
        self._member = member
        self._simulator = simulator
        self._on_outcome = on_outcome
        self._line = line or QuantumChannel()
        self._config = config or QkdConfig()
        self._period_s = period_s
        self._bob: Bob | None = None
        self._peer = ""
        self._sent = b""
        self._received = b""
        self._sent_at = 0.0
        self._repeats = 0
        self._next_at = 0.0
        self._thread: threading.Thread | None = None
        self._measured: tuple[Bits | None, str] | None = None
        self._publisher = session.create_publisher(UInt8MultiArray, names.LEADER_QKD)
        session.create_subscription(UInt8MultiArray, names.CRYPTO_QKD, self._on_message)

    def tick(self) -> None:
        """Begin a session, repeat the last message or give up, as is due."""
        now = self._session.now()
        if self._measured is not None:
            self._take_measured()
        elif self._bob is None:
            if now >= self._next_at and self._session.ready:
                self._begin(now)
        elif self._thread is None and now >= self._sent_at + _REPEAT_S:
            if self._repeats >= _REPEATS:
                self._finish(None, "the crypto node does not answer")
                return
            self._repeats += 1
            self._publish(self._sent)

    def close(self) -> None:
        """Abandon the session in progress; waits for its simulator."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        self._bob = None

    def _begin(self, now: float) -> None:
        self._next_at = now + self._period_s
        issuer = _issuer(self._session, self._member)
        peer = None if issuer is None else self._session.host.certificate(issuer)
        if peer is None:
            return
        self._peer = peer.name
        self._bob = Bob(self._config, self._session.identity(self._member), peer, os.urandom)
        self._send(self._bob.hello())

    def _send(self, data: bytes) -> None:
        self._sent, self._repeats = data, 0
        self._publish(data)

    def _publish(self, data: bytes) -> None:
        self._sent_at = self._session.now()
        self._publisher.publish(UInt8MultiArray(data=data))

    def _on_message(self, message: Any, sender: str) -> None:
        data = bytes(message.data)
        bob = self._bob
        if bob is None or sender != self._peer or len(data) > _MAX_BYTES:
            return
        if data == self._received or self._thread is not None:
            return  # the answer to a repeated message
        self._received = data
        if self._sent[:1] == bytes([Kind.HELLO]):
            photons = bob.photons(data)
            if photons is not None:
                self._thread = threading.Thread(target=self._measure, args=(bob, *photons), daemon=True)
                self._thread.start()
                return
        else:
            following = bob.handle(data)
            if following is not None:
                self._send(following)
        if bob.outcome is not None:
            self._finish(
                bob.outcome, ABORT_TEXTS[bob.outcome.reason] if bob.outcome.reason is not None else ""
            )

    def _measure(self, bob: Bob, bits: Bits, bases: Bits) -> None:
        try:
            found = transmit(bits, bases, bob.bases, self._line, self._simulator, os.urandom)
        except Exception as error:  # whatever the simulator raises ends this session, never the node
            self._measured = (None, str(error) or type(error).__name__)
        else:
            self._measured = (found, "")

    def _take_measured(self) -> None:
        measured, self._measured, self._thread = self._measured, None, None
        if measured is None or self._bob is None:
            return
        found, failure = measured
        if found is None:
            self._finish(None, failure)
        else:
            self._send(self._bob.measured(found))

    def _finish(self, outcome: QkdOutcome | None, failure: str) -> None:
        self._bob = None
        self._on_outcome(outcome, failure)
