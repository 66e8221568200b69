"""Revocation lists and policies that come in flight: obeyed once, stored, never rolled back."""

from __future__ import annotations

import dataclasses

import pytest

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.errors import Rejected, RejectReason
from chimera_ros.crypto.keystore.member_state import CRL_FILE
from chimera_ros.crypto.testing.swarm import MemoryKeystore, Swarm
from chimera_ros.crypto.trust.signed_documents import TrustFiles
from chimera_ros.crypto.wire import ControlKind, ControlMessage

TYPE = "T"


def swarm_of(drones: int = 3) -> Swarm:
    swarm = Swarm(drones=drones, shards=drones, operator=True)
    swarm.join()
    swarm.wire.run_until(lambda: swarm.server.status()["packages_ready"])
    return swarm


def install(swarm: Swarm, crl: bytes | None = None, policy: tuple[bytes, bytes] | None = None) -> None:
    """New files appear in the crypto node's keystore."""
    trust = swarm.server.trust
    text, signature = policy or (trust.policy_text, trust.policy_signature)
    files = TrustFiles(crl if crl is not None else trust.crl_der, text, signature)
    wire = swarm.wire
    wire.perform("crypto", swarm.server.update_trust(files, wire.now, wire.wall_ns))


def alarms(swarm: Swarm, words: str) -> list[str]:
    return [alarm.text for alarm in swarm.wire.of(SecurityAlarm) if words in alarm.text]


def test_a_revocation_list_puts_its_members_out_in_flight() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    captured = swarm.hosts["shard_1"]
    kept = captured.seal("drone_02/telemetry", TYPE, b"", wire.wall_ns, "drone_02")
    epoch = swarm.server.status()["epoch"]
    install(swarm, swarm.keystore.crl(2, swarm.identities["drone_02"]))
    others = [name for name in swarm.identities if name != "drone_02"]
    took = wire.run_until(lambda: all((swarm.host_of(n).epoch(n) or 0) > epoch for n in others), 1.0)
    assert took < 0.01
    wire.run(0.5)
    assert "drone_02" not in swarm.server.status()["members"]
    (order,) = swarm.stores["crypto"].state.orders
    assert (order.name, order.by) == ("drone_02", "crl")
    for name in others:
        assert swarm.host_of(name).context.trust.crl.number == 2
        assert swarm.stores[name].state.crl_number == 2
        assert swarm.stores[name].documents[CRL_FILE]
    with pytest.raises(Rejected):
        swarm.hosts["leader"].open("drone_02/telemetry", TYPE, kept, wire.wall_ns)
    assert alarms(swarm, "the certificate of drone_02 has been revoked")
    wire.run(11.0)
    swarm.start_host("shard_1")
    wire.run(3.0)
    assert not swarm.host_of("drone_02").ready("drone_02")
    assert swarm.server.host.counters.control[RejectReason.REVOKED] > 0


def test_a_revoked_sender_is_not_opened_where_no_crypto_node_is_left() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    wire.remove("crypto")
    leader = swarm.hosts["leader"]
    server = swarm.server.host
    server.context.trust.crl_der = swarm.keystore.crl(2, swarm.identities["drone_02"])
    (update, _) = server.control.trust_updates.messages()
    leader.handle(update, wire.now, wire.wall_ns)
    for name, good in (("drone_01", True), ("drone_02", False)):
        sealed = swarm.host_of(name).seal(f"{name}/telemetry", TYPE, b"", wire.wall_ns, name)
        if good:
            assert leader.open(f"{name}/telemetry", TYPE, sealed, wire.wall_ns).sender == name
        else:
            with pytest.raises(Rejected, match="revoked"):
                leader.open(f"{name}/telemetry", TYPE, sealed, wire.wall_ns)


def test_lists_and_policies_are_never_rolled_back_and_never_taken_from_strangers() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    install(swarm, swarm.keystore.crl(5))
    install(swarm, policy=swarm.keystore.policy(4))
    wire.run(1.0)
    updates = [message for _, _, message in wire.sent if message.kind is ControlKind.TRUST]
    leader = swarm.hosts["leader"]
    assert (leader.context.trust.crl.number, leader.policy.version) == (5, 4)
    before = leader.counters.control.copy()
    stranger = MemoryKeystore()
    server = swarm.server.host
    trust = server.context.trust
    saved = dataclasses.replace(trust)
    for crl, policy in (
        (swarm.keystore.crl(4), swarm.keystore.policy(3)),  # rollback
        (stranger.crl(9), stranger.policy(9)),  # another authority
        (b"junk", (b"junk", b"")),
    ):
        trust.crl_der, trust.policy_text, trust.policy_signature = crl, *policy
        for message in server.control.trust_updates.messages():
            assert leader.handle(message, wire.now, wire.wall_ns) == []
        trust.crl_der, trust.policy_text = saved.crl_der, saved.policy_text
        trust.policy_signature = saved.policy_signature
        install(swarm, crl, policy)
    assert (leader.context.trust.crl.number, leader.policy.version) == (5, 4)
    assert (swarm.server.trust.crl.number, swarm.server.trust.policy.version) == (5, 4)
    counts = leader.counters.control - before
    assert (counts[RejectReason.STALE], counts[RejectReason.SIGNATURE], counts[RejectReason.MALFORMED]) == (
        2,
        3,
        1,
    )
    assert len(alarms(swarm, "was not taken over")) == 6
    for message in updates:
        assert leader.handle(message, wire.now, wire.wall_ns) == []
    swarm.start_host("leader")
    again = swarm.hosts["leader"]
    assert (again.context.trust.crl.number, again.policy.version) == (5, 4), "from its own disk"


def test_a_newer_policy_takes_effect_with_the_next_epoch() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    epoch = swarm.server.status()["epoch"]
    install(swarm, policy=swarm.keystore.policy(2, ("silence_s: 30.0", "silence_s: 9.0")))
    wire.run_until(lambda: swarm.together(above=epoch), 3.0)
    for name in swarm.identities:
        host = swarm.host_of(name)
        assert (host.policy.version, host.context.limits.silence_s) == (2, 9.0)
        assert host.announcement(host.epoch(name)).head.policy_hash == host.policy.hash
    assert alarms(swarm, "policy 2 applies from the next epoch on")


def test_another_suite_is_not_taken_over_in_flight() -> None:
    swarm = swarm_of()
    install(swarm, policy=swarm.keystore.policy(2, ("suite: CHIMERA-1 ", "suite: CHIMERA-1-CNSA ")))
    assert swarm.server.trust.policy.version == 1
    assert alarms(swarm, "needs a restart of the whole swarm")


def test_a_member_that_missed_the_update_asks_for_it() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    epoch = swarm.server.status()["epoch"]
    whole = wire.broadcast

    def lossy(sender: str, message: object) -> None:
        if not (isinstance(message, ControlMessage) and message.kind is ControlKind.TRUST):
            whole(sender, message)

    wire.broadcast = lossy  # type: ignore[method-assign]
    install(swarm, policy=swarm.keystore.policy(2))
    wire.run(0.3)
    assert swarm.hosts["leader"].policy.version == 1
    assert swarm.host_of("leader").epoch("leader") == epoch
    wire.broadcast = whole  # type: ignore[method-assign]
    wire.run_until(lambda: swarm.together(above=epoch), 5.0)
    assert swarm.hosts["leader"].policy.version == 2


def test_a_fresh_list_lets_members_join_again() -> None:
    swarm = Swarm(drones=2, shards=2)
    short = swarm.keystore.crl(2, days=0.0002)  # 17 s
    swarm.start_server()
    swarm.start_host("leader")
    swarm.start_host("shard_0")
    install(swarm, short)
    swarm.wire.run(30.0)
    assert swarm.host_of("drone_01").ready("drone_01"), "flight goes on"
    swarm.start_host("shard_1")
    swarm.wire.run(4.0)
    assert not swarm.host_of("drone_02").ready("drone_02")
    install(swarm, swarm.keystore.crl(3))
    swarm.wire.run_until(lambda: swarm.host_of("drone_02").ready("drone_02"), 8.0)


def test_a_revoked_crypto_node_issues_nothing_more() -> None:
    swarm = swarm_of()
    wire = swarm.wire
    install(swarm, swarm.keystore.crl(2, swarm.identities["crypto"]))
    sent = len(wire.sent)
    epoch = swarm.server.status()["epoch"]
    wire.run(5.0)
    kinds = {message.kind for _, node, message in wire.sent[sent:] if node == "crypto"}
    assert not kinds & {ControlKind.ANNOUNCEMENT, ControlKind.BEAT, ControlKind.KEY_REQUEST}
    assert swarm.server.status()["epoch"] == epoch
    assert alarms(swarm, "is revoked and issues no more epochs")
    assert swarm.hosts["leader"].ready("leader"), "data flows on until the silence"
