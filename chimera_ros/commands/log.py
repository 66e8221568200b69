"""`chimera log`: contents and plots of a flight's records; their evidence is in log_evidence.py."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chimera_ros.command_line import number, output_file, some_path
from chimera_ros.commands import log_evidence
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.terminal.lines import print_json, print_line

MAX_ROWS = 10_000


@dataclass(slots=True)
class _Topic:
    type_name: str
    senders: set[str] = field(default_factory=set)
    count: int = 0
    size: int = 0
    first_ns: int = 2**64
    last_ns: int = 0


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera log`."""
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="show|plot|verify|disclose|verify-disclosure|totals|verify-totals"
    )
    show = verbs.add_parser("show", help="topics, senders, counts and times of MCAP files")
    show.add_argument("path", type=some_path, metavar="PATH", help="an MCAP file, or the folder of a flight")
    show.add_argument("--json", action="store_true", help="machine-readable output")
    plot = verbs.add_parser("plot", help="plot the flown tracks")
    plot.add_argument("path", type=some_path, metavar="PATH", help="tracks.jsonl, or the folder of a flight")
    plot.add_argument("--output", type=output_file, metavar="FILE.png", help="default: beside the tracks")
    plot.add_argument("--separation", type=number, metavar="M", help="required separation, drawn as a line")
    log_evidence.register(verbs)


def run(arguments: argparse.Namespace) -> int:
    """Runs one verb."""
    verbs = {"show": _show, "plot": _plot}
    return verbs.get(arguments.verb, log_evidence.run)(arguments)


def _show(arguments: argparse.Namespace) -> int:
    files = _find(arguments.path, "*.mcap", "MCAP files")
    found = [(path, *_read(path)) for path in files]
    if arguments.json:
        print_json([_plain(path, topics, whole) for path, topics, whole in found], indent=2)
        return 0
    from rich.table import Table

    from chimera_ros.terminal.styled import Console, Text

    console = Console()
    for path, topics, whole in found:
        note = "" if whole else "  (not closed, or damaged: what precedes the fault is shown)"
        console.print(Text(f"{path}{note}", "bold"))
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("topic", "type", "messages", "kB", "Hz", "from", "senders"):
            table.add_column(title, justify="right" if title in ("messages", "kB", "Hz") else "left")
        for name, topic in sorted(topics.items()):
            senders = ", ".join(sorted(topic.senders)[:4]) + (" …" if len(topic.senders) > 4 else "")
            table.add_row(
                name,
                topic.type_name,
                str(topic.count),
                f"{topic.size / 1000:.0f}",
                f"{_rate(topic):.1f}",
                _clock(topic.first_ns),
                senders,
            )
        console.print(table)
    return 0


def _read(path: Path) -> tuple[dict[str, _Topic], bool]:
    from chimera_ros.records.mcap_read import is_complete, read_messages

    topics: dict[str, _Topic] = {}
    broken: list[Path] = []
    try:
        for schema, channel, message in read_messages(path, broken):
            topic = topics.get(channel.topic)
            if topic is None:
                if len(topics) >= MAX_ROWS:
                    raise CommandFailed(
                        f"{path} has more than {MAX_ROWS} topics, which is no record of a flight"
                    )
                topic = topics[channel.topic] = _Topic(schema.name if schema else "")
            topic.count += 1
            topic.size += len(message.data)
            topic.first_ns = min(topic.first_ns, message.log_time)
            topic.last_ns = max(topic.last_ns, message.log_time)
            sender = channel.metadata.get("sender")
            if sender:
                topic.senders.add(sender)
        return topics, is_complete(path) and not broken
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise CommandFailed(str(error)) from error


def _plain(path: Path, topics: dict[str, _Topic], whole: bool) -> dict[str, Any]:
    rows = [
        {
            "topic": name,
            "type": topic.type_name,
            "messages": topic.count,
            "bytes": topic.size,
            "hz": round(_rate(topic), 2),
            "first_ns": topic.first_ns,
            "last_ns": topic.last_ns,
            "senders": sorted(topic.senders),
        }
        for name, topic in sorted(topics.items())
    ]
    return {"file": str(path), "complete": whole, "topics": rows}


def _plot(arguments: argparse.Namespace) -> int:
    from chimera_ros.records.tracks import TracksFailed, draw_tracks

    (tracks,) = _find(arguments.path, "tracks.jsonl", "tracks.jsonl")[:1]
    picture = arguments.output or tracks.with_suffix(".png")
    title = tracks.resolve().parent.name
    try:
        draw_tracks(tracks, picture, title=title, asked_separation_m=arguments.separation)
    except TracksFailed as error:
        raise CommandFailed(str(error)) from error
    print_line(picture)
    return 0


def _find(path: Path, pattern: str, what: str) -> list[Path]:
    if path.is_file():
        return [path]
    found = sorted(path.glob(pattern)) if path.is_dir() else []
    if not found:
        problem = f"holds no {what}" if path.is_dir() else "does not exist"
        raise CommandFailed(f"{path} {problem}; give the folder of a flight or one of its files", MISUSE)
    return found


def _rate(topic: _Topic) -> float:
    duration_s = (topic.last_ns - topic.first_ns) / 1e9
    return (topic.count - 1) / duration_s if duration_s > 0 else 0.0


def _clock(time_ns: int) -> str:
    return datetime.fromtimestamp(min(time_ns, 2**62) / 1e9, UTC).strftime("%H:%M:%S")
