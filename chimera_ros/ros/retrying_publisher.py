"""Publisher of serialised bytes with a bounded retry queue for saturated DDS writers."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Final

from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.qos import ReliabilityPolicy

from . import names
from .context import SessionContext

RETRY_S: Final = 0.01
RETRY_FOR_S: Final = 1.0
UNMATCHED_FOR_S: Final = 3.0
MAX_QUEUED: Final = 256


class RetryingPublisher:
    """A publisher of bytes. On a reliable topic at most `MAX_QUEUED` samples wait, `RETRY_FOR_S` each."""

    def __init__(self, context: SessionContext, message_type: type[Any], channel: str, profile: Any) -> None:
        self._context = context
        self._reliable = profile.reliability == ReliabilityPolicy.RELIABLE
        self._queue: deque[tuple[float, bytes]] = deque()
        self.publisher = context.node.create_publisher(
            message_type, names.topic(channel, context.namespace), profile
        )

    def send(self, data: bytes) -> bool:
        """Publish serialised bytes; False if they were dropped (best effort) or queued (reliable)."""
        if not self._queue:
            try:
                self.publisher.publish(data)
                return True
            except _rclpy.RCLError:
                self._context.counts["writer_saturated"] += 1
        if not self._reliable:
            return False
        if len(self._queue) >= MAX_QUEUED:
            self._context.counts["publish_dropped"] += 1
            return False
        self._queue.append((time.monotonic() + RETRY_FOR_S, data))
        self._context.retry_later(self.retry)
        return False

    def send_when_matched(self, data: bytes) -> None:
        """Publish once DDS has matched a reader: a volatile sample sent before is lost."""
        if self._queue or self.publisher.get_subscription_count() > 0:
            self.send(data)
            return
        self._queue.append((time.monotonic() + UNMATCHED_FOR_S, data))
        self._context.retry_later(self.retry)

    def retry(self) -> bool:
        """Send the queue in order; True when it is empty."""
        while self._queue:
            deadline, data = self._queue[0]
            if self.publisher.get_subscription_count() == 0 and time.monotonic() < deadline:
                return False
            try:
                self.publisher.publish(data)
            except _rclpy.RCLError:
                if time.monotonic() < deadline:
                    return False
                self._context.counts["publish_dropped"] += 1
            else:
                self._context.counts["publish_retried"] += 1
            self._queue.popleft()
        return True

    def destroy(self) -> None:
        """Destroy the publisher; the queue is dropped."""
        self._queue.clear()
        self._context.node.destroy_publisher(self.publisher)
