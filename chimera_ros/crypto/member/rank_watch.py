"""Detection of two crypto nodes that hold one rank."""

from __future__ import annotations

from collections.abc import Callable

from ..effects import SecurityAlarm
from ..trust.rank import rank_of


class RankWatch:
    """Alarms if two crypto nodes have one rank: both could announce the same number. `is_trusted`: whether a
    certificate, by fingerprint, is valid and not evicted. Tables are bounded by the enrolled members.
    """

    def __init__(self, is_trusted: Callable[[bytes, int], bool]) -> None:
        self._is_trusted = is_trusted
        self._holders: dict[int, tuple[str, bytes]] = {}  # by rank: name, fingerprint
        self._reported: set[tuple[str, str]] = set()

    def seen(self, name: str, fingerprint: bytes, wall_ns: int) -> list[SecurityAlarm]:
        """A crypto node whose signature, or whose place in a signed roster, was verified."""
        rank = rank_of(name)
        former, known = self._holders.get(rank, (name, fingerprint))
        if former == name or not self._is_trusted(known, wall_ns):
            self._holders[rank] = (name, fingerprint)
            return []
        if (former, name) in self._reported:
            return []
        self._reported.add((former, name))
        return [
            SecurityAlarm(
                "error",
                f"the crypto nodes {former} and {name} both have rank {rank} and could announce the same "
                "epoch numbers: revoke one, and enrol another under a name that ends in a free rank",
            )
        ]
