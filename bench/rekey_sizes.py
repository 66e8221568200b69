"""Rotations of large swarms, simulated in one process: what the issuer and one member compute, no network.

The members are real: real certificates, packages and seeds. Those that are not measured share few hosts.
"""

from __future__ import annotations

import gc
import time
from concurrent.futures import ThreadPoolExecutor

from harness import Result

from chimera_ros.crypto.effects import Effect, Installed, Send
from chimera_ros.crypto.key_server.server import KeyServer
from chimera_ros.crypto.keystore.member_state import MemoryStore
from chimera_ros.crypto.member.host import HostConfig, SecureHost
from chimera_ros.crypto.testing.seeded import stream
from chimera_ros.crypto.testing.swarm import MemoryKeystore, Wire
from chimera_ros.crypto.trust import default_policy
from chimera_ros.crypto.trust.roles import Role
from chimera_ros.crypto.wire import ControlKind, ControlMessage

MEASURED = 3  # members in hosts of their own
CROWD = 200  # members of each other host
# A thousand packages take longer than the default batch where one process makes them all.
POLICY = default_policy.TEXT.replace("limits:", "limits:\n  batch_s: 10.0\n  checks_per_s: 10000", 1)


def measure_size(members: int, limit_ms: float, rounds: int) -> list[Result]:
    """Rows for a swarm of so many members, the crypto node among them."""
    keystore = MemoryKeystore(policy_text=POLICY)
    names = [f"drone_{number:04d}" for number in range(1, members)]
    identities = {name: keystore.enroll(name, Role.DRONE) for name in names}
    with ThreadPoolExecutor(8) as pool:  # as the session does it
        config = HostConfig(mapper=pool.map)
        server = KeyServer(
            keystore.enroll("crypto", Role.CRYPTO),
            keystore.trust,
            MemoryStore(),
            stream(0, "crypto"),
            host_config=config,
        )
        groups = {name: [name] for name in names[:MEASURED]}
        for first in range(MEASURED, len(names), CROWD):
            groups[f"crowd_{first}"] = names[first : first + CROWD]
        hosts = {
            group: SecureHost(
                [identities[name] for name in hosted],
                keystore.trust,
                {name: MemoryStore() for name in hosted},
                stream(0, group),
                config,
            )
            for group, hosted in groups.items()
        }
        wire = Wire()
        wire.add("crypto", server)
        for group, host in hosts.items():
            wire.add(group, host)

        def complete() -> bool:
            status = server.status()
            return status["packages_ready"] and len(status["members"]) == members

        wire.run_until(complete, 120.0)
        issuer_ms, member_ms, size = [], [], 0
        for _ in range(rounds):
            wire.run_until(complete, 60.0)
            gc.collect()
            began = time.perf_counter()
            effects = server.rotate("manual", wire.now, wire.wall_ns)
            issuer_ms.append((time.perf_counter() - began) * 1e3)
            announcement = _announcement(effects)
            size = sum(len(part) for part in announcement.parts)
            for name in names[:MEASURED]:
                began = time.perf_counter()
                found = hosts[name].handle(announcement, wire.now, wire.wall_ns)
                member_ms.append((time.perf_counter() - began) * 1e3)
                assert any(isinstance(effect, Installed) for effect in found)
                wire.perform(name, found)
            wire.perform("crypto", effects)
    label = f"{members} members:"
    return [
        Result(f"{label} issuer plus slowest member", max(issuer_ms) + max(member_ms), "ms", ("<", limit_ms)),
        Result(f"{label} issuer", max(issuer_ms), "ms"),
        Result(f"{label} slowest member", max(member_ms), "ms"),
        Result(f"{label} announcement", size / 1024.0, "KiB"),
    ]


def _announcement(effects: list[Effect]) -> ControlMessage:
    return next(
        effect.message
        for effect in effects
        if isinstance(effect, Send) and effect.message.kind is ControlKind.ANNOUNCEMENT
    )
