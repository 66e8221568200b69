"""Picture of the flown tracks after a flight, drawn in a process of its own.

Whatever happens to the plotting library there (an exception, a crash, no memory, no end), the report and the
summary of the flight do not depend on it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from chimera_ros.launcher.supervisor import ChildSpec, Exited, StartFailed, Supervisor
from chimera_ros.terminal.lines import print_line

LIMIT_S = 120.0
NAME = "picture"


class NotDrawn(Exception):
    """There is no picture; the text says why."""


def draw(
    tracks: Path,
    picture: Path,
    *,
    title: str,
    separation_m: float,
    log_dir: Path,
    interrupted: Callable[[], bool],
    limit_s: float = LIMIT_S,
) -> None:
    """Plot `tracks` into `picture`.

    Raises:
        NotDrawn: it could not be drawn, took too long, or `interrupted()` was true.
    """
    arguments = (str(tracks), str(picture), title, repr(separation_m))
    until_s = time.monotonic() + limit_s
    try:
        picture.unlink(missing_ok=True)  # that of an earlier flight in the same folder
    except OSError as error:
        raise NotDrawn(f"{picture}: {error.strerror or error}") from None
    with Supervisor(log_dir) as supervisor:
        try:
            supervisor.start(ChildSpec(NAME, (sys.executable, "-m", __name__, *arguments)))
        except StartFailed as error:
            raise NotDrawn(str(error)) from None
        try:
            while not interrupted():
                if time.monotonic() > until_s:
                    raise NotDrawn(f"not finished after {limit_s:g} s")
                for event in supervisor.poll(0.1):
                    if isinstance(event, Exited):
                        if event.returncode or not picture.is_file():
                            raise NotDrawn(event.last_lines[-1] if event.last_lines else event.reason)
                        return
        finally:
            supervisor.kill(NAME)
    raise NotDrawn("interrupted")


def main(arguments: list[str]) -> int:
    """The process: arguments are tracks, picture, title and required separation in metres."""
    from chimera_ros.records.tracks import TracksFailed, draw_tracks

    tracks, picture, title, separation_m = arguments
    try:
        draw_tracks(Path(tracks), Path(picture), title=title, asked_separation_m=float(separation_m))
    except TracksFailed as error:
        print_line(error, error=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
