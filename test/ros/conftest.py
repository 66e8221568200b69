"""Private ROS domains: each test process takes one that no other holds, on localhost only."""

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


@pytest.fixture(scope="session")
def ros_domain():
    """A ROS domain id from 1 to 100 that this test process alone uses, also set in the environment."""
    for offset in range(100):
        domain = 1 + (os.getpid() + offset) % 100
        lock = (Path(tempfile.gettempdir()) / f"chimera_ros_domain_{domain}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        yield domain
        lock.close()
        return
    pytest.fail("all 100 private ROS domains are in use by other test processes")
