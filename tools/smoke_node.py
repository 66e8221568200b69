"""Publishes one of the package's messages and hears it again: the smoke test of a build.

Usage: smoke_node.py [PREFIX]; with PREFIX the messages must come from below it.
"""

import os
import sys
import time
from pathlib import Path

import chimera_ros.msg
import rclpy
from chimera_ros.msg import SecureEnvelope
from rclpy.experimental import EventsExecutor

TIMEOUT_S = 20.0


def main() -> int:
    """Returns 0 when the message came back unchanged."""
    where = Path(chimera_ros.msg.__file__).resolve()
    if len(sys.argv) > 1 and not where.is_relative_to(Path(sys.argv[1]).resolve()):
        print(f"the messages come from {where}, not from below {sys.argv[1]}", file=sys.stderr)
        return 1
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    rclpy.init()
    node = rclpy.create_node("smoke")
    heard: list[SecureEnvelope] = []
    node.create_subscription(SecureEnvelope, "smoke", heard.append, 10)
    publisher = node.create_publisher(SecureEnvelope, "smoke", 10)
    sent = SecureEnvelope(version=SecureEnvelope.VERSION, sender=7, epoch=1, sealed=b"sealed", signature=b"")
    executor = EventsExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + TIMEOUT_S
    while not heard and time.monotonic() < deadline:
        publisher.publish(sent)
        executor.spin_once(timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()
    if not heard or heard[0] != sent:
        print(f"nothing came back within {TIMEOUT_S:g} s", file=sys.stderr)
        return 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"message published and heard, Python {version}, messages from {where.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
