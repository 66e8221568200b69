"""Thread pool for blocking calls, on daemon threads: a call that hangs does not keep the process alive."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_MAX_WAITING_JOBS = 1024


class CallPool:
    """Runs jobs on at most `limit` daemon threads, started as needed or all at once by `start`."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_MAX_WAITING_JOBS)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open_jobs = 0  # waiting or running
        self._closed = False

    def start(self) -> None:
        """Start all threads, so that none has to be started in a control cycle. Idempotent."""
        with self._lock:
            while not self._closed and len(self._threads) < self._limit:
                self._add_thread()

    def submit(self, job: Callable[[], None]) -> bool:
        """Queue a job; False if the pool is closed or the queue is full."""
        with self._lock:
            if self._closed:
                return False
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                return False
            self._open_jobs += 1
            if self._open_jobs > len(self._threads) and len(self._threads) < self._limit:
                self._add_thread()
        return True

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self, wait_s: float) -> bool:
        """Cancel waiting jobs and wait for running ones; True if all have returned."""
        with self._lock:
            self._closed = True
            while True:
                try:
                    if self._jobs.get_nowait() is not None:
                        self._open_jobs -= 1
                except queue.Empty:
                    break
            threads = list(self._threads)
            for _ in threads:
                self._jobs.put_nowait(None)
        until = time.monotonic() + wait_s
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except Exception:
                _log.exception("a call to the autopilot failed in an unexpected way")
            finally:
                with self._lock:
                    self._open_jobs -= 1
