"""Output of a command that must neither wait for its reader nor fail with it.

A thread writes to the descriptor. A terminal that is closed or hangs, a reader that stops or leaves, a full
disk cost output only.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self, TextIO

MAX_WAITING_BYTES = 256 * 1024  # of output that is not read; what exceeds it is dropped
PATIENCE_S = 30.0  # at the end, for a reader that takes nothing


class DetachedOutput(io.TextIOBase):
    """A text stream on the descriptor of `stream`: `write` never blocks and never raises.

    `problem` says why writing has stopped. `drain` waits until all is written. A stream without descriptor
    (in memory, or None where the caller has closed it) is written to directly.
    """

    def __init__(self, stream: TextIO | None, patience_s: float = PATIENCE_S) -> None:
        self.problem: str | None = None
        self._stream = stream
        self._patience_s = patience_s
        self._waiting: deque[bytes] = deque()
        self._bytes = 0  # not written yet
        self._changed = threading.Condition()
        self._ending = False
        self._fd: int | None = None
        with contextlib.suppress(OSError, ValueError):
            if stream is not None:
                stream.flush()
                self._fd = os.dup(stream.fileno())
        if self._fd is not None:
            threading.Thread(target=self._run, args=(self._fd,), name="output", daemon=True).start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def writable(self) -> bool:
        """True: for output only."""
        return True

    def isatty(self) -> bool:
        """True if the descriptor is a terminal."""
        return self._fd is not None and os.isatty(self._fd)

    def write(self, text: str) -> int:
        """Hand `text` over; it is dropped if too much waits already, or if writing has failed."""
        if self._fd is None:
            if self._stream is not None and self.problem is None:
                try:
                    self._stream.write(text)
                except (OSError, ValueError) as error:
                    self.problem = str(error)
            return len(text)
        data = text.encode(self.encoding, "backslashreplace")
        with self._changed:
            if self.problem is None and (not self._bytes or self._bytes + len(data) <= MAX_WAITING_BYTES):
                self._waiting.append(data)
                self._bytes += len(data)
                self._changed.notify_all()
        return len(text)

    def drain(self) -> None:
        """Wait until everything is written, writing has failed, or the reader takes nothing for too long."""
        with self._changed:
            left, since_s = self._bytes, time.monotonic()
            while self._bytes and self.problem is None:
                self._changed.wait(0.2)
                if self._bytes != left:
                    left, since_s = self._bytes, time.monotonic()
                elif time.monotonic() - since_s > self._patience_s:
                    self.problem = f"nothing was read for {self._patience_s:g} s"

    def close(self) -> None:
        """End the thread; what waits is lost if it is blocked."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def _run(self, fd: int) -> None:
        # Interrupts are for the main thread; and with SIGTTOU blocked a background job may write.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (data := self._next()) is not None:
            while data and self.problem is None:
                try:
                    count = os.write(fd, data[:4096])
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(fd, select.POLLOUT)
                    poll.poll(1000)
                    continue
                except OSError as error:
                    self._fail(error.strerror or str(error))
                    continue
                data = data[count:]
                with self._changed:
                    self._bytes -= count
                    self._changed.notify_all()
        os.close(fd)

    def _next(self) -> bytes | None:
        with self._changed:
            while not self._waiting and not self._ending:
                self._changed.wait()
            return self._waiting.popleft() if self._waiting else None

    def _fail(self, problem: str) -> None:
        with self._changed:
            self.problem = problem
            self._waiting.clear()
            self._bytes = 0
            self._changed.notify_all()
