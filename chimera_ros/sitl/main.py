"""Command line of `chimera sitl`, the simulated vehicles."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chimera_ros.flight.datum import Datum
from chimera_ros.stop_requests import StopRequests

from .config import (
    DEFAULT_DATUM,
    DEFAULT_FIRST_PORT,
    DEFAULT_GCS_PORT,
    Fault,
    FaultKind,
    SitlConfig,
    SitlError,
    Vec3,
)
from .parameters import SPECS, Parameters
from .stop_condition import StopCondition
from .udp_server import run

STATUS_FD_VARIABLE = "CHIMERA_STATUS_FD"


def parser() -> argparse.ArgumentParser:
    """The options of `chimera sitl`."""
    p = argparse.ArgumentParser(
        prog="chimera sitl",
        description="Simulate PX4-like quadrotors with MAVLink 2 over UDP. "
        "Vehicle N (from 1) sends to 127.0.0.1, port first-port + N - 1.",
    )
    p.add_argument("--drones", type=int, default=5, metavar="N", help="how many vehicles (default 5)")
    p.add_argument("--first-port", type=int, default=DEFAULT_FIRST_PORT, metavar="PORT", help="default 15540")
    p.add_argument(
        "--gcs-port",
        type=int,
        default=DEFAULT_GCS_PORT,
        metavar="PORT",
        help="ground station, default 14550; 0: none",
    )
    p.add_argument("--personality", default="px4", metavar="NAME", help="px4 (default)")
    p.add_argument(
        "--seed", type=int, default=1, metavar="N", help="of origins, headings, gusts and errors (default 1)"
    )
    p.add_argument(
        "--wind", type=float, default=0.0, metavar="M_PER_S", help="mean wind with gusts (default 0)"
    )
    p.add_argument(
        "--datum",
        type=_three_numbers,
        default=dataclasses.astuple(DEFAULT_DATUM),
        metavar="LAT,LON,ALT",
        help="degrees, metres AMSL",
    )
    p.add_argument("--spawn", metavar="FILE.json", help="spawn places: [[east, north, up], ...] in metres")
    p.add_argument("--spacing", type=float, default=4.0, metavar="M", help="of the spawn grid (default 4)")
    p.add_argument("--first-system-id", type=int, default=1, metavar="N", help="default 1")
    p.add_argument(
        "--speed", type=float, default=1.0, metavar="FACTOR", help="simulated over wall time (default 1)"
    )
    p.add_argument("--tracks", metavar="FILE.jsonl", help="write true positions here, 5 per second")
    p.add_argument(
        "--param", action="append", default=[], metavar="NAME=VALUE", help="PX4 parameter of all vehicles"
    )
    kinds = ", ".join(kind.value for kind in FaultKind)
    p.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="N:KIND[@SECONDS]",
        help=f"give vehicle N a fault: {kinds}",
    )
    return p


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        lat, lon, alt = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LAT,LON,ALT in degrees and metres") from None
    if not all(map(math.isfinite, (lat, lon, alt))):
        raise argparse.ArgumentTypeError(f"{text!r} is not LAT,LON,ALT in degrees and metres")
    return lat, lon, alt


def read_datum(numbers: tuple[float, float, float]) -> Datum:
    """The datum from latitude, longitude and altitude.

    Raises:
        SitlError: if one of them is out of bounds.
    """
    try:
        return Datum(*numbers)
    except ValueError as error:
        raise SitlError(f"--datum: {error}.") from None


def read_spawn(path: str) -> list[Vec3]:
    """Spawn positions from a JSON file: [[east, north, up], ...] in metres from the datum.

    Raises:
        SitlError: if it cannot be read or holds anything else.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SitlError(f"--spawn {path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise SitlError(f"--spawn {path}: is not JSON ({error}).") from None
    if not isinstance(rows, list):
        raise SitlError(f"--spawn {path}: must be a list of [east, north, up] in metres.")
    places: list[Vec3] = []
    for number, row in enumerate(rows):
        good = isinstance(row, list) and len(row) == 3
        if not good or not all(isinstance(v, int | float) and math.isfinite(v) and abs(v) < 1e5 for v in row):
            raise SitlError(f"--spawn {path}: place {number} must be [east, north, up] in metres.")
        places.append((float(row[0]), float(row[1]), float(row[2])))
    return places


def read_parameters(texts: Sequence[str]) -> dict[str, float]:
    """Parameters from `NAME=VALUE` texts.

    Raises:
        SitlError: if a name is unknown or a value not allowed.
    """
    values: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            raise SitlError(f"--param {text}: write NAME=VALUE.") from None
        if not Parameters().set(name, value):
            spec = SPECS.get(name)
            allowed = f"from {spec.low} to {spec.high}" if spec else f"one of {', '.join(sorted(SPECS))}"
            raise SitlError(f"--param {text}: must be {allowed}.")
        values[name] = value
    return values


class SitlStatusWriter:
    """Writes JSON lines to a descriptor and never blocks: lines that do not fit in the pipe are dropped."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._fd = descriptor
        self._rest = b""
        self.dropped = 0
        self.closed = False

    def __call__(self, status: dict[str, Any]) -> None:
        if self._rest and not self._write(self._rest):
            self.dropped += 1
            return
        self._write(json.dumps(status, separators=(",", ":")).encode() + b"\n")

    def _write(self, line: bytes) -> bool:
        """Write as much as fits and keep the rest of a line that has begun; True if nothing is left."""
        self._rest = b""
        if self.closed:
            return True
        try:
            written = os.write(self._fd, line)
        except BlockingIOError:
            self.dropped += 1
            return True  # nothing was written, so nothing is left over
        except OSError:
            self.closed = True
            return True
        self._rest = line[written:]
        return not self._rest


def _status_writer(descriptor: str) -> SitlStatusWriter:
    try:
        return SitlStatusWriter(int(descriptor))
    except (ValueError, OSError):
        raise SitlError(f"{STATUS_FD_VARIABLE}={descriptor} is not an open file descriptor.") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation until a signal; exit status 0, 1 if it cannot run (2 for misuse, by argparse).

    With CHIMERA_STATUS_FD in the environment, one JSON line per half second goes to that descriptor, and the
    simulation ends with its parent process, once all vehicles are down.
    """
    options = parser().parse_args(argv)
    descriptor = os.environ.get(STATUS_FD_VARIABLE)
    requests = StopRequests()
    requests.install()
    stop = StopCondition(requests, follow_parent=descriptor is not None)
    try:
        config = SitlConfig(
            drones=options.drones,
            first_port=options.first_port,
            gcs_port=options.gcs_port,
            seed=options.seed,
            wind_m_s=options.wind,
            personality=options.personality,
            datum=read_datum(options.datum),
            spawn_enu_m=read_spawn(options.spawn) if options.spawn else (),
            spacing_m=options.spacing,
            first_system_id=options.first_system_id,
            faults=tuple(Fault.parse(text) for text in options.fault),
            speed_factor=options.speed,
            parameters=read_parameters(options.param),
            tracks=options.tracks,
        )
        config.check()
        writer = _status_writer(descriptor) if descriptor else None
        if writer is None:
            last = config.first_port + config.drones - 1
            print(
                f"Simulating {config.drones} PX4-like vehicles: UDP 127.0.0.1:{config.first_port}"
                f"{f' to {last}' if config.drones > 1 else ''}"
                f"{f', ground station on {config.gcs_port}' if config.gcs_port else ''}. Ctrl-C ends it.",
                flush=True,
            )
        gc.freeze()
        run(config, writer, stop)
    except SitlError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
