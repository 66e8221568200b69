"""Command lines of all executables: a parser whose errors are one sentence, and the types of its options.

Whatever is wrong with an argument ends the process with exit status 2 before anything starts. Ranges that
depend on more than one option are checked by the command.
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Final, NoReturn

from chimera_ros.crypto.encoding import MAX_NAME, is_name
from chimera_ros.formats import numbers
from chimera_ros.formats.text import excerpt

MAX_SENTENCE: Final = 8192
_NAMESPACE = re.compile(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+")
_MAX_NAMESPACE = 200  # ROS allows 245 for namespace and node name together with /
_MAX_PATH, _MAX_PATH_PART = 4095, 255  # bytes (Linux)


class OneSentenceParser(argparse.ArgumentParser):
    """argparse without the usage before an error."""

    def error(self, message: str) -> NoReturn:
        """Print the error in one sentence; exit status 2."""
        self.exit(2, f"{self.prog}: {one_line(message)}; `{self.prog} --help` shows what is allowed\n")


def one_line(text: str) -> str:
    """A message for a terminal: escapes for what is not printable, shortened in the middle where too long."""
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    half = MAX_SENTENCE // 2
    return plain if len(plain) <= MAX_SENTENCE else f"{plain[:half]} … {plain[-half:]}"


def whole(text: str) -> int:
    """A whole number."""
    try:
        return numbers.integer(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{excerpt(text)}' is not a whole number") from None


def number(text: str) -> float:
    """A finite number."""
    try:
        return numbers.number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{excerpt(text)}' is not a finite number") from None


def some_text(text: str) -> str:
    """Text that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def member_name(text: str) -> str:
    """Name of a member of a swarm."""
    if not is_name(text):
        raise argparse.ArgumentTypeError(
            f"'{excerpt(text)}' is no member name: use 1 to {MAX_NAME} of a-z 0-9 _"
        )
    return text


def ros_namespace(text: str) -> str:
    """A ROS namespace, as rmw_validate_namespace has it; absolute, as rclpy makes it."""
    absolute = text if text.startswith("/") else f"/{text}"
    if not _NAMESPACE.fullmatch(absolute) or len(absolute) > _MAX_NAMESPACE:
        raise argparse.ArgumentTypeError(
            f"'{excerpt(text)}' is no namespace: write /name or /name/name, each of a-z A-Z 0-9 _ and "
            "beginning with a letter or _"
        )
    return absolute


def path(text: str) -> Path:
    """A path that the file system can hold. Nothing need exist there."""
    encoded = os.fsencode(some_text(text))
    if len(encoded) > _MAX_PATH or max(map(len, encoded.split(b"/"))) > _MAX_PATH_PART:
        raise argparse.ArgumentTypeError(f"'{excerpt(text)}…' is longer than a path can be")
    return Path(text)


def output_file(text: str) -> Path:
    """Path of a file to be written: its folder exists and is writable, it is no folder itself."""
    file = path(text)
    try:
        why = _unwritable(file)
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise argparse.ArgumentTypeError(f"{file} cannot be written: {why}")
    return file


def _unwritable(file: Path) -> str:
    if file.is_dir():
        return "it is a folder"
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    return "" if os.access(file if file.exists() else file.parent, os.W_OK) else "permission denied"
