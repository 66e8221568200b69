"""Standard streams of a process, usable in any state in which its parent leaves them.

A descriptor 0, 1 or 2 that is closed (`>&-`, some service managers) would be taken by the next file or socket
that is opened, and Python would have no stream for it: it is opened on /dev/null instead. Characters that the
encoding of an output lacks are written with backslashes; messages of `logging` pass the gate of `terminal`.
"""

from __future__ import annotations

import io
import os
import sys

from chimera_ros.terminal.lines import guard_logging


def repair() -> None:
    """Open closed standard descriptors on /dev/null; let no character make a write fail."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for good
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    guard_logging()
