"""Report of a flight: the JSON of `chimera swarm --report FILE`, and its summary."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chimera_ros import private_files
from chimera_ros.formats import display
from chimera_ros.records.histogram import Histogram, percentile
from chimera_ros.records.status_line import finite
from chimera_ros.records.status_view import SwarmTotals

if TYPE_CHECKING:
    from rich.console import RenderableType


SHOWN = 8  # errors and ended processes in the summary; the report has all
SHOWN_LINES = 4


class ReportFailed(Exception):
    """The report could not be written; the text is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 99th percentile; None where nothing was measured."""

    p50: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class SpreadMax:
    """Median, 99th percentile and largest; None where nothing was measured."""

    p50: float | None = None
    p99: float | None = None
    max: float | None = None


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages that all members sealed, opened and rejected (by reason)."""

    sealed: int = 0
    opened: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Epochs:
    """Key rotations, and the time of each rekey from its decision to the last member's switch."""

    rotations: int = 0
    rekey_ms: Spread = Spread()


@dataclass(frozen=True, slots=True)
class ModerationReport:
    """Path moderation: calls, conflicts found, flown answers by solver, time per call.

    `unused` counts by reason the calls after which the leader flew its own plan.
    """

    calls: int = 0
    conflicts: int = 0
    winner: Mapping[str, int] = field(default_factory=dict)
    ms: Spread = Spread()
    unused: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReportEvent:
    """An event `elapsed_s` after the start."""

    elapsed_s: float
    text: str


@dataclass(frozen=True, slots=True)
class ProcessDeath:
    """A process that ended without being stopped, `elapsed_s` after the start, and the end of its output."""

    elapsed_s: float
    process: str
    reason: str
    last_lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProcessError:
    """A line of severity ERROR or FATAL in the output of a process, `elapsed_s` after the start."""

    elapsed_s: float
    process: str
    text: str


@dataclass(frozen=True, slots=True)
class Report:
    """A flight in figures. Lengths in metres.

    `cpu_percent` (of one core) has one entry per process and "total". `rss_mb` is the peak of all processes
    together in MiB, `pss_mb` the same with shared pages counted once. `min_separation_m` is the smallest
    distance between two airborne drones, `asked_separation_m` the one that the mission requires.
    `command_latency_ms` is from the leader's publish to the setpoint handed to the autopilot. `problems` are
    sentences about what was not recorded or drawn; none of them makes a flight fail.
    """

    drones: int
    mission: str
    completed: bool
    failure: str | None
    duration_s: float
    real_time_factor: float | None = None
    min_separation_m: float | None = None
    collisions: int = 0
    tracking_error_m: SpreadMax = SpreadMax()
    messages: Messages = Messages()
    epochs: Epochs = Epochs()
    command_latency_ms: Spread = Spread()
    commands_per_s: float = 0.0
    moderation: ModerationReport = ModerationReport()
    cpu_percent: Mapping[str, float] = field(default_factory=dict)
    rss_mb: float | None = None
    records: str | None = None
    asked_separation_m: float | None = None
    time_to_first_takeoff_s: float | None = None
    drones_lost: tuple[str, ...] = ()
    pss_mb: float | None = None
    rss_mb_per_process: Mapping[str, float] = field(default_factory=dict)
    commands_sent: int = 0
    seed: int | None = None
    pictures: tuple[str, ...] = ()
    events: tuple[ReportEvent, ...] = ()
    deaths: tuple[ProcessDeath, ...] = ()
    errors: tuple[ProcessError, ...] = ()
    problems: tuple[str, ...] = ()
    logs: str | None = None

    @property
    def ok(self) -> bool:
        """True if the mission was completed without a collision."""
        return self.completed and self.collisions == 0 and self.failure is None

    def to_json(self) -> str:
        """The report as JSON text; numbers have four decimals, NaN becomes null."""
        text = json.dumps(_rounded(finite(dataclasses.asdict(self))), indent=2, ensure_ascii=False)
        return display.json_escaped(text) + "\n"


def build_report(
    totals: SwarmTotals,
    *,
    drones: int,
    mission: str,
    duration_s: float,
    asked_separation_m: float | None = None,
    time_to_first_takeoff_s: float | None = None,
    failure: str | None = None,
    seed: int | None = None,
    cpu_percent: Mapping[str, float] | None = None,
    rss_mb: Mapping[str, float] | None = None,
    pss_mb: Mapping[str, float] | None = None,
    records: str | None = None,
    pictures: tuple[str, ...] = (),
    deaths: tuple[ProcessDeath, ...] = (),
    errors: tuple[ProcessError, ...] = (),
    problems: tuple[str, ...] = (),
    logs: str | None = None,
) -> Report:
    """Builds the report from the processes' status (`totals`) and the command's own measurements.

    `cpu_percent`, `rss_mb`, `pss_mb` are the mappings of `launcher.usage.Usage`, each with an entry "total".
    A `failure` of the command itself (a process that does not start, a Ctrl-C) precedes that of the leader.
    """
    reason = failure if failure is not None else totals.failure
    rss = dict(rss_mb or {})
    tracking = totals.tracking_m
    return Report(
        drones=drones,
        mission=mission,
        completed=totals.completed and reason is None,
        failure=reason,
        duration_s=duration_s,
        real_time_factor=totals.real_time_factor,
        min_separation_m=totals.min_separation_m,
        collisions=totals.collisions,
        tracking_error_m=SpreadMax(
            tracking.percentile(50.0), tracking.percentile(99.0), tracking.max if tracking.count else None
        ),
        messages=Messages(totals.security.sealed, totals.security.opened, dict(totals.security.rejected)),
        epochs=Epochs(
            totals.security.rotations,
            Spread(percentile(totals.rekey_ms, 50.0), percentile(totals.rekey_ms, 99.0)),
        ),
        command_latency_ms=_spread(totals.command_latency_ms),
        commands_per_s=totals.commands_sent / totals.mission_time_s if totals.mission_time_s > 0.0 else 0.0,
        moderation=ModerationReport(
            totals.moderation.calls,
            totals.moderation.conflicts,
            totals.moderation.winner,
            _spread(totals.moderation.ms),
            totals.moderation.unused,
        ),
        cpu_percent=dict(cpu_percent or {}),
        rss_mb=rss.pop("total", None),
        records=records if records is not None else (totals.records or None),
        asked_separation_m=asked_separation_m,
        time_to_first_takeoff_s=(
            time_to_first_takeoff_s if time_to_first_takeoff_s is not None else totals.first_takeoff_s
        ),
        drones_lost=totals.drones_lost,
        pss_mb=(pss_mb or {}).get("total"),
        rss_mb_per_process=rss,
        commands_sent=totals.commands_sent,
        seed=seed,
        pictures=pictures,
        events=tuple(ReportEvent(when, text) for when, text in totals.events),
        deaths=deaths,
        errors=errors,
        problems=problems,
        logs=logs,
    )


def write_report(report: Report, path: Path) -> None:
    """Writes the report atomically: `path` holds the whole of it or what was there before.

    A stream (`is_stream`) is written to. Raises ReportFailed.
    """
    try:
        if is_stream(path):
            _append(path, report.to_json())
            return
        private_files.make_folder(path.parent)
        private_files.write_file(path, report.to_json().encode())
    except OSError as error:
        raise ReportFailed(f"the report cannot be written to {path}: {error.strerror or error}") from error


def is_stream(path: Path) -> bool:
    """True if a report can be written to `path`, not put in its place: a pipe, a device, `/dev/stdout`."""
    if _descriptor(path) is not None:
        return True
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _descriptor(path: Path) -> int | None:
    """The open file descriptor that `path` names."""
    name = os.path.abspath(path)
    standard = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    match = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d{1,9})", name, re.ASCII)
    return int(match[1]) if match else standard.get(name)


def _append(path: Path, text: str) -> None:
    descriptor = _descriptor(path)
    if descriptor is not None:
        fd = os.dup(descriptor)  # to open it again would begin at another place of a file
    else:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)  # fails without reader
        os.set_blocking(fd, True)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)


def render_report(report: Report) -> RenderableType:
    """The summary for a terminal."""
    from rich.console import Group
    from rich.table import Table

    from chimera_ros.terminal.styled import Text

    if report.ok:
        title = Text("MISSION COMPLETED", style="bold green")
    else:
        title = Text("MISSION NOT COMPLETED" if not report.completed else "COLLISION", style="bold red")
    head = Text.assemble(title, f"  {report.mission} · {report.drones} drones · {report.duration_s:.0f} s")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    if report.failure:
        grid.add_row("failure", Text(report.failure, style="red"))
    for error in report.errors[:SHOWN]:
        grid.add_row("error", Text(f"{error.process}: {error.text}", style="red"))
    if len(report.errors) > SHOWN:
        grid.add_row("", f"and {len(report.errors) - SHOWN} more errors in the report")
    deaths = _death_texts(report)
    for lines in deaths[:SHOWN]:
        grid.add_row("process", Group(*(Text(line, style="red") for line in lines)))
    if len(deaths) > SHOWN:
        grid.add_row("", f"and {len(deaths) - SHOWN} more ended processes in the report")
    if report.drones_lost:
        grid.add_row("drones lost", Text(", ".join(report.drones_lost), style="red"))
    grid.add_row("separation", _separation_text(report))
    collisions = Text(str(report.collisions), style="red" if report.collisions else "green")
    grid.add_row("collisions", collisions)
    tracking = report.tracking_error_m
    grid.add_row(
        "tracking error",
        f"p50 {_show(tracking.p50)} m · p99 {_show(tracking.p99)} m · max {_show(tracking.max)} m",
    )
    grid.add_row("first take-off", f"{_show(report.time_to_first_takeoff_s, 1)} s after the start")
    grid.add_row("real-time factor", _show(report.real_time_factor, 3))
    rejected = sum(report.messages.rejected.values())
    reasons = ", ".join(f"{name} {count}" for name, count in report.messages.rejected.items())
    grid.add_row(
        "messages",
        Text(
            f"{report.messages.sealed:,} sealed · {report.messages.opened:,} opened · {rejected:,} rejected"
            + (f" ({reasons})" if reasons else "")
        ),
    )
    rekey = report.epochs.rekey_ms
    grid.add_row(
        "epochs",
        f"{report.epochs.rotations} rotations"
        f" · rekey p50 {_show(rekey.p50, 1)} ms · p99 {_show(rekey.p99, 1)} ms",
    )
    latency = report.command_latency_ms
    grid.add_row(
        "commands",
        f"{report.commands_sent} sent · {_show(report.commands_per_s, 1)}/s"
        f" · latency p50 {_show(latency.p50)} ms · p99 {_show(latency.p99)} ms",
    )
    if report.moderation.calls:
        grid.add_row("moderation", Text(_moderation_text(report.moderation)))
    grid.add_row("processor", Text(_cpu_text(report)))
    grid.add_row(
        "memory", f"{_show(report.rss_mb, 0)} MiB RSS · {_show(report.pss_mb, 0)} MiB PSS (shared pages once)"
    )
    if report.records:
        grid.add_row("records", Text(report.records))
    for picture in report.pictures:
        grid.add_row("picture", Text(picture))
    if report.logs and (report.failure or report.errors or report.deaths):
        grid.add_row("output", Text(report.logs))
    for problem in report.problems:
        grid.add_row("problem", Text(problem, style="yellow"))
    return Group(head, grid)


def _death_texts(report: Report) -> list[list[str]]:
    """Processes that died, each way once, with what they wrote last and what is not among the errors."""
    alike: dict[tuple[str, str], list[ProcessDeath]] = {}
    for death in report.deaths:
        alike.setdefault((death.process, death.reason), []).append(death)
    texts = []
    for deaths in alike.values():
        newest = deaths[-1]
        known = [error.text for error in report.errors if error.process == newest.process]
        lines = [line for line in newest.last_lines if not any(text in line for text in known)]
        when = f"{newest.elapsed_s:.0f} s after the start"
        often = f", {len(deaths)} times, the last time " if len(deaths) > 1 else " "
        texts.append([f"{newest.process} {newest.reason}{often}{when}", *lines[-SHOWN_LINES:]])
    return texts


def _separation_text(report: Report) -> Any:
    from chimera_ros.terminal.styled import Text

    smallest, asked = report.min_separation_m, report.asked_separation_m
    text = f"smallest {_show(smallest)} m" + (f" · required {_show(asked)} m" if asked is not None else "")
    if smallest is None or asked is None:
        return Text(text)
    return Text(text, style="green" if smallest >= asked else "red")


def _moderation_text(moderation: ModerationReport) -> str:
    text = f"{moderation.calls} calls · {moderation.conflicts} conflicts"
    for word, counts in (("flown", moderation.winner), ("not flown", moderation.unused)):
        if counts:
            text += f" · {word}: " + ", ".join(f"{name} {count}" for name, count in counts.items())
    return text + f" · p50 {_show(moderation.ms.p50, 0)} ms · p99 {_show(moderation.ms.p99, 0)} ms"


def _cpu_text(report: Report) -> str:
    parts = sorted(
        ((name, value) for name, value in report.cpu_percent.items() if name != "total"),
        key=lambda item: -item[1],
    )
    shown = " · ".join(f"{name} {value:.0f}" for name, value in parts[:8])
    return f"{_show(report.cpu_percent.get('total'), 0)} % of one core" + (f" ({shown})" if shown else "")


def _spread(histogram: Histogram) -> Spread:
    return Spread(histogram.percentile(50.0), histogram.percentile(99.0))


def _show(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
