"""Live table of a flying swarm; plain lines where the output is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from chimera_ros.formats import display
from chimera_ros.records.process_status import DroneStatus
from chimera_ros.records.status_view import SwarmView
from chimera_ros.terminal.styled import Console, Text

PLAIN_EVERY_S = 5.0
REFRESH_EVERY_S = 0.5
ALARM_LINES = 2
WAITING_LINES = 1
_ROW_WIDTH = 39  # of one drone: two columns fit 80 characters

_STATE_STYLE = {
    "not heard": "dim",
    "unknown": "dim",
    "grounded": "white",
    "armed": "yellow",
    "taking_off": "cyan",
    "holding": "cyan",
    "following": "bold green",
    "returning": "yellow",
    "landing": "blue",
    "landed": "green",
    "failsafe": "bold red",
    "lost": "bold red",
}


class LiveTable:
    """Shows a `SwarmView`: a table that is redrawn on a terminal, else one line every 5 s.

    `update` limits its own rate. `now` is monotonic seconds. Drawing never raises: the table ends at its
    first failure, and `problem` says what it was.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or Console()
        self._live: Live | None = None
        self._due_s = float("-inf")
        self.problem: str | None = None

    @property
    def console(self) -> Console:
        """The console it draws on; print through it while it runs."""
        return self._console

    @property
    def plain(self) -> bool:
        """True if it prints lines because the output is no terminal, or one without cursor movements."""
        return not self._console.is_terminal or self._console.is_dumb_terminal

    def __enter__(self) -> Self:
        with self._failing():
            if not self.plain:
                self._live = Live(
                    console=self._console, auto_refresh=False, transient=False, vertical_overflow="ellipsis"
                )
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, view: SwarmView, now: float, *, force: bool = False) -> None:
        """Draws `view` if that is due."""
        if (now < self._due_s and not force) or self.problem is not None:
            return
        with self._failing():
            if self._live is not None:
                self._due_s = now + REFRESH_EVERY_S
                size = self._console.size
                self._live.update(render_view(view, self._title, size.width, size.height), refresh=True)
            elif self.plain:
                self._due_s = now + PLAIN_EVERY_S
                line = plain_line(view)
                self._console.print(Text(line), soft_wrap=True)

    def print_above(self, text: str) -> None:
        """Prints a line above the table."""
        with self._failing():
            self._console.print(Text(text), soft_wrap=self.plain)

    def close(self) -> None:
        """Keeps the last table on the screen and releases the terminal."""
        live, self._live = self._live, None
        if live is not None:
            with self._failing():
                live.stop()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: the flight goes on
            self.problem = self.problem or f"{type(error).__name__}: {error}"


def plain_line(view: SwarmView) -> str:
    """The swarm in one line of text."""
    states: dict[str, int] = {}
    for row in view.drones:
        state = "silent" if row.stale and row.age_s is not None else row.state.lower().replace("_", " ")
        states[state] = states.get(state, 0) + 1
    error_m = _worst_error(view)
    parts = [
        f"{view.elapsed_s:6.1f} s",
        view.phase,
        f"{len(view.drones)} drones: "
        + ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
    ]
    if error_m is not None:
        parts.append(f"worst error {error_m:.2f} m")
    if view.min_separation_m is not None:
        parts.append(f"separation {view.min_separation_m:.2f} m")
    if view.real_time_factor is not None:
        parts.append(f"real time {view.real_time_factor:.2f}")
    if view.moderation.calls:
        parts.append(f"moderation {view.moderation.calls} calls, {view.moderation.conflicts} conflicts")
    security = view.security
    parts.append(
        f"epoch {_or_dash(security.epoch)}, {security.members} members, {security.rejected_total} rejected"
    )
    parts += _evidence_words(view)
    if view.waiting:
        drone, reason = view.waiting[0]
        parts.append(f"waiting for {drone}: {reason}" + _more(len(view.waiting) - 1))
    if view.failure:
        parts.append(f"FAILURE: {view.failure}")
    if view.alarms:
        parts.append(f"{len(view.alarms)} alarms, last: {view.alarms[-1]}")
    return display.line(" | ".join(parts))


def render_view(view: SwarmView, title: str, width: int = 80, height: int = 30) -> RenderableType:
    """The whole table for a terminal of `width` by `height` characters."""
    head = [_headline(view, title, width), _security_line(view), _evidence_line(view), _flight_line(view)]
    if view.moderation.calls:
        head.append(_moderation_line(view))
    tail = _tail(view, width)
    room = max(3, height - len(head) - len(tail) - 3)
    return Group(*head, _drone_grid(view.drones, width, room), *tail)


def _headline(view: SwarmView, title: str, width: int) -> Text:
    if view.failure:
        phase, style = f"FAILED: {view.failure}", "bold red"
    elif view.finished:
        phase, style = "finished", "bold green"
    else:
        phase, style = view.phase, "bold cyan"
    clock = f"mission {view.mission_time_s:.0f} s  total {view.elapsed_s:.0f} s"
    text = Text.assemble((title, "bold"), "  ", (phase, style), "  ", (clock, "dim"))
    text.truncate(width, overflow="ellipsis")
    return text


def _security_line(view: SwarmView) -> Text:
    security = view.security
    rejected = security.rejected_total
    text = Text.assemble(
        ("suite ", "dim"),
        (security.suite or "–", "green" if security.suite else "dim"),
        ("  epoch ", "dim"),
        _or_dash(security.epoch),
        ("  members ", "dim"),
        str(security.members),
        ("  sealed/opened ", "dim"),
        f"{_short(security.sealed)}/{_short(security.opened)}",
        ("  rejected ", "dim"),
        (str(rejected), "red" if rejected else "green"),
    )
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _evidence_line(view: SwarmView) -> Text:
    """Checkpoint verification, the last member removed, the issuer of the epoch, the crypto provider."""
    summary = view.security.summary
    counts = summary.checkpoints
    wrong, open_ = counts.get("mismatched", 0), counts.get("unconfirmed", 0)
    text = Text()
    if summary.stale:
        text.append("SECURITY NOT HEARD  ", "bold red")
    elif summary.degraded:
        text.append(f"DEGRADED: {summary.degraded}  ", "bold red")
    elif summary.silent:
        text.append("NO CRYPTO NODE  ", "bold red")
    text.append("confirmed ", "dim").append(_short(counts.get("confirmed", 0)))
    text.append("  unconfirmed ", "dim").append(_short(open_), "yellow" if open_ else "green")
    text.append("  forged ", "dim").append(_short(wrong), "bold red" if wrong else "green")
    if summary.removed:
        name, why = summary.removed[-1]
        text.append(f"  removed: {name}, {why}{_more(len(summary.removed) - 1)}", "bold red")
    text.append("  issuer ", "dim").append(summary.crypto_node or "–")
    text.append("  ").append(summary.provider or "–", "dim")
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _evidence_words(view: SwarmView) -> list[str]:
    summary = view.security.summary
    words = []
    if summary.stale:
        words.append("no process reports its security")
    if summary.degraded:
        words.append(f"DEGRADED: {summary.degraded}")
    if summary.silent:
        words.append("no crypto node heard")
    if summary.checkpoints.get("mismatched"):
        words.append(f"{summary.checkpoints['mismatched']} packets contradict their sender's checkpoint")
    if summary.removed:
        name, why = summary.removed[-1]
        words.append(f"removed: {name}, {why}" + _more(len(summary.removed) - 1))
    return words


def _flight_line(view: SwarmView) -> Text:
    factor = view.real_time_factor
    slow = factor is not None and factor < 0.99
    text = Text.assemble(
        ("real time ", "dim"),
        ("–" if factor is None else f"{factor:.2f}", "yellow" if slow else ""),
        ("  min separation ", "dim"),
        "–" if view.min_separation_m is None else f"{view.min_separation_m:.2f} m",
        ("  collisions ", "dim"),
        (str(view.collisions), "bold red" if view.collisions else "green"),
        ("  commands ", "dim"),
        str(view.commands_sent),
        ("  recorded ", "dim"),
        _short(view.recorded),
    )
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _moderation_line(view: SwarmView) -> Text:
    moderation = view.moderation
    unused = sum(moderation.unused.values())
    text = Text.assemble(
        ("moderation ", "dim"),
        f"{moderation.calls} calls",
        ("  conflicts ", "dim"),
        str(moderation.conflicts),
        ("  flown ", "dim"),
        ", ".join(f"{name} {count}" for name, count in moderation.winner.items()) or "–",
        ("  not flown ", "dim"),
        (str(unused), "yellow" if unused else "green"),
    )
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text


def _tail(view: SwarmView, width: int) -> list[Text]:
    lines: list[Text] = []
    for process in view.processes:
        if not process.running or process.silent:
            what = process.note or f"no status for {process.age_s:.0f} s"
            lines.append(Text(f"! process {process.process}: {what}", style="red"))
    for drone, reason in view.waiting[:WAITING_LINES]:
        lines.append(Text(f"… waiting for {drone}: {reason}{_more(len(view.waiting) - 1)}", style="yellow"))
    shown = {f"process {process.process} {process.note}" for process in view.processes if not process.running}
    for alarm in [text for text in view.alarms if text not in shown][-ALARM_LINES:]:
        lines.append(Text(f"! {alarm}", style="red"))
    lines = lines[:6]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _drone_grid(drones: tuple[DroneStatus, ...], width: int, room: int) -> Table:
    """Drones in as few columns as the height allows, at most as many as the width allows."""
    possible = max(1, (width + 1) // (_ROW_WIDTH + 1))
    columns = min(possible, max(1, -(-len(drones) // room)))
    per_column = -(-len(drones) // columns) if drones else 0
    shown = min(per_column, room)
    grid = Table.grid(padding=(0, 1, 0, 0))
    blocks = []
    for column in range(columns):
        grid.add_column()
        part = drones[column * per_column : (column + 1) * per_column]
        blocks.append(_drone_table(part[:shown], len(part) - shown))
    grid.add_row(*blocks)
    return grid


def _drone_table(rows: tuple[DroneStatus, ...], hidden: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("drone", width=9, no_wrap=True, overflow="ellipsis")
    table.add_column("state", width=10, no_wrap=True, overflow="ellipsis")
    table.add_column("err m", width=5, justify="right", no_wrap=True)
    table.add_column("bat", width=3, justify="right", no_wrap=True)
    table.add_column("ep", width=3, justify="right", no_wrap=True)
    table.add_column("age", width=3, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    if hidden > 0:
        table.add_row(Text(f"+{hidden} more", style="dim"))
    return table


def _cells(row: DroneStatus) -> tuple[Text, ...]:
    state = row.state.lower()
    stale = row.stale and row.age_s is not None
    age = (
        "–"
        if row.age_s is None
        else (f"{row.age_s:.1f}" if row.age_s < 9.95 else f"{min(row.age_s, 999):.0f}")
    )
    battery = "–" if row.battery is None else f"{100 * row.battery:.0f}"
    low = row.battery is not None and row.battery < 0.25
    error = "–" if row.error_m is None else f"{min(row.error_m, 999.0):.2f}"[:5]
    far = row.error_m is not None and row.error_m > 1.0
    return (
        Text(row.drone),
        Text(state.replace("_", " "), style=_STATE_STYLE.get(state, "white")),
        Text(error, style="yellow" if far else ""),
        Text(battery, style="red" if low else ""),
        Text(_or_dash(row.epoch)),
        Text(age, style="bold red" if stale else "dim"),
    )


def _worst_error(view: SwarmView) -> float | None:
    errors = [row.error_m for row in view.drones if row.error_m is not None]
    return max(errors) if errors else None


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)


def _more(count: int) -> str:
    return f" (and {count} more)" if count > 0 else ""


def _short(count: int) -> str:
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 10_000_000 else f"{count / 1e6:.0f}M"
