"""For tests of `ros2 launch`: a launched swarm, its processes, its terminal, true positions of its drones."""

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import psutil

from chimera_ros.launcher.spec import SwarmSpec, processes

AIRBORNE_M = 2.0
LANDED_M = 0.3
LIMIT_S = 240.0  # for anything that takes a minute on a machine with nothing else to do
MISSION = """
mission: launched
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 30]}
steps:
  - takeoff: {height_m: 4, wave: 5}
  - hold: {seconds: 300}
  - land
"""
# All drones fly through the middle of a circle: flyable only with path moderation.
MODERATED_MISSION = """
mission: moderated
datum: {lat_deg: 47.397742, lon_deg: 8.545594, amsl_m: 488.0}
separation_m: 2.0
fence: {east_m: [-60, 60], north_m: [-60, 60], height_m: [1.5, 40]}
limits: {speed_m_s: 5.0, climb_m_s: 2.0, descent_m_s: 1.5, acceleration_m_s2: 2.5, jerk_m_s3: 6.0}
steps:
  - takeoff: {height_m: 4, wave: 5}
  - formation: {shape: circle, spacing_m: 6, center_m: [0, 0, 10]}
  - swap: {moderate: true}
  - hold: {seconds: 300}
  - land
"""
# A machine that is busy with other tests stalls a control cycle for longer than a flight allows.
PARAMETERS = "/**: {ros__parameters: {hang_limit_s: 5.0}}"
# Stands for a shell: leads the session, waits for its child, and ends when its terminal is closed.
SHELL = """
import fcntl, os, signal, subprocess, sys, termios, time
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # the terminal is this session's
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
    signal.signal(number, lambda *_: None)  # not ignored: the child would ignore it too
signal.signal(signal.SIGHUP, lambda *_: os._exit(0))
status = subprocess.Popen(sys.argv[1:]).wait()
print("launch ended with status", status, flush=True)
time.sleep(600)
"""
MARK = "CHIMERA_TEST_MARK"


def free_udp_ports(count):
    """First of `count` UDP ports in a row that nobody uses now, below the ephemeral ones."""
    for first in range(20000 + os.getpid() % 5000, 31000 - count, count):
        probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2 * count)]
        try:
            for offset, probe in enumerate(probes):
                # The vehicles send from ports 1000 above.
                probe.bind(("127.0.0.1", first + offset % count + 1000 * (offset // count)))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no free UDP ports")


def positions_m(record):
    """True positions of every drone, one list per sample of the simulation: [[east, north, up], ...]."""
    tracks = record / "tracks.jsonl"
    if not tracks.exists():
        return []
    rows = []
    for line in tracks.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # the last one may be half written
            row = json.loads(line)
            if "enu" in row:
                rows.append(row["enu"])
    return rows


def all_airborne(record):
    """True once every drone has been in the air."""
    rows = positions_m(record)
    return bool(rows) and all(
        max(row[drone][2] for row in rows) > AIRBORNE_M for drone in range(len(rows[0]))
    )


def swap_begun(record):
    """True once a drone of MODERATED_MISSION flies through the middle of the circle that all had formed."""
    formed = False
    for row in positions_m(record):
        radii = [(east**2 + north**2) ** 0.5 for east, north, _ in row]
        if formed and min(radii) < 3.0:
            return True
        formed |= min(radii) > 4.0 and min(up for _, _, up in row) > 9.0
    return False


def highest_m(record):
    """Height of the highest drone at the end."""
    return max(position[2] for position in positions_m(record)[-1])


def expected_executables(drones, mission):
    """How often each executable is started, from the description that launch uses."""
    spec = SwarmSpec(drones=drones, mission=mission, keystore=Path("keys"))
    return Counter(process.executable for process in processes(spec)) + Counter(["sitl"])


def wait(condition, what, limit_s=LIMIT_S):
    """Wait until a condition holds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s:g} s in vain for {what}"
        time.sleep(0.2)


class Launched:
    """`ros2 launch` of a swarm in a terminal of its own, as a context manager.

    arguments: of launch, which get ports, a record and a mission that does not end by itself.
    file: launch file, if not the package's.
    """

    def __init__(self, folder, drones, *, mission=MISSION, file=None, **arguments):
        self.record = folder / "record"
        self.drones = drones
        self.mission = folder / "launched.yaml"
        self.mission.write_text(mission)
        params_file = folder / "busy.yaml"
        params_file.write_text(PARAMETERS)
        self._mark = uuid.uuid4().hex
        self._output = bytearray()
        given = {
            "drones": drones,
            "mission": self.mission,
            "record": self.record,
            "first_port": free_udp_ports(drones),
            "gcs_port": 0,
            "params_file": params_file,
            **arguments,
        }
        target = [str(file)] if file else ["chimera_ros", "swarm.launch.py"]
        self.command = ["ros2", "launch", *target, *(f"{name}:={value}" for name, value in given.items())]
        self._folder = folder

    def __enter__(self):
        self._terminal, end = pty.openpty()
        self._shell = subprocess.Popen(
            [sys.executable, "-c", SHELL, *self.command],
            stdin=end,
            stdout=end,
            stderr=end,
            cwd=self._folder,
            env={**os.environ, MARK: self._mark},
        )
        os.close(end)
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_):
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._shell.kill()
        self._shell.wait()
        self.close_terminal()

    @property
    def output(self):
        """What launch has printed."""
        return self._output.decode(errors="replace")

    def processes(self):
        """All processes of the swarm, launch among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if (
                    process.environ().get(MARK) == self._mark
                    and process.pid != self._shell.pid
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def process(self, name):
        """The process of launch, or of an executable."""
        for process in self.processes():
            words = [Path(word).name for word in process.cmdline()[:3]]
            if name in words or (name == "launch" and {"ros2", "launch"} <= set(words)):
                return process
        raise AssertionError(f"there is no process {name}: {[p.cmdline()[:3] for p in self.processes()]}")

    def type(self, key):
        """Press a key in the terminal."""
        os.write(self._terminal, key)

    def close_terminal(self):
        """Close the terminal: its session gets SIGHUP."""
        terminal, self._terminal = self._terminal, -1
        if terminal >= 0:
            os.close(terminal)

    def wait_airborne(self):
        """Wait until all drones are in the air."""
        self.wait(lambda: all_airborne(self.record), "take-off")

    def wait(self, condition, what):
        """Wait for a condition; fails with launch's output if launch ends before."""
        try:
            wait(lambda: condition() or "launch ended with status" in self.output, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output[-4000:]}") from None
        assert condition(), f"launch ended before {what}:\n{self.output[-4000:]}"

    def wait_landed_and_ended(self):
        """Wait until no process is left; then all drones are on the ground."""
        wait(lambda: not self.processes(), f"the end of {[p.cmdline()[:2] for p in self.processes()]}")
        assert highest_m(self.record) < LANDED_M, self.output[-4000:]

    def _read(self):
        while True:
            try:
                data = os.read(self._terminal, 65536)
            except OSError:
                return
            if not data:
                return
            self._output += data
