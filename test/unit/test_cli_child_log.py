"""Logs of child processes: appended to, bounded, and what is taken from them for the summary."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from chimera_ros.launcher.child_log import (
    LAST_LINES,
    MAX_ERRORS,
    MAX_LINE_CHARS,
    ChildLog,
    error_in,
    printable,
)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("[ERROR] [1712345678.123456789] [chimera.crypto]: keystore is read-only", "keystore is read-only"),
        ("[FATAL] [1712345678.1] [chimera.leader]: no keys", "no keys"),
        ("[ERROR] [1.0] [chimera.crypto]:", "[ERROR] [1.0] [chimera.crypto]:"),
        ("[1712345678.1] [ERROR] other format: text", "[1712345678.1] [ERROR] other format: text"),
        ("ERROR:root:logging's own format", "ERROR:root:logging's own format"),
        ("CRITICAL something", "CRITICAL something"),
        ("[08:12:33|Error] connection lost (a.cpp:12)", "[08:12:33|Error] connection lost (a.cpp:12)"),
        ("[RTPS_TRANSPORT_SHM Error] no port", "[RTPS_TRANSPORT_SHM Error] no port"),
        ("[INFO] [1.0] [chimera.leader]: the state is ERROR", None),
        ("[WARN] [1.0] [chimera.leader]: FATAL is a word", None),
        ("[08:12:33|Info ] mavsdk Error] text", None),
        ("RuntimeError: no severity", None),
        ("terror, ERRORS, FATALITY", None),
        ("", None),
    ],
)
def test_lines_that_are_errors(line: str, error: str | None) -> None:
    assert error_in(line) == error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPq#0\x1b\\sixel", "sixel"),
        ("\x1b(B\x1b=\x1bMtext", "text"),
        ("\x9b31mred", "red"),
        ("\x1b[", ""),
        ("\x1b", "?"),
        ("\x1b]0;never ends", ""),
        ("a\x07b\x00c\rd\u202ee\u2028f", "a?b?c?d?e?f"),
        ("tab\tand [bold]markup[/bold]  ", "tab\tand [bold]markup[/bold]"),
        ("Größe 高度", "Größe 高度"),
        ("x" * 2000, "x" * MAX_LINE_CHARS),
    ],
)
def test_text_of_a_process_is_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def log_of(folder: Path, max_bytes: int = 10_000) -> ChildLog:
    return ChildLog(folder / "log" / "one.log", max_bytes)


def test_the_log_of_a_process_that_died_is_kept(tmp_path: Path) -> None:
    for text in (b"first\n", b"second, unfinished", b"third\n"):
        log = log_of(tmp_path)
        log.feed(text)
        log.close()
    lines = log.path.read_text().splitlines()
    kept = [line for line in lines if line and not line.startswith("---")]
    assert kept == ["first", "second, unfinished", "third"]
    assert sum("started again" in line for line in lines) == 2


def test_a_log_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_the_log_is_bounded_over_all_runs(tmp_path: Path) -> None:
    for _ in range(10):
        log = log_of(tmp_path, max_bytes=1000)
        log.feed(b"x" * 399 + b"\n")
        log.close()
    sizes = [path.stat().st_size for path in log.path.parent.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000


def test_new_errors_once_each_and_not_without_end(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    line = b"[ERROR] [%d.0] [chimera.one]: no key\n"
    assert log.feed(line % 1) == ["no key"]
    assert log.feed(line % 2) == [], "with another time, but the same"
    assert log.feed(b"\x1b[31m[ERROR] [3.0] [chimera.one]: in pie") == []
    assert log.feed(b"ces\x1b[0m\n") == ["in pieces"]
    flood = log.feed(b"".join(b"ERROR %d\n" % number for number in range(1000)))
    assert flood == [f"ERROR {number}" for number in range(MAX_ERRORS - 2)]
    assert len(log.last_lines()) == LAST_LINES


def test_a_last_line_without_end_counts(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    assert log.feed(b"[FATAL] [1.0] [chimera.one]: gone") == []
    assert log.close() == ["gone"]
    assert log.last_lines() == ("[FATAL] [1.0] [chimera.one]: gone",)


def test_a_line_of_any_length_is_cut_not_skipped(tmp_path: Path) -> None:
    log = log_of(tmp_path, max_bytes=10_000_000)
    (error,) = log.feed(b"ERROR " + b"x" * 1_000_000 + b"\n")
    assert error.startswith("ERROR xxx")
    assert len(error) == MAX_LINE_CHARS


def test_a_folder_that_cannot_be_written_is_a_problem_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file")
    log = log_of(tmp_path)
    assert log.feed(b"ERROR all the same\n") == ["ERROR all the same"]
    assert log.problem is not None
    assert "no longer kept" in log.problem
    assert log.last_lines() == ("ERROR all the same",)
