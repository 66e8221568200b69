"""Protection of a process that holds private keys: no core dump, no debugger of the same user.

RLIMIT_CORE is 1 (a pipe in core_pattern ignores 0, see core(5)) and PR_SET_DUMPABLE is off (prctl(2)):
neither a crash nor ptrace(2) of another process without CAP_SYS_PTRACE gets at its memory. Programs that it
starts inherit the limit and are dumpable again.

Not handled: swap and hibernation; root.
"""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def disable() -> None:
    """Disable core dumps of this process and its children: they would hold keys.

    With a limit of one byte Linux does not call a core_pattern pipe handler either (core(5)).
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def forbid() -> bool:
    """Forbid core dumps and debuggers for this process; True if the kernel agreed to both."""
    try:
        disable()
        return bool(ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)
    except (OSError, ValueError, AttributeError):
        return False
