"""Messages of a node to ROS's log: console, log file and /rosout.

The only place that takes a node's logger: a message stays one line, whatever text from outside it contains.
"""

from __future__ import annotations

from rclpy.node import Node

from chimera_ros.formats import display


def log(node: Node, severity: str, text: object) -> None:
    """Log a message of severity `error`, `warning` or `info`."""
    logger, message = node.get_logger(), display.line(text)
    # One call for each severity: rclpy allows a place in the source only one.
    if severity == "error":
        logger.error(message)
    elif severity == "warning":
        logger.warning(message)
    else:
        logger.info(message)
