"""Sender thread for acknowledgements; those that wait for one drone share an envelope and a signature."""

from __future__ import annotations

import contextlib
import queue
import threading

from chimera_ros.flight.messages import CommandAck
from chimera_ros.msg import CommandAcks
from chimera_ros.ros import convert
from chimera_ros.ros.endpoints import SecurePublisher


class AckSender:
    """Signs and publishes acknowledgements in a thread, those of one drone in order.

    A signature takes most of a millisecond and a saturated reliable writer blocks for up to a tenth of a
    second: the control cycle must wait for neither. At most `MAX_QUEUED` acknowledgements wait; more are
    dropped and counted, and the leader repeats an unacknowledged command.
    """

    MAX_QUEUED = 256
    MAX_PER_MESSAGE = 64  # per message, the bound of CommandAcks.msg

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[SecurePublisher, CommandAck] | None] = queue.Queue(self.MAX_QUEUED)
        self._thread = threading.Thread(target=self._run, name="acknowledgements", daemon=True)
        self.dropped = 0
        self._thread.start()

    def put(self, publisher: SecurePublisher, ack: CommandAck) -> None:
        """Queue `ack`."""
        try:
            self._queue.put_nowait((publisher, ack))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Send the queue, for a second at most, and end the thread."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=0.5)
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        ended = False
        while not ended:
            waiting: dict[SecurePublisher, list[CommandAck]] = {}
            item = self._queue.get()
            while item is not None:
                waiting.setdefault(item[0], []).append(item[1])
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            ended = item is None
            for publisher, acks in waiting.items():
                for first in range(0, len(acks), self.MAX_PER_MESSAGE):
                    part = acks[first : first + self.MAX_PER_MESSAGE]
                    try:
                        publisher.publish(CommandAcks(acks=[convert.ack_to_msg(ack) for ack in part]))
                    except Exception:  # rejected by the policy, or the session is closing
                        self.dropped += len(part)
