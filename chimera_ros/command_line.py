"""Command lines of all executables: a parser whose errors are one sentence, and the types of its options.

Whatever is wrong with an argument ends the process with exit status 2 before anything starts. Ranges that
depend on more than one option are checked by the command.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import tempfile
from pathlib import Path
from typing import NoReturn

from chimera_ros.crypto.encoding import MAX_NAME, is_name
from chimera_ros.formats import display, numbers
from chimera_ros.formats.text import excerpt

_NAMESPACE = re.compile(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+")
_MAX_NAMESPACE = 200  # ROS allows 245 for namespace and node name together with /
_MAX_PATH, _MAX_PATH_PART = 4095, 255  # bytes (Linux)


class OneSentenceParser(argparse.ArgumentParser):
    """argparse without the usage before an error."""

    def error(self, message: str) -> NoReturn:
        """Print the error in one sentence; exit status 2."""
        self.exit(2, f"{self.prog}: {display.line(message)}; `{self.prog} --help` shows what is allowed\n")


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
    return _name(text, "member")


def swarm_name(text: str) -> str:
    """Name of a swarm."""
    return _name(text, "swarm")


def _name(text: str, what: str) -> str:
    if not is_name(text):
        raise argparse.ArgumentTypeError(
            f"'{excerpt(text)}' is no {what} name: use 1 to {MAX_NAME} of a-z 0-9 _"
        )
    return text


def ros_namespace(text: str) -> str:
    """A ROS namespace, as rmw_validate_namespace has it; absolute, as rclpy makes it."""
    absolute = text if text.startswith("/") else f"/{text}"
    if not text or not _NAMESPACE.fullmatch(absolute) or len(absolute) > _MAX_NAMESPACE:
        raise argparse.ArgumentTypeError(
            f"'{excerpt(text)}' is no namespace: write /name or /name/name, each of a-z A-Z 0-9 _ and "
            "beginning with a letter or _"
        )
    return absolute


def some_path(text: str) -> Path:
    """A path that the file system can hold. Nothing need exist there."""
    encoded = os.fsencode(some_text(text))
    if len(encoded) > _MAX_PATH or max(map(len, encoded.split(b"/"))) > _MAX_PATH_PART:
        raise argparse.ArgumentTypeError(f"'{excerpt(text)}…' is longer than a path can be")
    return Path(text)


def output_file(text: str) -> Path:
    """Path of a file to be made or replaced with its folder; it is no folder, device or pipe itself."""
    file = some_path(text)
    try:
        replaceable = file.is_file() or not file.exists()
        why = unwritable_folder(file.parent) if replaceable else "it is not a file"
    except OSError as error:
        why = error.strerror or str(error)
    if why:
        raise argparse.ArgumentTypeError(f"{file} cannot be written: {why}")
    return file


def unwritable_folder(folder: Path) -> str:
    """Why files cannot be made in a folder, which need not exist yet; empty if they can."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is not a folder"
        with tempfile.TemporaryFile(dir=folder):  # permissions do not show everything: read-only, /proc
            return ""
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return ""  # a full disk may have room again; it costs records, not a flight
        return f"{folder}: {error.strerror or error}"
