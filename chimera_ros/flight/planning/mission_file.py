"""Mission files: YAML to a checked `Mission`; an error names file, line, field and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as FilePath

import yaml

from chimera_ros.formats import yaml_nodes
from chimera_ros.formats.display import is_plain
from chimera_ros.formats.text import FormatError, excerpt, read_bytes

from ..datum import (
    MAX_ALTITUDE_AMSL_M,
    MAX_LATITUDE_DEG,
    MAX_LONGITUDE_DEG,
    MIN_ALTITUDE_AMSL_M,
    Datum,
)
from ..limits import MAX_CORNERS, MAX_DISTANCE_M, MAX_HEIGHT_M, MIN_HEIGHT_M, MOTION_RANGES, Fence
from ..messages import MAX_NAME, MAX_TARGETS
from ..trajectory import MotionLimits
from ..vehicle import Vec3
from .formations import SHAPES
from .mission import (
    Battery,
    Formation,
    Goto,
    Hold,
    Land,
    Mission,
    PadGrid,
    Rotate,
    Step,
    Swap,
    Takeoff,
)

MAX_BYTES = 65536
MAX_STEPS = 200


class MissionError(ValueError):
    """A mission file that cannot be flown as written; the text is `file:line: field: what is allowed`."""


class _MissionFields:
    """Typed access to the fields of one YAML mapping; unknown fields are refused."""

    def __init__(self, name: str, where: str, node: yaml.Node, allowed: tuple[str, ...]) -> None:
        self.name, self.where, self.node = name, where, node
        self.items: dict[str, yaml.Node] = {}
        if isinstance(node, yaml.ScalarNode) and node.value in ("", "~", "null"):
            return
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, "", f"must be a mapping with the fields {', '.join(allowed)}")
        for key, value in node.value:
            if key.value not in allowed:
                raise self.error(key, excerpt(key.value), f"unknown field; allowed are {', '.join(allowed)}")
            self.items[key.value] = value

    def error(self, node: yaml.Node, field: str, text: str) -> MissionError:
        path = ".".join(part for part in (self.where, field) if part) or "mission"
        return MissionError(f"{self.name}:{node.start_mark.line + 1}: {path}: {text}")

    def has(self, field: str) -> bool:
        return field in self.items

    def need(self, field: str) -> yaml.Node:
        if field not in self.items:
            raise self.error(self.node, field, "is missing")
        return self.items[field]

    def number(self, field: str, low: float, high: float, default: float | None = None) -> float:
        if default is not None and field not in self.items:
            return default
        return self.as_number(self.need(field), field, low, high)

    def as_number(self, node: yaml.Node, field: str, low: float, high: float) -> float:
        value = yaml_nodes.number(node)
        if value is None or not low <= value <= high:
            allowed = f"must be a number from {low:g} to {high:g}"
            raise self.error(node, field, f"{allowed}, not {yaml_nodes.shown(node)}")
        return value

    def whole(self, field: str, low: int, high: int, default: int) -> int:
        value = self.number(field, low, high, default)
        if value != int(value):
            raise self.error(self.items[field], field, f"must be a whole number from {low} to {high}")
        return int(value)

    def flag(self, field: str) -> bool:
        """True or false; false if absent."""
        node = self.items.get(field)
        if node is None:
            return False
        if not isinstance(node, yaml.ScalarNode) or node.value not in ("true", "false"):
            raise self.error(node, field, "must be true or false")
        return bool(node.value == "true")

    def word(self, field: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        if default is not None and field not in self.items:
            return default
        node = self.need(field)
        value = node.value if isinstance(node, yaml.ScalarNode) else None
        if value not in allowed:
            raise self.error(node, field, f"must be one of {', '.join(allowed)}")
        return str(value)

    def numbers(self, field: str, names: tuple[str, ...], low: float, high: float) -> tuple[float, ...]:
        return self.as_numbers(self.need(field), field, names, low, high)

    def as_numbers(
        self, node: yaml.Node, field: str, names: tuple[str, ...], low: float, high: float
    ) -> tuple[float, ...]:
        if not isinstance(node, yaml.SequenceNode) or len(node.value) != len(names):
            raise self.error(node, field, f"must be a list [{', '.join(names)}]")
        return tuple(self.as_number(item, field, low, high) for item in node.value)

    def span(self, field: str, low: float, high: float) -> tuple[float, float]:
        first, last = self.numbers(field, ("lowest", "highest"), low, high)
        if not first < last:
            raise self.error(self.items[field], field, "the first number must be below the second")
        return first, last


_ENU = ("east", "north", "up")
_EXTENT_M = -MAX_DISTANCE_M, MAX_DISTANCE_M
_WAVE = 1, MAX_TARGETS  # drones
_INTERVAL_S = 0.0, 60.0
_SPACING_M = 0.5, 200.0
_HEADING_DEG = -360.0, 360.0


def _point(fields: _MissionFields, field: str) -> Vec3:
    east, north, up = fields.numbers(field, _ENU, *_EXTENT_M)
    return east, north, up


def _takeoff(f: _MissionFields, line: int) -> Step:
    wave, interval = f.whole("wave", *_WAVE, 5), f.number("interval_s", *_INTERVAL_S, 2.0)
    return Takeoff(f.number("height_m", 1.0, MAX_HEIGHT_M), wave, interval, line)


def _formation(f: _MissionFields, line: int) -> Step:
    return Formation(
        f.word("shape", tuple(SHAPES)),
        f.number("spacing_m", *_SPACING_M),
        _point(f, "center_m"),
        f.number("heading_deg", *_HEADING_DEG, 0.0),
        f.flag("moderate"),
        line,
    )


def _swap(f: _MissionFields, line: int) -> Step:
    if f.flag("moderate") and f.has("layers"):
        raise f.error(f.node, "", "takes either layers or moderate: true")
    return Swap(f.whole("layers", 1, 20, 4), f.flag("moderate"), line)


def _goto(f: _MissionFields, line: int) -> Step:
    if f.has("center_m") == f.has("by_m"):
        raise f.error(f.node, "", "needs exactly one of center_m and by_m")
    if f.has("center_m"):
        return Goto(center_enu_m=_point(f, "center_m"), line=line)
    return Goto(by_enu_m=_point(f, "by_m"), line=line)


def _land(f: _MissionFields, line: int) -> Step:
    wave, interval = f.whole("wave", *_WAVE, 10), f.number("interval_s", *_INTERVAL_S, 1.0)
    return Land(wave, interval, f.word("pads", ("any", "own"), "any"), line)


_STEPS: dict[str, tuple[tuple[str, ...], Callable[[_MissionFields, int], Step]]] = {
    "takeoff": (("height_m", "wave", "interval_s"), _takeoff),
    "formation": (("shape", "spacing_m", "center_m", "heading_deg", "moderate"), _formation),
    "goto": (("center_m", "by_m"), _goto),
    "hold": (("seconds",), lambda f, line: Hold(f.number("seconds", 0.0, 3600.0), line)),
    "rotate": (("angle_deg",), lambda f, line: Rotate(f.number("angle_deg", -720.0, 720.0), line)),
    "swap": (("layers", "moderate"), _swap),
    "land": (("wave", "interval_s", "pads"), _land),
}
_TOP = ("mission", "datum", "separation_m", "fence", "limits", "pads", "battery", "steps")


def load_mission(path: str | FilePath) -> Mission:
    """Reads a mission file. Raises MissionError, also when the file cannot be read."""
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise MissionError(f"{path}: cannot be read: {error.strerror or error}") from None
    except FormatError as error:
        raise _refused(str(path), error) from None
    return parse_mission(data, str(path))


def parse_mission(content: str | bytes, name: str = "mission.yaml") -> Mission:
    """A mission from YAML; `name` is the file's in errors. Raises MissionError."""
    top = _MissionFields(name, "", _compose(content, name), _TOP)
    title = top.need("mission")
    text = title.value if isinstance(title, yaml.ScalarNode) else ""
    if not (1 <= len(text) <= MAX_NAME and is_plain(text)):
        raise top.error(title, "mission", f"must be a name of 1 to {MAX_NAME} printable characters")
    limits = _MissionFields(
        name, "limits", top.items.get("limits", yaml.ScalarNode("", "", top.node.start_mark)),
        tuple(MOTION_RANGES),
    )  # fmt: skip
    usual = MotionLimits()
    pads = _MissionFields(
        name, "pads", top.items.get("pads", yaml.ScalarNode("", "", top.node.start_mark)),
        ("spacing_m", "center_m", "heading_deg"),
    )  # fmt: skip
    battery = _MissionFields(
        name, "battery", top.items.get("battery", yaml.ScalarNode("", "", top.node.start_mark)),
        ("endurance_s", "reserve"),
    )  # fmt: skip
    return Mission(
        name=text,
        datum=_datum(top),
        separation_m=top.number("separation_m", 0.5, 100.0),
        fence=_fence(top),
        limits=MotionLimits(
            *(
                limits.number(field, low, high, getattr(usual, field))
                for field, (low, high) in MOTION_RANGES.items()
            )
        ),
        pads=PadGrid(
            pads.number("spacing_m", *_SPACING_M, 4.0),
            _point(pads, "center_m") if pads.has("center_m") else (0.0, 0.0, 0.0),
            pads.number("heading_deg", *_HEADING_DEG, 0.0),
        ),
        battery=Battery(
            battery.number("endurance_s", 30.0, 86400.0, 900.0), battery.number("reserve", 0.0, 0.9, 0.25)
        ),
        steps=_steps(top.need("steps"), name, "steps"),
    )


def parse_steps(text: str, name: str = "steps") -> tuple[Step, ...]:
    """A YAML list of steps, the grammar of a mission file's `steps`. Raises MissionError."""
    return _steps(_compose(text, name), name, "")


def _compose(content: str | bytes, name: str) -> yaml.Node:
    try:
        return yaml_nodes.compose(content, MAX_BYTES)
    except FormatError as error:
        raise _refused(name, error) from None


def _refused(name: str, error: FormatError) -> MissionError:
    return MissionError(f"{name}{'' if error.line is None else f':{error.line}'}: {error.text}")


def _datum(top: _MissionFields) -> Datum | None:
    node = top.need("datum")
    if isinstance(node, yaml.ScalarNode):
        if node.value == "local":
            return None
        raise top.error(node, "datum", "must be local, or lat_deg, lon_deg and amsl_m")
    f = _MissionFields(top.name, "datum", node, ("lat_deg", "lon_deg", "amsl_m"))
    return Datum(
        f.number("lat_deg", -MAX_LATITUDE_DEG, MAX_LATITUDE_DEG),
        f.number("lon_deg", -MAX_LONGITUDE_DEG, MAX_LONGITUDE_DEG),
        f.number("amsl_m", MIN_ALTITUDE_AMSL_M, MAX_ALTITUDE_AMSL_M),
    )


def _fence(top: _MissionFields) -> Fence:
    f = _MissionFields(top.name, "fence", top.need("fence"), ("east_m", "north_m", "polygon_m", "height_m"))
    low, high = f.span("height_m", MIN_HEIGHT_M, MAX_HEIGHT_M)
    if f.has("polygon_m"):
        if f.has("east_m") or f.has("north_m"):
            raise f.error(f.node, "polygon_m", "excludes east_m and north_m")
        node = f.need("polygon_m")
        if not isinstance(node, yaml.SequenceNode) or not 3 <= len(node.value) <= MAX_CORNERS:
            raise f.error(node, "polygon_m", f"must be a list of 3 to {MAX_CORNERS} corners [east, north]")
        corners = [f.as_numbers(corner, "polygon_m", ("east", "north"), *_EXTENT_M) for corner in node.value]
        try:
            return Fence(tuple((c[0], c[1]) for c in corners), low, high)
        except ValueError as error:
            raise f.error(node, "polygon_m", str(error)) from None
    return Fence.box(
        f.span("east_m", *_EXTENT_M),
        f.span("north_m", *_EXTENT_M),
        (low, high),
    )


def _steps(node: yaml.Node, name: str, where: str) -> tuple[Step, ...]:
    names = ", ".join(_STEPS)
    line = node.start_mark.line + 1
    head = f"{where}: " if where else ""
    if not isinstance(node, yaml.SequenceNode):
        raise MissionError(f"{name}:{line}: {head}must be a list of steps: {names}")
    if not 1 <= len(node.value) <= MAX_STEPS:
        raise MissionError(f"{name}:{line}: {head}must have 1 to {MAX_STEPS} steps, not {len(node.value)}")
    steps = []
    for index, item in enumerate(node.value):
        line = item.start_mark.line + 1
        path = f"{where or 'steps'}[{index + 1}]"
        if isinstance(item, yaml.ScalarNode) and item.value in _STEPS:  # "- land" without fields
            word, fields = item.value, yaml.ScalarNode("", "", item.start_mark)
        elif isinstance(item, yaml.MappingNode) and len(item.value) == 1:
            key, fields = item.value[0]
            word = key.value
        else:
            raise MissionError(f"{name}:{line}: {path}: must be one of {names}, with its fields")
        if word not in _STEPS:
            raise MissionError(f"{name}:{line}: {path}: unknown step '{excerpt(word)}'; allowed are {names}")
        allowed, make = _STEPS[word]
        steps.append(make(_MissionFields(name, f"{path}.{word}", fields, allowed), line))
    return tuple(steps)
