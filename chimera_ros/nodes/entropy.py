"""Entropy in the nodes: the crypto node's pool and Alice's end of key distribution; Bob's in the leader."""

from __future__ import annotations

import os
from typing import Any

from chimera_ros.crypto.entropy.pool import EntropyPool
from chimera_ros.crypto.entropy.source_names import QKD, QRNG
from chimera_ros.crypto.qkd.delivery import DistilledKeys
from chimera_ros.crypto.qkd.messages import ABORT_TEXTS, AbortReason
from chimera_ros.crypto.qkd.quantum_channel import QuantumChannel
from chimera_ros.crypto.qkd.session import QkdOutcome
from chimera_ros.quantum.entropy_feed import MODULES, EntropyFeed, aer_simulator
from chimera_ros.quantum.worker import AerWorker
from chimera_ros.ros.lifecycle import boot_time_s
from chimera_ros.ros.qkd import QkdAnswerer, QkdAsker
from chimera_ros.ros.session import SecureSession

_SUSPICIOUS = (
    AbortReason.ERRORS,
    AbortReason.SIGNATURE,
    AbortReason.PROTOCOL,
)  # others are bad luck with few photons


class Entropy:
    """Wires `EntropyPool`, `EntropyFeed` and `QkdAnswerer`; what is not asked for is not started."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self.pool = EntropyPool(os.urandom, sources)
        self._keys = DistilledKeys() if QKD in sources else None
        self._worker = AerWorker(MODULES) if QRNG in sources else None
        self._feed = EntropyFeed(self.pool, boot_time_s, self._worker, self._keys)
        self._started = False
        self._sessions = 0
        self._last: dict[str, Any] = {}

    def start(self, session: SecureSession) -> None:
        """Begin to gather, once the session has started. Does nothing the second time."""
        if self._started:
            return
        self._started = True
        if self._keys is not None:
            try:
                self._answerer = QkdAnswerer(session, self._wanted, self._on_outcome)
            except PermissionError as error:
                self._feed.say(self.pool.absent(QKD, f"{error}; sign a newer policy"))
        if self.pool.names:
            self._feed.start()

    def close(self) -> None:
        """Stop gathering."""
        self._feed.close()
        if self._worker is not None:
            self._worker.close()

    def tell(self, session: SecureSession) -> None:
        """Hand state and alarms on; from the executor's thread."""
        session.entropy = self.pool.summary()
        for alarm in self._feed.alarms():
            session.alarm(alarm.severity, alarm.text)

    def status(self) -> dict[str, Any]:
        """For the status line."""
        status = {**self.pool.status(), "summary": self.pool.summary()}
        if self._keys is not None:
            stored = self._keys.status().stored_key_count
            status["qkd"] = {"sessions": self._sessions, "stored_keys": stored, "last": self._last}
        return status

    def _wanted(self) -> bool:
        return (
            self._keys is not None
            and self._keys.status().stored_key_count == 0
            and self.pool.accepts(QKD, boot_time_s())
        )

    def _on_outcome(self, outcome: QkdOutcome) -> None:
        self._sessions += 1
        self._last = dict(outcome.report)
        if outcome.secret is not None and self._keys is not None:
            self._keys.add(outcome.key_id, outcome.secret)
        if outcome.reason is not None:
            self._last["failure"] = ABORT_TEXTS[outcome.reason]
            if outcome.reason in _SUSPICIOUS:
                self._feed.say(self.pool.failed(QKD, ABORT_TEXTS[outcome.reason], boot_time_s()))


class LeaderQkd:
    """Bob's end in the leader, with a quantum worker of its own. Bob has no use for the keys and drops them.

    eavesdropper: fraction of the photons that somebody intercepts and resends, for demonstrations.

    Raises PermissionError when the swarm's policy does not know the channel.
    """

    def __init__(self, session: SecureSession, member: str, eavesdropper: float = 0.0) -> None:
        self._worker = AerWorker(MODULES)
        self._session = session
        self._restarts = 0
        self._said = ""
        self._sessions = 0
        self._keys = 0
        self._asker = QkdAsker(
            session,
            member,
            aer_simulator(self._worker),
            self._on_outcome,
            QuantumChannel(intercepted=eavesdropper),
        )

    def tick(self) -> None:
        """Call every `qkd.TICK_S`."""
        if self._worker.ready:
            self._asker.tick()
        elif self._worker.absent:
            self._say(self._worker.absent)
        if self._worker.restarts != self._restarts:
            self._restarts = self._worker.restarts
            self._say("the quantum worker died")

    def close(self) -> None:
        """End the worker."""
        self._asker.close()
        self._worker.close()

    def status(self) -> dict[str, Any]:
        """For the status line."""
        return {"sessions": self._sessions, "keys": self._keys, "last": self._said}

    def _on_outcome(self, outcome: QkdOutcome | None, failure: str) -> None:
        if outcome is not None and outcome.reason is AbortReason.BUSY:
            return
        self._sessions += 1
        self._keys += outcome is not None and outcome.secret is not None
        self._say(failure)

    def _say(self, text: str) -> None:
        """Once, until something else happens."""
        if text and text != self._said:
            self._session.alarm("warning", f"quantum key distribution: {text}")
        self._said = text
