"""Worker process for quantum circuits, and its protocol: length-prefixed frames on a socket pair.

Run as `python -m chimera_ros.quantum.process FD MODULE...`; `worker.AerWorker` starts it. It imports the
modules, which register their jobs (`jobs.job`), warms them up, sends a hello, and answers one request after
the other until its parent closes the socket.

Aer holds the interpreter lock for whole runs, so no thread of this process can supervise it. A busy process
is ended by its parent or, if the parent was killed, by SIGALRM, set from the request's own time limit. An
idle one ends when the socket is closed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import struct
import sys
import time

MAX_BODY = 64 * 1024 * 1024
START_LIMIT_S = 120.0  # imports and warm-up
GRACE_S = 0.5  # of SIGALRM after the parent's own deadline

OK, FAILED, REFUSED, ABSENT = range(4)  # status of an answer; REFUSED: invalid request

_REQUEST = struct.Struct("<QdHI")  # number, time limit in s, length of the job's name, length of the body
_ANSWER = struct.Struct("<QBI")  # number, status, length of the body


class ConnectionBroken(Exception):
    """The peer has closed the connection, or sent a malformed frame."""


def send_request(wire: socket.socket, number: int, limit_s: float, job: str, body: bytes) -> None:
    """Sends a request within the socket's timeout. Raises OSError, ValueError for a body that is too long."""
    name = job.encode()
    if len(body) > MAX_BODY:
        raise ValueError(f"a request of {len(body)} bytes is more than the {MAX_BODY} allowed")
    wire.sendall(_REQUEST.pack(number, limit_s, len(name), len(body)) + name + body)


def send_answer(wire: socket.socket, number: int, status: int, body: bytes) -> None:
    """Sends an answer. Raises OSError."""
    wire.sendall(_ANSWER.pack(number, status, len(body)) + body)


def receive_answer(wire: socket.socket, until: float) -> tuple[int, int, bytes]:
    """(number, status, body) of the next answer, until `until` (monotonic s).

    Raises TimeoutError, ConnectionBroken.
    """
    number, status, length = _ANSWER.unpack(_receive(wire, _ANSWER.size, until))
    if length > MAX_BODY or status > ABSENT:
        raise ConnectionBroken("an answer of the worker process is malformed")
    return number, status, _receive(wire, length, until)


def _receive(wire: socket.socket, count: int, until: float | None) -> bytes:
    received = bytearray()
    while len(received) < count:
        if until is not None:
            left = until - time.monotonic()
            if left <= 0.0:
                raise TimeoutError
            wire.settimeout(left)
        part = wire.recv(min(count - len(received), 1 << 20))
        if not part:
            raise ConnectionBroken("the peer closed the connection")
        received += part
    return bytes(received)


# Child process -------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """Serves requests on the socket with file descriptor arguments[0], by jobs of modules arguments[1:]."""
    wire = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, START_LIMIT_S)
    try:
        from . import jobs

        for module in arguments[1:]:
            importlib.import_module(module)
        hello = jobs.warm_up()
    except ImportError as error:
        with contextlib.suppress(OSError):
            send_answer(wire, 0, ABSENT, str(error).encode())
        return 1
    try:
        send_answer(wire, 0, OK, json.dumps(hello).encode())
        while True:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            number, limit_s, name_length, length = _REQUEST.unpack(_receive(wire, _REQUEST.size, None))
            if length > MAX_BODY:
                raise ConnectionBroken("a request is too long")
            signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.0) + GRACE_S)
            name = _receive(wire, name_length, None).decode(errors="replace")
            body = _receive(wire, length, None)
            try:
                status, answer = OK, jobs.run(name, body)
                if len(answer) > MAX_BODY:
                    status, answer = REFUSED, b"the answer would be too long"
            except jobs.JobRefused as error:
                status, answer = REFUSED, str(error).encode()
            except ImportError as error:
                status, answer = ABSENT, str(error).encode()
            except Exception as error:  # reported to the caller; the worker continues
                status, answer = FAILED, f"{type(error).__name__}: {error}".encode()[:2000]
            send_answer(wire, number, status, answer)
    except (ConnectionBroken, OSError):
        return 0  # the parent has exited or closed the socket


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # skips cleanup, which could block: there is nothing to save
