"""Security protocol of the swarm (docs/protocol.md) as plain objects: time and bytes in, effects out.

Must not depend on: clocks, sockets, ROS, and the flight room. Its packages are layers, each importing only
those above it:

    errors, wire, encoding, counters, effects, rate_limit    common to all
    primitives     HKDF, AEAD, ML-DSA-87, HPKE, Merkle trees, replay window
    trust, entropy roles, certificates, policy; entropy pool
    messages       bodies of the signed messages
    keystore       identities and state on disk
    evidence, qkd  checkpoints and disclosures; quantum key distribution
    session        sealing and opening under an epoch
    member         member side of the key protocol
    key_server     crypto node: admission, epochs, failover
    testing        a swarm on an in-memory wire

Begin with `member/host.py`, the entry point of a process, and `key_server/server.py`; `testing/swarm.py`
shows how they are driven.
"""
