"""Files that hold positions: their modes under any umask, and who is left alone."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chimera_ros import cli, private_files
from chimera_ros.launcher.child_log import ChildLog
from chimera_ros.records.mcap_log import FlightRecorder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=[0o000, 0o022, 0o277, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folders_are_the_owners(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "runs" / "one"
    private_files.make_folder(folder)
    private_files.make_folder(folder)
    assert mode(folder) == mode(folder.parent) == 0o700
    with open(folder / "opened", "w", opener=private_files.opener) as file:
        file.write("text")
    private_files.write_file(folder / "written", b"data")
    assert mode(folder / "opened") == mode(folder / "written") == 0o600
    assert (folder / "written").read_bytes() == b"data"


@pytest.mark.parametrize("flags", ["w", "a", "r+"])
def test_a_file_that_exists_is_closed_to_others(tmp_path: Path, flags: str) -> None:
    path = tmp_path / "old"
    path.write_text("text")
    path.chmod(0o664)
    with open(path, flags, opener=private_files.opener):
        assert mode(path) == 0o600
    path.chmod(0o664)
    private_files.write_file(path, b"new")
    assert mode(path) == 0o600


def test_a_folder_that_exists_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    private_files.make_folder(tmp_path)
    private_files.make_folder(tmp_path / "new")
    assert (mode(tmp_path), mode(tmp_path / "new")) == (0o755, 0o700)


def test_devices_and_pipes_are_written_and_stay_what_they_are(tmp_path: Path) -> None:
    pipe, null = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    null.symlink_to(os.devnull)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    private_files.write_file(pipe, b"data")
    with open(pipe, "ab", opener=private_files.opener) as file:
        file.write(b" more")
    assert os.read(reader, 100) == b"data more"
    os.close(reader)
    assert mode(pipe) == 0o644
    before = mode(null)
    private_files.write_file(null, b"data")
    assert null.is_symlink()
    assert stat.S_ISCHR(null.stat().st_mode)
    assert mode(null) == before


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ("n" * 255)  # the longest name there is
    private_files.write_file(path, b"before")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        private_files.write_file(path, b"after")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError) as caught:
            private_files.make_folder(path)
        assert caught.value.filename is not None


def test_what_commands_write_on_request_is_the_owners(tmp_path: Path, umask: int) -> None:
    tracks = tmp_path / "tracks.jsonl"
    lines = [json.dumps({"t": t, "enu": [[t, 0, t], [t, 5, t]]}) for t in range(9)]
    with open(tracks, "w", opener=private_files.opener) as file:
        file.write("\n".join(lines) + "\n")
    scene = str(ROOT / "config" / "scenes" / "crossing.json")
    for name, words in {
        "log.png": ["log", "plot", str(tracks), "--output"],
        "check.png": ["check", "formation_tour", "--drones", "3", "--plot"],
        "scene.png": ["moderate", scene, "--backend", "none", "--plot"],
    }.items():
        assert cli.main([*words, name]) in (0, 1)  # a loaded machine finds no way in time, and draws that
        assert mode(tmp_path / name) == 0o600, name


def test_what_a_run_writes_is_the_owners(tmp_path: Path, umask: int) -> None:
    recorder = FlightRecorder(tmp_path / "run")
    assert recorder.write_sealed("c", b"x", 1)
    recorder.close()
    log = ChildLog(tmp_path / "run" / "log" / "leader.log", 10)
    log.feed(b"first line\n")
    log.feed(b"second line\n")
    log.close()
    found = {path.name: mode(path) for path in (tmp_path / "run").rglob("*")}
    assert found == {"sealed.mcap": 0o600, "log": 0o700, "leader.log": 0o600, "leader.log.1": 0o600}
    assert mode(tmp_path / "run") == 0o700
