"""Start of a node's process: a wrong environment, argument or parameter ends it in one sentence.

Nothing is joined or sent before. The section `/**` of a parameter file is for several nodes: names there that
a node does not have are passed over; all other unknown names are refused.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import rclpy
import yaml
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from chimera_ros import standard_streams
from chimera_ros.formats.text import excerpt
from chimera_ros.terminal.lines import print_line

from .environment import environment_faults, home_of
from .lifecycle import SwarmNode
from .log_files import init_arguments
from .parameters import ParameterError

MISUSE = 2  # exit status
_OWN_OF_ROS = ("use_sim_time", "start_type_description_service")  # parameters that rclpy declares itself
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SOURCE = re.compile(r",? at /\S+:\d+")  # where in its C sources an error of rcl was raised


N = TypeVar("N")


class StartRefused(Exception):
    """The process cannot start; the text is one sentence for the user."""


def refused(args: Sequence[str] | None, error: StartRefused) -> int:
    """Print why the process cannot start; returns the exit status."""
    print_line(f"{Path(_arguments(args)[0]).stem} cannot start: {error}", error=True)
    return MISUSE


def initialise(args: Sequence[str] | None) -> None:
    """Initialise rclpy. Raises StartRefused."""
    standard_streams.repair()
    home = home_of(os.environ)
    if home is not None:
        os.environ["HOME"] = home  # rclpy needs it
    for fault in environment_faults(os.environ):
        raise StartRefused(str(fault))
    for word in _arguments(args)[1:]:
        if _CONTROL.search(word):  # rcl would print it as it is
            raise StartRefused(f"the argument '{excerpt(word)}' holds control characters")
    try:
        # Without `args` those of the process count, which the program may read as well.
        others = [] if args is None else remove_ros_args(args=list(args))[1:]
        if others:
            raise StartRefused(
                f"'{others[0]}' is not a ROS argument; parameters are given as --ros-args -p NAME:=VALUE"
            )
        rclpy.init(args=init_arguments(args), signal_handler_options=SignalHandlerOptions.NO)
    except StartRefused:
        raise
    except Exception as error:  # rclpy raises classes without a common base
        raise StartRefused(_sentence(error)) from None


def make(make_node: Callable[[], N]) -> N:
    """Create the node. Raises StartRefused for what rclpy refuses, such as a node name."""
    try:
        return make_node()
    except Exception as error:
        if not type(error).__module__.startswith("rclpy"):
            raise
        raise StartRefused(_sentence(error)) from None


def load_parameters(node: SwarmNode[Any], args: Sequence[str] | None, *, starts: bool) -> None:
    """Declare the node's parameters. Raises StartRefused for one that is unknown, missing or wrong.

    A node that does not start itself gets what is missing later, by its parameter services.
    """
    if not starts and not node.exposes_services:
        raise StartRefused(
            "parameter autostart is false, and so is expose_services: nothing could start this node; "
            "on a bench give -p expose_services:=true too"
        )
    check_names(node.parameters_type, node._parameter_overrides, _arguments(args), launched=node.launched)
    try:
        if starts:
            node.load_parameters()
        else:
            node.declare_parameters_only()
    except ParameterError as error:
        raise StartRefused(str(error)) from None


def check_names(
    declarations: type[Any] | None,
    given: Iterable[str],
    arguments: Sequence[str],
    *,
    launched: bool = False,
) -> None:
    """Raises StartRefused for a name that is not declared, unless it was given to several nodes.

    Launch gives the parameters of `SetParameter` to all nodes, on their command lines.
    """
    names = [field.name for field in dataclasses.fields(declarations)] if declarations else []
    for name in sorted(set(given) - {*names, *_OWN_OF_ROS}):
        if not name.startswith("qos_overrides.") and not _is_shared(name, arguments, launched):
            raise StartRefused(f"there is no parameter {name}; the parameters are {', '.join(names)}")


def _arguments(args: Sequence[str] | None) -> list[str]:
    return list(sys.argv if args is None else args)


def _sentence(error: Exception) -> str:
    """The first line of an error of rclpy, without places in its sources."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if type(error).__name__ == "UnknownROSArgsError":  # of the compiled part of rclpy; its text is a list
        return f"these are no ROS arguments: {first}"
    return _SOURCE.sub("", first) or type(error).__name__


def _is_shared(name: str, arguments: Sequence[str], launched: bool) -> bool:
    """True if a parameter was given to several nodes: in a file's section for all of them, or by launch."""
    following = list(pairwise(arguments))
    if any(
        option in ("-p", "--param") and value.split(":=")[0].split(":")[-1] == name
        for option, value in following
    ):
        return launched
    return any(name in _shared_names(value) for option, value in following if option == "--params-file")


def _shared_names(path: str) -> set[str]:
    """Names of the parameters in the `/**` section of a file, which rcl has read."""
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return set()
    section = content.get("/**") if isinstance(content, dict) else None
    return set(_flat(section.get("ros__parameters"))) if isinstance(section, dict) else set()


def _flat(values: Any, prefix: str = "") -> list[str]:
    if not isinstance(values, Mapping):
        return []
    found = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [f"{prefix}{key}"]
    return found
