"""Checkpoints to and from `<member>/checkpoint`: plain, signed topics, worked by a thread of their own.

Signing takes most of a millisecond and checking a fifth of one: neither must delay a packet. The thread signs
what is due, checks what comes and hands alarms to the node's executor; both operations let other threads run.
Whose packets are opened here is listened to; a checkpoint that came before is fetched from its latched topic.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from rclpy.duration import Duration

from chimera_ros import msg
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.evidence.ledgers import POLL_S
from chimera_ros.crypto.messages.checkpoint import Checkpoint, parse_checkpoint

from . import names, qos
from .cdr import CdrError, decode_checkpoint, encode_checkpoint
from .lifecycle import boot_time_s, where
from .retrying_publisher import RetryingPublisher

if TYPE_CHECKING:
    from .session import SecureSession

MAX_WAITING: Final = 1024  # checkpoints that came and were not looked at yet
END_S: Final = 1.0
ACKED_S: Final = 0.2

CheckpointCallback = Callable[[str, bytes], None]


def checkpoint_to_cdr(checkpoint: Checkpoint) -> bytes:
    """CDR of a checkpoint."""
    return encode_checkpoint(
        checkpoint.transcript_hash,
        checkpoint.epoch,
        checkpoint.slot,
        checkpoint.lane,
        checkpoint.first,
        checkpoint.last,
        checkpoint.made_ns,
        checkpoint.root,
        b"".join(checkpoint.leaves),
        checkpoint.signature,
    )


class CheckpointTopics:
    """Publishers for the hosted members, subscriptions to those who are heard, and the thread between."""

    def __init__(self, session: SecureSession) -> None:
        self._session = session
        self._host = session.host
        self._outlets: dict[str, RetryingPublisher] = {}
        self._subscriptions: dict[str, Any] = {}
        self._callbacks: list[CheckpointCallback] = []
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def on_checkpoint(self, callback: CheckpointCallback) -> None:
        """Call `callback(member, cdr)` for every verified checkpoint, in the checkpoints' own thread."""
        self._callbacks.append(callback)

    def open(self) -> None:
        """Make the publishers, so that DDS matches them early, and start the thread."""
        session = self._session
        for name in session.members:
            profile = qos.for_checkpoints(reader=False)
            self._outlets[name] = RetryingPublisher(session, msg.Checkpoint, names.checkpoint(name), profile)
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def look(self) -> None:
        """Once a second, in the node's executor: listen to everybody whose packets are opened here."""
        session = self._session
        heard = self._host.checkpoints.opened_senders()
        for name in heard - self._subscriptions.keys():
            self._subscriptions[name] = session.node.create_subscription(
                msg.Checkpoint,
                names.topic(names.checkpoint(name), session.namespace),
                self._receiver(name),
                qos.for_checkpoints(reader=True),
                raw=True,
            )
        for name in self._subscriptions.keys() - heard:
            session.node.destroy_subscription(self._subscriptions.pop(name))

    def _receiver(self, name: str) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            try:
                self._queue.put_nowait((name, bytes(data)))
            except queue.Full:
                self._session.counts["checkpoints_dropped"] += 1

        return receive

    def _run(self) -> None:
        due = boot_time_s() + POLL_S
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, due - boot_time_s()))
                if item is None:
                    return
                self._take(*item)
            except queue.Empty:
                pass
            except Exception as error:  # the thread goes on, whatever one checkpoint was
                self._troubled(error)
            if boot_time_s() >= due:
                due = boot_time_s() + POLL_S
                try:
                    self._work()
                except Exception as error:
                    self._troubled(error)

    def _troubled(self, error: Exception) -> None:
        self._session.counts["checkpoint_errors"] += 1
        self._session.node.get_logger().error(f"checkpoints: {type(error).__name__} at {where(error)}")

    def _work(self) -> None:
        session, now = self._session, boot_time_s()
        self._publish()
        session.perform_later(self._host.tick_checkpoints(now))

    def _publish(self) -> None:
        session = self._session
        for name, checkpoint in self._host.make_checkpoints(boot_time_s(), session.swarm_ns()):
            self._outlets[name].send(checkpoint_to_cdr(checkpoint))

    def _take(self, name: str, data: bytes) -> None:
        session = self._session
        try:
            checkpoint = parse_checkpoint(*decode_checkpoint(data))
        except (CdrError, Rejected):
            session.counts["malformed_checkpoint"] += 1
            return
        effects = self._host.take_checkpoint(name, checkpoint, boot_time_s(), session.swarm_ns())
        if effects is not None:
            session.perform_later(effects)
            for callback in self._callbacks:
                session.guarded(f"{name}/checkpoint", callback, name, data)

    def close(self) -> None:
        """End the thread, send the last checkpoints, take the topics out of the node."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=END_S)
            self._thread.join(timeout=END_S)
            if not self._thread.is_alive():
                self._host.checkpoints.end()
                self._publish()
            self._thread = None
            for outlet in self._outlets.values():
                if outlet.publisher.get_subscription_count():
                    outlet.publisher.wait_for_all_acked(Duration(seconds=ACKED_S / len(self._outlets)))
        for subscription in self._subscriptions.values():
            self._session.node.destroy_subscription(subscription)
        for outlet in self._outlets.values():
            outlet.destroy()
        self._subscriptions.clear()
        self._outlets.clear()
