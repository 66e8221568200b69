"""For all tests: a private ROS domain on this host only, and no traces in the user's folders."""

from __future__ import annotations

import fcntl
import os
import signal
import tempfile
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, in CI too: a failure is due to a change. `make verify` draws others.
settings.register_profile("default", deadline=None, derandomize=True)
settings.register_profile(
    "verify", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Domains above 101 reach into Linux's ephemeral ports; 0 is everybody's.
_DOMAINS = range(1, 102)


def _claim_domain() -> tuple[int, IO[str]]:
    """A ROS domain that no other test run of this machine has, and the lock that keeps it."""
    folder = Path(tempfile.gettempdir())
    start = os.getpid() % len(_DOMAINS)
    for offset in range(len(_DOMAINS)):
        domain = _DOMAINS[(start + offset) % len(_DOMAINS)]
        try:
            lock = (folder / f"chimera_ros_domain_{domain}.lock").open("w")
        except PermissionError:  # another user's
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        return domain, lock
    raise RuntimeError(f"all {len(_DOMAINS)} ROS domains are taken by other test runs (locks in {folder})")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sim-seed",
        type=int,
        default=0,
        metavar="N",
        help="added to the seed of every simulation in test/sim (default: 0)",
    )


def _obey_signals() -> None:
    """Restore signals that the caller ignores, as a shell does for its background jobs.

    Processes inherit that, and a swarm would keep ignoring the Ctrl-C that a test sends it.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module can start a node or a process."""
    _obey_signals()
    domain, lock = _claim_domain()
    logs = tempfile.TemporaryDirectory(prefix="chimera_ros_test_")
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_LOG_DIR"] = logs.name
    os.environ["CHIMERA_HOME"] = str(Path(logs.name) / "home")
    config.add_cleanup(lock.close)
    config.add_cleanup(logs.cleanup)


@pytest.fixture
def ros_domain() -> int:
    """Number of this test run's private ROS domain."""
    return int(os.environ["ROS_DOMAIN_ID"])


@pytest.fixture
def mavlink_port(ros_domain: int) -> int:
    """First of nine MAVLink ports (and of nine more, 1000 above) that belong to this test run alone."""
    return 20000 + 9 * ros_domain


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in a folder of their own: what a command leaves in runs/ does not land in the checkout."""
    monkeypatch.chdir(tmp_path)
