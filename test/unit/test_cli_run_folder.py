"""The folder of a run: what is refused before the start, and what only costs records."""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path

import pytest

from chimera_ros import private_files
from chimera_ros.commands.errors import CommandFailed
from chimera_ros.commands.run_folder import make_run_folder
from chimera_ros.commands.swarm_setup import add_arguments, prepare
from chimera_ros.sitl.main import read_spawn

PADS = ((0.0, 1.5, 0.0), (4.0, -2.0, 0.25))


def test_the_places_are_in_a_file(tmp_path: Path) -> None:
    spawn = make_run_folder(tmp_path / "run", PADS, recorded=True)
    assert spawn == tmp_path / "run" / "spawn.json"
    assert tuple(read_spawn(str(spawn))) == PADS
    assert (tmp_path / "run" / "log").is_dir()


def test_a_folder_that_cannot_be_written_is_refused_with_the_ways_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CommandFailed, match=r"Not a directory; choose another with --record, or .* --no-record"
    ):
        make_run_folder(tmp_path / "file" / "run", PADS, recorded=True)


def test_without_records_a_folder_is_no_condition(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    spawn = make_run_folder(tmp_path / "file" / "run", PADS, recorded=False)
    assert tuple(read_spawn(str(spawn))) == PADS
    error = capsys.readouterr().err
    assert "Not a directory; logs, records and report are lost there" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("where", ["make_folder", "write_file"])
def test_a_full_disk_is_said_and_no_condition(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    where: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(private_files, where, full)
    spawn = make_run_folder(tmp_path / "run", PADS, recorded=True)
    assert tuple(read_spawn(str(spawn))) == PADS
    assert os.strerror(number) in capsys.readouterr().err


def prepared(*words: str) -> object:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return prepare(parser.parse_args(["--drones", "2", "--first-port", "31540", "--gcs-port", "0", *words]))


def test_without_records_there_are_no_tracks_either() -> None:
    found = prepared("--no-record", "--record", "run")
    assert (found.spec.record, found.spec.tracks) == (None, None)  # type: ignore[attr-defined]
    (sitl,) = [item for item in found.processes if item.name == "sitl"]  # type: ignore[attr-defined]
    assert "--tracks" not in sitl.argv
    found = prepared("--record", "run")
    assert found.spec.tracks == Path("run").absolute() / "tracks.jsonl"  # type: ignore[attr-defined]
