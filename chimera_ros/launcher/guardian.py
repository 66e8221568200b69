"""Guardian of the children of a supervisor that dies: a script of its own, which needs no package.

    guardian.py LANDING_S < ORDERS

Orders are lines: `+PID` and `-PID` add and remove a child that leads a process group, `air` and `ground` say
where the swarm is. When their writer has ended, children on the ground are killed at once. Those in the air
have `LANDING_S` seconds to land and to end by themselves; what is left then is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

LOOK_S = 0.1


def guard(orders: Iterable[bytes], landing_s: float) -> None:
    """Follow the orders to their end, then end the children."""
    children: set[int] = set()
    in_air = False
    for line in orders:
        order = line.strip()
        if order in (b"air", b"ground"):
            in_air = order == b"air"
        elif order[:1] == b"+":
            children.add(int(order[1:]))
        elif order[:1] == b"-":
            children.discard(int(order[1:]))
    end_s = time.monotonic() + (landing_s if in_air else 0.0)
    while children and time.monotonic() < end_s:
        children = {pid for pid in children if _runs(pid)}
        time.sleep(LOOK_S)
    for pid in children:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    """True if the leader of the group runs; kills what it has left behind otherwise."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as file:  # a zombie runs no more, whoever has to reap it
            if file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X"):
                return True
    except OSError:
        pass
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    return False


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    guard(sys.stdin.buffer, float(sys.argv[1]))
