"""Runs of simulations by seed, and what happened in them; test_sim_seeds.py starts it as a process.

python seeded_runs.py "swarm, storm" 2 "flight, crossing" 5
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chimera_ros.crypto.effects import Installed, SecurityAlarm, Switched
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret
from chimera_ros.crypto.messages.announcement import parse_head
from chimera_ros.crypto.messages.control import Beat, Ready, Switch
from chimera_ros.crypto.testing.swarm import WALL_START_NS, LinkConditions, Swarm
from chimera_ros.crypto.wire import ControlKind, ControlMessage
from chimera_ros.flight.planning.mission_file import load_mission
from chimera_ros.flight.rehearsal.rehearsal import Rehearsal
from chimera_ros.moderation.for_flight import local_moderate

MISSIONS = Path(__file__).parents[2] / "config" / "missions"
LINKS = {
    "calm": LinkConditions(),
    "storm": LinkConditions(loss=0.2, duplication=0.1, min_delay_s=0.0005, max_delay_s=0.05),
    "reordering": LinkConditions(duplication=0.3, min_delay_s=0.001, max_delay_s=0.4),
}


def epoch_of(message: ControlMessage, swarm: str) -> int:
    """The epoch that a message names; 0: its kind names none."""
    body = message.parts[0]
    match message.kind:
        case ControlKind.ANNOUNCEMENT:
            return parse_head(body).epoch
        case ControlKind.BEAT:
            return Beat.parse(body, swarm).epoch
        case ControlKind.READY:
            return Ready.parse(body, swarm).epoch
        case ControlKind.SWITCH:
            return Switch.parse(body, swarm).epoch
        case _:
            return 0


def swarm_run(seed: int, link: str) -> list[Any]:
    """Standbys, evictions, restarts, a partition, the loss of all crypto nodes, fallback, recovery."""
    swarm = Swarm(drones=4, shards=3, seed=seed, link=LINKS[link], operator=True, standbys=2, rotate_s=4.0)
    swarm.fallback = FallbackSecret(WALL_START_NS, bytes(64))
    wire = swarm.wire
    swarm.join(90.0)
    wire.run(5.0)
    for evicted in ("drone_02", "drone_03"):
        name = swarm.in_charge()[-1]
        verdict = swarm.servers[name].evict(evicted, "operator", bytes(32), wire.now, wire.wall_ns)
        wire.perform(name, verdict.effects)
    wire.run(2.0)
    swarm.kill("crypto")
    wire.run(4.0)
    swarm.start_host("shard_2")
    wire.partition = {"crypto_1": 1, "shard_1": 1}
    wire.run(5.0)
    wire.partition = {}
    wire.run(5.0)
    swarm.kill("crypto_1")
    swarm.kill("crypto_2")
    wire.run(33.0)
    swarm.start_server("crypto")
    wire.run(6.0)
    sent: list[Any] = [
        (at, node, message.kind.value, epoch_of(message, swarm.trust.swarm))
        for at, node, message in wire.sent
    ]
    effects = [
        (at, node, *(getattr(effect, field, "") for field in ("member", "epoch", "severity", "text")))
        for at, node, effect in wire.effects
        if isinstance(effect, Installed | Switched | SecurityAlarm)
    ]
    keys = [identity.key.public_bytes() for identity in swarm.identities.values()]
    serials = [identity.member.serial for identity in swarm.identities.values()]
    return [*sent, *effects, hashlib.sha256(b"".join(keys)).hexdigest(), *map(hex, serials)]


def flight_run(seed: int, mission: str) -> list[Any]:
    """A flight with loss in which one drone fails; `crossing` with path moderation."""
    moderate = local_moderate(lambda: 0.0) if mission == "crossing" else None
    names = [f"drone_{number:02d}" for number in range(1, 6)]
    rehearsal = Rehearsal(
        load_mission(MISSIONS / f"{mission}.yaml"), names, seed=seed, loss=0.1, moderate=moderate
    )
    rehearsal.at(28.0, lambda r: r.dead.add("drone_05"))
    outcome = rehearsal.run(200.0)
    places = [vehicle.position for vehicle in rehearsal.vehicles.values()]
    return [repr(outcome), *map(repr, places)]


RUNS: dict[str, Callable[[int], list[Any]]] = {
    **{f"swarm, {link}": (lambda seed, link=link: swarm_run(seed, link)) for link in LINKS},
    **{
        f"flight, {mission}": (lambda seed, mission=mission: flight_run(seed, mission))
        for mission in ("survey_line", "crossing")
    },
}


def batched(arguments: list[str]) -> list[tuple[str, str]]:
    return list(zip(arguments[::2], arguments[1::2], strict=True))


if __name__ == "__main__":
    print(json.dumps([RUNS[name](int(seed)) for name, seed in batched(sys.argv[1:])]))
