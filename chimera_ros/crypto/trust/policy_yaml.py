"""Typed access to the fields of a policy in YAML; an error names file, line, field and what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NoReturn

import yaml

from chimera_ros.formats import yaml_nodes
from chimera_ros.formats.text import FormatError, excerpt

from ..encoding import is_name
from ..errors import PolicyError

MAX_DOCUMENT: Final = 262_144  # bytes of a policy, or of a revocation list


class YamlNode:
    """A YAML node with its file, line and field."""

    __slots__ = ("_field", "_file", "_node")

    def __init__(self, node: yaml.Node, file: str, field: str) -> None:
        self._node = node
        self._file = file
        self._field = field

    def fail(self, text: str) -> NoReturn:
        """Raises PolicyError with file, line and field."""
        line = self._node.start_mark.line + 1
        where = f", field {self._field}" if self._field else ""
        raise PolicyError(f"{self._file}, line {line}{where}: {text}.")

    def _pairs(self) -> dict[str, yaml.Node]:
        if not isinstance(self._node, yaml.MappingNode):
            self.fail("must be a mapping (name: value)")
        return {key.value: value for key, value in self._node.value}

    def _child(self, name: str | int, node: yaml.Node) -> YamlNode:
        inside = f"[{name}]" if isinstance(name, int) else (f".{name}" if self._field else name)
        return YamlNode(node, self._file, f"{self._field}{inside}")

    def only(self, *names: str) -> None:
        """Refuses unknown fields."""
        for name, value in self._pairs().items():
            if name not in names:
                self._child(excerpt(name), value).fail(f"is unknown; allowed are {', '.join(names)}")

    def get(self, name: str) -> YamlNode | None:
        value = self._pairs().get(name)
        return None if value is None else self._child(name, value)

    def need(self, name: str) -> YamlNode:
        value = self.get(name)
        if value is None:
            self.fail(f"`{name}` is missing")
        return value

    def items(self) -> list[YamlNode]:
        if not isinstance(self._node, yaml.SequenceNode) or not self._node.value:
            self.fail("must be a list with at least one entry")
        return [self._child(index, node) for index, node in enumerate(self._node.value)]

    def string(self) -> str:
        if not isinstance(self._node, yaml.ScalarNode):
            self.fail("must be a single value")
        return str(self._node.value)

    def one_of(self, allowed: tuple[str, ...]) -> str:
        value = self.string()
        if value not in allowed:
            self.fail(f"'{excerpt(value)}' is not one of {', '.join(allowed)}")
        return value

    def name(self) -> str:
        value = self.string()
        if not is_name(value):
            self.fail(f"'{excerpt(value)}' is no name: 1 to 48 of a-z 0-9 _")
        return value

    def number(self, low: float, high: float) -> float:
        value = yaml_nodes.number(self._node)
        if value is None or not low <= value <= high:
            self.fail(f"{yaml_nodes.shown(self._node)} is not a number from {low:g} to {high:g}")
        return value

    def integer(self, low: int, high: int) -> int:
        value = yaml_nodes.integer(self._node)
        if value is None or not low <= value <= high:
            span = f"{low}" if low == high else f"a whole number from {low} to {high}"
            self.fail(f"{yaml_nodes.shown(self._node)} is not {span}")
        return value

    def moment_ns(self) -> int:
        """Nanoseconds since the Unix epoch of an ISO 8601 date and time in UTC."""
        raw = self.string()
        try:
            moment = datetime.fromisoformat(raw)
        except ValueError:
            self.fail(f"'{excerpt(raw)}' is no date like 2030-01-31T12:00:00Z")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp()) * 1_000_000_000


def read_yaml(content: str | bytes, filename: str) -> YamlNode:
    """The root node of a YAML file. Raises PolicyError."""
    try:
        return YamlNode(yaml_nodes.compose(content, MAX_DOCUMENT), filename, "")
    except FormatError as error:
        line = "" if error.line is None else f", line {error.line}"
        raise PolicyError(f"{filename}{line}: {error.text}.") from None
