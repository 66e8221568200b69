"""Text definition of a ROS message type and its nested types ("ros2msg"), for MCAP and Foxglove.

Format: the ``.msg`` text, then for each nested type a line of 80 ``=``, a line ``MSG: pkg/Type`` and its text
(MCAP registry, "ros2msg"). Definitions are read from the packages' share directories: a colcon install space,
/opt/ros, a Python environment made of wheels, or a source checkout.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from functools import cache
from pathlib import Path

_SEPARATOR = "=" * 80
_SIZES = ("8", "16", "32", "64")
_PRIMITIVES = frozenset(
    ["bool", "byte", "char", "float32", "float64", "string", "wstring"]
    + [f"{kind}{size}" for kind in ("int", "uint") for size in _SIZES]
)
_FIELD = re.compile(r"^([A-Za-z][\w/]*)(<=\d+)?(\[(<=)?\d*\])?\s+[A-Za-z]\w*")
_TYPE = re.compile(r"[A-Za-z]\w*/(?:msg|srv)/[A-Za-z]\w*")


class SchemaError(LookupError):
    """No definition of a message type is installed; the text names the searched directories."""


@cache
def schema_text(type_name: str) -> str:
    """Concatenated definition of a message type such as ``chimera_ros/msg/DroneTelemetry``.

    Halves of services are named ``pkg/srv/Name_Request`` and ``pkg/srv/Name_Response``.

    Raises:
        SchemaError: the type, or a nested one, is not installed.
    """
    if not _TYPE.fullmatch(type_name):
        raise SchemaError(f"{type_name!r} is not a message type; expected is package/msg/Name")
    main = _definition(type_name)
    seen = {type_name}
    pieces = [main]
    waiting = _contained(main, type_name)
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        text = _definition(name)
        package, _, base = name.split("/")
        pieces += [_SEPARATOR, f"MSG: {package}/{base}", text]
        waiting += _contained(text, name)
    return "\n".join(piece.rstrip("\n") for piece in pieces) + "\n"


def _contained(text: str, owner: str) -> list[str]:
    package = owner.split("/")[0]
    names = []
    for line in text.splitlines():
        match = _FIELD.match(line.split("#", 1)[0].strip())
        if match is None or match[1] in _PRIMITIVES:
            continue
        parts = match[1].split("/")
        if len(parts) == 1:
            names.append(f"{package}/msg/{parts[0]}")
        else:
            names.append(f"{parts[0]}/msg/{parts[-1]}")
    return names


@cache
def _definition(type_name: str) -> str:
    package, kind, base = type_name.split("/")
    if kind == "srv":
        name, _, half = base.rpartition("_")
        if half not in ("Request", "Response"):
            raise SchemaError(f"{type_name}: a service has the halves {base}_Request and {base}_Response")
        text = _read(package, f"srv/{name}.srv", type_name)
        request, found, response = (
            re.split(r"(?m)^(---)\s*$", text, maxsplit=1) if "---" in text else (text, "", "")
        )
        if not found:
            raise SchemaError(f"{type_name}: its .srv file has no line '---'")
        return request if half == "Request" else response
    return _read(package, f"msg/{base}.msg", type_name)


def _read(package: str, relative: str, type_name: str) -> str:
    tried = []
    for directory in _share_directories(package):
        path = directory / relative
        if path.is_file():
            return path.read_text(encoding="utf-8")
        tried.append(str(directory))
    raise SchemaError(
        f"no definition of {type_name} is installed; looked for {relative} in {', '.join(tried)}"
    )


@cache
def _share_directories(package: str) -> tuple[Path, ...]:
    prefixes = [
        Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix
    ]
    directories = [prefix / "share" / package for prefix in prefixes]
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        path = Path(place).resolve()
        for parent in path.parents[
            :5
        ]:  # <prefix>/lib/pythonX.Y/site-packages/<package>, and Debian's dist-packages
            directories.append(parent / "share" / package)
        if (path.parent / "package.xml").is_file():
            directories.append(path.parent)  # a source checkout: msg/ lies beside the package
    directories.append(Path(sys.prefix) / "share" / package)
    return tuple(dict.fromkeys(directories))
