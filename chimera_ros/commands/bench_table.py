"""Tables of benchmark results: on the terminal, in Markdown, in a section of a document.

Every table states its date, the revision of the code and the machine, because a figure without them cannot be
compared with another.
"""

from __future__ import annotations

import math
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chimera_ros import __version__
from chimera_ros.formats import display

_ROOT: Final = Path(__file__).resolve().parents[2]
_NOT_MEASURED: Final = (":!docs", ":!*.md", ":!*.rst")  # changes there change no figure
_SIGNS: Final = {"<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "="}


def revision() -> str:
    """Git revision of the measured code, with a note if it was changed since; else the package version."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != _ROOT:
            return f"version {__version__}"  # an installed package inside some other repository
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *_NOT_MEASURED)
        return f"revision {_git('rev-parse', '--short', 'HEAD')}" + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return f"version {__version__}"


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=True).stdout.strip()


def provenance(machine: object) -> str:
    """Date (UTC), revision and machine of figures that were measured just now; `machine` as in a report."""
    about = machine if isinstance(machine, dict) else {}
    parts = [f"{datetime.now(UTC):%Y-%m-%d}", revision(), str(about.get("cpu", "unknown processor"))]
    parts += [f"{about['cores']} cores"] if "cores" in about else []
    parts += [str(about["system"])] if "system" in about else []
    parts += [f"Python {about['python']}"] if "python" in about else []
    return ", ".join(parts)


def show(report: dict[str, Any]) -> None:
    """Print a report as a table for the terminal."""
    from rich.table import Table

    from chimera_ros.terminal.styled import Console, Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("what")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("target", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in report["results"]:
        target, met = row["target"], row["met"]
        verdict = (
            Text("")
            if met is None
            else Text("met", style="green")
            if met
            else Text("missed", style="bold red")
        )
        wanted = f"{target['op']} {_figure(target['value'])}" if target else ""
        table.add_row(
            Text(row["name"]), Text(_figure(row["value"])), Text(row["unit"]), Text(wanted), verdict
        )
    console = Console()
    console.print(Text(f"{report['benchmark']}: {provenance(report['machine'])}"), soft_wrap=True)
    console.print(table)


def markdown(report: dict[str, Any], command: str) -> list[str]:
    """The lines of a table in Markdown; the first names the command, date, revision and machine."""
    lines = [
        f"`{command}`, {provenance(report['machine'])}:",
        "",
        "| what | value | target | |",
        "| --- | --- | --- | --- |",
    ]
    for row in report["results"]:
        target, verdict = row["target"], {None: "", True: "met", False: "**missed**"}[row["met"]]
        wanted = f"{_SIGNS[target['op']]} {_figure(target['value'])}" if target else ""
        name = row["name"].replace("|", "\\|")
        value = f"{_figure(row['value'])} {row['unit']}".rstrip()
        lines.append(f"| {name} | {value} | {wanted} | {verdict} |")
    return [*map(display.line, lines), ""]


def has_section(text: str, name: str) -> bool:
    """True if a document has the two marker lines of a benchmark's section, in order."""
    begin, end = _markers(name)
    return -1 < text.find(begin) < text.find(end)


def with_section(text: str, name: str, lines: list[str]) -> str:
    """The document with new lines between the markers of a section that it has."""
    begin, end = _markers(name)
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n" + "\n".join(lines).strip("\n") + f"\n\n{end}{after}"


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.4g}"
