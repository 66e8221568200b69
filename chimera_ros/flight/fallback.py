"""What a follower obeys of a leader that has only fallback to speak with: hold, land, return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from .messages import CommandKind, SwarmCommand

OBEYED: Final = frozenset((CommandKind.HOLD, CommandKind.LAND, CommandKind.RETURN))


def narrowed(command: SwarmCommand, addressed: Iterable[str]) -> SwarmCommand | None:
    """The command for those of `addressed` (drones whose present incarnation it names) that it targets; None
    where nothing is left of it.
    """
    if command.kind not in OBEYED:
        return None
    targets = tuple(name for name in addressed if not command.targets or name in command.targets)
    return replace(command, targets=targets) if targets else None
