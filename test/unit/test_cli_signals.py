"""Signals of callers and commands other than `chimera swarm`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
IGNORED = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
RUN = """
import sys
from chimera_ros import cli
cli.main(sys.argv[1:])
print(open("/proc/self/status").read())
"""


def ignore() -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)


@pytest.mark.parametrize(
    "words",
    [
        "--version",
        "check crossing --drones 8",
        "preflight --drones 2",
        "doctor",
        "keys list",
        "log show .",
    ],
)
def test_a_command_keeps_what_its_caller_ignores(words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *words.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=ignore,  # this process has no threads that matter
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=True,
    )
    found = re.search(r"^SigIgn:\s*([0-9a-f]+)$", done.stdout, re.MULTILINE)
    assert found is not None, done.stderr
    mask = int(found[1], 16)
    assert [number.name for number in IGNORED if not mask >> (number - 1) & 1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_benchmark_does_not_outlive_its_command(tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "bench_long.py"
    script.write_text(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    )
    code = "import sys\nfrom pathlib import Path\nfrom chimera_ros import cli\n"
    code += "from chimera_ros.commands import bench"
    code += "\nbench.find_benchmarks = lambda: {'long': Path('bench_long.py')}\nsys.exit(cli.main(['bench']))"
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # if this is a background job
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + WAIT_S
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)
    benchmark = psutil.Process(int((tmp_path / "pid").read_text()))
    command.send_signal(number)
    _, errors = command.communicate(timeout=WAIT_S)
    assert command.returncode == 130
    assert errors.decode().splitlines()[-1] == "chimera bench: interrupted"
    _, alive = psutil.wait_procs([benchmark], timeout=WAIT_S)
    assert alive == []
