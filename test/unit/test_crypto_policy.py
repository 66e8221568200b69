"""The policy: what the shipped one allows, and what a mistake in a file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from chimera_ros.crypto.errors import PolicyError
from chimera_ros.crypto.keystore.keystore import with_validity
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.trust.policy import Policy, load_policy
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import Lane

NAMES = frozenset({"crypto", "leader", "drone_01", "drone_02", "survey_box"})
FULL = with_validity(default_policy.TEXT, "testswarm", 1_900_000_000_000_000_000, 100)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(FULL)


def test_shipped_file_is_the_built_in_policy() -> None:
    shipped = Path(__file__).parents[2] / "config" / "policy.yaml"
    assert shipped.read_text() == default_policy.TEXT


@pytest.mark.parametrize(
    ("channel", "name", "role", "allowed"),
    [
        ("leader/command", "leader", Role.LEADER, True),
        ("leader/command", "drone_01", Role.DRONE, False),
        ("drone_01/telemetry", "drone_01", Role.DRONE, True),
        ("drone_01/telemetry", "drone_02", Role.DRONE, False),
        ("drone_01/ack", "drone_01", Role.DRONE, True),
        ("drone_01/ack", "drone_01", Role.MONITOR, False),
        ("crypto/clock/request", "drone_01", Role.DRONE, True),
        ("crypto/clock/request", "monitor", Role.MONITOR, True),
        ("crypto/clock/response", "crypto", Role.CRYPTO, True),
        ("crypto/clock/response", "drone_01", Role.DRONE, False),
        ("crypto/rotate/request", "operator", Role.OPERATOR, True),
        ("crypto/rotate/request", "leader", Role.LEADER, False),
        ("leader/steps/request", "gateway", Role.GATEWAY, True),
        ("path_moderation/moderate/request", "leader", Role.LEADER, True),
        ("path_moderation/moderate/response", "path_moderation", Role.MODERATOR, True),
        ("survey/pose", "drone_02", Role.DRONE, True),
        ("survey/start/request", "drone_02", Role.DRONE, True),
        ("drone_01/camera", "drone_01", Role.DRONE, True),
        ("drone_01/camera", "drone_02", Role.DRONE, False),
        ("survey/drone_01", "drone_02", Role.DRONE, False),
    ],
)
def test_who_may_publish_where(policy: Policy, channel: str, name: str, role: Role, allowed: bool) -> None:
    rule = policy.rule_for(channel)
    assert rule is not None
    assert rule.permits(channel, name, role, NAMES) is allowed


@pytest.mark.parametrize(
    "channel",
    ["leader/other", "crypto/epoch", "operator/stop", "crypto", "", "/a", "a//b", "A/b", "a/b c", "a" * 400],
)
def test_reserved_and_illegal_channels_have_no_rule(policy: Policy, channel: str) -> None:
    assert policy.rule_for(channel) is None


def test_lanes_and_lifespans(policy: Policy) -> None:
    expected = {
        "leader/command": (Lane.COMMAND, True, 2.0),
        "leader/trajectory": (Lane.PLAN, True, 5.0),
        "leader/heartbeat": (Lane.TELEMETRY, False, 1.0),
        "drone_01/telemetry": (Lane.TELEMETRY, False, 1.0),
        "drone_01/ack": (Lane.COMMAND, True, 2.0),
        "crypto/clock/request": (Lane.TELEMETRY, False, 1.0),
        "crypto/rotate/response": (Lane.COMMAND, True, 2.0),
        "path_moderation/moderate/request": (Lane.PLAN, True, 5.0),
        "survey/pose": (Lane.BULK, False, 5.0),
    }
    for channel, wanted in expected.items():
        rule = policy.rule_for(channel)
        assert rule is not None
        assert (rule.lane, rule.signed, rule.lifespan_ns / 1e9) == wanted, channel


ONE = "  - {channel: leader/command, publish: [leader], lane: command, lifespan_s: 2.0}"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            ONE,
            ONE.replace("}", ", signature: checkpoint}"),
            r"signature: lane command has signature mode always",
        ),
        (
            ONE,
            ONE.replace("command, lifespan", "fast, lifespan"),
            r"lane: 'fast' is not one of command, telemetry",
        ),
        (ONE, ONE.replace("2.0", "-1"), r"lifespan_s: '-1' is not a number from 0.05 to 3600"),
        (ONE, ONE.replace("[leader]", "[pilot]"), r"publish\[0\]: 'pilot' is not one of crypto"),
        (ONE, ONE.replace("publish", "publishers"), r"publishers: is unknown; allowed are channel, publish"),
        (ONE, ONE.replace("leader/command", "leader/**/x"), r"`\*\*` may only be the last"),
        (ONE, ONE.replace("leader/command", "Leader/command"), r"segment 'Leader' is not a name"),
        (ONE, ONE.replace("leader/command", '"**"'), r"catch-all `\*\*` must be the last"),
        (ONE, f"{ONE}\n{ONE}", r"two rules for leader/command"),
        ("suite: CHIMERA-1 ", "suite: RSA ", r"suite: 'RSA' is not one of CHIMERA-1, CHIMERA-1-CNSA"),
        ("protocol: 1", "protocol: 2", r"protocol: '2' is not 1"),
        ("version: 1", "version: zero", r"version: 'zero' is not a whole number"),
        ("swarm: testswarm", "swarm: Test Swarm", r"swarm: 'Test Swarm' is no name"),
        ("rotation_s: 60.0", "rotation_s: 0.1", r"limits\.rotation_s: '0.1' is not a number from 1 to 3600"),
        ("silence_s: 30.0", "silense_s: 30.0", r"limits\.silense_s: is unknown"),
        ("issued:", "expired:", r"expired: is unknown"),
        ("protocol: 1", "protocol: [", r"policy.yaml, line \d+: is not YAML"),
    ],
)
def test_mistakes_name_line_field_and_what_is_allowed(old: str, new: str, complaint: str) -> None:
    assert old in FULL
    text = FULL.replace(old, new, 1)
    with pytest.raises(PolicyError, match=complaint) as caught:
        load_policy(text)
    assert "policy.yaml, line " in str(caught.value)
    if "two rules" not in complaint and "not YAML" not in complaint:
        line = next(n for n, row in enumerate(text.splitlines(), 1) if row not in FULL.splitlines())
        assert f"line {line}," in str(caught.value)


def test_hash_covers_every_byte() -> None:
    assert load_policy(FULL).hash != load_policy(FULL + "# comment\n").hash
