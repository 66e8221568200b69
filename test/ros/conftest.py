"""Private ROS domains: each test process takes one that no other holds, on localhost only."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node

from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.ros import SecureSession, Spinner

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


class Party:
    """Members of a swarm as nodes of this process, all spun by one executor. Closes everything at the end."""

    def __init__(self, keystore: Path) -> None:
        self.keystore = keystore
        self.sessions: dict[str, SecureSession] = {}
        self.nodes: list[Node] = []
        self.spinner = Spinner()

    def node(self, name: str) -> Node:
        """A plain rclpy node in the swarm's namespace."""
        node = rclpy.create_node(name, namespace="/chimera", start_parameter_services=False)
        self.nodes.append(node)
        self.spinner.add(node)
        return node

    def join(self, *members: str, **options: object) -> SecureSession:
        """A session for these members on a node of its own."""
        name = members[0]
        session = SecureSession(self.node(f"{name}_node"), members=members, keystore=self.keystore, **options)
        self.sessions[name] = session
        return session

    def wait(self, condition: Callable[[], object], what: str = "", limit_s: float = 60.0) -> None:
        """Spin until the condition holds."""
        end = time.monotonic() + limit_s
        self.spinner.spin(lambda: bool(condition()) or time.monotonic() > end)
        if not condition():
            states = {name: session.status() for name, session in self.sessions.items()}
            raise AssertionError(f"waited {limit_s} s in vain {what}: {states}")

    def all_ready(self) -> None:
        """Spin until every member has an epoch."""
        self.wait(lambda: all(session.ready for session in self.sessions.values()), "for everyone to join")

    def spin_for(self, duration_s: float) -> None:
        """Run callbacks for a while: only to show that something does not happen."""
        end = time.monotonic() + duration_s
        self.spinner.spin(lambda: time.monotonic() > end)

    def close(self) -> None:
        """End all."""
        for session in self.sessions.values():
            session.close()
        self.spinner.close()
        for node in self.nodes:
            node.destroy_node()


@pytest.fixture(scope="session")
def keystore_path(tmp_path_factory):
    """A keystore with one crypto node, leader, logger, operator and five drones."""
    path = tmp_path_factory.mktemp("keys") / "swarm"
    keystore = Keystore(path, durable=False)
    keystore.create("test", wall_ns=time.time_ns())
    members = [
        ("crypto_0", "crypto"),
        ("leader_0", "leader"),
        ("logger_0", "logger"),
        ("moderator_0", "moderator"),
        ("operator_0", "operator"),
    ]
    members += [(f"drone_{number:02d}", "drone") for number in range(1, 6)]
    for name, role in members:
        keystore.enroll(name, role, wall_ns=time.time_ns())
    return path


@pytest.fixture
def party(ros_domain, keystore_path, tmp_path):
    """A swarm to be joined, with fresh member states."""
    copy = tmp_path / "keys"
    shutil.copytree(keystore_path, copy)
    rclpy.init(domain_id=ros_domain)
    party = Party(copy)
    yield party
    party.close()
    rclpy.try_shutdown()
