"""Swarms whose epochs are too large for a proof in every package: a crypto node that forgot is shown them."""

from __future__ import annotations

import dataclasses

import pytest

from chimera_ros.crypto.effects import Effect
from chimera_ros.crypto.keystore.member_state import StoredState
from chimera_ros.crypto.member import member
from chimera_ros.crypto.messages.announcement import (
    EpochReason,
    Head,
    RosterEntry,
    SignedHead,
    encode_head,
    parse_head,
)
from chimera_ros.crypto.messages.body import signed
from chimera_ros.crypto.messages.control import MAX_PROOF, KeyPackage
from chimera_ros.crypto.messages.eviction import MAX_EVICTIONS
from chimera_ros.crypto.primitives.suite import suite_named
from chimera_ros.crypto.testing.swarm import LinkConditions, Swarm
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import CONTROL_LIMITS, SIGNATURE_BYTES, ControlKind, ControlMessage

MEMBERS = 1000


@pytest.fixture(autouse=True)
def _no_proof_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A swarm of a few members has the proofs of one of many hundred."""
    monkeypatch.setattr(member, "MAX_PROOF", 0)


def flying(**options: object) -> Swarm:
    swarm = Swarm(drones=6, shards=3, **options)  # type: ignore[arg-type]
    swarm.join(60.0)
    wire = swarm.wire
    for _ in range(3):
        wire.run_until(lambda: swarm.server.status()["packages_ready"], 60.0)
        wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
        wire.run(1.0)
    return swarm


def forget(swarm: Swarm) -> None:
    """The crypto node loses its process and its disk."""
    swarm.kill("crypto")
    swarm.stores["crypto"].save(StoredState())


def shown(swarm: Swarm, since: int) -> list[str]:
    """Who has sent an announcement that is not its own, since then."""
    return [
        node
        for _, node, message in swarm.wire.sent[since:]
        if message.kind is ControlKind.ANNOUNCEMENT and node not in swarm.servers
    ]


@pytest.mark.parametrize(
    "link", [LinkConditions(), LinkConditions(loss=0.2, max_delay_s=0.02)], ids=["calm", "storm"]
)
def test_a_crypto_node_that_forgot_goes_on_above_the_epoch_it_is_shown(link: LinkConditions) -> None:
    swarm = flying(link=link)
    epoch = swarm.epochs()["leader"]
    assert epoch is not None
    forget(swarm)
    since = len(swarm.wire.sent)
    swarm.start_server()
    swarm.wire.run_until(lambda: swarm.together(above=epoch), 25.0)
    made = [
        parse_head(message.parts[0]).epoch
        for _, node, message in swarm.wire.sent[since:]
        if message.kind is ControlKind.ANNOUNCEMENT and node == "crypto"
    ]
    assert link.loss or min(made) > epoch, "none below, which everybody would refuse"
    asked = [m for _, _, m in swarm.wire.sent[since:] if m.kind is ControlKind.KEY_REQUEST]
    assert 1 <= len(shown(swarm, since)) <= 2 * len(asked), "one sends it, the others hear that"
    assert link.loss or len(shown(swarm, since)) == 1


def test_a_crypto_node_that_forgot_waits_longer_for_what_several_members_name() -> None:
    """All that they show it in the first seconds is lost. If it began at its first number again, it would
    announce that a second time, and nobody would follow it any more.
    """
    swarm = flying()
    wire = swarm.wire
    epoch = swarm.epochs()["leader"] or 0
    forget(swarm)
    swarm.start_server()
    started, handle = wire.now, swarm.server.handle

    def deaf(message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        lost = message.kind is ControlKind.ANNOUNCEMENT and now < started + 5.0
        return [] if lost else handle(message, now, wall_ns)

    swarm.server.handle = deaf  # type: ignore[method-assign]
    wire.run_until(lambda: swarm.together(above=epoch), 12.0)


def test_nobody_sends_an_announcement_again_where_nothing_is_lacking() -> None:
    swarm = flying()
    since = len(swarm.wire.sent)
    swarm.wire.run(8.0)
    assert shown(swarm, since) == []


def test_a_standby_that_forgot_and_is_alone_is_shown_it_too() -> None:
    swarm = flying(standbys=1)
    epoch = swarm.epochs()["leader"]
    assert epoch is not None
    swarm.kill("crypto")
    swarm.kill("crypto_1")
    swarm.stores["crypto_1"].save(StoredState())
    swarm.start_server("crypto_1")
    swarm.identities.pop("crypto")
    swarm.wire.run_until(lambda: swarm.together(above=epoch), 20.0)


def first_epoch_s(claim: int) -> float:
    """Seconds until the honest members fly, where an insider's packages name this epoch."""
    swarm = Swarm(drones=2, shards=2)
    wire, swarm_name = swarm.wire, swarm.trust.swarm
    handle = wire.broadcast

    def lying(sender: str, message: object) -> None:
        if sender == "shard_0" and getattr(message, "kind", None) is ControlKind.KEY_PACKAGE:
            suite = suite_named(swarm.trust.policy.suite)
            body = KeyPackage.parse(message.parts[0], swarm_name, suite.name, suite.package_public_bytes)  # type: ignore[attr-defined]
            lie = dataclasses.replace(body, epoch=claim, transcript_hash=bytes(range(32)))
            message = signed(ControlKind.KEY_PACKAGE, lie.encode(), swarm.identities["drone_01"])
        handle(sender, message)

    wire.broadcast = lying  # type: ignore[method-assign]
    swarm.start()
    honest = ["crypto", "leader", "drone_02"]
    return wire.run_until(lambda: all(swarm.epochs()[name] is not None for name in honest), 8.0)


def test_an_insider_who_names_an_epoch_that_nobody_has_delays_a_start_by_two_seconds() -> None:
    assert first_epoch_s(4096) - first_epoch_s(0) < 2.0


def test_what_a_thousand_members_need_fits_an_announcement_and_no_package() -> None:
    suite = suite_named("CHIMERA-1")
    roster = tuple(
        RosterEntry(slot, f"drone_{slot:04d}", Role.DRONE, bytes(32), bytes(16), bytes(32))
        for slot in range(MEMBERS)
    )
    evictions = tuple(index.to_bytes(32, "big") for index in range(MAX_EVICTIONS))
    zeros = bytes(32)
    head = Head("swarm", suite.name, zeros, 4, zeros, EpochReason.TIME, zeros, zeros, evictions, 1, roster)
    encoded = encode_head(head)
    proof = SignedHead(encoded, zeros, zeros, bytes(SIGNATURE_BYTES)).encode()
    assert len(proof) > MAX_PROOF
    head_limit, _, seeds_limit, _ = CONTROL_LIMITS[ControlKind.ANNOUNCEMENT]
    assert len(encoded) <= head_limit
    assert MEMBERS * (suite.sealed_seed_bytes + 4) <= seeds_limit
