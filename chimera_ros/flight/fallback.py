"""Flight fallback rule: the commands that are sent and accepted while the swarm has no epoch.

Without a crypto node the leader sends, and a follower accepts, hold, land and return only, each addressed to
drones whose present incarnation the fallback message names (docs/protocol.md, "Fallback"). Keys and envelopes
of fallback are not handled here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from .messages import CommandKind, SwarmCommand

ACCEPTED_IN_FALLBACK: Final = frozenset((CommandKind.HOLD, CommandKind.LAND, CommandKind.RETURN))


def restricted(command: SwarmCommand, addressed: Iterable[str]) -> SwarmCommand | None:
    """The command with its targets restricted to `addressed` (drones whose present incarnation the message
    names); None if fallback does not carry its kind or no target is left.
    """
    if command.kind not in ACCEPTED_IN_FALLBACK:
        return None
    targets = tuple(name for name in addressed if not command.targets or name in command.targets)
    return replace(command, targets=targets) if targets else None
