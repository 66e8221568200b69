"""Paths of any name as ROS parameters: a node receives what the launcher was given."""

from __future__ import annotations

from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context

from chimera_ros.launcher.spec import SwarmSpec, processes

NAMES = (
    "plain",
    "with space, {comma: [x]} #5",
    "quote\" and \\backslash\\n 'x' := y",
    "任务 🚁 é",
    "\x1b[31m\x07\n\t\x7f\x85\u2028\u202e\ufeff",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_arrives_as_it_is(name: str, tmp_path: Path) -> None:
    mission = tmp_path / f"{name}.yaml"
    spec = SwarmSpec(drones=1, mission=mission, keystore=tmp_path / name, record=tmp_path / name)
    arguments = {item.name: list(item.arguments) for item in processes(spec)}
    context = Context()
    rclpy.init(args=arguments["leader"], context=context)
    try:
        node = rclpy.create_node("leader", context=context, start_parameter_services=False)
        for parameter, path in (("mission", mission), ("keystore", tmp_path / name)):
            assert node.declare_parameter(parameter, "").value == str(path)
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
