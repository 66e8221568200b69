"""`chimera log` and `chimera bench`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from chimera_ros import __version__
from chimera_ros.cli import main
from chimera_ros.commands import bench, bench_table
from chimera_ros.commands.bench_table import provenance
from chimera_ros.records.mcap_log import FlightRecorder

REPORT: dict[str, Any] = {
    "benchmark": "secure",
    "machine": {"cpu": "x"},
    "results": [
        {
            "name": "added latency p50",
            "value": 90.0,
            "unit": "µs",
            "target": {"op": "<=", "value": 120},
            "met": True,
        },
        {
            "name": "throughput",
            "value": 1e4,
            "unit": "1/s",
            "target": {"op": ">=", "value": 15000},
            "met": False,
        },
        {"name": "messages", "value": None, "unit": "", "target": None, "met": None},
    ],
}


def record(folder: Path, *, close: bool) -> None:
    recorder = FlightRecorder(folder, clock=iter(range(10**6)).__next__)
    for i in range(20):
        received_ns = 10**18 + i * 10**8
        recorder.write(
            "a/telemetry", "p/msg/T", "uint8 x", b"\0\1\0\0\7", received_ns, received_ns, f"m{i % 2}"
        )
        recorder.write_sealed("a/telemetry", b"\0\1\0\0", received_ns)
    if close:
        recorder.close()


@pytest.mark.parametrize("close", [True, False])
def test_log_show(tmp_path: Path, capsys: pytest.CaptureFixture[str], close: bool) -> None:
    record(tmp_path, close=close)
    assert main(["log", "show", str(tmp_path), "--json"]) == 0
    flight, sealed = json.loads(capsys.readouterr().out)
    assert flight["complete"] == sealed["complete"] == close
    (topic,) = flight["topics"]
    assert (topic["topic"], topic["type"], topic["senders"]) == (
        "/chimera/a/telemetry",
        "p/msg/T",
        ["m0", "m1"],
    )
    assert topic["messages"] >= 19
    assert topic["hz"] == pytest.approx(10.0)
    assert main(["log", "show", str(tmp_path / "flight.mcap")]) == 0
    assert ("not closed" in capsys.readouterr().out) == (not close)


def test_log_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"t": t, "enu": [[t, 0, t], [t, 5, t]]}) for t in range(9)]
    (tmp_path / "tracks.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["log", "plot", str(tmp_path), "--separation", "2"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "tracks.png")
    assert (tmp_path / "tracks.png").read_bytes().startswith(b"\x89PNG")


def test_log_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "show", str(tmp_path)]) == 2
    assert "holds no MCAP files" in capsys.readouterr().err
    assert main(["log", "plot", str(tmp_path / "x")]) == 2
    assert "does not exist" in capsys.readouterr().err
    (tmp_path / "x.mcap").write_text("no")
    assert main(["log", "show", str(tmp_path / "x.mcap")]) == 1
    assert "is not an MCAP file" in capsys.readouterr().err


@pytest.fixture
def benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scripts = {
        "secure": f"import json, sys; print(json.dumps({REPORT!r} | {{'machine': sys.argv[1:]}}))",
        "rekey": "import sys; print('no result'); sys.exit(3)",
    }
    for name, text in scripts.items():
        (tmp_path / f"bench_{name}.py").write_text(text)
    found = {name: tmp_path / f"bench_{name}.py" for name in scripts}
    monkeypatch.setattr(bench, "find_benchmarks", lambda: found)
    return tmp_path


def test_bench_tables_and_json(benchmarks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "secure"]) == 0
    output = capsys.readouterr().out
    assert "added latency p50" in output
    assert "1 target(s) missed" in output
    assert main(["bench", "secure", "--strict"]) == 1
    capsys.readouterr()
    assert main(["bench", "secure", "--json", "--quick"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["machine"] == ["--json", "--quick"]
    assert [row["met"] for row in value["results"]] == [True, False, None]


def test_bench_tables_for_a_document(benchmarks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "secure", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:4] == ["| what | value | target | |", "| --- | --- | --- | --- |"]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[4:] if line]
    assert [row[3] for row in rows] == ["met", "**missed**", ""]
    assert all(len(row) == 4 for row in rows)


def test_a_table_for_a_document_states_command_date_revision_and_machine(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "secure", "--quick", "--markdown"]) == 0
    heading = capsys.readouterr().out.splitlines()[0]
    assert re.match(
        r"`chimera bench secure --quick`, \d{4}-\d\d-\d\d, (revision [0-9a-f]{7,}|version \d)", heading
    )
    about = {"cpu": "Some CPU", "cores": 2, "system": "Linux 6", "python": "3.11.7"}
    assert provenance(about).endswith(", Some CPU, 2 cores, Linux 6, Python 3.11.7")


def test_a_package_outside_a_checkout_states_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_table, "_ROOT", tmp_path)
    assert bench_table.revision() == f"version {__version__}"


def test_a_table_replaces_the_one_in_its_section_of_a_document(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = benchmarks / "benchmarks.md"
    document.write_text("before\n<!-- begin secure -->\nold table\n<!-- end secure -->\nafter\n")
    arguments = ["bench", "secure", "--markdown", "--into", str(document)]
    assert main(arguments) == 0
    assert "| what |" not in capsys.readouterr().out
    once = document.read_text()
    assert once.startswith("before\n<!-- begin secure -->\n\n`chimera bench secure`, ")
    assert once.endswith("|\n\n<!-- end secure -->\nafter\n")
    assert "old table" not in once
    assert "| added latency p50 | 90 µs | ≤ 120 | met |" in once
    assert main(arguments) == 0
    assert document.read_text() == once


def test_a_document_without_the_section_is_refused_before_anything_is_measured(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = benchmarks / "benchmarks.md"
    document.write_text("<!-- end secure -->\n<!-- begin secure -->\n")
    assert main(["bench", "secure", "--markdown", "--into", str(document)]) == 2
    captured = capsys.readouterr()
    assert "has no section for secure; put the lines <!-- begin secure -->" in captured.err
    assert "benchmark secure …" not in captured.err
    assert main(["bench", "secure", "--markdown", "--into", str(benchmarks / "none.md")]) == 2
    assert main(["bench", "secure", "--into", str(document)]) == 2
    assert "--into needs --markdown" in capsys.readouterr().err


def test_a_seed_goes_to_the_benchmark_that_draws_scenes(
    benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "secure", "--seed", "3"]) == 2
    assert "it is for moderation" in capsys.readouterr().err
    script = benchmarks / "bench_moderation.py"
    script.write_text((benchmarks / "bench_secure.py").read_text())
    bench.find_benchmarks()["moderation"] = script
    assert main(["bench", "moderation", "--json", "--seed", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"] == ["--json", "--seed", "3"]
    assert main(["bench", "moderation", "--seed", "-1"]) == 2


def test_bench_failures_are_named(benchmarks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--json"]) == 1
    captured = capsys.readouterr()
    assert "benchmark rekey ended with status 3 and gave no result" in captured.err
    assert [report["benchmark"] for report in json.loads(captured.out)] == ["secure"]
    assert main(["bench", "nothing"]) == 2
    assert "there are secure, rekey" in capsys.readouterr().err


@pytest.mark.parametrize("output", [b"", b"{", b"[]", b'{"benchmark": "x"}', b'{"results": 5}'])
def test_what_is_no_report_is_none(output: bytes) -> None:
    assert bench.parse_report(output) is None
