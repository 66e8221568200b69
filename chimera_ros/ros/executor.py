"""Executor of a process: EventsExecutor, signal handling, clean shutdown.

EventsExecutor costs an eighth of the single-threaded executor's CPU. In rclpy 9.1.2 its `spin()` uses a
whole core and runs nothing, while `spin_once` with a time-out works: it runs one event, or returns at the
time-out.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node

from chimera_ros.terminal.lines import print_line

from . import startup
from .lifecycle import SwarmNode

_WAIT_S = 0.25  # bound on the delay of a signal while no event arrives


def make_executor(context: Context | None = None) -> Executor:
    """EventsExecutor where rclpy has it, else the single-threaded one."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


class Spinner:
    """Spins nodes until `stop`.

    The first SIGINT or SIGTERM calls `on_stop(count=1)`; if that returns True the spinner continues (during a
    supervised landing, for example) until `stop` is called or a second signal arrives, which always ends it.
    """

    def __init__(self, context: Context | None = None, on_stop: Callable[[int], bool] | None = None) -> None:
        self._executor = make_executor(context)
        self._context = context if context is not None else rclpy.get_default_context()
        self._on_stop = on_stop
        self._signals = 0
        self._handled = 0
        self._running = True
        self._nodes: list[Node] = []

    def add(self, node: Node) -> None:
        """Add a node."""
        self._executor.add_node(node)
        self._nodes.append(node)

    def stop(self) -> None:
        """End `spin` after the present callback. May be called from any thread."""
        self._running = False
        wake = getattr(self._executor, "wake", None)
        if wake is not None:
            wake()

    def install_signal_handlers(self) -> None:
        """Handle SIGINT and SIGTERM; call from the main thread."""
        # A parent that ignores SIGINT wants the node to survive Ctrl-C, as launch does during a landing.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1  # handled between two callbacks, outside the signal handler

    def spin(self, until: Callable[[], bool] | None = None) -> None:
        """Run callbacks until `stop`, `until()` is true, a signal ends it, or the context is shut down."""
        while self._running and self._context.ok():
            if until is not None and until():
                return
            if self._handled != self._signals:
                self._handled += 1
                continues = self._handled == 1 and self._on_stop is not None and self._on_stop(1)
                if not continues:
                    if self._handled > 1 and self._on_stop is not None:
                        self._on_stop(self._handled)
                    return
            self._executor.spin_once(timeout_sec=_WAIT_S)

    def poll(self) -> None:
        """Run one event if one is waiting, and return at once."""
        self._executor.spin_once(timeout_sec=0.0)

    def close(self) -> None:
        """Remove the nodes and shut the executor down; the caller destroys the nodes."""
        for node in self._nodes:
            self._executor.remove_node(node)
        self._nodes.clear()
        self._executor.shutdown()


def disable_core_dumps() -> None:
    """Disable core dumps of this process and its children: they would hold keys.

    With a limit of one byte Linux does not call a core_pattern pipe handler either (core(5)).
    """
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def run_node(make_node: Callable[[], SwarmNode[Any]], args: list[str] | None = None) -> int:
    """`main` of a node's executable: create, start, spin and shut down. Returns the exit status.

    It is 2 where arguments, parameters or environment are wrong. A method ``stop_requested(count) -> bool``
    of the node is called at the first signal: True means that it needs time (and calls
    ``node.stop_spinning()`` when done); a second signal ends it in any case. With the node parameter
    ``autostart`` False it stays unconfigured.
    """
    try:
        return _run(make_node, args)
    except startup.StartRefused as error:
        return startup.refused(args, error)


def _run(make_node: Callable[[], SwarmNode[Any]], args: list[str] | None) -> int:
    disable_core_dumps()
    startup.initialise(args)
    node: SwarmNode[Any] | None = None
    status = 1
    try:
        node = startup.make(make_node)
        spinner = Spinner(on_stop=getattr(node, "stop_requested", None))
        node.on_stop_spinning(spinner.stop)
        spinner.install_signal_handlers()
        spinner.add(node)
        try:
            starts = _wants_autostart(node)
            if starts:
                startup.load_parameters(node, args)
            if not starts or node.autostart():
                spinner.spin()
                status = 0 if node.failure is None else 1
            else:
                print_line(node.failure or f"{node.get_name()} could not start", error=True)
        finally:
            node.end()
            spinner.close()
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return status


def _wants_autostart(node: SwarmNode[Any]) -> bool:
    value = node._parameter_overrides.get("autostart")
    return value is None or value.value is not False
