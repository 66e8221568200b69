"""Checks of `chimera doctor`: they change nothing and never raise. The trial start takes half a second."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import platform
import shutil
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from chimera_ros.commands.machine import RosTrial, busy_ports, loopback_fault, ros_faults
from chimera_ros.launcher import shared_memory
from chimera_ros.ros.environment import DEFAULT_RMW, RANGE, RMW, domain_of, log_fault
from chimera_ros.swarm import DRONES, FIRST_PORT, GCS_PORT

OK, MISSING, ADVICE, OPTIONAL = "ok", "missing", "advice", "optional"
LAST_QUIET_DOMAIN = 101  # the ports of higher ones lie in Linux's ephemeral range
_STA_UNSYNC = 0x40


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `status`: ok, missing (no swarm can fly), advice (it can) or optional (not installed)."""

    group: str
    name: str
    status: str
    detail: str
    advice: str = ""


def run_checks() -> list[Check]:
    """All findings, grouped."""
    groups: tuple[Callable[[], Iterator[Check]], ...] = (
        _machine,
        _build_tools,
        _ros,
        _cryptography,
        _libraries,
        _network,
        _shared_memory,
        _clock,
        _extras,
    )
    found: list[Check] = []
    for group in groups:
        try:
            found += group()
        except Exception as error:  # a failing check is a finding; the others go on
            name = group.__name__.strip("_").replace("_", " ")
            found.append(Check(name, "check", ADVICE, f"could not be examined: {error}"))
    return found


def _machine() -> Iterator[Check]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 14)
    advice = "" if good else "install Python 3.11, 3.12 or 3.13 and make the virtual environment anew"
    yield Check("machine", "Python", OK if good else MISSING, version, advice)
    linux = sys.platform == "linux"
    detail = f"{platform.system()} {platform.release()} {platform.machine()}"
    advice = "" if linux else "use Linux: process supervision and ROS 2 from wheels need it"
    yield Check("machine", "system", OK if linux else MISSING, detail, advice)
    cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
    advice = "" if cores >= 2 else "20 drones want two cores; try --drones 5"
    yield Check("machine", "cores", OK if cores >= 2 else ADVICE, str(cores), advice)
    with contextlib.suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free_gib = int(fields["MemAvailable"].split()[0]) / 2**20
        enough = free_gib >= 2.0
        advice = "" if enough else "20 drones take up to 1.5 GiB; close something or fly fewer"
        yield Check("machine", "memory", OK if enough else ADVICE, f"{free_gib:.1f} GiB available", advice)


def _build_tools() -> Iterator[Check]:
    compiled = _has_module("chimera_ros.msg")
    absent = ADVICE if compiled else MISSING
    compiler = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    yield Check(
        "build",
        "compiler",
        OK if compiler else absent,
        compiler or "none",
        "" if compiler else "sudo apt install build-essential",
    )
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    yield Check(
        "build",
        "Python headers",
        OK if header.is_file() else absent,
        str(header.parent) if header.is_file() else "none",
        "" if header.is_file() else "sudo apt install python3-dev",
    )
    cmake = _tool("cmake")
    yield Check("build", "cmake", OK if cmake else absent, cmake or "none", "" if cmake else "make install")


def _ros() -> Iterator[Check]:
    if not _has_module("rclpy"):
        advice = "make install (from wheels), or source /opt/ros/<distribution>/setup.bash"
        yield Check("ROS 2", "rclpy", MISSING, "none", advice)
    else:
        version = _version("ros-rclpy", "rclpy")
        names = {"7": "jazzy", "9": "kilted"}
        distribution = os.environ.get("ROS_DISTRO") or names.get(version.split(".")[0], "")
        known = distribution in ("jazzy", "kilted")
        yield Check(
            "ROS 2",
            "rclpy",
            OK if known else ADVICE,
            f"{version} {distribution}".strip(),
            "" if known else "tested are Jazzy and Kilted",
        )
    faults = ros_faults()
    for fault in faults:
        yield Check("ROS 2", "environment", MISSING, fault.what, fault.remedy)
    if not faults:
        yield Check("ROS 2", "environment", OK, os.environ.get(RMW) or DEFAULT_RMW)
    logs = log_fault(os.environ)
    if logs is not None:
        yield Check("ROS 2", "log files", ADVICE, logs.what, f"a swarm flies without them; {logs.remedy}")
    compiled = _has_module("chimera_ros.msg") and _has_module("chimera_ros.srv")
    advice = "" if compiled else "make install (or colcon build, then source install/setup.bash)"
    yield Check(
        "ROS 2", "messages", OK if compiled else MISSING, "compiled" if compiled else "not compiled", advice
    )
    if not faults and _has_module("rclpy"):  # some of them would end the trial without a sentence
        with RosTrial() as trial:
            problem = trial.fault()
        advice = "look at the environment variables of ROS 2 and its middleware" if problem else ""
        yield Check("ROS 2", "trial start", MISSING if problem else OK, problem or "a node starts", advice)


def _cryptography() -> Iterator[Check]:
    version = _version("cryptography")
    if version == "none":
        yield Check("cryptography", "cryptography", MISSING, "none", "make install")
    else:
        try:
            from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

            mldsa.MLDSA87PrivateKey.generate()
            mlkem.MLKEM1024PrivateKey.generate()
        except Exception as error:  # absent module, or an OpenSSL without these algorithms
            detail = f"{version} without ML-KEM-1024 or ML-DSA-87 ({type(error).__name__})"
            yield Check("cryptography", "cryptography", MISSING, detail, "pip install 'cryptography>=50'")
        else:
            yield Check("cryptography", "cryptography", OK, f"{version} with ML-KEM-1024 and ML-DSA-87")
    yield _provider()


def _provider() -> Check:
    """The provider of ML-DSA and ML-KEM, and the reason of its choice."""
    try:
        from chimera_ros.crypto.primitives import providers

        wanted = os.environ.get(providers.VARIABLE, "").strip() or "auto"
        choice = providers.find(wanted)
    except Exception as error:  # no `cryptography`, or the selected provider is not installed
        advice = "unset CHIMERA_CRYPTO_PROVIDER, or install what is missing"
        return Check("cryptography", "provider", MISSING, str(error), advice)
    detail = f"{choice.name} ({choice.reason})"
    if choice.name == "liboqs" or wanted == "openssl":
        return Check("cryptography", "provider", OK, detail)
    advice = (
        "liboqs signs eight times faster: pip install liboqs-python, OQS_INSTALL_PATH=where it is installed"
    )
    return Check("cryptography", "provider", OPTIONAL, detail, advice)


def _libraries() -> Iterator[Check]:
    needed = {
        "mavsdk": "talks to the autopilots",
        "pymavlink": "simulated vehicles",
        "fastcrc": "simulated vehicles",
        "numpy": "trajectories",
        "scipy": "slot assignment",
        "pyyaml": "missions",
        "blake3": "hashes",
        "mcap": "records",
        "zstandard": "records",
        "rich": "tables",
        "matplotlib": "pictures",
        "psutil": "CPU and memory in reports",
    }
    for package, purpose in needed.items():
        version = _version(package)
        there = version != "none"
        advice = "" if there else f"make install ({purpose})"
        yield Check("libraries", package, OK if there else MISSING, version, advice)


def _network() -> Iterator[Check]:
    down = loopback_fault()
    yield Check(
        "network",
        "loopback",
        MISSING if down else OK,
        down or "works",
        "MAVLink and DDS need it: sudo ip link set lo up" if down else "",
    )
    if not down:
        yield _ports()
        problem = _multicast_problem()
        yield Check(
            "network",
            "multicast on loopback",
            ADVICE if problem else OK,
            problem or "works",
            "DDS discovery needs it: sudo ip link set lo multicast on" if problem else "",
        )
    domain, reach = domain_of(os.environ), os.environ.get(RANGE) or "LOCALHOST in chimera swarm"
    shared = domain.isdecimal() and int(domain) > LAST_QUIET_DOMAIN
    advice = (
        f"its UDP ports are also given to other programs: choose 0 to {LAST_QUIET_DOMAIN}" if shared else ""
    )
    yield Check("network", "ROS domain", ADVICE if shared else OK, f"{domain}, range {reach}", advice)


def _ports() -> Check:
    first, last = FIRST_PORT.default, FIRST_PORT.default + DRONES.default - 1
    busy = busy_ports([*range(first, last + 1), GCS_PORT.default])
    shown = ", ".join(map(str, busy[:6])) + (" …" if len(busy) > 6 else "")
    ports = f"UDP {first}-{last} and {GCS_PORT.default}"
    advice = "end what uses them (ss -lunp shows it), or choose others with --first-port and --gcs-port"
    return Check(
        "network",
        "MAVLink ports",
        ADVICE if busy else OK,
        f"{shown} busy" if busy else f"{ports} free",
        advice if busy else "",
    )


def _multicast_problem() -> str:
    group = "239.255.0.1"  # that of DDS discovery
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("", 0))
            membership = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            receiver.settimeout(0.5)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            sender.sendto(b"chimera doctor", (group, receiver.getsockname()[1]))
            receiver.recv(64)
    except TimeoutError:
        return "nothing arrives"
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _shared_memory() -> Iterator[Check]:
    dead = shared_memory.dead_segments()
    yield Check(
        "shared memory",
        "left by dead processes",
        ADVICE if dead else OK,
        f"{len(dead)} Fast DDS files" if dead else "nothing",
        "chimera doctor --clean removes them" if dead else "",
    )
    with contextlib.suppress(OSError):
        free_mib = shutil.disk_usage(shared_memory.SHM_DIR).free / 2**20
        enough = free_mib >= 64.0
        advice = (
            "" if enough else "Fast DDS takes about 1 MiB per process; enlarge it (docker: --shm-size=256m)"
        )
        yield Check(
            "shared memory",
            str(shared_memory.SHM_DIR),
            OK if enough else ADVICE,
            f"{free_mib:.0f} MiB free",
            advice,
        )


def _clock() -> Iterator[Check]:
    synchronised = clock_synchronised()
    if synchronised is None:
        yield Check("clock", "synchronised", OPTIONAL, "unknown", "matters with several machines only")
        return
    advice = "" if synchronised else "matters with several machines only: install chrony there"
    detail = "yes" if synchronised else "no time source"
    yield Check("clock", "synchronised", OK if synchronised else OPTIONAL, detail, advice)


def clock_synchronised() -> bool | None:
    """True if the kernel's clock follows a time source (adjtimex(2)); None if that cannot be read."""
    buffer = ctypes.create_string_buffer(256)  # struct timex, all zero: read only
    try:
        result = ctypes.CDLL(None).adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if result < 0 or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    (status,) = struct.unpack_from("i", buffer, 40)
    return not status & _STA_UNSYNC


def _extras() -> Iterator[Check]:
    extras = {
        "qiskit": ("quantum", "path moderation with a VQE, QRNG and QKD"),
        "qiskit-aer": ("quantum", "their simulator"),
        "torch": ("neural", "training of the quantum neural network"),
        "fastapi": ("gateway", "the REST and WebSocket gateway"),
        "mcap-ros2-support": ("dev", "tests of the records"),
    }
    for package, (extra, purpose) in extras.items():
        version = _version(package)
        there = version != "none"
        advice = "" if there else f"pip install -e '.[{extra}]' ({purpose})"
        yield Check("extras", package, OK if there else OPTIONAL, version, advice)
    for module, purpose in {"launch_ros": "ros2 launch", "px4_msgs": "the px4_msgs bridge"}.items():
        there = _has_module(module)
        advice = "" if there else f"comes with a ROS 2 machine ({purpose})"
        yield Check("extras", module, OK if there else OPTIONAL, "found" if there else "none", advice)


def _has_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _version(*packages: str) -> str:
    """Version of the first of these packages that is installed, or "none"."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    module = {"pyyaml": "yaml"}.get(packages[-1], packages[-1].replace("-", "_"))
    return "unknown version" if _has_module(module) else "none"


def _tool(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name)
