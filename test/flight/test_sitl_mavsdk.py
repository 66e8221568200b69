"""The simulator as a process: MAVSDK and pymavlink take it for PX4; ports, signals, status and tracks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from chimera_ros.sitl.config import OWN_PORT_OFFSET

mavsdk = pytest.importorskip("mavsdk")
ROOT = Path(__file__).resolve().parents[2]


def wait_for(predicate: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
    """Wait until predicate() is true and return it."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        value = predicate()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s: {what}")


def free_ports(count: int) -> int:
    """First of `count` neighbouring UDP ports that are free, with the vehicles' own ports."""
    for first in range(24000 + os.getpid() % 100 * 20, 40000, count + 3):
        held: list[socket.socket] = []
        try:
            for port in [
                *range(first, first + count),
                *range(first + OWN_PORT_OFFSET, first + OWN_PORT_OFFSET + count),
            ]:
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                held.append(sock)
                sock.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for sock in held:
                sock.close()
    raise AssertionError("no free UDP ports")


@contextmanager
def simulator(*options: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[], dict[str, Any]]]]:
    """A running simulator and a function that returns its newest status line."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "chimera_ros.sitl.main", *options],
        cwd=ROOT,
        env={**os.environ, "CHIMERA_STATUS_FD": str(writer)},
        pass_fds=(writer,),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    os.set_blocking(reader, False)
    text = ""
    newest: dict[str, Any] = {}

    def status() -> dict[str, Any]:
        nonlocal text, newest
        try:
            while chunk := os.read(reader, 65536):
                text += chunk.decode()
        except BlockingIOError:
            pass
        *lines, text = text.split("\n")
        if lines:
            newest = json.loads(lines[-1])
        return newest

    try:
        yield process, status
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        os.close(reader)


def test_mavsdk_flies_two_vehicles_from_health_to_disarmed(tmp_path: Path) -> None:
    from mavsdk import Configuration, Mavsdk
    from mavsdk.plugins.action import Action
    from mavsdk.plugins.offboard import Offboard, PositionNedYaw, VelocityNedYaw
    from mavsdk.plugins.telemetry import Telemetry

    first = free_ports(2)
    tracks = tmp_path / "tracks.jsonl"
    with simulator(
        "--drones", "2", "--first-port", str(first), "--gcs-port", "0", "--tracks", str(tracks)
    ) as run:
        process, status = run
        client = Mavsdk(Configuration.create_manual(245, 190, True))
        try:
            for i in range(2):
                client.add_any_connection(f"udpin://127.0.0.1:{first + i}")
            systems = wait_for(lambda: len(client.get_systems()) == 2 and client.get_systems(), "two systems")
            systems = sorted(systems, key=lambda s: s.get_system_id())
            assert [s.get_system_id() for s in systems] == [1, 2]
            actions = [Action(s) for s in systems]
            telemetry = [Telemetry(s) for s in systems]
            boards = [Offboard(s) for s in systems]
            wait_for(lambda: all(t.health_all_ok() for t in telemetry), "health")
            actions[0].set_takeoff_altitude(4.0)
            assert actions[0].get_takeoff_altitude() == 4.0
            for action in actions:
                action.arm()
            for action in actions:
                action.takeoff()
            wait_for(lambda: telemetry[0].position().relative_altitude_m > 3.5, "the height asked for")
            wait_for(lambda: all(t.flight_mode().name == "HOLD" for t in telemetry), "hold after takeoff")
            places = [t.position_velocity_ned().position for t in telemetry]
            true = {v["id"]: v["enu"] for v in wait_for(status, "a status line")["vehicles"]}
            with pytest.raises(Exception, match="DENIED"):
                actions[0].disarm()
            for board, p in zip(boards, places, strict=True):
                board.set_position_velocity_ned(
                    PositionNedYaw(p.north_m + 3.0, p.east_m, p.down_m, 0.0),
                    VelocityNedYaw(0.0, 0.0, 0.0, 0.0),
                )
                board.start()
            assert all(t.flight_mode().name == "OFFBOARD" for t in telemetry) or wait_for(
                lambda: all(t.flight_mode().name == "OFFBOARD" for t in telemetry), "offboard"
            )
            wait_for(
                lambda: all(v["enu"][1] - true[v["id"]][1] > 2.7 for v in status()["vehicles"]),
                "both three metres further north",
            )
            for board, action in zip(boards, actions, strict=True):
                board.stop()
                action.land()
            wait_for(lambda: not any(t.armed() for t in telemetry), "disarmed after landing", 40.0)
            last = status()
            assert last["collisions"] == 0
            assert last["min_separation_m"] > 3.0
            assert last["real_time_factor"] > 0.95
        finally:
            client.destroy()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    rows = [json.loads(line) for line in tracks.read_text().splitlines()]
    assert max(row["enu"][0][2] for row in rows) > 3.5
    assert rows[1]["t"] - rows[0]["t"] == pytest.approx(0.2, abs=0.02)


def test_a_ground_station_hears_all_vehicles_on_one_port() -> None:
    from pymavlink import mavutil

    first = free_ports(3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        station = probe.getsockname()[1]
    link = mavutil.mavlink_connection(f"udpin:127.0.0.1:{station}", source_system=255)
    try:
        with simulator("--drones", "3", "--first-port", str(first), "--gcs-port", str(station)):
            seen: set[int] = set()

            def all_heard() -> bool:
                message = link.recv_match(type="HEARTBEAT", blocking=True, timeout=1)
                if message is not None:
                    seen.add(message.get_srcSystem())
                return seen == {1, 2, 3}

            wait_for(all_heard, "heartbeats of three vehicles")
            link.mav.heartbeat_send(6, 8, 0, 0, 0)  # from now on the vehicles stream here
            heard = wait_for(
                lambda: link.recv_match(type="GLOBAL_POSITION_INT", blocking=True, timeout=1),
                "positions",
            )
            assert heard.lat != 0
            link.mav.param_request_read_send(2, 1, b"MIS_TAKEOFF_ALT", -1)
            value = wait_for(
                lambda: link.recv_match(type="PARAM_VALUE", blocking=True, timeout=1), "a parameter"
            )
            assert (value.get_srcSystem(), value.param_value) == (2, 2.5)
    finally:
        link.close()


@pytest.mark.parametrize("reuse", [False, True])
def test_a_busy_port_is_named(reuse: bool) -> None:
    first = free_ports(2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        if reuse:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", first + 1 + OWN_PORT_OFFSET))
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "chimera_ros.sitl.main",
                "--drones",
                "2",
                "--first-port",
                str(first),
                "--gcs-port",
                "0",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"UDP port {first + 1 + OWN_PORT_OFFSET} (vehicle 2) is busy" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_silent_and_frozen_vehicles_say_nothing() -> None:
    from chimera_ros.sitl.config import Fault, FaultKind, SitlConfig
    from chimera_ros.sitl.udp_server import UdpServer

    first = free_ports(3)
    faults = (Fault(1, FaultKind.SILENT), Fault(2, FaultKind.FREEZE, at_s=4.0))
    heard = [0, 0, 0]
    with UdpServer(SitlConfig(drones=3, first_port=first, gcs_port=0, faults=faults)) as server:
        listeners = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for i, sock in enumerate(listeners):
            sock.bind(("127.0.0.1", first + i))
            sock.setblocking(False)

        def listen() -> list[int]:
            counts = [0, 0, 0]
            for i, sock in enumerate(listeners):
                while True:
                    try:
                        counts[i] += len(sock.recv(2048)) > 0
                    except BlockingIOError:
                        break
            return counts

        for _ in range(475):
            server.tick(2, 0.0)
            heard = [a + b for a, b in zip(heard, listen(), strict=True)]
        assert heard[0] > 50
        assert heard[1] == 0
        assert heard[2] > 50
        for _ in range(50):
            server.tick(2, 0.0)
        listen()
        for _ in range(200):
            server.tick(2, 0.0)
        later = listen()
        assert later[0] > 20
        assert later[1:] == [0, 0]
        for sock in listeners:
            sock.close()


def test_it_ends_with_its_parent() -> None:
    first = free_ports(1)
    script = (
        "import os,subprocess,sys,time\n"
        "r,w=os.pipe()\n"
        "p=subprocess.Popen([sys.executable,'-m','chimera_ros.sitl.main','--drones','1','--gcs-port','0',"
        f"'--first-port','{first}'],env={{**os.environ,'CHIMERA_STATUS_FD':str(w)}},pass_fds=(w,))\n"
        "os.read(r,1)\n"
        "print(p.pid,flush=True)\n"
        "os.kill(os.getpid(),9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    pid = int(done.stdout)

    def gone() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_for(gone, "the simulator to end", 5.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--spawn", "/nonexistent.json"), "cannot be read"),
        (("--personality", "arducopter"), "not built yet"),
        (("--param", "NO_NAME=1"), "must be one of"),
        (("--param", "MIS_TAKEOFF_ALT=-4"), "from 0.5 to"),
        (("--fault", "1:tired"), "bad_origin"),
        (("--tracks", "/nonexistent/x.jsonl"), "cannot be written"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from chimera_ros.sitl.main import main

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert main(["--drones", "1", "--gcs-port", "0", "--first-port", str(free_ports(1)), *options]) == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
