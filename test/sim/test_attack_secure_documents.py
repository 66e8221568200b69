"""Revocation lists and policies across failover: who knows the newest tells the crypto node in charge."""

from __future__ import annotations

import pytest

from chimera_ros.crypto.testing.swarm import Swarm
from chimera_ros.crypto.trust.signed_documents import TrustFiles


@pytest.mark.parametrize("document", ["policy", "crl"])
def test_a_standby_that_missed_a_document_learns_it_from_the_members(document: str) -> None:
    """The node in charge hands it on to all but the standby, and dies."""
    swarm = Swarm(drones=3, shards=3, operator=True, standbys=1)
    swarm.join()
    wire, trust = swarm.wire, swarm.server.trust
    wire.run_until(lambda: swarm.server.status()["packages_ready"])
    before = swarm.host_of("leader").epoch("leader") or 0
    wire.cut.add("crypto_1")
    files = TrustFiles(trust.crl_der, trust.policy_text, trust.policy_signature)
    if document == "policy":
        text, signature = swarm.keystore.policy(2)
        files = TrustFiles(trust.crl_der, text, signature)
    else:
        out = swarm.identities["drone_02"]
        files = TrustFiles(swarm.keystore.crl(2, out), trust.policy_text, trust.policy_signature)
    wire.perform("crypto", swarm.server.update_trust(files, wire.now, wire.wall_ns))
    wire.run(0.8)
    swarm.kill("crypto")
    wire.cut.clear()
    swarm.identities.pop("crypto")
    if document == "crl":
        swarm.identities.pop("drone_02")
    server = swarm.servers["crypto_1"]
    wire.run_until(
        lambda: (
            swarm.together(above=before + 4)
            and (server.trust.policy.version if document == "policy" else server.trust.crl.number) == 2
        ),
        12.0,
    )
    names = {entry.name for entry in swarm.host_of("leader").roster("leader")}
    assert ("drone_02" in names) == (document == "policy")
