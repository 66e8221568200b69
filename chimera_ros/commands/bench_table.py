"""Tables of benchmark results: on the terminal, and in Markdown for a document."""

from __future__ import annotations

import math
from typing import Any, Final


def show(report: dict[str, Any]) -> None:
    """Print a report as a table for the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=report["benchmark"], title_justify="left", box=None, pad_edge=False, header_style="dim"
    )
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
    Console().print(table)


def markdown(report: dict[str, Any]) -> list[str]:
    """The lines of a table in Markdown, with its heading."""
    about = report["machine"] if isinstance(report["machine"], dict) else {}
    lines = [
        f"`chimera bench {report['benchmark']}` on {about.get('cpu', '?')}, {about.get('cores', '?')} cores:",
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
    return [*lines, ""]


_SIGNS: Final = {"<": "<", "<=": "≤", ">": ">", ">=": "≥", "==": "="}


def _figure(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
