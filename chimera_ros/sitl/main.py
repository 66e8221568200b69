"""Command line of `chimera sitl`, the simulated vehicles."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chimera_ros import standard_streams
from chimera_ros.command_line import (
    OneSentenceParser,
    number,
    output_file,
    some_text,
    whole,
)
from chimera_ros.flight.datum import Datum
from chimera_ros.formats import json_values, numbers
from chimera_ros.formats.text import FormatError, excerpt, read_bytes
from chimera_ros.stop_requests import StopRequests
from chimera_ros.terminal.lines import print_line

from .config import (
    DEFAULT_DATUM,
    DEFAULT_FIRST_PORT,
    DEFAULT_GCS_PORT,
    FAULT_GRAMMAR,
    FAULT_KINDS,
    MAX_DRONES,
    Fault,
    SitlConfig,
    SitlError,
    SitlMisuse,
    Vec3,
)
from .parameters import SPECS, Parameters
from .stop_condition import StopCondition
from .udp_server import run

STATUS_FD_VARIABLE = "CHIMERA_STATUS_FD"
MAX_SPAWN_BYTES = 1 << 20


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chimera sitl`."""
    add = parser.add_argument
    add("--drones", type=whole, default=5, metavar="N", help=f"vehicles: 1 to {MAX_DRONES} (default 5)")
    add("--first-port", type=whole, default=DEFAULT_FIRST_PORT, metavar="PORT", help="default 15540")
    add(
        "--gcs-port",
        type=whole,
        default=DEFAULT_GCS_PORT,
        metavar="PORT",
        help="ground station, default 14550; 0: none",
    )
    add("--personality", type=some_text, default="px4", metavar="NAME", help="px4 (default)")
    add(
        "--seed",
        type=whole,
        default=1,
        metavar="N",
        help="of origins, headings, gusts and errors (default 1)",
    )
    add(
        "--wind",
        type=number,
        default=0.0,
        metavar="M_PER_S",
        help="mean wind with gusts, up to 15 (default 0)",
    )
    add(
        "--datum",
        type=_three_numbers,
        default=dataclasses.astuple(DEFAULT_DATUM),
        metavar="LAT,LON,ALT",
        help="degrees, metres AMSL",
    )
    add(
        "--spawn",
        type=some_text,
        metavar="FILE.json",
        help="spawn places: a file of [[east, north, up], ...] in metres, or that JSON itself",
    )
    add("--spacing", type=number, default=4.0, metavar="M", help="of the spawn grid, 0.5 to 100 (default 4)")
    add("--first-system-id", type=whole, default=1, metavar="N", help="default 1")
    add(
        "--speed",
        type=number,
        default=1.0,
        metavar="FACTOR",
        help="simulated over wall time, 0.05 to 20 (default 1)",
    )
    add("--tracks", type=output_file, metavar="FILE.jsonl", help="write true positions here, 5 per second")
    add(
        "--param",
        type=some_text,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="PX4 parameter of all vehicles",
    )
    add(
        "--fault",
        type=some_text,
        action="append",
        default=[],
        metavar=FAULT_GRAMMAR,
        help=f"give vehicle N (from 1) a fault; KIND is one of {FAULT_KINDS}",
    )


def parser() -> argparse.ArgumentParser:
    """The options of `chimera sitl`."""
    made = OneSentenceParser(
        prog="chimera sitl",
        description="Simulate PX4-like quadrotors with MAVLink 2 over UDP. "
        "Vehicle N (from 1) sends to 127.0.0.1, port first-port + N - 1.",
    )
    register(made)
    return made


def _three_numbers(text: str) -> tuple[float, float, float]:
    try:
        lat, lon, alt = (numbers.number(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{excerpt(text)}' is not LAT,LON,ALT in degrees and metres"
        ) from None
    return lat, lon, alt


def read_datum(degrees_and_metres: tuple[float, float, float]) -> Datum:
    """The datum from latitude, longitude and altitude.

    Raises:
        SitlMisuse: if one of them is out of bounds.
    """
    try:
        return Datum(*degrees_and_metres)
    except ValueError as error:
        raise SitlMisuse(f"--datum: {error}.") from None


def read_spawn(source: str) -> list[Vec3]:
    """Spawn positions from a JSON file, or that JSON itself.

    It is [[east, north, up], ...] in metres from the datum.

    Raises:
        SitlMisuse: if it cannot be read or holds anything else.
    """
    try:
        data = source.encode() if source.startswith("[") else read_bytes(Path(source), MAX_SPAWN_BYTES)
        rows = json_values.parse(data, MAX_SPAWN_BYTES)
    except OSError as error:
        raise SitlMisuse(f"--spawn {excerpt(source)}: cannot be read ({error.strerror}).") from None
    except FormatError as error:
        raise SitlMisuse(f"--spawn {excerpt(source)}: {error}.") from None
    if not isinstance(rows, list):
        raise SitlMisuse(f"--spawn {excerpt(source)}: must be a list of [east, north, up] in metres.")
    places: list[Vec3] = []
    for index, row in enumerate(rows):
        good = isinstance(row, list) and len(row) == 3
        if not good or not all(
            isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e5 for v in row
        ):
            raise SitlMisuse(f"--spawn {excerpt(source)}: place {index} must be [east, north, up] in metres.")
        places.append((float(row[0]), float(row[1]), float(row[2])))
    return places


def read_parameters(texts: Sequence[str]) -> dict[str, float]:
    """Parameters from `NAME=VALUE` texts.

    Raises:
        SitlMisuse: if a name is unknown or a value not allowed.
    """
    values: dict[str, float] = {}
    for text in texts:
        name, _, written = text.partition("=")
        try:
            value = numbers.number(written)
        except ValueError:
            raise SitlMisuse(f"--param is '{excerpt(text)}'; write NAME=VALUE.") from None
        if not Parameters().set(name, value):
            spec = SPECS.get(name)
            allowed = f"from {spec.low} to {spec.high}" if spec else f"one of {', '.join(sorted(SPECS))}"
            raise SitlMisuse(f"--param is '{excerpt(text)}'; must be {allowed}.")
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
    except (ValueError, OverflowError, OSError):
        raise SitlMisuse(f"{STATUS_FD_VARIABLE}={descriptor} is not an open file descriptor.") from None


def simulate(options: argparse.Namespace) -> None:
    """Run the simulation until a signal.

    With CHIMERA_STATUS_FD in the environment, one JSON line per half second goes to that descriptor, and the
    simulation ends with its parent process, once all vehicles are down.

    Raises:
        SitlError: it cannot run; SitlMisuse if an option is wrong.
    """
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
    descriptor = os.environ.get(STATUS_FD_VARIABLE)
    writer = _status_writer(descriptor) if descriptor else None
    requests = StopRequests()
    requests.install()
    stop = StopCondition(requests, follow_parent=descriptor is not None)
    if writer is None:
        last = config.first_port + config.drones - 1
        print_line(
            f"Simulating {config.drones} PX4-like vehicles: UDP 127.0.0.1:{config.first_port}"
            f"{f' to {last}' if config.drones > 1 else ''}"
            f"{f', ground station on {config.gcs_port}' if config.gcs_port else ''}. Ctrl-C ends it.",
            flush=True,
        )
    gc.freeze()
    try:
        run(config, writer, stop)
    except OSError as error:
        raise SitlError(f"The simulation ended: {error.strerror or error}.") from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulation; exit status 0, 1 if it cannot run, 2 for misuse."""
    standard_streams.repair()
    try:
        simulate(parser().parse_args(argv))
    except SitlError as error:
        print_line(f"chimera sitl: {error}", error=True)
        return 2 if isinstance(error, SitlMisuse) else 1
    except SystemExit as exit_:  # of argparse, which has printed the sentence or the help
        return int(exit_.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
