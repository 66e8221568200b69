"""Secure publishers, subscriptions and services on rclpy nodes, and what every node needs beside them.

Topic names and QoS, parameters, the lifecycle node, the executor and message conversion. Must not import
nodes, launcher, commands or a package with I/O of its own (autopilot, records, sitl, quantum, gateway): it
stands on crypto, flight and moderation alone. Begin reading with `session` (the public interface), then
`context` and `session_driver`; `names` and `qos` list the topics.

Importing this package does not import rclpy: the names below are loaded at their first use.
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

_MODULES = {
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
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{module}", __name__), name)
