"""How many crypto nodes a swarm has, and what is done when one ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from chimera_ros.commands.swarm import restart_policy
from chimera_ros.commands.swarm_setup import ensure_keystore
from chimera_ros.launcher.spec import SwarmSpec, processes
from chimera_ros.launcher.supervisor import Exited


def spec(standbys: int) -> SwarmSpec:
    return SwarmSpec(drones=1, mission=Path("m.yaml"), keystore=Path("k"), standbys=standbys)


@pytest.mark.parametrize("standbys", [0, 1, 3])
def test_each_crypto_node_has_a_name_a_key_and_a_process(standbys: int) -> None:
    names = [f"crypto_{rank}" for rank in range(1 + standbys)]
    assert [name for name, role in spec(standbys).members() if role == "crypto"] == names
    nodes = [item for item in processes(spec(standbys)) if item.module == "chimera_ros.nodes.crypto"]
    assert [item.name for item in nodes] == ["crypto", *names[1:]]
    for item, name in zip(nodes, names, strict=True):
        assert f'member:="{name}"' in item.arguments


@pytest.mark.parametrize("standbys", [-1, 4])
def test_more_than_there_are_ranks_is_refused(standbys: int) -> None:
    with pytest.raises(ValueError, match=f"--standbys is {standbys}; allowed are 0 to 3"):
        spec(standbys)


@pytest.mark.parametrize("name", ["crypto", "crypto_1"])
def test_a_crypto_node_is_started_again_at_once(name: str) -> None:
    ended = Exited(name, 1, -9, False, False, 5.0, 1, (), Path("log"))
    assert restart_policy(ended) == 0.2


def test_a_logger_that_keeps_ending_ends_no_flight() -> None:
    ended = Exited("telemetry_logger", 1, -9, False, False, 5.0, 1, (), Path("log"))
    assert restart_policy(ended) == 1.0
    assert restart_policy(replace(ended, starts=50)) == 10.0
    assert restart_policy(replace(ended, process="follower_0", starts=50)) is None


def test_swarms_that_start_at_the_same_moment_share_one_simulation_keystore(tmp_path: Path) -> None:
    both = replace(spec(1), keystore=tmp_path / "keys")
    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(ensure_keystore, both, simulated=True) for _ in range(4)]:
            started.result()
    ensure_keystore(both, simulated=False)
