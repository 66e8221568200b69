"""Policy of a swarm: permitted publishers, lane and message lifespan of each channel, and protocol limits.

A lane implies its signature mode; a policy that contradicts it is invalid. Channel patterns are segments
joined by "/": a name, `{member}` (the publisher's own name), `*` (any one segment), or a final `**` (any
rest). The first matching rule decides; a channel that no rule matches is rejected.

Not handled here: the policy's signature (keystore.py) and versions seen before (member.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Final

from ..encoding import NAME_PATTERN
from ..errors import PolicyError
from ..primitives.labels import PROTOCOL_VERSION
from ..primitives.suite import SUITES, digest
from ..wire import LANE_NAMES, LANE_SIGNED
from .policy_yaml import YamlNode, read_yaml
from .roles import RESERVED_NAMES, Role

MODES: Final = {True: "always", False: "checkpoint"}
_MAX_CHANNEL: Final = 255
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Protocol limits; times in seconds. `_RANGES` has the permitted ranges."""

    rotation_s: float = 60.0  # a new epoch at least this often
    batch_s: float = 0.3  # a join batch closes after this
    missing_wait_s: float = 2.0  # a time rotation waits this long for missing packages
    switch_s: float = 0.2  # senders switch after this even if a live member is not ready
    live_s: float = 3.0  # received within this: live
    beat_s: float = 0.3
    takeover_s: float = 1.0  # without a beat for this long the next crypto node takes over
    silence_s: float = 30.0  # without a beat for this long a member sends only what fallback allows
    grace_s: float = 2.0  # a previous epoch stays open at least this long
    grace_max_s: float = 5.0  # and never longer than this
    package_life_s: float = 120.0
    challenge_life_s: float = 120.0
    restart_s: float = 10.0  # one new incarnation per name in this time
    clock_ahead_s: float = 0.2  # tolerance for a sender's clock ahead of the own one
    stop_life_s: float = 10.0
    volume_bytes: float = 100e6  # sealed by one sender under one key before it asks for a rotation
    telemetry_hz: float = 500.0  # opened of one sender on the lane telemetry, four seconds' worth at once
    checks_per_s: float = 200.0  # signature checks of received messages


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "rotation_s": (1.0, 3600.0),
    "batch_s": (0.05, 10.0),
    "missing_wait_s": (0.1, 30.0),
    "switch_s": (0.02, 2.0),
    "live_s": (0.5, 60.0),
    "beat_s": (0.05, 5.0),
    "takeover_s": (0.2, 30.0),
    "silence_s": (2.0, 600.0),
    "grace_s": (0.5, 10.0),
    "grace_max_s": (1.0, 30.0),
    "package_life_s": (10.0, 600.0),
    "challenge_life_s": (10.0, 600.0),
    "restart_s": (0.0, 600.0),
    "clock_ahead_s": (0.01, 5.0),
    "stop_life_s": (1.0, 60.0),
    "volume_bytes": (1e5, 1e12),
    "telemetry_hz": (10.0, 1e6),
    "checks_per_s": (10.0, 10000.0),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the policy. `lifespan_ns` is the maximum age of a message on this channel."""

    pattern: str
    publish: frozenset[Role]
    lane: int
    lifespan_ns: int
    service: bool = False
    segments: tuple[str, ...] = field(default=(), repr=False)

    @property
    def signed(self) -> bool:
        """True if every message is signed (mode `always`)."""
        return LANE_SIGNED[self.lane]

    @property
    def wild(self) -> bool:
        """True if the pattern has wildcards."""
        return any(segment in ("*", "**") for segment in self.segments)

    def matches(self, parts: tuple[str, ...]) -> bool:
        """True if the pattern matches this channel. `{member}` and wildcards never match a reserved name."""
        if self.segments[-1] == "**":
            fixed = self.segments[:-1]
            if len(parts) <= len(fixed):
                return False
        else:
            fixed = self.segments
            if len(parts) != len(fixed):
                return False
        for index, segment in enumerate(fixed):
            if segment in ("{member}", "*"):
                if index == 0 and parts[0] in RESERVED_NAMES:
                    return False
            elif segment != parts[index]:
                return False
        return not (self.segments[0] == "**" and parts[0] in RESERVED_NAMES)

    def permits(self, channel: str, name: str, role: Role, member_names: frozenset[str]) -> bool:
        """True if the member may publish on `channel`, which this rule matches.

        Where a wildcard matches a member's name, only that member may publish.
        """
        if role not in self.publish:
            return False
        parts = tuple(channel.split("/"))
        for index, part in enumerate(parts):
            segment = self.segments[index] if index < len(self.segments) else "**"
            if segment == "{member}":
                if part != name:
                    return False
            elif (self.wild and segment in ("*", "**")) and part != name and part in member_names:
                return False
        return True


@dataclass(frozen=True)
class Policy:
    """A parsed policy; `hash` is BLAKE3 of the file's bytes and part of every epoch's head."""

    swarm: str
    suite: str
    version: int
    issued_ns: int
    expires_ns: int
    limits: Limits
    rules: tuple[Rule, ...]
    hash: bytes

    def rule_for(self, channel: str) -> Rule | None:
        """The rule of a channel, or None if there is none or the name is invalid."""
        return _rule_for(self.rules, channel)


@lru_cache(maxsize=4096)
def _rule_for(rules: tuple[Rule, ...], channel: str) -> Rule | None:
    if len(channel) > _MAX_CHANNEL:
        return None
    parts = tuple(channel.split("/"))
    if not all(NAME_PATTERN.fullmatch(part) for part in parts):
        return None
    return next((rule for rule in rules if rule.matches(parts)), None)


def load_policy(content: str | bytes, filename: str = "policy.yaml") -> Policy:
    """Parses and validates a policy. Raises PolicyError naming file, line, field and allowed values."""
    root = read_yaml(content, filename)
    root.only("version", "swarm", "suite", "protocol", "issued", "expires", "limits", "channels", "services")
    protocol = root.need("protocol").integer(PROTOCOL_VERSION, PROTOCOL_VERSION)
    assert protocol == PROTOCOL_VERSION
    issued, expires = root.need("issued"), root.need("expires")
    if expires.moment_ns() <= issued.moment_ns():
        expires.fail("is not after `issued`")
    rules: list[Rule] = []
    services = root.get("services")
    for entry in services.items() if services else []:
        rules += _service(entry)
    channels = root.need("channels").items()
    for position, entry in enumerate(channels):
        rule = _channel(entry, last=position == len(channels) - 1)
        rules.append(rule)
    _check_duplicates(rules, root)
    return Policy(
        swarm=root.need("swarm").name(),
        suite=root.need("suite").one_of(tuple(SUITES)),
        version=root.need("version").integer(1, 2**31),
        issued_ns=issued.moment_ns(),
        expires_ns=expires.moment_ns(),
        limits=_limits(root.get("limits")),
        rules=tuple(rules),
        hash=digest(content if isinstance(content, bytes) else content.encode()),
    )


def _limits(node: YamlNode | None) -> Limits:
    if node is None:
        return Limits()
    names = tuple(item.name for item in fields(Limits))
    node.only(*names)
    given = {}
    for name in names:
        value = node.get(name)
        if value is not None:
            given[name] = value.number(*_RANGES[name])
    limits = Limits(**given)
    if limits.grace_max_s < limits.grace_s:
        node.need("grace_max_s" if node.get("grace_max_s") else "grace_s").fail(
            "grace_max_s must be at least grace_s"
        )
    return limits


def _lane(entry: YamlNode) -> tuple[int, int]:
    """(lane, lifespan_ns) of an entry; a signature mode, where given, must be the lane's own."""
    lane = LANE_NAMES.index(entry.need("lane").one_of(LANE_NAMES))
    mode = entry.get("signature")
    if mode is not None:
        given = mode.one_of(tuple(MODES.values()))
        if given != MODES[LANE_SIGNED[lane]]:
            mode.fail(
                f"lane {LANE_NAMES[lane]} has signature mode {MODES[LANE_SIGNED[lane]]}; choose another "
                "lane or leave `signature` out"
            )
    return lane, int(entry.need("lifespan_s").number(0.05, 3600.0) * _NS)


def _roles(node: YamlNode) -> frozenset[Role]:
    names = [item.one_of((*Role, "any")) for item in node.items()]
    return frozenset(Role) if "any" in names else frozenset(Role(name) for name in names)


def _segments(node: YamlNode, last: bool) -> tuple[str, ...]:
    pattern = node.string()
    parts = tuple(pattern.split("/"))
    for index, part in enumerate(parts):
        if part == "**":
            if index != len(parts) - 1:
                node.fail("`**` may only be the last segment")
            if len(parts) == 1 and not last:
                node.fail("the catch-all `**` must be the last channel: rules after it would never apply")
        elif part not in ("*", "{member}") and not NAME_PATTERN.fullmatch(part):
            node.fail(f"segment {part!r} is not a name of a-z 0-9 _, `{{member}}`, `*` or `**`")
    if "{member}" in parts and "**" in parts:
        node.fail("`{member}` and `**` cannot be in one pattern")
    return parts


def _channel(entry: YamlNode, last: bool) -> Rule:
    entry.only("channel", "publish", "lane", "signature", "lifespan_s")
    name = entry.need("channel")
    segments = _segments(name, last)
    lane, lifespan_ns = _lane(entry)
    return Rule(name.string(), _roles(entry.need("publish")), lane, lifespan_ns, False, segments)


def _service(entry: YamlNode) -> list[Rule]:
    entry.only("service", "request", "respond", "lane", "respond_lane", "signature", "lifespan_s")
    name = entry.need("service")
    segments = _segments(name, last=False)
    if "**" in segments:
        name.fail("a service's name cannot end in `**`")
    lane, lifespan_ns = _lane(entry)
    given = entry.get("respond_lane")
    respond_lane = lane if given is None else LANE_NAMES.index(given.one_of(LANE_NAMES))
    return [
        Rule(f"{name.string()}/{end}", _roles(entry.need(key)), end_lane, lifespan_ns, True, (*segments, end))
        for end, key, end_lane in (("request", "request", lane), ("response", "respond", respond_lane))
    ]


def _check_duplicates(rules: list[Rule], root: YamlNode) -> None:
    seen: set[str] = set()
    for rule in rules:
        if rule.pattern in seen:
            root.fail(f"two rules for {rule.pattern}; the second would never apply")
        seen.add(rule.pattern)


__all__ = ["Limits", "Policy", "PolicyError", "Rule", "load_policy"]
