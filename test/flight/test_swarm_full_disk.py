"""Whole swarms whose record folder fills up, is full from the start, or is deleted in flight."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location(
    "swarm_end_to_end", Path(__file__).with_name("test_swarm_end_to_end.py")
)
assert _spec is not None and _spec.loader is not None
_end_to_end: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_end_to_end)

MISSION = """
mission: up_and_down
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 30]}
steps:
  - takeoff: {height_m: 5, wave: 5}
  - hold: {seconds: %g}
  - land
"""
FILL = "dd if=/dev/zero of=record/filling bs=4k count=100 2>/dev/null || true; "


def _disk(folder: Path, size: str, more: str = "") -> tuple[str, ...]:
    """A command that runs another with a file system of `size` as its record folder, seen by it alone."""
    mount = f'cd "$1" && mkdir -p record && mount -t tmpfs -o size={size} tmpfs record || exit 1; {more}'
    mount += 'shift; exec "$@"'
    return ("unshare", "-rm", "sh", "-c", mount, "sh", str(folder))


@pytest.fixture
def start(tmp_path: Path, ros_domain: int, mavlink_port: int) -> Iterator[Callable[..., Any]]:
    swarms: list[Any] = []

    def make(hold_s: float = 1.0, **options: object) -> Any:
        swarms.append(
            _end_to_end.Swarm(tmp_path / "swarm", ros_domain, mavlink_port, text=MISSION % hold_s, **options)
        )
        return swarms[-1]

    yield make
    for swarm in swarms:
        swarm.close()


@pytest.mark.parametrize(
    ("size", "more", "extra", "alarms"),
    [
        ("300k", "", (), ("records are being lost", "tracks are being lost")),
        ("100k", FILL, (), ("records are being lost", "tracks are being lost")),
        ("100k", FILL, ("--no-record",), ()),
    ],
    ids=["small", "full", "full without records"],
)
def test_a_full_disk_costs_records_never_the_flight(
    tmp_path: Path,
    start: Callable[..., Any],
    size: str,
    more: str,
    extra: tuple[str, ...],
    alarms: tuple[str, ...],
) -> None:
    prefix = _disk(tmp_path / "swarm", size, more)
    (tmp_path / "swarm").mkdir()
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace of its own can be had here")
    swarm = start(prefix=prefix, extra=extra)
    swarm.end()
    report = swarm.report()
    assert report["completed"] is True, swarm.text()
    assert report["collisions"] == 0 and report["drones_lost"] == []
    told = [event["text"] for event in report["events"]]
    for words in alarms:
        assert sum(words in text for text in told) == 1, told  # once, whoever reports it
    if not alarms:
        assert not [text for text in told if "lost" in text]
    assert "Traceback" not in swarm.text()
    assert swarm.orphans() == []


def test_a_record_folder_that_is_deleted_in_flight_costs_records_only(start: Callable[..., Any]) -> None:
    swarm = start(hold_s=10.0)
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    shutil.rmtree(swarm.folder / "record")
    assert swarm.end() == 0, swarm.text()
    report = swarm.report()
    assert report["completed"] is True and report["drones_lost"] == []
    told = " ".join(event["text"] for event in report["events"])
    assert "cannot be written (it was deleted)" in told
    assert "records are written again" in told and "tracks are written again" in told
    assert list((swarm.folder / "record").glob("flight*.mcap"))


def test_a_logger_that_is_killed_in_flight_leaves_files_that_all_can_read(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    swarm = start(hold_s=10.0)
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    (logger,) = [child for child in swarm.children() if "telemetry_logger" in " ".join(child.cmdline())]
    logger.kill()
    assert swarm.end() == 0, swarm.text()
    monkeypatch.syspath_prepend(str(_end_to_end.ROOT / "tools"))
    check_record = importlib.import_module("check_record")
    assert len(list((swarm.folder / "record").glob("flight*.mcap"))) == 2
    assert check_record.faults(swarm.folder / "record") == []


def test_without_records_no_positions_are_kept(start: Callable[..., Any]) -> None:
    swarm = start(extra=("--no-record",))
    assert swarm.end() == 0, swarm.text()
    left = {path.name for path in (swarm.folder / "record").iterdir()} - {"ros"}
    assert left == {"log", "report.json", "spawn.json"}
    assert swarm.report()["records"] is None
