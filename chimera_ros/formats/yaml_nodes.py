"""YAML as a tree of nodes with line numbers, within bounds that are checked before a level is entered.

One document without anchors, aliases and tags (so that nothing expands and nothing is constructed), at most
`MAX_DEPTH` levels, no key twice in a mapping. Scalars stay text; `number` and `integer` read plain ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import yaml

from . import numbers
from .text import FormatError, excerpt, plain_text

MAX_DEPTH: Final = 32
T = TypeVar("T", int, float)


def compose(content: str | bytes, max_bytes: int) -> yaml.Node:
    """The root node of a document. Raises FormatError."""
    loader = _Loader(plain_text(content, max_bytes))
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise FormatError(f"is not YAML: {error.problem or error.context}", line) from None
    except FormatError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError):  # an escape for a character that does not exist
        raise FormatError("is not YAML", loader.line + 1) from None
    finally:
        loader.dispose()
    if root is None:
        raise FormatError("is empty", 1)
    return root


def number(node: yaml.Node) -> float | None:
    """The finite number of a plain scalar; None for any other node."""
    return _value(node, numbers.number)


def integer(node: yaml.Node) -> int | None:
    """The whole number of a plain scalar; None for any other node."""
    return _value(node, numbers.integer)


def shown(node: yaml.Node) -> str:
    """A node for an error message."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list or mapping"
    return f"'{excerpt(node.value)}'{'' if node.style is None else ' in quotes'}"


def _value(node: yaml.Node, read: Callable[[str], T]) -> T | None:
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return None
    try:
        return read(node.value)
    except ValueError:
        return None


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        line = event.start_mark.line + 1
        if event.anchor is not None:
            raise FormatError("anchors and aliases (& and *) are not allowed", line)
        if getattr(event, "tag", None) is not None:
            raise FormatError("tags (!) are not allowed", line)
        if self._depth >= MAX_DEPTH:
            raise FormatError(f"is nested too deeply: at most {MAX_DEPTH} levels are allowed", line)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                raise FormatError("a key must be a word", key.start_mark.line + 1)
            if key.value in seen:
                raise FormatError(f"{excerpt(key.value)}: is given twice", key.start_mark.line + 1)
            seen.add(key.value)
        return mapping
