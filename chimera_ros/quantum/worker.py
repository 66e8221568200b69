"""Supervisor of the worker process for quantum circuits: one request at a time, each with a deadline.

Aer holds the interpreter lock for whole runs, so it must not run in a node's process. The worker
(`process.py`) is a separate interpreter on a socket pair; frames are lengths and bytes, nothing is pickled. A
worker that terminates or misses a deadline is replaced at once, further ones with exponential back-off;
without Qiskit or Aer every call fails with the reason. The worker ends with this process: an idle one because
the socket is closed, a busy one at its request's time limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .process import ABSENT, OK, REFUSED, START_LIMIT_S, ConnectionBroken, receive_answer, send_request

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_ROOT = Path(__file__).resolve().parents[1]


class WorkerUnavailable(Exception):
    """The job was not done: no worker, deadline missed, or its library failed; the text says which."""


class WorkerTimeout(WorkerUnavailable):
    """The job exceeded its time limit; the worker was replaced."""


class WorkerRefused(Exception):
    """The request is invalid; retrying does not help."""


class AerWorker:
    """One worker process with the jobs of `jobs.py` and of `modules`. Thread-safe; calls are serialized."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = ("chimera_ros.quantum.jobs", *modules)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._hello: dict[str, Any] | None = None
        self._absent = ""  # why no worker can run on this machine
        self._closed = False
        self._number = 0
        self._not_before = 0.0
        self._pause_s = 0.0
        self._started_s = 0.0
        self.restarts = 0

    def start(self) -> None:
        """Starts the worker without waiting; it is ready about a second later."""
        with self._lock:
            self._start()

    @property
    def ready(self) -> bool:
        """True if a call would be served at once; never blocks."""
        if not self._lock.acquire(blocking=False):
            return self._hello is not None
        try:
            return self._receive_hello(time.monotonic())
        except WorkerUnavailable:
            return False
        finally:
            self._lock.release()

    @property
    def absent(self) -> str:
        """Why no worker can run here (Qiskit or Aer is missing); empty if unknown."""
        return self._absent

    @property
    def pid(self) -> int | None:
        """Process id of the current worker."""
        return None if self._process is None else self._process.pid

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """The worker's hello: versions and jobs. Raises WorkerUnavailable."""
        until = time.monotonic() + timeout_s
        with self._acquire(until):
            self._wait_ready(until)
            assert self._hello is not None
            return dict(self._hello)

    def call(self, job: str, body: bytes, timeout_s: float) -> bytes:
        """Runs a job within `timeout_s`, including the wait for other calls and for the start.

        Raises WorkerUnavailable, WorkerTimeout, and WorkerRefused for an invalid request.
        """
        until = time.monotonic() + timeout_s
        with self._acquire(until):
            self._wait_ready(until)
            assert self._socket is not None
            self._number += 1
            try:
                remaining_s = until - time.monotonic()
                if remaining_s <= 0.0:
                    raise WorkerTimeout("no time was left for the quantum worker")
                self._socket.settimeout(remaining_s)
                send_request(self._socket, self._number, remaining_s, job, body)
                number, status, answer = receive_answer(self._socket, until)
                if number != self._number:
                    raise ConnectionBroken("the quantum worker answered another request")
            except TimeoutError:
                self._replace()
                raise WorkerTimeout(f"job {job} took longer than {timeout_s:.3g} s") from None
            except (ConnectionBroken, OSError) as error:
                reason = self._replace()
                raise WorkerUnavailable(f"the quantum worker died in job {job}: {reason or error}") from None
            self._pause_s = 0.0
        if status == OK:
            return answer
        text = answer.decode(errors="replace")
        if status == REFUSED:
            raise WorkerRefused(text)
        raise WorkerUnavailable(f"job {job} failed: {text}")

    def close(self) -> None:
        """Ends the worker; waits for a call in progress."""
        with self._lock:
            self._closed = True
            self._end(grace_s=1.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The caller holds the lock -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _acquire(self, until: float) -> Any:
        if not self._lock.acquire(timeout=max(until - time.monotonic(), 0.0)):
            raise WorkerTimeout("the quantum worker is busy with another request")
        try:
            yield
        finally:
            self._lock.release()

    def _wait_ready(self, until: float) -> None:
        while not self._receive_hello(until):
            if time.monotonic() >= until:
                raise WorkerTimeout("the quantum worker is still starting")

    def _receive_hello(self, until: float) -> bool:
        """True if the worker's hello is received by `until`. Raises WorkerUnavailable."""
        self._start()
        if self._hello is not None:
            return True
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(max(until - time.monotonic(), 0.0) * 1e3):
            if time.monotonic() - self._started_s > START_LIMIT_S:
                self._replace()
            return False
        try:
            _, status, body = receive_answer(self._socket, time.monotonic() + 1.0)
            if status == ABSENT:
                self._absent = f"quantum circuits cannot run here: {body.decode(errors='replace')}"
                self._end(grace_s=0.0)
                raise WorkerUnavailable(self._absent)
            hello = json.loads(body)
            if status != OK or not isinstance(hello, dict):
                raise ConnectionBroken("the quantum worker's hello is malformed")
            self._hello = hello
        except (ConnectionBroken, OSError, ValueError) as error:
            reason = self._replace()
            raise WorkerUnavailable(f"the quantum worker died while starting: {reason or error}") from None
        return True

    def _start(self) -> None:
        """Starts a process unless one is running. Raises WorkerUnavailable."""
        if self._closed:
            raise WorkerUnavailable("the quantum worker is closed")
        if self._absent:
            raise WorkerUnavailable(self._absent)
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._end(grace_s=0.0)
            self._back_off()
        now = time.monotonic()
        if now < self._not_before:
            raise WorkerUnavailable(f"the quantum worker is started again in {self._not_before - now:.1f} s")
        parent_end, child_end = socket.socketpair()
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "chimera_ros.quantum.process",
                    str(child_end.fileno()),
                    *self._modules,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(child_end.fileno(),),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                    "OMP_NUM_THREADS": "1",  # more does not speed up circuits of this size
                },
            )
        except OSError as error:
            parent_end.close()
            self._back_off()
            raise WorkerUnavailable(f"the quantum worker cannot be started: {error}") from None
        finally:
            child_end.close()
        self._socket, self._hello, self._started_s = parent_end, None, now

    def _replace(self) -> str:
        """Ends this worker and starts the next one if permitted by the back-off; returns its exit."""
        process = self._process
        self._end(grace_s=0.0)
        self._back_off()
        with contextlib.suppress(WorkerUnavailable):
            self._start()
        code = None if process is None else process.returncode
        return "" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"

    def _back_off(self) -> None:
        """Exponential back-off: the first replacement is immediate."""
        self.restarts += 1
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(max(2.0 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _end(self, grace_s: float) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._socket, self._hello = None, None, None
