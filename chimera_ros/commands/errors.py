"""Expected failure of a sub-command, with its exit status."""

from __future__ import annotations

FAILURE = 1
MISUSE = 2


class CommandFailed(Exception):
    """One sentence for people: what failed, where, what to do. `status` is the exit status."""

    def __init__(self, sentence: str, status: int = FAILURE) -> None:
        super().__init__(sentence)
        self.status = status
