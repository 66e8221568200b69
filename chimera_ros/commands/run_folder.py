"""Folder of a run: made before anything starts; no condition for a flight while its disk is full.

A folder that cannot be written at all is a wrong `--record` and refused. A full disk may have room again in
flight, and what is not written then is lost with an alarm.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Sequence
from pathlib import Path

from chimera_ros import private_files
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.terminal.lines import print_line

FULL = (errno.ENOSPC, errno.EDQUOT)


def make_run_folder(
    run_dir: Path, pads: Sequence[tuple[float, float, float]], *, recorded: bool
) -> Path | str:
    """Makes the folder with its `log/`; returns the take-off places for `chimera sitl --spawn`: `spawn.json`
    there, or the JSON itself where that file cannot be written.

    Raises:
        CommandFailed: the folder is to hold records and cannot be written.
    """
    places = json.dumps([list(pad) for pad in pads])
    try:
        private_files.make_folder(run_dir / "log")
        private_files.write_file(run_dir / "spawn.json", places.encode())
    except OSError as error:
        why = f"folder {run_dir}: {error.strerror}"
        if recorded and error.errno not in FULL:
            raise CommandFailed(
                f"{why}; choose another with --record, or fly without records with --no-record"
            ) from None
        with contextlib.suppress(OSError):
            print_line(f"chimera swarm: {why}; logs, records and report are lost there", error=True)
        return places
    return run_dir / "spawn.json"
