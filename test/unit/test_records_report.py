"""The report: the keys that others rely on, strict JSON, atomic writing, an honest verdict."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from chimera_ros.records.histogram import Histogram
from chimera_ros.records.report import (
    SHOWN,
    ProcessDeath,
    ProcessError,
    Report,
    ReportFailed,
    build_report,
    is_stream,
    render_report,
    write_report,
)
from chimera_ros.records.status import StatusAggregator
from chimera_ros.records.status_view import SwarmTotals


def totals() -> SwarmTotals:
    status = StatusAggregator(["drone_01", "drone_02"], now=0.0)
    latency, tracking = Histogram(), Histogram()
    for i in range(100):
        latency.add(1.0 + i / 100.0)
        tracking.add(0.1)
    status.feed(
        {"process": "follower_0", "latency_ms": latency.to_status(), "tracking_m": tracking.to_status()}, 1.0
    )
    leader = {"finished": True, "commands_sent": 50, "mission_time_s": 25.0, "lost": ["drone_02"]}
    status.feed({"process": "leader", **leader}, 2.0)
    crypto = {"rotations": 2, "rekey_ms": [10.0, 30.0], "epoch": 3}
    security = {"sealed": 5, "opened": 9, "rejected": {"replay": 1}}
    status.feed({"process": "crypto", **crypto, "security": security}, 2.0)
    status.feed({"process": "sitl", "real_time_factor": 1.0, "min_separation_m": 2.4, "collisions": 0}, 2.0)
    return status.totals()


def report(**changes: Any) -> Report:
    made = build_report(
        totals(),
        drones=2,
        mission="tour",
        duration_s=31.25,
        asked_separation_m=2.0,
        time_to_first_takeoff_s=8.5,
        cpu_percent={"leader": 10.0, "total": 55.0},
        rss_mb={"leader": 70.0, "total": 700.0},
        pss_mb={"leader": 40.0, "total": 400.0},
        records="runs/x",
    )
    return replace(made, **changes)


def test_the_promised_keys_and_values() -> None:
    value = json.loads(report().to_json())
    promised = {"drones": 2, "mission": "tour", "completed": True, "failure": None, "duration_s": 31.25,
                "real_time_factor": 1.0, "min_separation_m": 2.4, "collisions": 0,
                "messages": {"sealed": 5, "opened": 9, "rejected": {"replay": 1}},
                "epochs": {"rotations": 2, "rekey_ms": {"p50": 20.0, "p99": 29.8}},
                "commands_per_s": 2.0,
                "moderation": {"calls": 0, "conflicts": 0, "winner": {}, "unused": {},
                               "ms": {"p50": None, "p99": None}},
                "cpu_percent": {"leader": 10.0, "total": 55.0}, "rss_mb": 700.0,
                "records": "runs/x"}  # fmt: skip
    assert {key: value[key] for key in promised} == promised
    assert value["tracking_error_m"] == pytest.approx({"p50": 0.1, "p99": 0.1, "max": 0.1}, rel=0.05)
    assert value["command_latency_ms"] == pytest.approx({"p50": 1.5, "p99": 1.99}, rel=0.05)
    assert value["drones_lost"] == ["drone_02"]
    assert (value["asked_separation_m"], value["time_to_first_takeoff_s"]) == (2.0, 8.5)
    assert (value["pss_mb"], value["rss_mb_per_process"]) == (400.0, {"leader": 70.0})


def test_the_verdict() -> None:
    assert report().ok
    assert not report(completed=False).ok
    assert not report(collisions=1).ok
    assert not report(failure="interrupted").ok
    failed = build_report(totals(), drones=2, mission="m", duration_s=1.0, failure="interrupted")
    assert (failed.completed, failed.failure, failed.ok) == (False, "interrupted", False)


def test_json_is_strict_even_for_odd_numbers() -> None:
    text = report(min_separation_m=math.inf, duration_s=math.nan).to_json()
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert value["min_separation_m"] is None
    assert value["duration_s"] is None


def test_a_path_that_is_no_text_is_escaped(tmp_path: Path) -> None:
    made = report(records="runs/\udcff高")
    write_report(made, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["records"] == "runs/\udcff高"


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.json"
    write_report(report(), path)
    assert json.loads(path.read_text())["drones"] == 2
    assert [item.name for item in path.parent.iterdir()] == ["report.json"]
    assert path.stat().st_mode & 0o777 == 0o600
    blocked = path / "report.json"
    with pytest.raises(ReportFailed, match="cannot be written to"):
        write_report(report(), blocked)
    assert json.loads(path.read_text())["drones"] == 2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            [
                "MISSION COMPLETED",
                "smallest 2.40 m · required 2.00 m",
                "1 rejected (replay 1)",
                "50 sent · 2.0/s",
            ],
        ),
        (
            {"completed": False, "failure": "drone_02 never answered"},
            ["MISSION NOT COMPLETED", "never answered"],
        ),
        ({"collisions": 2}, ["COLLISION"]),
        ({"min_separation_m": None, "rss_mb": None}, ["smallest – m"]),
    ],
)
def test_the_summary_says_what_happened(changes: dict[str, Any], expected: list[str]) -> None:
    text = summary(report(**changes))
    for words in expected:
        assert words in text


def summary(made: Report) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render_report(made))
    return console.export_text()


def test_what_processes_said_before_they_died() -> None:
    lines = ("one", "two", "three", "four", "[ERROR] no [link=x]key", "[red]five")
    death = ProcessDeath(12.3, "crypto", "ended with status 1", lines)
    others = tuple(ProcessDeath(1.0, f"process_{i}", "was ended by SIGSEGV") for i in range(SHOWN + 1))
    made = report(
        deaths=(death, death, *others),
        errors=(ProcessError(3.0, "crypto", "no [link=x]key"),) * (SHOWN + 1),
        problems=("the tracks were not drawn: [no] fonts",),
        records="runs/[red]x",
        logs="runs/[red]x/log",
    )
    text = summary(made)
    for words in (
        "crypto ended with status 1, 2 times, the last time 12 s after the start",
        "process_1 was ended by SIGSEGV 1 s after the start",
        "two",
        "[red]five",
        "and 2 more ended processes in the report",
        "crypto: no [link=x]key",
        "and 1 more errors in the report",
        "the tracks were not drawn: [no] fonts",
        "runs/[red]x",
        "runs/[red]x/log",
    ):
        assert words in text
    assert "[ERROR]" not in text, "it is among the errors"
    value = json.loads(made.to_json())
    assert value["deaths"][0] == {"elapsed_s": 12.3, "process": "crypto", "reason": "ended with status 1",
                                  "last_lines": list(lines)}  # fmt: skip
    assert value["errors"][0] == {"elapsed_s": 3.0, "process": "crypto", "text": "no [link=x]key"}


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/dev/stdout", True),
        ("/dev/fd/1", True),
        ("/proc/self/fd/1", True),
        ("/dev/null", True),
        ("/dev/full", True),
        ("/dev/shm/no_such_report.json", False),
        ("/dev/shm", False),
        ("report.json", False),
        ("/dev/../tmp", False),
        ("x" * 5000, False),
        ("/root/\0", False),
    ],
)
def test_streams_are_not_replaced(path: str, stream: bool) -> None:
    assert is_stream(Path(path)) is stream


def test_a_stream_that_takes_nothing_is_a_sentence(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open("/dev/full", "w") as full:
        descriptor = Path(f"/dev/fd/{full.fileno()}")
        for path, reason in ((descriptor, "No space left"), (pipe, "No such device")):
            with pytest.raises(ReportFailed, match=f"cannot be written to {path}: {reason}"):
                write_report(report(), path)
