"""How a sub-command says that something expected went wrong."""

from __future__ import annotations

FAILURE = 1
MISUSE = 2


class CommandFailed(Exception):
    """One sentence for people: what, where, how to mend it. `status` is the exit status."""

    def __init__(self, sentence: str, status: int = FAILURE) -> None:
        super().__init__(sentence)
        self.status = status
