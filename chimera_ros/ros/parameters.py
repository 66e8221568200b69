"""Node parameters as a frozen dataclass whose fields have a description and a range.

    @dataclass(frozen=True, slots=True)
    class FollowerParameters:
        keystore: str = parameter("", "folder of the keystore")
        rate_hz: float = parameter(20.0, "control rate, Hz", ge=1.0, le=50.0)

``declare(node, FollowerParameters)`` declares them on a node, ``read`` returns the checked object.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from array import array
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, ParameterType
from rclpy.node import Node

P = TypeVar("P")

_META = "chimera_parameter"
_LARGEST = 2**62

_TYPES: dict[Any, int] = {
    bool: ParameterType.PARAMETER_BOOL,
    int: ParameterType.PARAMETER_INTEGER,
    float: ParameterType.PARAMETER_DOUBLE,
    str: ParameterType.PARAMETER_STRING,
}


class ParameterError(ValueError):
    """A parameter has an invalid value; the text is one sentence for the user."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Spec:
    description: str
    ge: float | None
    le: float | None
    choices: tuple[str, ...]
    required: bool
    kind: str
    read_only: bool


def parameter(
    default: Any,
    description: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] = (),
    required: bool = False,
    kind: str = "",
    read_only: bool = False,
) -> Any:
    """A dataclass field that is a node parameter: default, description (with unit) and allowed values.

    One that is `required` must be given: its default, an empty text, is not a value. A text of `kind` "file"
    or "folder" that is not empty must name one that is there. One that is `read_only` is set at start only.
    """
    spec = _Spec(description, ge, le, choices, required, kind, read_only)
    return dataclasses.field(default=default, metadata={_META: spec})


def declare(node: Node, parameters_type: type[Any]) -> None:
    """Declare every field of `parameters_type` on `node`, those that are not declared yet.

    Raises:
        ParameterError: a value of the wrong type or outside its range; names the parameter and the allowed
        values.
    """
    for name, kind, spec, default in _fields(parameters_type):
        if node.has_parameter(name):
            continue
        given = node._parameter_overrides.get(name)  # where rclpy keeps the values of the command line
        if (
            given is not None
            and kind is float
            and isinstance(given.value, int)
            and not isinstance(given.value, bool)
        ):
            # `-p rate_hz:=20` means 20.0.
            node._parameter_overrides[name] = type(given)(name, value=float(given.value))
        try:
            value = node.declare_parameter(name, default, _descriptor(name, kind, spec)).value
        except Exception as error:  # rclpy raises classes without a common base
            shown = default if given is None else given.value
            raise ParameterError(_refusal(name, kind, spec, _plain(shown))) from error
        if not _is_good(kind, spec, _plain(value)):
            raise ParameterError(_refusal(name, kind, spec, _plain(value)))


def read(node: Node, parameters_type: type[P]) -> P:
    """The present values of parameters that were declared.

    Raises:
        ParameterError: a value that is missing, of the wrong type or outside its range.
    """
    values: dict[str, Any] = {}
    for name, kind, spec, _ in _fields(parameters_type):
        values[name] = _plain(node.get_parameter(name).value)
        if not _is_good(kind, spec, values[name]):
            raise ParameterError(_refusal(name, kind, spec, values[name]))
    _check_required(parameters_type, values)
    try:
        return parameters_type(**values)
    except ValueError as error:
        raise ParameterError(str(error)) from error


def problem(parameters_type: type[Any], name: str, value: Any) -> str:
    """Why a new value of a parameter is refused; empty if it is not, or if the name is not one of these."""
    for known, kind, spec, _ in _fields(parameters_type):
        if known == name and not _is_good(kind, spec, _plain(value)):
            return _refusal(name, kind, spec, _plain(value))
    return ""


@dataclasses.dataclass(frozen=True, slots=True)
class ParameterRow:
    """A declared parameter, for documents."""

    name: str
    default: Any
    required: bool
    allowed: str
    description: str


def rows(parameters_type: type[Any]) -> list[ParameterRow]:
    """The declared parameters in order."""
    return [
        ParameterRow(
            name,
            default,
            spec.required,
            f"an existing {spec.kind}" if spec.kind else _allowed(kind, spec),
            spec.description,
        )
        for name, kind, spec, default in _fields(parameters_type)
    ]


def _fields(parameters_type: type[Any]) -> tuple[tuple[str, Any, _Spec, Any], ...]:
    """Name, type, specification and default, as ROS has it, of every parameter."""
    hints = typing.get_type_hints(parameters_type)
    return tuple(
        (
            field.name,
            hints[field.name],
            field.metadata[_META],
            list(field.default) if isinstance(field.default, tuple) else field.default,
        )
        for field in dataclasses.fields(parameters_type)
    )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple, array)) else value


def _is_good(kind: Any, spec: _Spec, value: Any) -> bool:
    return _is_of(kind, value) and _is_allowed(value, spec)


def _refusal(name: str, kind: Any, spec: _Spec, value: Any) -> str:
    return f"parameter {name} is {value!r}; allowed is {_allowed(kind, spec)}"


def _check_required(parameters_type: type[Any], values: dict[str, Any]) -> None:
    specs = {field.name: field.metadata[_META] for field in dataclasses.fields(parameters_type)}
    missing = [name for name, spec in specs.items() if spec.required and values[name] == ""]
    if missing:
        what = " and ".join(f"{name} ({specs[name].description})" for name in missing)
        how = " ".join(f"-p {name}:=VALUE" for name in missing)
        are = "parameter {} is" if len(missing) == 1 else "parameters {} are"
        raise ParameterError(f"{are.format(what)} missing: give --ros-args {how}, or a parameter file")
    for name, spec in specs.items():
        there = {"file": os.path.isfile, "folder": os.path.isdir}.get(spec.kind)
        if there is not None and values[name] and not there(values[name]):
            raise ParameterError(f"parameter {name} is {values[name]!r}; there is no such {spec.kind}")


def _is_of(kind: Any, value: Any) -> bool:
    if kind in (bool, int, float, str):
        return type(value) is kind
    item = typing.get_args(kind)[0]
    return isinstance(value, tuple) and all(type(each) is item for each in value)


def _is_allowed(value: Any, spec: _Spec) -> bool:
    for item in value if isinstance(value, tuple) else (value,):
        if spec.choices and item not in spec.choices:
            return False
        # Written so that NaN is rejected where there is a bound.
        if (spec.ge is not None and not item >= spec.ge) or (spec.le is not None and not item <= spec.le):
            return False
    return True


def _allowed(kind: Any, spec: _Spec) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    text = words.get(kind) or f"a list, each item {words[typing.get_args(kind)[0]]}"
    if spec.choices:
        return f"{'' if kind in words else 'a list, each item '}one of {', '.join(spec.choices)}"
    if spec.ge is not None and spec.le is not None:
        return f"{text} from {spec.ge} to {spec.le}"
    if spec.ge is not None:
        return f"{text} of at least {spec.ge}"
    return f"{text} of at most {spec.le}" if spec.le is not None else text


def _descriptor(name: str, kind: Any, spec: _Spec) -> ParameterDescriptor:
    if typing.get_origin(kind) is tuple:
        # An empty list has no element type that rclpy could compare; `declare` checks instead.
        return ParameterDescriptor(
            name=name, description=spec.description, dynamic_typing=True, read_only=spec.read_only
        )
    descriptor = ParameterDescriptor(
        name=name, type=_TYPES[kind], description=spec.description, read_only=spec.read_only
    )
    if spec.choices:
        descriptor.additional_constraints = f"one of {', '.join(spec.choices)}"
    if spec.ge is not None or spec.le is not None:
        if kind is int:
            low = int(spec.ge) if spec.ge is not None else -_LARGEST
            high = int(spec.le) if spec.le is not None else _LARGEST
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        elif kind is float:
            low_f = spec.ge if spec.ge is not None else -float(_LARGEST)
            high_f = spec.le if spec.le is not None else float(_LARGEST)
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=low_f, to_value=high_f, step=0.0)
            ]
    return descriptor
