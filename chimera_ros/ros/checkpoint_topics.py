"""Publishers and subscriptions of the signed checkpoints on `<member>/checkpoint`, in a thread of their own.

A signature takes most of a millisecond, its verification a fifth of one: neither may delay a packet. The
thread signs what is due, verifies what is received and passes alarms to the node's executor; both operations
release the GIL. Subscribed are the members whose packets are opened here; the topics are latched, so that a
late subscription still receives the last checkpoints.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from rclpy.duration import Duration

from chimera_ros import msg
from chimera_ros.crypto.errors import Rejected
from chimera_ros.crypto.evidence.ledgers import POLL_S
from chimera_ros.crypto.messages.checkpoint import Checkpoint, parse_checkpoint

from . import names, qos
from .cdr import CdrError, decode_checkpoint, encode_checkpoint
from .context import SessionContext
from .lifecycle import boot_time_s, raised_at
from .log import log
from .retrying_publisher import RetryingPublisher

MAX_QUEUED: Final = 1024  # received checkpoints that are not verified yet
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
    """Publishers for the hosted members, subscriptions to their senders, and the thread that serves both."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._host = context.host
        self._writers: dict[str, RetryingPublisher] = {}
        self._subscriptions: dict[str, Any] = {}
        self._callbacks: list[CheckpointCallback] = []
        self._queue: queue.Queue[tuple[str, bytes] | None] = queue.Queue(MAX_QUEUED)
        self._thread: threading.Thread | None = None

    def on_checkpoint(self, callback: CheckpointCallback) -> None:
        """Call `callback(member, cdr)` for every verified checkpoint, in the checkpoint thread."""
        self._callbacks.append(callback)

    def open(self) -> None:
        """Create the publishers, so that DDS matches them early, and start the thread."""
        context = self._context
        for name in context.members:
            profile = qos.for_checkpoints(reader=False)
            self._writers[name] = RetryingPublisher(context, msg.Checkpoint, names.checkpoint(name), profile)
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def update_subscriptions(self) -> None:
        """Subscribe to every member whose packets are opened here; once a second, in the node's executor."""
        context = self._context
        senders = self._host.checkpoints.opened_senders()
        for name in senders - self._subscriptions.keys():
            self._subscriptions[name] = context.node.create_subscription(
                msg.Checkpoint,
                names.topic(names.checkpoint(name), context.namespace),
                self._receiver(name),
                qos.for_checkpoints(reader=True),
                raw=True,
            )
        for name in self._subscriptions.keys() - senders:
            context.node.destroy_subscription(self._subscriptions.pop(name))

    def _receiver(self, name: str) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            try:
                self._queue.put_nowait((name, bytes(data)))
            except queue.Full:
                self._context.counts["checkpoints_dropped"] += 1

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
            except Exception as error:  # one checkpoint must not end the thread
                self._count_error(error)
            if boot_time_s() >= due:
                due = boot_time_s() + POLL_S
                try:
                    self._tick()
                except Exception as error:
                    self._count_error(error)

    def _count_error(self, error: Exception) -> None:
        self._context.counts["checkpoint_errors"] += 1
        log(self._context.node, "error", f"checkpoints: {type(error).__name__} at {raised_at(error)}")

    def _tick(self) -> None:
        context, now = self._context, boot_time_s()
        self._publish()
        context.perform_later(self._host.tick_checkpoints(now))

    def _publish(self) -> None:
        context = self._context
        for name, checkpoint in self._host.make_checkpoints(boot_time_s(), context.swarm_ns()):
            self._writers[name].send(checkpoint_to_cdr(checkpoint))

    def _take(self, name: str, data: bytes) -> None:
        context = self._context
        try:
            checkpoint = parse_checkpoint(*decode_checkpoint(data))
        except (CdrError, Rejected):
            context.counts["malformed_checkpoint"] += 1
            return
        effects = self._host.take_checkpoint(name, checkpoint, boot_time_s(), context.swarm_ns())
        if effects is not None:
            context.perform_later(effects)
            for callback in self._callbacks:
                context.guarded(f"{name}/checkpoint", callback, name, data)

    def close(self) -> None:
        """End the thread, send the last checkpoints, destroy publishers and subscriptions."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=END_S)
            self._thread.join(timeout=END_S)
            if not self._thread.is_alive():
                self._host.checkpoints.end()
                self._publish()
            self._thread = None
            for writer in self._writers.values():
                if writer.publisher.get_subscription_count():
                    writer.publisher.wait_for_all_acked(Duration(seconds=ACKED_S / len(self._writers)))
        for subscription in self._subscriptions.values():
            self._context.node.destroy_subscription(subscription)
        for writer in self._writers.values():
            writer.destroy()
        self._subscriptions.clear()
        self._writers.clear()
