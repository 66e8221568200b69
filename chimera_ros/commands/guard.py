"""Guard around a command: whatever ends it becomes one sentence on standard error and an exit status.

CHIMERA_TRACEBACK=1 shows where an unforeseen error was raised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from chimera_ros import standard_streams
from chimera_ros.commands.errors import FAILURE, CommandFailed
from chimera_ros.terminal.lines import print_line

INTERRUPTED = 130
BROKEN_PIPE = 141
TRACEBACK_VARIABLE = "CHIMERA_TRACEBACK"


def guarded(program: str, call: Callable[[], int]) -> int:
    """Runs a command; returns its exit status. `program` begins the sentence of an error."""
    standard_streams.repair()
    try:
        status = call()
        sys.stdout.flush()
        return status
    except CommandFailed as error:
        return _failed(program, str(error), error.status)
    except SystemExit as error:  # argparse has printed help or the misuse
        return error.code if isinstance(error.code, int) else FAILURE if error.code else 0
    except KeyboardInterrupt:
        return _failed(program, "interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader of the output (head, less) has exited
        _leave_output()
        return BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status = _failed(program, where + (error.strerror or str(error)), FAILURE)
        _leave_output()
        return status
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        text = f"internal error: {type(error).__name__}: {error} ({TRACEBACK_VARIABLE}=1 shows where)"
        return _failed(program, text, FAILURE)


def _failed(program: str, sentence: str, status: int) -> int:
    print_line(f"{program}: {sentence}", error=True)
    return status


def _leave_output() -> None:
    """Flush buffered output, or discard it: Python would try again on exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
