"""What this machine must offer before a swarm's processes start: ROS 2's environment, loopback, ROS 2 itself.

`doctor`, `preflight`, `swarm` and `command` ask here, so that what one of them accepts none of the others and
no child refuses.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from typing import Self

from chimera_ros.ros.environment import RANGE, EnvironmentFault, environment_faults, home_of

TRIAL_S = 60.0  # half a second on an idle machine
_LOOPBACK_S = 2.0
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_SOURCE = re.compile(r", at /\S+:\d+$")
_TRIAL = """
import os, sys
try:
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    quiet = ["--ros-args", "--disable-external-lib-logs"]  # nothing is made before the start
    rclpy.init(args=quiet, signal_handler_options=SignalHandlerOptions.NO)
    rclpy.create_node("chimera_trial", start_parameter_services=False).destroy_node()
    rclpy.shutdown()
except Exception as error:
    print((str(error).splitlines() or [type(error).__name__])[0], file=sys.stderr, flush=True)
    os._exit(1)
"""


def environment() -> dict[str, str]:
    """What a swarm's processes get beside this process's environment.

    Discovery on this machine only, unless set otherwise; HOME, which rclpy needs, where a service manager or
    `env -i` has left it out.
    """
    home = None if os.environ.get("HOME") else home_of(os.environ)
    return {
        RANGE: os.environ.get(RANGE) or "LOCALHOST",
        # One thread each: numpy's pools cost more than they give on matrices this small.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or "1",
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS") or "1",
        "PYTHONUNBUFFERED": "1",
        **({"HOME": home} if home else {}),
    }


def ros_faults(participants: int = 1) -> list[EnvironmentFault]:
    """Environment variables that keep so many processes from starting, or from hearing each other."""
    return environment_faults({**os.environ, **environment()}, participants)


def loopback_fault() -> str:
    """Why no datagram passes 127.0.0.1, which MAVLink and DDS need; empty if one does."""
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(_LOOPBACK_S)
            sender.sendto(b"chimera", receiver.getsockname())
            receiver.recv(64)
    except TimeoutError:
        return "nothing arrives"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def busy_ports(ports: list[int]) -> list[int]:
    """Those of the UDP ports on loopback that are in use."""
    busy = []
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                busy.append(port)
    return busy


class RosTrial:
    """A ROS node in a process of its own: it finds what no list of variables foresees.

    As a context manager it runs beside whatever the caller does until it calls `fault`.
    """

    def __enter__(self) -> Self:
        self._began_s = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TRIAL],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment()},
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def fault(self) -> str:
        """Why ROS 2 does not start; empty if it does."""
        left_s = max(0.0, TRIAL_S - (time.monotonic() - self._began_s))
        try:
            _, output = self._process.communicate(timeout=left_s)
        except subprocess.TimeoutExpired:
            return f"it did not start within {TRIAL_S:g} s"
        if self._process.returncode == 0:
            return ""
        lines = [line for line in _ANSI.sub("", output.decode(errors="replace")).splitlines() if line.strip()]
        return _SOURCE.sub("", lines[-1].strip()) if lines else f"exit status {self._process.returncode}"
