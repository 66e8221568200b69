"""What lies on the disk is not for other users of the machine."""

import stat
from pathlib import Path

from chimera_ros.commands.swarm_setup import simulation_keystore
from chimera_ros.crypto.keystore.member_state import FileStore, StoredState
from chimera_ros.crypto.trust import default_policy
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


def test_a_number_file_that_a_power_cut_spoilt_costs_no_more_than_the_number(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state.json")
    store.save(StoredState(highest_epoch=8, stop_counter=3))
    store.save(StoredState(highest_epoch=12, stop_counter=3))  # the number alone: not forced to the disk
    assert FileStore(tmp_path / "state.json").load().highest_epoch == 12
    number = tmp_path / "state.json.number"
    assert stat.S_IMODE(number.stat().st_mode) == 0o600
    whole = number.read_bytes()
    for spoilt in (
        b"",
        whole[:-1],
        whole + b"\0",
        bytes((whole[0] ^ 1,)) + whole[1:],
        whole[:15] + b"\xff" + whole[16:],
    ):
        number.write_bytes(spoilt)
        assert FileStore(tmp_path / "state.json").load() == StoredState(highest_epoch=8, stop_counter=3)
    store.save(StoredState(highest_epoch=16, stop_counter=4))
    assert FileStore(tmp_path / "state.json").load() == StoredState(highest_epoch=16, stop_counter=4)


def test_a_number_and_evictions_that_were_not_forced_are_both_remembered(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "state.json")
    gone = frozenset({bytes(32)})
    store.save(StoredState(highest_epoch=4))
    store.save(StoredState(highest_epoch=8, evictions=gone))
    store.save(StoredState(highest_epoch=12, time_floor_ns=5, sequence=7, evictions=gone))
    remembered = StoredState(highest_epoch=12, time_floor_ns=5, sequence=7, evictions=gone)
    assert FileStore(tmp_path / "state.json").load() == remembered


def test_whoever_deletes_the_state_file_gets_a_new_member_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store = FileStore(path)
    store.save(StoredState(highest_epoch=4))
    store.save(StoredState(highest_epoch=50_000, evictions=frozenset({bytes(32)})))
    store.save(StoredState(highest_epoch=50_004, evictions=frozenset({bytes(32)})))
    path.unlink()
    store = FileStore(path)
    assert store.load() == StoredState()
    store.save(StoredState(policy_version=1))
    assert FileStore(path).load() == StoredState(policy_version=1), "after its next start as well"


def test_a_number_file_that_grew_is_good_again_with_the_next_number(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    store = FileStore(path)
    store.save(StoredState(highest_epoch=4))
    store.save(StoredState(highest_epoch=8))
    with (tmp_path / "state.json.number").open("ab") as file:
        file.write(bytes(4096))
    store.save(StoredState(highest_epoch=12))
    assert FileStore(path).load().highest_epoch == 12
