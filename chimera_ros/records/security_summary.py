"""Security of one process as `SecurityState.to_status` gives it, and of all processes together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from chimera_ros.crypto.evidence.ledgers import CheckpointCounts
from chimera_ros.records.status_fields import StatusFields

MAX_REMOVED: Final = 16
CHECKPOINTS: Final = tuple(item.name for item in dataclasses.fields(CheckpointCounts))


@dataclass(frozen=True, slots=True)
class SecuritySummary:
    """Security of one process, or of all together.

    `removed` are members that are no longer in the epoch, evicted or left, with the reason; newest last.
    """

    provider: str = ""
    crypto_node: str = ""  # that issued the epoch
    degraded: str = ""  # why; empty: it is not
    silent: bool = False  # no crypto node is received: nothing is sent
    stale: bool = False  # the processes that reported their security do so no more
    removed: tuple[tuple[str, str], ...] = ()
    checkpoints: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The part of `SecurityState.to_status` that is read, under the same keys."""
        return {
            "provider": self.provider,
            "crypto_node": self.crypto_node,
            "degraded": self.degraded,
            "silent": self.silent,
            "put_out": [{"name": name, "why": why} for name, why in self.removed],
            "checkpoints": dict(self.checkpoints),
        }

    @classmethod
    def from_json(cls, fields: StatusFields | None) -> SecuritySummary:
        """From the field `state` of a status line's `security`."""
        if fields is None:
            return cls()
        removed = ((item.text("name", ""), item.text("why", "")) for item in fields.objects("put_out"))
        counts = fields.inner("checkpoints")
        found = {} if counts is None else {name: counts.count(name, None) for name in CHECKPOINTS}
        return cls(
            provider=fields.text("provider", ""),
            crypto_node=fields.text("crypto_node", ""),
            degraded=fields.text("degraded", ""),
            silent=fields.flag("silent", False),
            removed=tuple(item for item in removed if item[0])[:MAX_REMOVED],
            checkpoints={name: count for name, count in found.items() if count is not None},
        )


def together(
    summaries: Iterable[SecuritySummary], checkpoints: Mapping[str, int], *, stale: bool = False
) -> SecuritySummary:
    """The swarm's security: removed or degraded for one process is so for all."""
    providers: dict[str, None] = {}
    removed: dict[str, str] = {}
    crypto_node = degraded = ""
    silent = False
    for summary in summaries:
        if summary.provider:
            providers[summary.provider] = None
        for name, why in summary.removed:
            if len(why) > len(removed.get(name, "")):  # the crypto node also knows by whose order
                removed[name] = why
        crypto_node = crypto_node or summary.crypto_node
        degraded = degraded or summary.degraded
        silent |= summary.silent
    return SecuritySummary(
        ", ".join(providers), crypto_node, degraded, silent, stale, tuple(removed.items()), dict(checkpoints)
    )
