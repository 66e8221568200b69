"""Executor of a process: EventsExecutor, signal handling, clean shutdown.

EventsExecutor costs an eighth of the single-threaded executor's CPU. In rclpy 9.1.2 its `spin()` uses a
whole core and runs nothing, while `spin_once` with a time-out works: it runs one event, or returns at the
time-out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node

from chimera_ros import core_dumps
from chimera_ros.stop_requests import StopRequests
from chimera_ros.terminal.lines import print_line

from . import startup
from .lifecycle import SwarmNode

_WAIT_S = 0.25  # bound on the delay of a signal while no event arrives; interval of looks at the parent


def make_executor(context: Context | None = None) -> Executor:
    """EventsExecutor where rclpy has it, else the single-threaded one."""
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor(context=context)
    return EventsExecutor(context=context)


class Spinner:
    """Spins nodes until `stop`.

    The first request to stop (`StopRequests`) calls `on_stop(1)`; if that returns True the spinner continues
    (during a supervised landing, for example) until `stop` is called or a second request arrives, which
    always ends it, after `on_stop(2)`. `orphaned()` is True once the parent has ended: a request too.
    """

    def __init__(
        self,
        context: Context | None = None,
        on_stop: Callable[[int], bool] | None = None,
        orphaned: Callable[[], bool] | None = None,
        requests: StopRequests | None = None,
    ) -> None:
        self._executor = make_executor(context)
        self._context = context if context is not None else rclpy.get_default_context()
        self._on_stop = on_stop
        self._orphaned = orphaned
        self._looked_s = float("-inf")
        self._requests = requests if requests is not None else StopRequests()
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

    def spin(self, until: Callable[[], bool] | None = None) -> None:
        """Run callbacks until `stop`, `until()` is true, a signal ends it, or the context is shut down."""
        while self._running and self._context.ok():
            if until is not None and until():
                return
            self._watch_parent()
            count = self._requests.take()
            if count:
                continues = self._on_stop is not None and self._on_stop(count)
                if count > 1 or not continues:
                    return
            self._executor.spin_once(timeout_sec=_WAIT_S)

    def _watch_parent(self) -> None:
        now = time.monotonic()
        if self._orphaned is not None and now - self._looked_s >= _WAIT_S:
            self._looked_s = now
            if self._orphaned():
                self._requests.request(insists=False)

    def poll(self) -> None:
        """Run one event if one is waiting, and return at once."""
        self._executor.spin_once(timeout_sec=0.0)

    def close(self) -> None:
        """Remove the nodes and shut the executor down; the caller destroys the nodes."""
        for node in self._nodes:
            self._executor.remove_node(node)
        self._nodes.clear()
        self._executor.shutdown()


def run_node(make_node: Callable[[], SwarmNode[Any]], args: list[str] | None = None) -> int:
    """`main` of a node's executable: create, start, spin and shut down. Returns the exit status.

    It is 2 where arguments, parameters or environment are wrong. ``node.stop_requested(count)`` is called at
    the first request to stop: True means that it needs time (and calls ``node.stop_spinning()`` when done); a
    second request ends it in any case. With the node parameters ``autostart`` False and ``expose_services``
    True it stays unconfigured until somebody calls its lifecycle service.
    """
    try:
        return _run(make_node, args)
    except startup.StartRefused as error:
        return startup.refused(args, error)


def _run(make_node: Callable[[], SwarmNode[Any]], args: list[str] | None) -> int:
    core_dumps.disable()
    os.umask(0o077)  # files that libraries write, such as ROS logs, are for the owner alone
    requests = StopRequests()
    requests.install()  # first: a request during the start is answered at its end
    startup.initialise(args)
    node: SwarmNode[Any] | None = None
    status = 1
    try:
        node = startup.make(make_node)
        spinner = Spinner(on_stop=node.stop_requested, orphaned=node.is_orphaned, requests=requests)
        node.on_stop_spinning(spinner.stop)
        spinner.add(node)
        try:
            starts = node.start_option("autostart", default=True)
            startup.load_parameters(node, args, starts=starts)
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
