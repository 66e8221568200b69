"""One identity, one process: seen in the ROS domain before a start, locked on the machine while in use."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from chimera_ros.cli import main
from chimera_ros.commands import command, describe
from chimera_ros.commands.start_checks import DomainListener
from chimera_ros.crypto.errors import IdentityInUse
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.launcher.spec import SwarmSpec
from chimera_ros.ros import SessionConfig
from chimera_ros.ros.live_members import LiveMembers, listen

LIMIT_S = 60.0


def live(keystore: Path, wanted: set[str], namespace: str = "/chimera") -> set[str]:
    wall_ns = time.time_ns()
    found = LiveMembers(Keystore(keystore).load_trust(wall_ns=wall_ns), wanted, wall_ns)  # certificates only
    listen(found, namespace)
    return found.found


def until_live(party, *names: str) -> None:
    """Wait until what the members offer can be seen; DDS needs a moment on a busy machine."""
    end = time.monotonic() + LIMIT_S
    while not set(names) <= live(party.keystore, set(names)):
        party.spin_for(0.1)
        assert time.monotonic() < end


def test_members_are_seen_as_long_as_they_live(party, keystore_path, tmp_path, ros_domain):
    party.join("crypto_0")
    party.join("drone_01", "drone_02")
    until_live(party, "crypto_0", "drone_01", "drone_02")
    assert live(party.keystore, {"leader_0", "drone_03"}) == set()
    assert live(party.keystore, {"crypto_0"}, "/another") == set()
    other = Keystore(tmp_path / "other", durable=False)
    other.create("test", wall_ns=time.time_ns())
    assert live(other.path, {"crypto_0", "drone_01"}) == set(), "those of another authority"
    spec = SwarmSpec(drones=5, mission=Path("m.yaml"), keystore=party.keystore, standbys=0)
    (sentence,) = DomainListener(spec).faults("test")
    assert "crypto_0, drone_01, drone_02 of keystore" in sentence
    assert f"are alive already in ROS domain {ros_domain}, namespace /chimera" in sentence
    assert "another ROS_DOMAIN_ID" in sentence
    for session in party.sessions.values():
        session.close()
    party.spin_for(0.1)  # the executor lets go of what was closed
    assert live(party.keystore, {"crypto_0", "drone_01"}) == set()
    assert DomainListener(spec).faults("test") == []


def test_the_operator_may_be_there_already(party):
    party.join("operator_0")
    until_live(party, "operator_0")
    spec = SwarmSpec(drones=5, mission=Path("m.yaml"), keystore=party.keystore, standbys=0)
    assert DomainListener(spec).faults("test") == []


def test_a_swarm_does_not_start_beside_itself(party, ros_domain, capsys, monkeypatch, tmp_path):
    party.join("crypto_0")
    until_live(party, "crypto_0")
    options = ["--drones=2", "--standbys=0", f"--keystore={party.keystore}", "--first-port=28540"]
    for start in (lambda: describe.main([*options, "--record=run"]), lambda: main(["swarm", *options])):
        assert start() == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert (
            f"crypto_0 of keystore {party.keystore} is alive already in ROS domain {ros_domain}"
            in captured.err
        )
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()
    assert main(["preflight", "--drones=2", "--json", f"--keystore={party.keystore}"]) == 1
    reasons = json.loads(capsys.readouterr().out)["reasons"]
    assert len(reasons["ROS domain"]) == 1
    assert f"ROS domain {ros_domain}" in reasons["ROS domain"][0]
    assert any("crypto_0 is in use by this process itself" in reason for reason in reasons["keys"])


def test_a_session_holds_its_identities_and_gives_them_back(party):
    config = SessionConfig(lock_wait_s=0.0)
    first = party.join("drone_01", "drone_02", config=config)
    with pytest.raises(IdentityInUse, match="drone_02 is in use by this process itself"):
        party.join("drone_03", "drone_02", config=config)
    party.join("drone_03", config=config).close()
    first.close()
    party.join("drone_02", "drone_01", config=config)


def test_a_session_that_fails_to_start_gives_its_identities_back(party):
    state = party.keystore / "members" / "drone_01" / "state.json"
    state.write_text("{}")
    config = SessionConfig(lock_wait_s=0.0)
    with pytest.raises(Exception, match="the state file is damaged") as caught:
        party.join("drone_01", config=config)
    state.unlink()
    party.join("drone_01", config=config)
    assert caught is not None  # the traceback, which refers to the first session, has lived until here


def test_two_commands_of_one_operator(ros_domain, keystore_path, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(command, "WAIT_S", 0.0)
    monkeypatch.setattr(command, "STOP_WAIT_S", 0.0)
    monkeypatch.setattr(command, "STOP_S", 0.2)
    monkeypatch.setattr(command, "JOIN_S", 0.2)
    keystore = Keystore(shutil.copytree(keystore_path, tmp_path / "keys"))
    given = ["--keystore", str(keystore.path)]
    with keystore.lock("operator_0"):
        assert main(["command", "hold", *given]) == 1
        captured = capfd.readouterr()
        assert "operator_0 is in use by this process itself" in captured.err
        assert captured.err.count("\n") == 1
        assert main(["command", "stop", *given]) == 1
        assert "no drone has acknowledged" in capfd.readouterr().err, "nothing prevents a stop"
    assert keystore.state_store("operator_0").load().stop_counter == 1


def test_a_stop_beside_a_station_of_the_same_operator(party):
    """Both count their stops, in memory and on the disk; no drone may take one for the other's."""
    station = party.join("operator_0")
    beside = party.join("operator_0", config=SessionConfig(lock_wait_s=0.0, lock_required=False))
    counters = []
    for session in (station, beside, beside, station):
        session.stop_drones("hold", ["drone_01"], lambda names: None, timeout_s=0.1)
        counters.append(session.host._members["operator_0"].state.stop_counter)
    assert counters == [1, 2, 3, 4]
    station.host._members["operator_0"].save(policy_version=7)
    assert Keystore(party.keystore).state_store("operator_0").load().stop_counter == 4
