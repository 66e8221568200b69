"""Nodes with entropy of their own may be deactivated and activated again: nothing is started twice."""

import shutil
from pathlib import Path

import pytest
import rclpy

from chimera_ros.nodes.crypto import CryptoNode
from chimera_ros.nodes.leader import LeaderNode
from chimera_ros.ros import names

MISSION = next((Path(__file__).parents[2] / "config" / "missions").glob("*.yaml"))


@pytest.mark.parametrize(
    ("node_type", "member", "channel", "values"),
    [
        (CryptoNode, "crypto_0", names.CRYPTO_QKD, ("entropy:=['os', 'hardware', 'qrng', 'qkd']",)),
        (LeaderNode, "leader_0", names.LEADER_QKD, ("qkd:=true", f"mission:={MISSION}")),
    ],
)
def test_again(ros_domain, keystore_path, tmp_path, node_type, member, channel, values):
    shutil.copytree(keystore_path, tmp_path / "keys")
    arguments = ["--ros-args"]
    for value in (f"member:={member}", f"keystore:={tmp_path / 'keys'}", *values):
        arguments += ["-p", value]
    rclpy.init(args=arguments, domain_id=ros_domain)
    node = node_type()
    try:
        assert node.autostart(), node.failure
        node.trigger_deactivate()
        node.trigger_activate()
        assert node.failure is None and node.active
        topic = f"{node.swarm_namespace}/{channel}"
        assert node.count_publishers(topic) == 1
    finally:
        node.end()
        node.destroy_node()
        rclpy.try_shutdown()
