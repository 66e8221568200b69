"""Files that were never closed are completed, and whatever else is wrong with a file leaves it alone."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from chimera_ros.records import mcap_complete
from chimera_ros.records.mcap_complete import complete
from chimera_ros.records.mcap_log import FlightRecorder
from chimera_ros.records.mcap_read import read_messages

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = "uint8[] data\n"
TYPE = "chimera_ros/msg/Example"


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("check_record")


def cdr(number: int) -> bytes:
    size = number % 50
    return b"\0\1\0\0" + size.to_bytes(4, "little") + bytes(size)


def record(folder: Path, messages: int = 60) -> Path:
    ticks = iter(range(10**6))
    recorder = FlightRecorder(folder, clock=lambda: 0.1 * next(ticks))
    for i in range(messages):
        recorder.write(f"d{i % 3}/x", TYPE, SCHEMA, cdr(i), i, i + 1, f"d{i % 3}")
    recorder.close()
    return folder / "flight.mcap"


def times(path: Path) -> list[int]:
    return [message.log_time for _, _, message in read_messages(path)]


def test_wherever_a_file_ends_it_is_completed_with_all_that_it_held(
    tmp_path: Path, readers: ModuleType
) -> None:
    whole = record(tmp_path / "whole", 18).read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    path = folder / "flight.mcap"
    checked = set()
    for end in range(0, len(whole), 2):
        path.write_bytes(whole[:end])
        held = times(path)
        assert complete(path) == bool(held)
        assert times(path) == held
        if held and (len(held) not in checked or end % 498 == 0):
            checked.add(len(held))
            assert readers.faults(folder) == []
    assert checked == {5, 10, 15, 18}  # by chunk


def test_a_whole_file_is_left_as_it_is(tmp_path: Path) -> None:
    path = record(tmp_path)
    before = path.read_bytes()
    assert complete(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("fault", ["chunk", "opcode", "zeros", "text", "long"])
def test_any_other_fault_leaves_a_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    path = record(tmp_path)
    data = bytearray(path.read_bytes()[:-100])
    if fault == "chunk":
        data[len(data) // 4] ^= 1
    elif fault == "opcode":
        data[data.index(b"zstd") - 4 - 4 - 8 - 8 - 8 - 8 - 1] = 0x86
    elif fault == "zeros":
        data = data[: len(data) // 2] + bytes(5000)
    elif fault == "text":
        data = bytearray(b"no MCAP file")
    else:
        monkeypatch.setattr(mcap_complete, "MAX_CUT", 1)
        data = data[: len(data) // 2]
    path.write_bytes(data)
    assert not complete(path)
    assert path.read_bytes() == data


def test_a_full_disk_leaves_a_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    held = times(path)

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        complete(path)
    monkeypatch.undo()
    assert times(path) == held
    assert complete(path)
    assert times(path) == held


def test_the_file_that_is_being_written_is_nobody_elses(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path)
    recorder.write("c", TYPE, SCHEMA, cdr(1), 1, 1, "d")
    assert not complete(tmp_path / "flight.mcap")
    FlightRecorder(tmp_path).close()
    recorder.write("c", TYPE, SCHEMA, cdr(2), 2, 2, "d")
    recorder.close()
    assert times(tmp_path / "flight.mcap") == [1, 2]


def test_the_record_of_a_killed_logger_is_completed_by_the_next(tmp_path: Path, readers: ModuleType) -> None:
    code = f"""
from pathlib import Path
from chimera_ros.records.mcap_log import FlightRecorder
ticks = iter(range(10**6))
recorder = FlightRecorder(Path({str(tmp_path)!r}), clock=lambda: 0.2 * next(ticks))
for i in range(100):
    recorder.write("c", {TYPE!r}, {SCHEMA!r}, {cdr(7)!r}, i + 1, i + 1, "d")
    recorder.write_sealed("c", {cdr(7)!r}, i + 1)
print("written", flush=True)
input()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        process.send_signal(signal.SIGKILL)
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)
    held = times(tmp_path / "flight.mcap")
    assert len(held) > 90
    assert any("rosbags ends" in fault for fault in readers.faults(tmp_path))
    recorder = FlightRecorder(tmp_path)
    recorder.write("c", TYPE, SCHEMA, cdr(1), 500, 500, "d")
    recorder.close()
    assert times(tmp_path / "flight.mcap") == held
    assert times(tmp_path / "flight_1.mcap") == [500]
    for path in tmp_path.glob("sealed*.mcap"):
        path.unlink()  # no envelopes are in it
    assert readers.faults(tmp_path) == []
