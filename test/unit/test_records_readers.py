"""Records read with the libraries that others wrote: mcap, mcap-ros2-support, rosbags."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from chimera_ros.msg import CommandAcks, DroneTelemetry, LeaderHeartbeat, SwarmCommands, Trajectory
from geometry_msgs.msg import Point
from mcap.reader import make_reader
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader

from chimera_ros.records.mcap_log import CHECKPOINT_TYPE, FlightRecorder
from chimera_ros.ros import names
from chimera_ros.ros.cdr import encode_envelope
from chimera_ros.ros.schema import schema_text

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = {
    "leader/command": SwarmCommands(),
    "leader/trajectory": Trajectory(),
    "leader/heartbeat": LeaderHeartbeat(),
    "drone_01/ack": CommandAcks(),
    "drone_01/telemetry": DroneTelemetry(
        drone="drone_01", reason="why", position_enu_m=Point(x=1.5, y=-2.5, z=7.0)
    ),
}


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("check_record")


def write_record(folder: Path, *, repeat: int = 20, **options: Any) -> int:
    """A record of every type that the telemetry logger records; returns the number of MCAP messages."""
    recorder = FlightRecorder(folder, **options)
    checkpoint = importlib.import_module("chimera_ros.msg").Checkpoint()
    now_ns = 1_900_000_000_000_000_000
    for number in range(repeat):
        for channel, message in MESSAGES.items():
            now_ns += 1_000_000
            type_name = names.type_name(type(message))
            sender = channel.split("/")[0]
            data = serialize_message(message)
            assert recorder.write(
                channel, type_name, schema_text(type_name), data, now_ns - 500, now_ns, sender
            )
            sealed = encode_envelope(1, 1, 7, number, b"s" * 40, b"")
            assert recorder.write_sealed(channel, sealed, now_ns)
        # From another thread, whose clock was read a little earlier.
        schema = schema_text(CHECKPOINT_TYPE)
        assert recorder.write_checkpoint("drone_01", serialize_message(checkpoint), schema, now_ns - 900)
        assert recorder.write_evidence({"format": "chimera-evidence-1", "epoch": number}, now_ns)
    recorder.close()
    return repeat * (2 * len(MESSAGES) + 2)


def test_every_file_of_a_record_is_read_by_readers_of_others(tmp_path: Path, readers: ModuleType) -> None:
    written = write_record(tmp_path)
    assert readers.faults(tmp_path) == []
    paths = sorted(tmp_path.glob("*.mcap"))
    assert [path.name for path in paths] == ["evidence.mcap", "flight.mcap", "sealed.mcap"]
    with AnyReader(paths) as reader:
        assert reader.message_count == written
        telemetry = [
            reader.deserialize(data, connection.msgtype)
            for connection, _, data in reader.messages()
            if connection.msgtype == "chimera_ros/msg/DroneTelemetry"
        ]
    assert (telemetry[0].drone, telemetry[0].reason, telemetry[0].position_enu_m.z) == (
        "drone_01",
        "why",
        7.0,
    )
    with AnyReader([tmp_path / "evidence.mcap"]) as reader:
        (first, *_) = (
            reader.deserialize(data, connection.msgtype) for connection, _, data in reader.messages()
        )
    assert json.loads(first.data) == {"format": "chimera-evidence-1", "epoch": 0}


def test_every_file_of_a_long_record_is(tmp_path: Path, readers: ModuleType) -> None:
    """Files that follow when one has its size."""
    ticks = iter(range(10**6))
    write_record(tmp_path, repeat=600, max_bytes=64 * 1024, clock=lambda: 0.1 * next(ticks))
    assert len(list(tmp_path.glob("*.mcap"))) > 6
    assert readers.faults(tmp_path) == []


def test_messages_stand_in_the_order_of_their_times(tmp_path: Path) -> None:
    write_record(tmp_path)
    for path in tmp_path.glob("*.mcap"):
        with path.open("rb") as file:
            times = [item.log_time for *_, item in make_reader(file).iter_messages(log_time_order=False)]
        assert times == sorted(times), path.name


def test_a_fault_of_a_file_is_named(tmp_path: Path, readers: ModuleType) -> None:
    assert readers.faults(tmp_path) == [f"{tmp_path} holds no MCAP file"]
    write_record(tmp_path)
    path = tmp_path / "flight.mcap"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # as after SIGKILL
    assert any("flight.mcap: rosbags ends with " in fault for fault in readers.faults(tmp_path))
    assert readers.main([str(tmp_path)]) == 1
    path.write_bytes(whole)
    assert readers.main([str(tmp_path)]) == 0
    assert readers.main([]) == 2
