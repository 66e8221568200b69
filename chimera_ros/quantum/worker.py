"""Keeps a process that runs quantum circuits: started ahead, one request at a time, each with a deadline.

Aer holds the interpreter for whole runs, so that it has no place in a process that flies or answers. The
worker (`aer_process`) is a fresh interpreter on a socket pair; frames are lengths and bytes, nothing is
pickled. One that dies or is late is replaced at once, later ones after a growing pause; without Qiskit or
Aer every call says so. The worker ends when this process does: an idle one because the socket closes, a busy
one at its request's time limit.
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

from .process import ABSENT, OK, REFUSED, START_LIMIT_S, Broken, receive_answer, send_request

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_ROOT = Path(__file__).resolve().parents[1]


class WorkerUnavailable(Exception):
    """The job was not done: no worker, not in time, or its library failed. The text says which."""


class WorkerTimeout(WorkerUnavailable):
    """The job took longer than it may; its worker was replaced."""


class WorkerRefused(Exception):
    """The request itself is wrong; asking again is of no use."""


class AerWorker:
    """One worker process with the jobs of `aer_jobs` and of `modules`. Threads may share it, in turns."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = ("chimera_ros.quantum.jobs", *modules)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: socket.socket | None = None
        self._hello: dict[str, Any] | None = None
        self._absent = ""  # why there can be no worker on this machine
        self._closed = False
        self._number = 0
        self._not_before = 0.0
        self._pause_s = 0.0
        self._started_s = 0.0
        self.restarts = 0

    def start(self) -> None:
        """Starts the worker and does not wait for it; it is ready about a second later."""
        with self._lock:
            self._start()

    @property
    def ready(self) -> bool:
        """Whether a call would be served at once; never waits."""
        if not self._lock.acquire(blocking=False):
            return self._hello is not None
        try:
            return self._greeted(time.monotonic())
        except WorkerUnavailable:
            return False
        finally:
            self._lock.release()

    @property
    def absent(self) -> str:
        """Why no worker can run here (Qiskit or Aer is missing); empty if none is known."""
        return self._absent

    @property
    def pid(self) -> int | None:
        """The present worker's process id."""
        return None if self._process is None else self._process.pid

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """The worker's hello: versions and jobs. Raises WorkerUnavailable."""
        until = time.monotonic() + timeout_s
        with self._held(until):
            self._be_ready(until)
            assert self._hello is not None
            return dict(self._hello)

    def call(self, job: str, body: bytes, timeout_s: float) -> bytes:
        """Does a job within `timeout_s`, waiting for the line and the start included.

        Raises WorkerUnavailable, WorkerTimeout, and JobRefused for a request that is wrong.
        """
        until = time.monotonic() + timeout_s
        with self._held(until):
            self._be_ready(until)
            assert self._wire is not None
            self._number += 1
            try:
                left = until - time.monotonic()
                if left <= 0.0:
                    raise WorkerTimeout("no time was left for the quantum worker")
                self._wire.settimeout(left)
                send_request(self._wire, self._number, left, job, body)
                number, status, answer = receive_answer(self._wire, until)
                if number != self._number:
                    raise Broken("the quantum worker answered another request")
            except TimeoutError:
                self._replace()
                raise WorkerTimeout(f"job {job} took longer than {timeout_s:.3g} s") from None
            except (Broken, OSError) as error:
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
            self._end(patience_s=1.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # With the lock held ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _held(self, until: float) -> Any:
        if not self._lock.acquire(timeout=max(until - time.monotonic(), 0.0)):
            raise WorkerTimeout("the quantum worker is busy with another request")
        try:
            yield
        finally:
            self._lock.release()

    def _be_ready(self, until: float) -> None:
        while not self._greeted(until):
            if time.monotonic() >= until:
                raise WorkerTimeout("the quantum worker is still starting")

    def _greeted(self, until: float) -> bool:
        """Whether the worker has said hello by `until`. Raises WorkerUnavailable."""
        self._start()
        if self._hello is not None:
            return True
        assert self._wire is not None
        poll = select.poll()
        poll.register(self._wire, select.POLLIN)
        if not poll.poll(max(until - time.monotonic(), 0.0) * 1e3):
            if time.monotonic() - self._started_s > START_LIMIT_S:
                self._replace()
            return False
        try:
            _, status, body = receive_answer(self._wire, time.monotonic() + 1.0)
            if status == ABSENT:
                self._absent = f"quantum circuits cannot run here: {body.decode(errors='replace')}"
                self._end(patience_s=0.0)
                raise WorkerUnavailable(self._absent)
            hello = json.loads(body)
            if status != OK or not isinstance(hello, dict):
                raise Broken("the quantum worker's hello is malformed")
            self._hello = hello
        except (Broken, OSError, ValueError) as error:
            reason = self._replace()
            raise WorkerUnavailable(f"the quantum worker died while starting: {reason or error}") from None
        return True

    def _start(self) -> None:
        """Makes sure that there is a live process, perhaps still starting. Raises WorkerUnavailable."""
        if self._closed:
            raise WorkerUnavailable("the quantum worker is closed")
        if self._absent:
            raise WorkerUnavailable(self._absent)
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            self._end(patience_s=0.0)
            self._penalize()
        now = time.monotonic()
        if now < self._not_before:
            raise WorkerUnavailable(f"the quantum worker is started again in {self._not_before - now:.1f} s")
        ours, theirs = socket.socketpair()
        paths = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "chimera_ros.quantum.process",
                    str(theirs.fileno()),
                    *self._modules,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                    "OMP_NUM_THREADS": "1",  # circuits of this size gain nothing from more
                },
            )
        except OSError as error:
            ours.close()
            self._penalize()
            raise WorkerUnavailable(f"the quantum worker cannot be started: {error}") from None
        finally:
            theirs.close()
        self._wire, self._hello, self._started_s = ours, None, now

    def _replace(self) -> str:
        """Ends this worker and starts the next if it is time; returns how it ended."""
        process = self._process
        self._end(patience_s=0.0)
        self._penalize()
        with contextlib.suppress(WorkerUnavailable):
            self._start()
        code = None if process is None else process.returncode
        return "" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"

    def _penalize(self) -> None:
        """The first replacement starts at once, each further one without success later."""
        self.restarts += 1
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(max(2.0 * self._pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)

    def _end(self, patience_s: float) -> None:
        if self._wire is not None:
            self._wire.close()
        if self._process is not None:
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._wire, self._hello = None, None, None
