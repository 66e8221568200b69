"""ROS names, QoS, parameters, message conversion, and the secure layer on rclpy nodes.

Importing this package does not import rclpy; the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .endpoints import RawMessage, SecurePublisher, SecureSubscription
    from .executor import Spinner, run_node
    from .lifecycle import SetupError, SwarmNode
    from .parameters import parameter
    from .services import Reply, SecureClient, SecureService
    from .session import SecureSession, SessionConfig

_HOMES = {
    "RawMessage": "endpoints",
    "Reply": "services",
    "SecureClient": "services",
    "SecurePublisher": "endpoints",
    "SecureService": "services",
    "SecureSession": "session",
    "SecureSubscription": "endpoints",
    "SessionConfig": "session",
    "SetupError": "lifecycle",
    "Spinner": "executor",
    "SwarmNode": "lifecycle",
    "parameter": "parameters",
    "run_node": "executor",
}

__all__ = [
    "RawMessage",
    "Reply",
    "SecureClient",
    "SecurePublisher",
    "SecureService",
    "SecureSession",
    "SecureSubscription",
    "SessionConfig",
    "SetupError",
    "Spinner",
    "SwarmNode",
    "parameter",
    "run_node",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{home}", __name__), name)
