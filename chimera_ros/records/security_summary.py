"""What a process's status line says of its security (`SecurityState.to_status`), read with suspicion.

Fields of the wrong type are left out; texts and lists are bounded; nothing raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_TEXT: Final = 200
MAX_OUT: Final = 16
CHECKPOINTS: Final = ("sent", "dropped", "verified", "refused", "confirmed", "unconfirmed", "mismatched")


@dataclass(frozen=True, slots=True)
class SecuritySummary:
    """One process's security, or that of all together. `put_out` holds names and why."""

    provider: str = ""
    crypto_node: str = ""
    degraded: str = ""
    silent: bool = False
    stale: bool = False  # nobody who has spoken of security does so any more
    put_out: tuple[tuple[str, str], ...] = ()
    checkpoints: Mapping[str, int] = field(default_factory=dict)


def read_summary(value: object) -> SecuritySummary:
    """From the field `state` of a status line's `security`."""
    if not isinstance(value, Mapping):
        return SecuritySummary()
    counts = value.get("checkpoints")
    found = {}
    for name in CHECKPOINTS:
        count = counts.get(name) if isinstance(counts, Mapping) else None
        if type(count) is int and 0 <= count < 2**63:
            found[name] = count
    out = value.get("put_out")
    put_out = []
    for item in out[:MAX_OUT] if isinstance(out, list) else []:
        if isinstance(item, Mapping) and _text(item.get("name")):
            put_out.append((_text(item.get("name")), _text(item.get("why"))))
    return SecuritySummary(
        _text(value.get("provider")),
        _text(value.get("crypto_node")),
        _text(value.get("degraded")),
        value.get("silent") is True,
        False,
        tuple(put_out),
        found,
    )


def together(
    summaries: Iterable[SecuritySummary], checkpoints: Mapping[str, int], *, stale: bool = False
) -> SecuritySummary:
    """The swarm's security: who is out for anybody is out, who is degraded makes all degraded."""
    providers: dict[str, None] = {}
    put_out: dict[str, str] = {}
    crypto_node = degraded = ""
    silent = False
    for summary in summaries:
        if summary.provider:
            providers[summary.provider] = None
        for name, why in summary.put_out:
            if len(why) > len(put_out.get(name, "")):  # the crypto node knows more than "evicted"
                put_out[name] = why
        crypto_node = crypto_node or summary.crypto_node
        degraded = degraded or summary.degraded
        silent |= summary.silent
    return SecuritySummary(
        ", ".join(providers), crypto_node, degraded, silent, stale, tuple(put_out.items()), dict(checkpoints)
    )


def _text(value: object) -> str:
    """Text from a child goes to a terminal: bounded, and without control characters."""
    if not isinstance(value, str):
        return ""
    return "".join(char if char.isprintable() else " " for char in value[:MAX_TEXT])
