"""`chimera sitl`: the simulated vehicles alone."""

from __future__ import annotations

import argparse

from chimera_ros.commands.errors import FAILURE, MISUSE, CommandFailed
from chimera_ros.sitl.config import SitlError, SitlMisuse
from chimera_ros.sitl.main import register, simulate

__all__ = ["register", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Simulate until a signal."""
    try:
        simulate(arguments)
    except SitlError as error:
        raise CommandFailed(str(error), MISUSE if isinstance(error, SitlMisuse) else FAILURE) from None
    return 0
