"""Starts an installed crypto node, waits until it asks for key packages: the smoke test of a build.

Usage: smoke_crypto.py EXECUTABLE FOLDER; FOLDER is where a keystore is made.
"""

import subprocess
import sys
import time
from pathlib import Path

import rclpy
from chimera_ros.msg import KeyRequest
from rclpy.experimental import EventsExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from chimera_ros.crypto.keystore.keystore import Keystore

MEMBER = "crypto_0"
TIMEOUT_S = 30.0


def main() -> int:
    """Returns 0 when the node was heard and then ended well."""
    executable, folder = sys.argv[1], Path(sys.argv[2])
    keystore = Keystore(folder)
    keystore.create("smoke", wall_ns=time.time_ns())
    keystore.enroll(MEMBER, "crypto", wall_ns=time.time_ns())

    rclpy.init()
    node = rclpy.create_node("smoke", namespace="chimera")
    heard: list[KeyRequest] = []
    qos = QoSProfile(
        depth=16, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    node.create_subscription(KeyRequest, "crypto/key_request", heard.append, qos)
    executor = EventsExecutor()
    executor.add_node(node)
    parameters = ["-p", f"keystore:={folder}", "-p", f"member:={MEMBER}"]
    child = subprocess.Popen([executable, "--ros-args", "-r", "__ns:=/chimera", *parameters])
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not heard and child.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        if child.poll() is not None:
            print(f"{executable} ended with status {child.returncode}", file=sys.stderr)
            return 1
        if not heard:
            print(f"no key request from {executable} within {TIMEOUT_S:g} s", file=sys.stderr)
            return 1
        child.terminate()
        status = child.wait(TIMEOUT_S)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        node.destroy_node()
        rclpy.shutdown()
    print(f"crypto node heard; it ended with status {status}")
    return 0 if status == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
