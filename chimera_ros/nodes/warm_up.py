"""First-time costs of a node, paid before it joins the swarm.

rclpy's first log call compares the files of all loaded modules (40 ms of CPU time, a second on a loaded
machine), and the first message with elements of a package loads its type support. Neither may happen in a
control cycle, whose watchdog ends the process.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from typing import Final

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message

from chimera_ros.msg import (
    CommandAck,
    CommandAcks,
    DroneTelemetry,
    LeaderHeartbeat,
    SwarmCommand,
    SwarmCommands,
    Trajectory,
    TrajectoryKnot,
)
from chimera_ros.records.status_line import encode_status
from chimera_ros.ros.log import log

_LOGGING: Final = ("chimera_ros.nodes.", "chimera_ros.ros.")  # modules that log; "__main__" is a node's


def warm_up(node: Node) -> None:
    """One log call, one status line and one message of each type of the control path."""
    inspect.getmodule(inspect.currentframe())  # whatever the log level is
    for name, module in list(sys.modules.items()):
        if name == "__main__" or name.startswith(_LOGGING):
            linecache.getlines(getattr(module, "__file__", None) or "")  # a log call reads its caller's lines
    log(node, "info", "configured")
    encode_status({"process": node.get_name()})
    for message in (
        SwarmCommands(commands=[SwarmCommand()]),
        Trajectory(knots=[TrajectoryKnot()]),
        LeaderHeartbeat(),
        DroneTelemetry(),
        CommandAcks(acks=[CommandAck()]),
        DiagnosticArray(status=[DiagnosticStatus(values=[KeyValue()])]),
    ):
        deserialize_message(serialize_message(message), type(message))
