"""Libraries leave the process's signals, environment, locale, logging and warnings as they were.

Each library is called as the package calls it, in a process of its own (this file, run as a script) whose
signal dispositions are set first; the state before and after must be the same.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import locale
import logging
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE", "SIGCHLD", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM")


# ---- the calls, each as the package makes them ------------------------------------------------------------


def ortools() -> None:
    """Conflicts that need CP-SAT."""
    from chimera_ros.flight.moderation_call import ModerationRequest
    from chimera_ros.moderation.ladder import Moderator
    from chimera_ros.moderation.scenes import antipodal

    scene = antipodal(10, 3)
    names = tuple(map(str, range(10)))
    request = ModerationRequest(names, scene.knots, scene.separation, scene.limits, scene.fence, 30.0)
    result = Moderator(lambda: 0.0).run(request)
    assert any(stage.name.startswith("cp_sat") for stage in result.stages), result.stages


def ortools_in_a_thread() -> None:
    """As path moderation calls it."""
    thread = threading.Thread(target=ortools)
    thread.start()
    thread.join()


def moderation() -> None:
    """The warm-up of path moderation and of the leader."""
    from chimera_ros.moderation.ladder import Moderator
    from chimera_ros.moderation.warm_up import warm_up

    warm_up(Moderator(time.monotonic))


def planning() -> None:
    """A moderated plan, as `check`, the start and the leader make it: YAML, scipy, CP-SAT."""
    from chimera_ros.flight.planning.mission_file import load_mission
    from chimera_ros.flight.planning.planner import plan_mission
    from chimera_ros.moderation.for_flight import local_moderate

    mission = load_mission(ROOT / "config" / "missions" / "crossing.yaml")
    drones = [f"drone_{i:02d}" for i in range(1, 9)]
    assert plan_mission(mission, drones, moderate=local_moderate(lambda: 0.0)).ok


def numpy_and_scipy() -> None:
    """Products large enough for a thread pool, and the parts of scipy that are used."""
    from scipy.ndimage import maximum_filter1d
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(1)
    square = rng.random((600, 600))
    np.linalg.solve(square @ square + np.eye(600), square)
    linear_sum_assignment(square)
    cKDTree(rng.random((100, 3))).query_pairs(0.1)
    maximum_filter1d(square[0], 5)


def cryptography() -> None:
    """A keystore with certificates, signatures, key encapsulation."""
    from chimera_ros.crypto.keystore.keystore import Keystore
    from chimera_ros.crypto.primitives.providers import provider

    keystore = Keystore(Path(tempfile.mkdtemp()) / "keystore")
    now_ns = time.time_ns()
    keystore.create("swarm", wall_ns=now_ns)
    keystore.enroll("leader_0", "leader", wall_ns=now_ns)
    keystore.load_trust(wall_ns=now_ns)
    keystore.load_identity("leader_0", wall_ns=now_ns)
    key = provider().package_key(hybrid=True)
    sealed = provider().public_key(True, key.public).seal(bytes(32), b"info")
    assert key.open(sealed, b"info") == bytes(32)


def mcap_and_zstandard() -> None:
    """A record, written and closed."""
    from chimera_ros.records.mcap_log import FlightRecorder

    recorder = FlightRecorder(Path(tempfile.mkdtemp()) / "record", namespace="/swarm")
    recorder.write_evidence({"a": 1}, 1)
    recorder.tick()
    recorder.close()


def mavsdk() -> None:
    """A bridge that listens for a vehicle which never answers."""
    from chimera_ros.autopilot.bridge import Bridge, VehicleConfig
    from chimera_ros.autopilot.kinds import AutopilotKind
    from chimera_ros.flight.datum import Datum

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    vehicle = VehicleConfig("drone_01", f"udpin://127.0.0.1:{port}", system_id=1, kind=AutopilotKind.EMBEDDED)
    bridge = Bridge([vehicle], Datum(47.0, 8.0, 400.0), time.monotonic, lambda drone, result: None)
    bridge.start()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        bridge.tick(time.monotonic())
        time.sleep(0.05)
    bridge.close()


def rclpy() -> None:
    """A node that starts, logs, publishes, spins and ends, without the spinner's own signal handlers."""
    import rclpy as ros
    from rclpy.signals import SignalHandlerOptions
    from std_msgs.msg import String

    from chimera_ros.ros.executor import Spinner
    from chimera_ros.ros.lifecycle import SwarmNode

    ros.init(signal_handler_options=SignalHandlerOptions.NO)
    node: SwarmNode[Any] = SwarmNode("probe")
    spinner = Spinner()
    spinner.add(node)
    assert node.autostart()
    node.get_logger().info("a log call")
    node.create_publisher(String, "probe", 1).publish(String(data="x"))
    node.create_steady_timer(0.01, spinner.stop)
    spinner.spin()
    node.end()
    spinner.close()
    node.destroy_node()
    ros.try_shutdown()


def watchdogs() -> None:
    """faulthandler as the follower arms it, and supervision by psutil."""
    import psutil

    from chimera_ros.autopilot.watchdog import InterpreterWatchdog

    watchdog = InterpreterWatchdog(60.0)
    watchdog.enable()
    watchdog.pet()
    watchdog.disable()
    psutil.Process().memory_full_info()
    psutil.cpu_percent()


def quantum_worker() -> None:
    """A worker process, started, called and ended; Qiskit and Aer run in it."""
    from chimera_ros.quantum.worker import AerWorker

    with AerWorker() as worker:
        worker.wait_ready(60.0)


def pictures_and_tables() -> None:
    """matplotlib and rich, as the supervisor uses them."""
    import io

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from chimera_ros.records.tracks import Tracks, draw_tracks

    with Live(Table("a"), console=Console(file=io.StringIO()), refresh_per_second=4):
        pass
    positions = np.random.default_rng(1).random((20, 3, 3)) * 10.0
    draw_tracks(Tracks(np.arange(20.0), positions), Path(tempfile.mkdtemp()) / "picture.png", title="a")


def qiskit_and_aer() -> None:
    """What runs in the worker process."""
    from chimera_ros.quantum import entropy_jobs, jobs  # noqa: F401

    jobs.warm_up()


CALLS: dict[str, Callable[[], None]] = {
    call.__name__: call
    for call in (
        ortools, ortools_in_a_thread, moderation, planning, numpy_and_scipy, cryptography, mcap_and_zstandard,
        mavsdk, rclpy, watchdogs, quantum_worker, pictures_and_tables, qiskit_and_aer,
    )
}  # fmt: skip


# ---- the state of a process -------------------------------------------------------------------------------


def dispositions() -> dict[str, Any]:
    """The handler of each signal, for Python and for the kernel (a C library goes behind Python's back)."""
    libc = ctypes.CDLL(None)
    out: dict[str, Any] = {}
    for name in SIGNALS:
        number, action = getattr(signal, name), ctypes.create_string_buffer(256)
        assert libc.sigaction(int(number), None, action) == 0
        out[name] = (repr(signal.getsignal(number)), int.from_bytes(action.raw[:8], sys.byteorder))
    out["blocked"] = sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    out["wakeup fd"] = _wakeup_fd()
    out["timer"] = signal.getitimer(signal.ITIMER_REAL)
    return out


def _wakeup_fd() -> int:
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    return number


def c_environment() -> dict[str, str]:
    """The environment as C code and child processes see it."""
    table = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    out = {}
    for row in table:
        if row is None:
            break
        key, _, value = row.decode(errors="replace").partition("=")
        out[key] = value
    return out


def _broad_filters() -> list[str]:
    """Warning filters in order, without those for one message or for a category of a library's own."""
    return [
        repr(row)
        for row in warnings.filters
        if row[1] is None and getattr(row[2], "__module__", "") == "builtins"
    ]


def state() -> dict[str, Any]:
    """What belongs to the process and not to a library."""
    libc = ctypes.CDLL(None)
    libc.setlocale.restype = ctypes.c_char_p
    root = logging.getLogger()
    mask = os.umask(0o22)
    os.umask(mask)
    return {
        **dispositions(),
        "os.environ": dict(os.environ),
        "environment": c_environment(),
        "locale": (locale.setlocale(locale.LC_ALL), libc.setlocale(6, None).decode()),
        "root logger": (root.level, list(map(repr, root.handlers)), list(map(repr, root.filters))),
        "logging": (logging.root.manager.disable, logging.raiseExceptions, repr(logging.getLoggerClass())),
        "warnings": (_broad_filters(), repr(warnings.showwarning)),
        "hooks": (
            repr(sys.excepthook), repr(sys.unraisablehook), repr(threading.excepthook), repr(sys.displayhook)
        ),
        "streams": (repr(sys.stdin), repr(sys.stdout), repr(sys.stderr)),
        "process": (
            mask, os.getcwd(), os.nice(0), sys.getswitchinterval(), sys.getrecursionlimit(),
            socket.getdefaulttimeout(), sorted(os.sched_getaffinity(0)), os.getsid(0), os.getpgid(0),
        ),
        "numpy": repr(np.geterr()),
    }  # fmt: skip


def run_probe(name: str, ignored: bool) -> None:
    """In the child: set dispositions, call, print what is different, then take a SIGINT."""
    received: list[int] = []

    def handler(number: int, _frame: object) -> None:
        received.append(number)

    for text in SIGNALS:
        signal.signal(getattr(signal, text), signal.SIG_IGN if ignored else handler)
    if ignored:  # subprocesses are waited for by their own means
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    warnings.simplefilter("error", UserWarning)
    before = state()
    CALLS[name]()
    after = state()
    changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
    received.clear()
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    print(json.dumps({"changed": changed, "received": sorted(received)}, default=str), flush=True)
    os._exit(0)


NEEDS = {
    "ortools": "ortools", "ortools_in_a_thread": "ortools", "qiskit_and_aer": "qiskit_aer",
    "quantum_worker": "qiskit_aer",
}  # fmt: skip


@pytest.mark.parametrize("ignored", [False, True], ids=["handled", "ignored"])
@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_library_leaves_the_process_as_it_was(name: str, ignored: bool) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": path, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), name, *(["ignored"] if ignored else [])],
        capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["changed"] == {}
    assert found["received"] == ([] if ignored else [signal.SIGINT, signal.SIGTERM])


if __name__ == "__main__":
    sysconfig.get_paths()  # imported by some libraries: its cache is not of interest
    run_probe(sys.argv[1], "ignored" in sys.argv[2:])
