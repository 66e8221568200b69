"""What lies on the disk is not for other users of the machine."""

import stat

from chimera_ros.commands.swarm_setup import simulation_keystore
from chimera_ros.crypto import default_policy
from chimera_ros.records.mcap_log import FlightRecorder


def test_records_are_their_owners_alone(tmp_path):
    recorder = FlightRecorder(tmp_path / "run", namespace="/chimera")
    recorder.write("a/b", "std_msgs/msg/Bool", "bool data\n", b"\x00\x01\x00\x00\x01", 1, 2, "drone_01")
    recorder.close()
    files = list((tmp_path / "run").glob("*.mcap"))
    assert files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_simulations_do_not_fly_on_under_an_earlier_policy(monkeypatch):
    before = simulation_keystore()
    monkeypatch.setattr(default_policy, "TEXT", default_policy.TEXT + "# another\n")
    assert simulation_keystore() != before
