"""Shared parts of the benchmarks: rows with targets, output, child processes, a private ROS domain.

Every benchmark is a script that takes --quick and --json; `chimera bench` runs it and prints the same report.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
    "==": lambda value, limit: value == limit,
}


@dataclass(frozen=True, slots=True)
class Result:
    """One row. `value` None means that it could not be measured; `target` is (operator, limit)."""

    name: str
    value: float | None
    unit: str
    target: tuple[str, float] | None = None

    @property
    def met(self) -> bool | None:
        """True if the target is met, None without target; what could not be measured does not meet it."""
        if self.target is None:
            return None
        if self.value is None or not math.isfinite(self.value):
            return False
        return _COMPARE[self.target[0]](self.value, self.target[1])

    def to_json(self) -> dict[str, Any]:
        """The row as `chimera bench --json` prints it."""
        usable = self.value is not None and math.isfinite(self.value)
        target = None if self.target is None else {"op": self.target[0], "value": self.target[1]}
        return {
            "name": self.name,
            "value": self.value if usable else None,
            "unit": self.unit,
            "target": target,
            "met": self.met,
        }


def machine() -> dict[str, Any]:
    """The machine that the figures are measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def emit(benchmark: str, results: Sequence[Result], *, as_json: bool) -> None:
    """Print the report: JSON, or the table of `chimera bench`."""
    report = {
        "benchmark": benchmark,
        "machine": machine(),
        "results": [row.to_json() for row in results],
    }
    if as_json:
        print(json.dumps(report, indent=2))
        return
    from chimera_ros.commands.bench_table import show

    show(report)


class Progress:
    """Progress of a long measurement, on standard error every ten seconds at most."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._began = self._reported = time.monotonic()

    def at(self, done: int) -> None:
        """Report that `done` of all are done."""
        now = time.monotonic()
        if now - self._reported < 10.0 or not done:
            return
        self._reported = now
        left_s = (now - self._began) / done * (self._total - done)
        print(f"  {self._what}: {done} of {self._total}, {left_s:.0f} s left", file=sys.stderr, flush=True)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Nearest-rank percentile; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, math.ceil(percent / 100.0 * len(ordered)) - 1))]


@contextmanager
def private_domain() -> Iterator[int]:
    """A ROS domain on localhost that no other benchmark or test uses, in the environment while inside."""
    for offset in range(100):
        domain = 1 + (os.getpid() + offset) % 100
        lock = (Path(tempfile.gettempdir()) / f"chimera_ros_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        before = {name: os.environ.get(name) for name in ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE")}
        os.environ.update(ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
        try:
            yield domain
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            lock.close()
        return
    raise SystemExit("all 100 private ROS domains are in use by other benchmarks or tests")


class OtherLoad:
    """CPU load of all other processes meanwhile: figures measured beside other work are worth less."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = self._machine_busy_s()
        self._own_s = self._own_busy_s()

    @staticmethod
    def _machine_busy_s() -> float | None:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        except OSError:
            return None
        ticks = [int(field) for field in fields]
        idle = ticks[3] + ticks[4]
        return float(sum(ticks[:8]) - idle) / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _own_busy_s() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    def result(self) -> Result:
        """A row without target; call it when all child processes have ended."""
        busy_s = self._machine_busy_s()
        name, unit = "other processes on this machine meanwhile", "% of a core"
        if busy_s is None or self._busy_s is None:
            return Result(name, None, unit)
        others_s = (busy_s - self._busy_s) - (self._own_busy_s() - self._own_s)
        return Result(name, max(0.0, 100.0 * others_s / (time.monotonic() - self._began)), unit)

    def own(self) -> Result:
        """The row of the benchmark's own processes, likewise."""
        used_s = self._own_busy_s() - self._own_s
        return Result(
            "processes of the benchmark", 100.0 * used_s / (time.monotonic() - self._began), "% of a core"
        )


def make_keystore(path: Path, members: Mapping[str, str], telemetry_hz: float | None = None) -> Path:
    """A keystore with the named members (name to role); `telemetry_hz` is the policy's limit, if another."""
    from chimera_ros.crypto.keystore.keystore import Keystore
    from chimera_ros.crypto.trust import default_policy

    keystore = Keystore(path, durable=False)
    rate = "" if telemetry_hz is None else f"\n  telemetry_hz: {telemetry_hz}"
    policy = default_policy.TEXT.replace("\n  rotation_s:", f"{rate}\n  rotation_s:", 1)
    keystore.create("bench", wall_ns=time.time_ns(), policy_text=policy)
    for name, role in members.items():
        keystore.enroll(name, role, wall_ns=time.time_ns())
    return path


class Child:
    """A process of the benchmark; requests and answers are lines of JSON."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answers: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ended = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.answers.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def request(self, **order: Any) -> None:
        """Send a request."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def wait_for(self, key: str, limit_s: float = 60.0, count: int = 1) -> dict[str, Any]:
        """The `count`th line from the beginning that has `key`. Raises SystemExit when none comes."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or sum(key in line for line in self.answers) >= count, limit_s
            )
            found = [line for line in self.answers if key in line]
        if len(found) < count:
            raise SystemExit(f"a process of the benchmark did not report {key!r} within {limit_s:.0f} s")
        return found[count - 1]

    def close(self) -> None:
        """End the process; it ends by itself when its input closes."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Orders:
    """The child's side: requests from standard input, answers to standard output."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting: list[dict[str, Any]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._waiting.append(json.loads(line))
        self.closed = True

    def take(self) -> dict[str, Any] | None:
        """The next request, if there is one."""
        return self._waiting.pop(0) if self._waiting else None

    @staticmethod
    def answer(**answer: Any) -> None:
        """Send an answer."""
        print(json.dumps(answer), flush=True)
