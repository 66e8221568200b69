"""Rules of structure that import contracts and linters cannot express; `make check` runs them.

Each rule is a function from the parsed modules of the package to sentences, one per violation:

* no two classes share a name;
* no hook is bound after construction: nobody assigns a callable to another object's attribute;
* a part never receives the whole `SecureSession` or `ControlPlane` it belongs to;
* every module has a docstring, and a package's says what it is for;
* what shows text to people (terminal, log, picture) is called by the module that makes it safe for the place.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "chimera_ros"

Modules = Mapping[str, ast.Module]  # by path relative to the root

# Whole objects that their own packages must not pass around: class -> (packages, modules that may name it).
WHOLES = {
    "SecureSession": (("chimera_ros/ros/",), ("chimera_ros/ros/session.py", "chimera_ros/ros/qkd.py")),
    "ControlPlane": (("chimera_ros/crypto/",), ("chimera_ros/crypto/member/host.py",)),
}

# What writes to a terminal, a log or a picture as it is -> the module that makes text safe for it.
# A name that begins with a point is a method of whatever object.
SINKS = {
    "print": "chimera_ros/terminal/lines.py",
    "input": "chimera_ros/terminal/lines.py",
    "getpass.getpass": "chimera_ros/terminal/lines.py",
    "sys.stdout.write": "chimera_ros/terminal/lines.py",
    "sys.stderr.write": "chimera_ros/terminal/lines.py",
    "logging.basicConfig": "chimera_ros/terminal/lines.py",
    "logging.StreamHandler": "chimera_ros/terminal/lines.py",
    "rich.print": "chimera_ros/terminal/styled.py",
    "rich.console.Console": "chimera_ros/terminal/styled.py",
    "rich.text.Text": "chimera_ros/terminal/styled.py",
    "rich.text.Text.assemble": "chimera_ros/terminal/styled.py",
    "rich.text.Text.from_markup": "chimera_ros/terminal/styled.py",
    "argparse.ArgumentParser": "chimera_ros/command_line.py",
    "matplotlib.figure.Figure": "chimera_ros/records/picture.py",
    "matplotlib.pyplot.figure": "chimera_ros/records/picture.py",
    "matplotlib.pyplot.subplots": "chimera_ros/records/picture.py",
    ".get_logger": "chimera_ros/ros/log.py",
}


def modules() -> Modules:
    """Every module of the package, parsed."""
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(), str(path)) for path in paths}


def shared_class_names(found: Modules) -> Iterator[str]:
    """Classes of one name in several modules; private ones count too, since a search finds both."""
    places = defaultdict(list)
    for path, tree in found.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    for name, where in sorted(places.items()):
        if len(where) > 1:
            yield f"{', '.join(where)}: class {name} stands more than once; give each a telling name"


def late_hooks(found: Modules) -> Iterator[str]:
    """Callables assigned to an attribute of another object."""
    for path, tree in found.items():
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for holder in ast.walk(tree):
            if not isinstance(holder, ast.ClassDef | ast.Module):
                continue
            methods = {
                node.name
                for node in holder.body
                if isinstance(node, ast.FunctionDef) and not node.decorator_list  # a property is no callable
            }
            for node in _own_nodes(holder):
                if not isinstance(node, ast.Assign):
                    continue
                for target in node.targets:
                    if _is_foreign(target) and _is_callable(node.value, methods, functions):
                        yield (
                            f"{path}:{node.lineno}: {ast.unparse(target)} is bound after construction; "
                            "pass it to the constructor or return an effect"
                        )


def _own_nodes(holder: ast.ClassDef | ast.Module) -> Iterator[ast.AST]:
    """Nodes of a class or module without those of the classes inside it."""
    waiting: list[ast.AST] = list(holder.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef):
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def _is_foreign(target: ast.expr) -> bool:
    """True if the attribute belongs to another object than `self` or `cls`."""
    if not isinstance(target, ast.Attribute):
        return False
    return not (isinstance(target.value, ast.Name) and target.value.id in ("self", "cls"))


def _is_callable(value: ast.expr, methods: set[str], functions: set[str]) -> bool:
    if isinstance(value, ast.Lambda):
        return True
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        return value.value.id == "self" and value.attr in methods
    return isinstance(value, ast.Name) and value.id in functions


def whole_objects(found: Modules) -> Iterator[str]:
    """Parameters that take an object which is more than the part needs."""
    for path, tree in found.items():
        for name, (packages, allowed) in WHOLES.items():
            if not path.startswith(packages) or path in allowed:
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.arg) and node.annotation is not None:
                    words = {part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)}
                    if name in words or (
                        isinstance(node.annotation, ast.Constant) and node.annotation.value == name
                    ):
                        yield f"{path}:{node.lineno}: {node.arg} is a whole {name}; take what is needed of it"


def missing_docstrings(found: Modules) -> Iterator[str]:
    """Modules, packages above all, that do not say what they are for."""
    for path, tree in found.items():
        if not ast.get_docstring(tree):
            yield f"{path}:1: no docstring; say in a noun phrase what this is"


def unguarded_sinks(found: Modules) -> Iterator[str]:
    """Calls that show text, past the module that makes it safe."""
    for path, tree in found.items():
        names = _imported(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            first, point, rest = _dotted(node.func).partition(".")
            name = names.get(first, first) + point + rest
            method = f".{node.func.attr}" if isinstance(node.func, ast.Attribute) else ""
            gate = SINKS.get(name) or SINKS.get(method)
            if gate is not None and path != gate:
                yield f"{path}:{node.lineno}: {name} shows text as it is; use {gate}"


def _dotted(node: ast.expr) -> str:
    """`a.b.c`; what is no name begins with a point."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _imported(tree: ast.Module) -> dict[str, str]:
    """Qualified names of what a module imports absolutely, by the name it has there."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {item.asname: item.name for item in node.names if item.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
    return names


RULES: tuple[Callable[[Modules], Iterator[str]], ...] = (
    shared_class_names,
    late_hooks,
    whole_objects,
    missing_docstrings,
    unguarded_sinks,
)


def main() -> int:
    """Prints every violation; exit status 1 if there is one."""
    found = modules()
    violations = [sentence for rule in RULES for sentence in rule(found)]
    for sentence in violations:
        print(sentence, file=sys.stderr)
    if not violations:
        print(f"structure: {len(found)} modules, {len(RULES)} rules kept")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
