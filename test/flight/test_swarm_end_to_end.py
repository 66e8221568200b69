"""Whole swarms, as a user starts them: real processes, middleware, MAVLink, cryptography, embedded SITL."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from mcap.reader import make_reader

from chimera_ros import cli
from chimera_ros.launcher import shared_memory

ROOT = Path(__file__).resolve().parents[2]
MISSION = """
mission: short_hop
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 30]}
steps:
  - takeoff: {height_m: 5, wave: 5}
  - formation: {shape: circle, spacing_m: 4, center_m: [0, 0, 6]}
  - hold: {seconds: %g}
  - formation: {shape: line, spacing_m: 4, center_m: [0, 0, 6]}
  - land
"""


THROUGH_THE_MIDDLE = """
mission: through_the_middle
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 30]}
steps:
  - takeoff: {height_m: 6, wave: 5}
  - formation: {shape: circle, spacing_m: 5, center_m: [0, 0, 8]}
  - swap: {moderate: true}
  - land
"""


def accept_signals() -> None:
    """In a new process: signals as from a terminal, even where these tests are a background job."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Swarm:
    """A `chimera swarm` process and its folder."""

    def __init__(
        self,
        folder: Path,
        domain: int,
        port: int,
        *,
        hold_s: float = 2.0,
        extra: tuple[str, ...] = (),
        text: str = "",
        prefix: tuple[str, ...] = (),
        popen: Mapping[str, Any] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.report_path = folder / "report.json"
        mission = folder / "mission.yaml"
        mission.write_text(text or MISSION % hold_s)
        command = [
            *prefix,
            sys.executable,
            "-m",
            "chimera_ros.cli",
            "swarm",
            "--drones",
            "5",
            "--mission",
            str(mission),
        ]
        command += ["--report", str(self.report_path), "--record", str(folder / "record"), "--gcs-port", "0"]
        command += ["--first-port", str(port), *extra]
        self.environment = os.environ | {
            "ROS_DOMAIN_ID": str(domain),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "CHIMERA_HOME": str(folder / "home"),
            "ROS_LOG_DIR": str(folder / "record" / "ros"),
        }
        self.output = (folder / "output.txt").open("wb")
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": self.output,
            "stderr": subprocess.STDOUT,
            "umask": 0,
            "preexec_fn": accept_signals,
        }
        self.process = subprocess.Popen(command, env=self.environment, **{**streams, **(popen or {})})
        self._seen: set[psutil.Process] = set()
        self._segments: set[str] = set()

    def text(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        self._seen.update(found)
        for child in found:
            self._segments |= shared_memory.segments_of(child.pid)
        return found

    def shard(self) -> psutil.Process:
        for child in self.children():
            if "chimera_ros.nodes.follower" in " ".join(child.cmdline()):
                return child
        raise AssertionError("no follower process is running")

    def wait_for(self, condition: Callable[[], bool], what: str, limit_s: float = 90.0) -> None:
        until = time.monotonic() + limit_s
        while not condition():
            assert self.process.poll() is None, f"ended while waiting for {what}:\n{self.text()}"
            assert time.monotonic() < until, f"{what} did not happen in {limit_s:g} s:\n{self.text()}"
            self.children()
            time.sleep(0.1)

    def heights(self) -> list[float]:
        return [enu[2] for enu in self.positions()]

    def positions(self) -> list[list[float]]:
        tracks = self.folder / "record" / "tracks.jsonl"
        if not tracks.exists():
            return []
        lines = tracks.read_text().splitlines()
        for line in reversed(lines):
            try:
                return [[float(part) for part in enu] for enu in json.loads(line)["enu"]]
            except ValueError:
                continue
        return []

    def all_airborne(self) -> bool:
        heights = self.heights()
        return len(heights) == 5 and min(heights) > 3.0

    def end(self, limit_s: float = 150.0) -> int:
        until = time.monotonic() + limit_s
        while self.process.poll() is None and time.monotonic() < until:
            self.children()
            time.sleep(0.1)
        assert self.process.poll() is not None, f"still running after {limit_s:g} s:\n{self.text()}"
        return self.process.returncode

    def report(self) -> dict:
        return json.loads(self.report_path.read_text())

    def newest_record_s(self) -> dict[str, float]:
        """When the last message of each channel was recorded, by channel."""
        newest: dict[str, float] = {}
        with next((self.folder / "record").glob("flight*.mcap")).open("rb") as stream:
            for _, channel, message in make_reader(stream).iter_messages():
                newest[channel.topic.removeprefix("/chimera/")] = message.log_time * 1e-9
        return newest

    def command(self, *words: str) -> tuple[int, str]:
        """Run `chimera command`; its status, and the last of the expected words that it said."""
        done = subprocess.run(
            [sys.executable, "-m", "chimera_ros.cli", "command", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        said = done.stdout + done.stderr
        known = ("fence", "acknowledged by drone_02", "landing")
        return done.returncode, next((word for word in known if word in said), said)

    def abandoned_memory(self) -> set[str]:
        """Fast DDS's shared-memory segments that these processes had and nobody owns any more."""
        assert self._segments, "no segment was seen: the test would show nothing"
        return self._segments & set(shared_memory.dead_segments())

    def orphans(self) -> list[psutil.Process]:
        return [p for p in self._seen if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]

    def close(self) -> None:
        """End everything at once: what a failed test leaves in the air has the ports of the next one."""
        if self.process.poll() is None:
            self.children()
            self.process.kill()
            self.process.wait()
        for orphan in self.orphans():
            orphan.kill()
        psutil.wait_procs(list(self._seen), timeout=60.0)
        self.output.close()


@pytest.fixture
def start(tmp_path: Path, ros_domain: int, mavlink_port: int) -> Iterator[Callable[..., Swarm]]:
    swarms: list[Swarm] = []

    def make(**options: object) -> Swarm:
        swarm = Swarm(tmp_path / f"swarm{len(swarms)}", ros_domain, mavlink_port, **options)  # type: ignore[arg-type]
        swarms.append(swarm)
        return swarm

    yield make
    for swarm in swarms:
        swarm.close()


def test_five_drones_complete_a_mission(
    start: Callable[..., Swarm], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    swarm = start()
    status = swarm.end()
    assert status == 0, swarm.text()
    report = swarm.report()
    assert report["completed"] is True and report["failure"] is None
    assert report["collisions"] == 0
    assert report["min_separation_m"] >= 2.0
    assert report["drones"] == 5
    assert report["messages"]["sealed"] > 500 and report["messages"]["opened"] > 500
    assert report["epochs"]["rotations"] >= 1
    assert report["command_latency_ms"]["p50"] > 0
    assert report["tracking_error_m"]["p99"] < 1.0
    assert swarm.orphans() == []
    assert swarm.abandoned_memory() == set()
    record = swarm.folder / "record"
    left = {path: path.stat().st_mode & 0o777 for path in (swarm.folder / "home", record, *record.rglob("*"))}
    assert {path.name for path in left} >= {"report.json", "tracks.jsonl", "totals.json", "spawn.json", "ros"}
    for path, mode in left.items():
        assert mode == (0o700 if path.is_dir() else 0o600), path
    assert (record / "tracks.png").stat().st_size > 10_000
    with (next(record.glob("flight*.mcap"))).open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    topics = {channel.topic for channel in summary.channels.values()}
    assert any(topic.endswith("drone_03/telemetry") for topic in topics)
    assert any(topic.endswith("leader/command") for topic in topics)
    check_record = importlib.import_module("check_record")
    assert check_record.faults(record) == []
    # What was recorded is what the members signed, and the logger's totals follow from it.
    (authority,) = (swarm.folder / "home").rglob("authority.pem")
    trust = ["--authority", str(authority)]
    assert cli.main(["log", "verify", str(record), "--json", *trust]) == 0
    packets = json.loads(capsys.readouterr().out)["packets"]
    assert packets["confirmed"] > 10 * packets["unconfirmed"]
    assert packets["signed"] > 5 and packets["unknown"] == 0
    assert cli.main(["log", "verify-totals", str(record / "totals.json"), str(record), *trust]) == 0


def test_a_mission_that_only_path_moderation_makes_flyable(start: Callable[..., Swarm]) -> None:
    swarm = start(text=THROUGH_THE_MIDDLE)
    swarm.wait_for(lambda: "moderation" in swarm.text(), "the first call of path moderation")
    assert swarm.end() == 0, swarm.text()
    report = swarm.report()
    assert report["completed"] is True and report["collisions"] == 0
    assert report["min_separation_m"] >= 2.0
    moderation = report["moderation"]
    # before each of the three moves; where a busy machine is late, the leader flies its own plan
    assert moderation["calls"] == 3
    assert sum(moderation["winner"].values()) + sum(moderation["unused"].values()) == 3
    assert set(moderation["unused"]) <= {"late", "infeasible"}
    assert moderation["winner"], moderation
    assert moderation["ms"]["p99"] > 0.0
    assert swarm.orphans() == []


def test_first_interrupt_lands_everything(start: Callable[..., Swarm]) -> None:
    swarm = start(hold_s=120.0)
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    swarm.process.send_signal(signal.SIGINT)
    assert swarm.end(75.0) == 1
    assert max(swarm.heights()) < 0.3, "a drone was left in the air"
    report = swarm.report()
    assert report["completed"] is False and "interrupted" in report["failure"]
    assert report["collisions"] == 0
    assert swarm.orphans() == []


def test_second_interrupt_ends_at_once(start: Callable[..., Swarm]) -> None:
    # So high that the landing takes much longer than this test needs to see it begin.
    high = (MISSION % 120.0).replace("height_m: 5", "height_m: 25").replace("[0, 0, 6]", "[0, 0, 26]")
    swarm = start(text=high)
    swarm.wait_for(lambda: min(swarm.heights(), default=0.0) > 15.0, "all drones high in the air")
    swarm.process.send_signal(signal.SIGTERM)
    swarm.wait_for(lambda: "landing" in swarm.text(), "the landing to begin")
    swarm.process.send_signal(signal.SIGTERM)
    assert swarm.end(60.0) == 1
    assert max(swarm.heights()) > 1.0, "it waited for the landing"
    assert swarm.orphans() == []
    assert swarm.abandoned_memory() == set()


def test_a_killed_shard_costs_only_its_drones(start: Callable[..., Swarm]) -> None:
    swarm = start(hold_s=15.0, extra=("--shards", "5"))
    swarm.wait_for(swarm.all_airborne, "all drones in the air")
    victim = swarm.shard()
    victim.send_signal(signal.SIGKILL)
    swarm.end()
    report = swarm.report()
    assert len(report["drones_lost"]) == 1
    assert report["collisions"] == 0
    assert any("was restarted" in event["text"] for event in report["events"]), report["events"]
    lost = report["drones_lost"][0]
    newest = swarm.newest_record_s()
    assert newest[f"{lost}/telemetry"] > max(newest.values()) - 3.0, "the restarted shard did not rejoin"
    assert max(swarm.heights()) < 0.3, "a drone was left in the air"
    assert swarm.orphans() == []


def test_a_drone_that_never_answers_is_named(start: Callable[..., Swarm]) -> None:
    swarm = start(extra=("--fault", "3:silent", "--ready-timeout", "15"))
    assert swarm.end() == 1
    report = swarm.report()
    assert report["completed"] is False
    assert "drone_03" in report["failure"]
    assert swarm.orphans() == []


def test_killing_the_parent_leaves_nothing(start: Callable[..., Swarm]) -> None:
    swarm = start(hold_s=60.0)
    swarm.wait_for(lambda: len(swarm.children()) >= 5, "the processes to start")
    swarm.process.kill()
    swarm.process.wait()
    _, alive = psutil.wait_procs(list(swarm._seen), timeout=60.0)
    assert alive == []


def test_an_operator_commands_a_running_swarm(start: Callable[..., Swarm]) -> None:
    swarm = start(hold_s=120.0)
    swarm.wait_for(lambda: "hold |" in swarm.text(), "the swarm to hover")
    assert swarm.command("goto", "500", "0", "10") == (1, "fence")
    assert swarm.command("stop", "--level", "land", "drone_02") == (0, "acknowledged by drone_02")
    swarm.wait_for(lambda: swarm.heights()[1] < 0.3, "drone 2 to land")
    assert min(height for index, height in enumerate(swarm.heights()) if index != 1) > 3.0
    swarm.wait_for(lambda: "| stopped |" in swarm.text(), "the leader to notice")
    assert swarm.command("land") == (0, "landing")
    assert swarm.end() == 1  # the mission as planned was not completed
    assert max(swarm.heights()) < 0.3
    assert "operator_0 ordered land" in swarm.report()["failure"]


def test_busy_port_is_named(start: Callable[..., Swarm], mavlink_port: int) -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("127.0.0.1", mavlink_port + 1))
        swarm = start()
        assert swarm.end(30.0) == 1
    assert f"port {mavlink_port + 1}" in swarm.text() and "drone_02" in swarm.text()
