"""ROS's own log files: where their folder cannot be written, a process runs without them.

`rclpy.init` fails where the folder cannot be created (`ROS_LOG_DIR`, else `ROS_HOME`/log, else ~/.ros/log):
with a read-only or missing home no node would start, and none that ended in flight would start again.
Messages still go to the standard error and to /rosout.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from chimera_ros import private_files
from chimera_ros.terminal.lines import print_line

WITHOUT_LOG_FILES: Final = ("--ros-args", "--disable-external-lib-logs")


def init_arguments(args: Sequence[str] | None) -> list[str]:
    """Arguments for `rclpy.init`: those given (None: of the process), without log files where need be."""
    words = list(sys.argv if args is None else args)
    problem = log_problem()
    if problem:
        with contextlib.suppress(OSError):
            print_line(f"no ROS log files: {problem}", error=True)
        words += WITHOUT_LOG_FILES
    return words


def log_problem() -> str:
    """Why ROS cannot write its log files, as a clause; empty if it can."""
    home = os.environ.get("HOME", "")
    base = os.environ.get("ROS_HOME") or "~/.ros"
    name = os.environ.get("ROS_LOG_DIR") or os.path.join(base, "log")
    if name.startswith("~"):
        if not home:
            return "there is no home folder (HOME); name another with ROS_LOG_DIR"
        name = home + name[1:]
    try:
        private_files.make_folder(Path(name))
        with tempfile.TemporaryFile(dir=name):
            return ""
    except OSError as error:
        return f"{name}: {error.strerror or error}; name another folder with ROS_LOG_DIR"
