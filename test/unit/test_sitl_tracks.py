"""The track file: whatever happens to the disk, nothing raises, and what was written can be read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from chimera_ros.records.tracks import read_tracks
from chimera_ros.sitl import track_file
from chimera_ros.sitl.track_file import TrackFile

HERE = [[0.0, 0.0, 1.0], [1.0, 0.0, 1.0]]


class Disk:
    """Takes `left` bytes in all, as `os.write` does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        self._write = os.write
        monkeypatch.setattr(track_file.os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if not self.left:
            raise OSError(28, os.strerror(28))
        written = self._write(descriptor, data[: self.left])
        self.left -= written
        return written


@pytest.mark.parametrize("left", [0, 1, 30, 50, 51, 52, 500])
def test_a_full_disk_costs_lines_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    disk = Disk(monkeypatch)
    tracks = TrackFile(tmp_path / "tracks.jsonl", 0.0)
    alarms = []
    disk.left = left
    for number in range(400):
        now = 0.2 * number
        if number == 200:
            disk.left = 10**9
        tracks.write(now, HERE, now)
        alarms += tracks.take_alarms()
    tracks.close()
    assert alarms == [
        f"tracks are being lost: {tmp_path}/tracks.jsonl cannot be written (No space left on device)",
        f"tracks are written again; {tracks.lost} lines were lost",
    ]
    found = read_tracks(tmp_path / "tracks.jsonl")
    assert len(found.time_s) == 400 - tracks.lost
    assert 200 - left // 40 - 1 <= tracks.lost <= 251


@pytest.mark.parametrize("device", ["/dev/full", "/proc/version", "file/x", "."])
def test_what_never_takes_a_line_is_a_problem_and_no_error(tmp_path: Path, device: str) -> None:
    (tmp_path / "file").write_text("")  # tests run in this folder
    tracks = TrackFile(Path(device), 0.0)
    for number in range(100):
        tracks.write(0.2 * number, HERE, 0.2 * number)
    (alarm,) = tracks.take_alarms()
    assert alarm == tracks.problem
    assert alarm.startswith(f"tracks are being lost: {device} cannot be written (")
    assert tracks.lost == 100
    tracks.close()


def test_a_folder_that_is_deleted_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    tracks = TrackFile(folder / "tracks.jsonl", 0.0)
    tracks.write(0.0, HERE, 0.0)
    shutil.rmtree(folder)
    for number in range(1, 100):
        tracks.write(0.2 * number, HERE, 0.2 * number)
    tracks.close()
    assert [alarm[:24] for alarm in tracks.take_alarms()] == [
        "tracks are being lost: /",
        "tracks are written again",
    ]
    assert len(read_tracks(folder / "tracks.jsonl").time_s) == 99 - tracks.lost
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_pipe_that_nobody_reads_does_not_stop_the_simulation(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    tracks = TrackFile(pipe, 0.0)
    assert "cannot be written" in tracks.problem
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for number in range(5000):
        tracks.write(0.2 * number, HERE, 11.0)
    os.close(reader)
    tracks.write(0.0, HERE, 12.0)
    tracks.close()
    assert tracks.lost > 0


def test_a_file_is_begun_anew_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "tracks.jsonl"
    path.write_text("an older flight\n")
    path.chmod(0o644)
    tracks = TrackFile(path, 0.0)
    tracks.write(0.0, HERE, 0.0)
    tracks.close()
    assert path.read_text() == '{"t":0.0,"enu":[[0.0,0.0,1.0],[1.0,0.0,1.0]]}\n'
    assert path.stat().st_mode & 0o777 == 0o600
