"""Status lines: whatever a broken child writes, the parent stays whole; the child never waits."""

from __future__ import annotations

import json
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.records.status_line import (
    MAX_LINE_BYTES,
    LineSplitter,
    StatusWriter,
    encode_status,
    parse_status,
)


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line)), st.integers(1, 17))
def test_lines_survive_any_cutting(lines: list[bytes], size: int) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter = LineSplitter(20)
    found = [line for i in range(0, len(stream), size) for line in splitter.feed(stream[i : i + size])]
    assert found == [line for line in lines if 0 < len(line) <= 20]
    assert splitter.oversized == sum(len(line) > 20 for line in lines)


def test_an_endless_line_costs_bounded_memory() -> None:
    splitter = LineSplitter(1000)
    for _ in range(10_000):
        assert splitter.feed(b"x" * 500) == []
    assert splitter.oversized == 1
    assert splitter.feed(b"\nok\n") == [b"ok"]


@given(st.binary(max_size=200))
def test_parsing_any_bytes_gives_a_status_or_none(data: bytes) -> None:
    parsed = parse_status(data)
    assert parsed is None or isinstance(parsed["process"], str)


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b"1", b'"x"', b"{}", b'{"process": 1}', b'{"process": ""}', b"[" * 50_000, b"\xff\xfe"],
)
def test_what_is_no_status_is_none(line: bytes) -> None:
    assert parse_status(line) is None


def test_encoding_leaves_no_number_that_json_lacks() -> None:
    line = encode_status({"process": "x", "a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf,)}})
    assert json.loads(line) == {"process": "x", "a": None, "b": [None, 1.5], "c": {"d": [None]}}
    assert line.endswith(b"\n")
    with pytest.raises(ValueError, match="at most 65536"):
        encode_status({"process": "x", "text": "y" * MAX_LINE_BYTES})


def test_a_writer_whose_parent_does_not_read_drops_whole_lines_and_goes_on() -> None:
    read_fd, write_fd = os.pipe()
    writer = StatusWriter(write_fd)
    sent = 0
    while writer.dropped < 3:
        writer.write({"process": "x", "n": sent, "fill": "z" * 30_000})
        sent += 1
        assert sent < 1000
    splitter = LineSplitter()
    lines: list[bytes] = []
    os.set_blocking(read_fd, False)

    def drain() -> None:
        try:
            while data := os.read(read_fd, 65536):
                lines.extend(splitter.feed(data))
        except BlockingIOError:
            pass

    drain()
    assert writer.write({"process": "x", "n": "last"})
    drain()
    numbers = [json.loads(line)["n"] for line in lines]
    assert numbers == [*range(sent - 3), "last"]
    os.close(read_fd)
    assert not writer.write({"process": "x"})
    assert writer.orphaned
    os.close(write_fd)


def test_a_writer_without_a_pipe_swallows_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHIMERA_STATUS_FD", raising=False)
    writer = StatusWriter()
    assert not writer.write({"process": "x"})
    assert not writer.orphaned
