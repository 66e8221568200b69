"""Check of a ROS parameter file against the declarations of the nodes, before any of them starts.

The file is read by ROS itself, into a node of each name that is created only for that: ROS alone knows which
of its sections concern which node, and how it reads numbers. No other process discovers these nodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.launcher.spec import ProcessSpec

_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"


def read_params_file(path: Path, nodes: Sequence[ProcessSpec], namespace: str) -> dict[str, dict[str, Any]]:
    """What the file sets, by node name and parameter name.

    Raises:
        CommandFailed: there is no such file, ROS cannot read it, or a value is not allowed.
    """
    import rclpy
    from rclpy.context import Context

    if not path.is_file():
        raise CommandFailed(f"--params-file {path}: there is no such file", MISUSE)
    found = {}
    with _undiscovered():
        context = Context()
        rclpy.init(args=[], context=context)
        try:
            for spec in nodes:
                found[spec.name] = _values(path, spec, namespace, context)
        finally:
            context.try_shutdown()
    if not any(found.values()):
        raise CommandFailed(
            f"--params-file {path}: it sets no parameter of a node of this swarm; its sections are /** for "
            f"all nodes or, for example, {namespace}/{nodes[-1].name}, each with ros__parameters",
            MISUSE,
        )
    return found


def _values(path: Path, spec: ProcessSpec, namespace: str, context: Any) -> dict[str, Any]:
    from rclpy.node import Node

    from chimera_ros.node_parameters import BY_EXECUTABLE
    from chimera_ros.ros import startup
    from chimera_ros.ros.parameters import ParameterError, declare

    arguments = ["--ros-args", "--params-file", str(path)]
    declarations = BY_EXECUTABLE[spec.executable]
    node = None
    try:
        node = startup.make(
            lambda: Node(
                spec.name,
                namespace=namespace,
                context=context,
                cli_args=arguments,
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=False,
            )
        )
        startup.check_names(declarations, node._parameter_overrides, arguments)
        values = {name: parameter.value for name, parameter in node._parameter_overrides.items()}
        declare(node, declarations)
    except (startup.StartRefused, ParameterError) as error:
        said = str(error).rpartition("Error: ")[2]  # rcl's parser puts the path before
        raise CommandFailed(f"--params-file {path}, node {spec.name}: {said}", MISUSE) from None
    finally:
        if node is not None:
            node.destroy_node()
    return values


@contextmanager
def _undiscovered() -> Iterator[None]:
    """No other process discovers the nodes that are created meanwhile."""
    before = os.environ.get(_RANGE)
    os.environ[_RANGE] = "OFF"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_RANGE]
        else:
            os.environ[_RANGE] = before
