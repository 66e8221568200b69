"""A process that publishes recorded bytes as fast as it can: the flooding attacker of the attack benchmark.

Arguments: a file with length-prefixed packets, ROS topic, its message type, seconds. Prints how many it sent.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import rclpy
from rclpy._rclpy_pybind11 import RCLError
from rclpy.qos import DurabilityPolicy, QoSProfile

from chimera_ros import msg


def write(path: Path, packets: list[bytes]) -> None:
    """Packets for `read`."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(b"".join(struct.pack("<I", len(packet)) + packet for packet in packets))
    fresh.replace(path)


def read(path: Path) -> Iterator[bytes]:
    """What `write` wrote."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        (size,) = struct.unpack_from("<I", data, place)
        yield data[place + 4 : place + 4 + size]
        place += 4 + size


def main() -> None:
    """Publish every packet once a round until the time is over."""
    path, topic, kind, seconds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
    rclpy.init()
    node = rclpy.create_node("flood", start_parameter_services=False)
    latched = DurabilityPolicy.VOLATILE if kind == "SecureEnvelope" else DurabilityPolicy.TRANSIENT_LOCAL
    quality = QoSProfile(depth=500, durability=latched)
    publisher = node.create_publisher(getattr(msg, kind), topic, quality)
    limit = time.monotonic() + 10.0
    while publisher.get_subscription_count() < 2 and time.monotonic() < limit:
        time.sleep(0.05)  # discovery has no event to wait for here
    print("ready", flush=True)
    while not path.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    packets = list(read(path))  # made at the last moment: a member's packets are fresh for a second only
    began, sent = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        try:
            publisher.publish(packets[sent % len(packets)])
        except RCLError:
            continue  # the writer is saturated: that is the fastest it can
        sent += 1
    print(sent, flush=True)
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
