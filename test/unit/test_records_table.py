"""The live table: 20 drones fit 80 × 30 characters, and without a terminal a line comes every 5 s."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from chimera_ros.crypto.evidence.ledgers import CheckpointCounts
from chimera_ros.crypto.member.security_state import EvictedMember, SecurityState
from chimera_ros.records.status import StatusAggregator
from chimera_ros.records.status_view import SwarmView
from chimera_ros.records.table import LiveTable, plain_line, render_view


def view_of(count: int, *, trouble: bool = True) -> SwarmView:
    names = [f"drone_{i:02d}" for i in range(1, count + 1)]
    status = StatusAggregator(names, now=0.0)
    rows = [
        {
            "drone": name,
            "state": "TAKING_OFF",
            "error_m": 123.456,
            "battery": 1.0,
            "epoch": 1234,
            "age_s": 0.1,
        }
        for name in names
    ]
    status.feed({"process": "telemetry_logger", "drones": rows, "recorded": 12_345}, 1.0)
    status.feed({"process": "crypto", "epoch": 12, "members": names}, 1.0)
    if trouble:
        waiting = [{"drone": name, "reason": "estimator " * 20} for name in names]
        status.feed({"process": "leader", "phase": "formation " * 20, "waiting": waiting}, 1.0)
        for i in range(9):
            status.process_exited(f"follower_{i}", "was ended by SIGKILL", 1.0)
            status.alarm("something long " * 20, 1.0)
    return status.view(1.2)


def text_of(view: SwarmView, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(render_view(view, "chimera swarm", width, height))
    return [line.rstrip() for line in console.export_text().rstrip("\n").split("\n")]


@pytest.mark.parametrize(
    ("count", "width", "height"), [(1, 80, 24), (20, 80, 30), (20, 80, 24), (80, 160, 50)]
)
def test_every_drone_is_in_the_picture_and_the_picture_in_the_terminal(
    count: int, width: int, height: int
) -> None:
    lines = text_of(view_of(count), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    for i in range(1, count + 1):
        assert any(f"drone_{i:02d} " in line for line in lines), f"drone_{i:02d} is not shown"


def test_what_does_not_fit_is_said() -> None:
    lines = text_of(view_of(200), 80, 30)
    assert len(lines) <= 30
    assert sum("more" in line for line in lines) >= 1


def test_off_a_terminal_one_line_comes_every_five_seconds() -> None:
    output = io.StringIO()
    with LiveTable("title", Console(file=output, width=80)) as table:
        assert table.plain
        view = view_of(20, trouble=False)
        for step in range(120):
            table.update(view, now=100.0 + 0.1 * step)
        table.update(view, now=112.0, force=True)
    lines = output.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 5 and 10 s, and the one that was forced
    assert all(
        "20 drones: 20 taking off" in line and "epoch 12, 20 members, 0 rejected" in line for line in lines
    )


def test_on_a_terminal_it_redraws_in_place() -> None:
    output = io.StringIO()
    console = Console(file=output, width=80, height=30, force_terminal=True, color_system=None)
    with LiveTable("title", console) as table:
        for step in range(20):
            table.update(view_of(5, trouble=False), now=0.1 * step)
        table.print_above("a word")
    assert output.getvalue().count("drone_05") in range(4, 8)
    assert "a word" in output.getvalue()


def test_security_is_seen_at_a_glance():
    swarm = StatusAggregator(["drone_01"], 0.0)
    state = SecurityState(
        provider="openssl",
        crypto_node="crypto_0",
        checkpoints=CheckpointCounts(confirmed=42, unconfirmed=3, mismatched=2),
        evicted=(EvictedMember("drone_07", "evicted, ordered by operator_0"),),
        degraded="no crypto node for 30 s",
    )
    swarm.feed({"process": "leader", "security": {"state": state.to_status()}}, 1.0)
    view = swarm.view(1.0)
    console = Console(width=200, file=io.StringIO())
    console.print(render_view(view, "title", 200, 30))
    drawn, line = console.file.getvalue(), plain_line(view)
    for text in ("DEGRADED: no crypto node for 30 s", "removed: drone_07, evicted, ordered by operator_0"):
        assert text in drawn
        assert text in line
    assert "confirmed 42  unconfirmed 3  forged 2" in drawn
    assert "issuer crypto_0  openssl" in drawn
    assert "2 packets contradict their sender's checkpoint" in line


class Broken(io.StringIO):
    """A terminal that is gone."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_that_is_gone_ends_the_table_and_nothing_else(terminal: bool) -> None:
    with LiveTable("swarm", Console(file=Broken(), force_terminal=terminal)) as table:
        table.update(view_of(2), 1.0)
        table.print_above("a line")
    assert table.problem == "OSError: [Errno 5] Input/output error"


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (1, 60), (300, 1)])
def test_a_terminal_of_any_size(size: tuple[int, int]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=size[0], height=size[1])
    with LiveTable("swarm", console) as table:
        table.update(view_of(20), 1.0)
        table.print_above("a line")
    assert table.problem is None


def test_a_terminal_without_cursor_gets_lines() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, _environ={"TERM": "dumb"})
    with LiveTable("swarm", console) as table:
        table.update(view_of(2), 1.0)
        assert table.plain
    assert "2 drones" in file.getvalue()
