"""Entropy in the nodes: the crypto node's pool and QKD endpoint (Alice), and the leader's endpoint (Bob)."""

from __future__ import annotations

import os

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

# Reasons that disable the source; the others are chance with few photons.
_SUSPICIOUS = (AbortReason.ERRORS, AbortReason.SIGNATURE, AbortReason.PROTOCOL)


class Entropy:
    """Entropy of the crypto node: wires `EntropyPool`, `EntropyFeed` and `QkdAnswerer`."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self.pool = EntropyPool(os.urandom, sources)
        self._keys = DistilledKeys() if QKD in sources else None
        self._worker = AerWorker(MODULES) if QRNG in sources else None
        self._feed = EntropyFeed(self.pool, boot_time_s, self._worker, self._keys)
        self._started = False

    def start(self, session: SecureSession) -> None:
        """Starts the sources, once the session has started. Idempotent."""
        if self._started:
            return
        self._started = True
        if self._keys is not None:
            try:
                self._answerer = QkdAnswerer(session, self._session_accepted, self._on_outcome)
            except PermissionError as error:
                self._feed.report(self.pool.absent(QKD, f"{error}; sign a newer policy"))
        if self.pool.names:
            self._feed.start()

    def close(self) -> None:
        """Stops the sources."""
        self._feed.close()
        if self._worker is not None:
            self._worker.close()

    def publish_state(self, session: SecureSession) -> None:
        """Publishes state and alarms; in the executor's thread."""
        session.entropy = self.pool.summary()
        for alarm in self._feed.take_alarms():
            session.alarm(alarm.severity, alarm.text)

    def _session_accepted(self) -> bool:
        return (
            self._keys is not None
            and self._keys.status().stored_key_count == 0
            and self.pool.accepts(QKD, boot_time_s())
        )

    def _on_outcome(self, outcome: QkdOutcome) -> None:
        if outcome.secret is not None and self._keys is not None:
            self._keys.add(outcome.key_id, outcome.secret)
        if outcome.reason in _SUSPICIOUS:
            self._feed.report(self.pool.failed(QKD, ABORT_TEXTS[outcome.reason], boot_time_s()))


class LeaderQkd:
    """QKD endpoint of the leader (Bob), with a quantum worker of its own. Bob does not use the keys.

    eavesdropper: fraction of the photons that are intercepted and resent, for demonstrations.

    Raises PermissionError if the swarm's policy has no rule for the channel.
    """

    def __init__(self, session: SecureSession, member: str, eavesdropper: float = 0.0) -> None:
        self._worker = AerWorker(MODULES)
        self._session = session
        self._restarts = 0
        self._last_failure = ""
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
            self._alarm_once(self._worker.absent)
        if self._worker.restarts != self._restarts:
            self._restarts = self._worker.restarts
            self._alarm_once("the quantum worker died")

    def close(self) -> None:
        """End the worker."""
        self._asker.close()
        self._worker.close()

    def _on_outcome(self, outcome: QkdOutcome | None, failure: str) -> None:
        if outcome is not None and outcome.reason is AbortReason.BUSY:
            return
        self._alarm_once(failure)

    def _alarm_once(self, text: str) -> None:
        """Raises an alarm unless it repeats the last one."""
        if text and text != self._last_failure:
            self._session.alarm("warning", f"quantum key distribution: {text}")
        self._last_failure = text
