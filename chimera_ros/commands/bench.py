"""`chimera bench [NAME …]`: runs benchmarks one after the other and prints their results.

A benchmark is a script `bench/bench_<name>.py` (or `bench/<name>.py`) that takes `--quick` and `--json` and
prints `{"benchmark", "machine", "results": [{"name", "value", "unit", "target": {"op", "value"} or null,
"met"}]}`. It runs in a process of its own, so that benchmarks do not share an interpreter or its caches.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chimera_ros.command_line import some_text, whole
from chimera_ros.commands.bench_table import has_section, markdown, show, with_section
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.interrupts import Interrupts
from chimera_ros.terminal.lines import print_json, print_line

ORDER = ("secure", "command", "rekey", "failover", "entropy", "swarm", "moderation", "attacks")
LONG = ("failover", "attacks")  # many minutes even when quick: with --quick they run only when named
SEEDED = ("moderation",)  # benchmarks whose scenes are drawn from a seed
TIMEOUT_S = 3600.0
INTERRUPTED_WITHIN_S = 0.5


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chimera bench`."""
    parser.add_argument(
        "names", nargs="*", type=some_text, metavar="NAME", help=f"{', '.join(ORDER)} (default: all)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"shorter runs, for a first impression; all but {', '.join(LONG)}, unless named",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="machine-readable output")
    form.add_argument("--markdown", action="store_true", help="tables for a document")
    parser.add_argument(
        "--into",
        type=Path,
        metavar="FILE",
        help="with --markdown: put each table into its section of FILE, in the place of the former one",
    )
    parser.add_argument("--seed", type=whole, metavar="N", help=f"other scenes, for {', '.join(SEEDED)}")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a target was missed")


def run(arguments: argparse.Namespace) -> int:
    """Run the benchmarks; 1 if one of them could not be run (with --strict: or missed a target)."""
    scripts = find_benchmarks()
    if not scripts:
        raise CommandFailed("the benchmarks are not installed; run `chimera bench` from the source checkout")
    unknown = [name for name in arguments.names if name not in scripts]
    if unknown:
        raise CommandFailed(f"there is no benchmark {unknown[0]!r}; there are {', '.join(scripts)}", MISUSE)
    names = arguments.names or [name for name in scripts if not (arguments.quick and name in LONG)]
    if arguments.seed is not None:
        if not 0 <= arguments.seed < 2**31:
            raise CommandFailed("--seed must be between 0 and 2147483647", MISUSE)
        if not set(names) & set(SEEDED):
            raise CommandFailed(f"--seed has no effect here; it is for {', '.join(SEEDED)}", MISUSE)
    _check_document(arguments, names)
    reports: list[dict[str, Any]] = []
    failed = False
    for name in names:
        print_line(f"benchmark {name} …", error=True, flush=True)
        try:
            seed = arguments.seed if name in SEEDED else None
            report = run_one(name, scripts[name], quick=arguments.quick, seed=seed)
        except CommandFailed as error:
            failed = True
            print_line(f"chimera bench: {error}", error=True)
            continue
        reports.append(report)
        if arguments.markdown:
            _write(markdown(report, _command(name, arguments.quick, seed)), name, arguments.into)
        elif not arguments.json:
            show(report)
    if arguments.json:
        print_json(reports[0] if len(names) == 1 and reports else reports, indent=2)
    missed = [row for report in reports for row in report["results"] if row["met"] is False]
    if missed and not (arguments.json or arguments.markdown):
        print_line(f"{len(missed)} target(s) missed")
    return 1 if failed or (arguments.strict and missed) else 0


def _check_document(arguments: argparse.Namespace, names: list[str]) -> None:
    """Raise CommandFailed before anything is measured if the document has no place for a table."""
    if arguments.into is None:
        return
    if not arguments.markdown:
        raise CommandFailed("--into needs --markdown", MISUSE)
    if not arguments.into.is_file():
        raise CommandFailed(f"{arguments.into}: there is no such file", MISUSE)
    text = arguments.into.read_text()
    for name in names:
        if not has_section(text, name):
            raise CommandFailed(
                f"{arguments.into} has no section for {name}; put the lines <!-- begin {name} --> and "
                f"<!-- end {name} --> where its table belongs",
                MISUSE,
            )


def _write(lines: list[str], name: str, document: Path | None) -> None:
    """Print a table, or put it into its section of a document."""
    if document is None:
        for line in lines:
            print_line(line)
    else:
        document.write_text(with_section(document.read_text(), name, lines))
        print_line(f"{document}: table of {name} replaced", error=True)


def _command(name: str, quick: bool, seed: int | None) -> str:
    """The command line that repeats a measurement."""
    return (
        f"chimera bench {name}" + (" --quick" if quick else "") + ("" if seed is None else f" --seed {seed}")
    )


def find_benchmarks() -> dict[str, Path]:
    """Name and script of every benchmark, the usual ones first."""
    folders = [Path(__file__).resolve().parents[2] / "bench"]
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    folders += [Path(prefix) / "share" / "chimera_ros" / "bench" for prefix in prefixes if prefix]
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.py")):
            name = path.stem.removeprefix("bench_")
            if name in ORDER or path.stem.startswith("bench_"):
                found.setdefault(name, path)
    return {name: found[name] for name in sorted(found, key=lambda name: (_rank(name), name))}


def run_one(name: str, script: Path, *, quick: bool, seed: int | None = None) -> dict[str, Any]:
    """Run one benchmark and return its checked report. Raises CommandFailed."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    command = [sys.executable, str(script), "--json", *(["--quick"] if quick else [])]
    command += [] if seed is None else ["--seed", str(seed)]
    with (
        Interrupts() as interrupts,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        ) as process,
    ):
        try:
            output = _output(process, name, interrupts)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    report = parse_report(output)
    if report is None:
        raise CommandFailed(f"benchmark {name} ended with status {process.returncode} and gave no result")
    return report


def _output(process: subprocess.Popen[bytes], name: str, interrupts: Interrupts) -> bytes:
    until_s = time.monotonic() + TIMEOUT_S
    while not interrupts.count:
        try:
            return process.communicate(timeout=INTERRUPTED_WITHIN_S)[0]
        except subprocess.TimeoutExpired:
            if time.monotonic() > until_s:
                raise CommandFailed(f"benchmark {name} did not end within {TIMEOUT_S:.0f} s") from None
    raise KeyboardInterrupt


def parse_report(output: bytes) -> dict[str, Any] | None:
    """The report in a benchmark's output, or None if it holds none."""
    start = output.find(b"{")
    if start < 0:
        return None
    try:
        report = json.loads(output[start:])
        rows = [
            {
                "name": str(row["name"]),
                "value": None if row["value"] is None else float(row["value"]),
                "unit": str(row["unit"]),
                "target": _target(row.get("target")),
                "met": None if row.get("met") is None else bool(row["met"]),
            }
            for row in report["results"]
        ]
        return {"benchmark": str(report["benchmark"]), "machine": report["machine"], "results": rows}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _target(target: Any) -> dict[str, Any] | None:
    return None if target is None else {"op": str(target["op"]), "value": float(target["value"])}


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)
