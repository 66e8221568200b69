"""Paths, modules, commands, options and tables of the documents: each that is named exists."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from chimera_ros.cli import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md")),
        *(ROOT / "docs").glob("*.md"),
    )
)
# Always files of the repository; data and documents only where they are named with their folder.
SOURCE = r"py|msg|srv|sh|pml"
DATA = r"md|yaml|json|toml|xml|png|svg|txt|rst"
NAMED = re.compile(rf"[\w./*…-]+\.(?:{SOURCE})\b|[\w.*…-]+/[\w./*…-]+\.(?:{DATA})\b")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
FOLDER = re.compile(r"`([a-z_]+/(?:[a-z_]+/)*)`")
MODULE = re.compile(r"\bchimera_ros(?:\.\w+)+")
IMPORT = re.compile(r"^from (chimera_ros(?:\.\w+)*) import (.+)$", re.M)
# Made when something runs, part of a keystore, or the user's workspace.
ELSEWHERE = ("runs/", "build/", "log/", "src/", "retired/", "members/", "/")
COMMAND = re.compile(r"(?:^|[\s`/])chimera ([a-z][a-z-]+)([^`\n#|)]*)", re.M)
PLACEHOLDER = re.compile(r"[*…]|NAME|<")


def _text(document: str) -> str:
    return (ROOT / document).read_text()


@cache
def _files() -> tuple[Path, ...]:
    folders = ("bench", "chimera_ros", "config", "docs", "launch", "msg", "srv", "test", "tools", "verify")
    found = [path for path in ROOT.iterdir() if path.is_file()]
    return (*found, *(path for folder in folders for path in (ROOT / folder).rglob("*")))


def _exists(name: str, document: str) -> bool:
    """True if a path is in the repository, from its root, the package, or the folder of the document."""
    if "/" not in name:
        return any(path.name == name for path in _files())
    return any((base / name).exists() for base in (ROOT, ROOT / "chimera_ros", (ROOT / document).parent))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_path_that_is_named_exists(document: str) -> None:
    text = _text(document)
    names = {name.removeprefix("./") for name in NAMED.findall(text) if not PLACEHOLDER.search(name)}
    names |= set(LINK.findall(text)) | set(FOLDER.findall(text))
    missing = sorted(name for name in names if not name.startswith(ELSEWHERE) and not _exists(name, document))
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_that_is_named_exists(document: str) -> None:
    text = _text(document)
    names = set(MODULE.findall(text))
    names |= {
        f"{module}.{item.strip()}" for module, items in IMPORT.findall(text) for item in items.split(",")
    }
    assert not sorted(name for name in names if not _is_importable(name))


def _is_importable(name: str) -> bool:
    """True for a module, a member of one, or a generated message."""
    if name.split(".")[1] in ("msg", "srv"):
        return True
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    parent, _, member = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(parent), member)
    except ModuleNotFoundError:
        return False


@cache
def _parsers(command: str) -> dict[str, argparse.ArgumentParser]:
    """The parser of a command under "", those of its sub-commands under their names; empty for `sitl`."""
    module = importlib.import_module(COMMANDS[command].module)
    if not hasattr(module, "register"):
        return {}
    parser = argparse.ArgumentParser()
    module.register(parser)
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {"": parser, **{name: item for action in nested for name, item in action.choices.items()}}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_and_option_that_is_named_exists(document: str) -> None:
    wrong = []
    for command, rest in COMMAND.findall(_text(document)):
        if command not in COMMANDS:
            wrong.append(f"chimera {command}")
            continue
        parsers = _parsers(command)
        verbs = re.match(r"\s+([a-z]+(?:-[a-z]+)*(?:\|[a-z-]+)*)(?![\w./=])", rest)
        chosen = verbs[1].split("|") if verbs and len(parsers) > 1 else []
        wrong += [f"chimera {command} {verb}" for verb in chosen if verb not in parsers]
        known = {
            option
            for parser in parsers.values()
            for action in parser._actions
            for option in action.option_strings
        }
        if parsers:
            wrong += [f"chimera {command} {o}" for o in re.findall(r"--[a-z][a-z-]*", rest) if o not in known]
    assert not wrong


def test_the_checks_find_what_they_look_for() -> None:
    named = [name for document in DOCUMENTS for name in NAMED.findall(_text(document))]
    assert len(named) > 300
    commands = [found for document in DOCUMENTS for found in COMMAND.findall(_text(document))]
    assert len(commands) > 60
    assert COMMAND.findall("`chimera fly` and\nchimera log shew x --json") == [
        ("fly", ""),
        ("log", " shew x --json"),
    ]
    assert NAMED.findall("`ros/gone.py`, `gone.py`, `docs/gone.md`, totals.json") == [
        "ros/gone.py",
        "gone.py",
        "docs/gone.md",
    ]
    assert not _exists("ros/gone.py", "README.md")
    assert _exists("ros/cdr.py", "README.md")


def test_every_benchmark_has_a_section_for_its_table() -> None:
    from chimera_ros.commands.bench import ORDER
    from chimera_ros.commands.bench_table import has_section

    text = _text("docs/benchmarks.md")
    assert not [name for name in ORDER if not has_section(text, name)]


def test_every_measured_table_states_command_date_revision_and_machine() -> None:
    """The paragraph before a table, as `chimera bench --markdown` writes it."""
    blocks = re.split(r"\n\s*\n", _text("docs/benchmarks.md"))
    heading = re.compile(
        r"^`(?:chimera bench|python bench/)[^`]*`.*\d{4}-\d\d-\d\d,\s(?:revision [0-9a-f]{7,}|version \d)"
        r".*, \d+ cores?, ",
        re.S,
    )
    tables = [index for index, block in enumerate(blocks) if block.startswith("|")]
    assert len(tables) > 8
    assert not [blocks[index] for index in tables if not heading.match(blocks[index - 1])]
