"""The flight recorder, read back with the libraries that others use."""

from __future__ import annotations

import errno
import io
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from chimera_ros.records import mcap_log
from chimera_ros.records.mcap_log import (
    ENVELOPE_SCHEMA,
    FlightRecorder,
    RecordLossMonitor,
    decode_string,
    encode_string,
)
from chimera_ros.records.mcap_read import read_messages

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = """\
string drone
geometry_msgs/Point position_enu_m
================================================================================
MSG: geometry_msgs/Point
float64 x
float64 y
float64 z
"""
TYPE = "chimera_ros/msg/Example"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def example_cdr(drone: str, x: float, y: float, z: float) -> bytes:
    text = drone.encode() + b"\0"
    body = struct.pack("<I", len(text)) + text
    body += b"\0" * (-len(body) % 8) + struct.pack("<3d", x, y, z)
    return b"\0\1\0\0" + body


def envelope_cdr(sender: int, epoch: int, sealed: bytes, signature: bytes) -> bytes:
    body = struct.pack("<BBHI", 1, 2, sender, epoch) + struct.pack("<I", len(sealed)) + sealed
    body += b"\0" * (-len(body) % 4) + struct.pack("<I", len(signature)) + signature
    return b"\0\1\0\0" + body


def decoded(path: Path) -> list[tuple[str, int, int, object, dict[str, str]]]:
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return [
            (item.channel.topic, item.message.publish_time, item.message.log_time, item.decoded_message,
             dict(item.channel.metadata))
            for item in reader.iter_decoded_messages()
        ]  # fmt: skip


def test_both_files_decode_with_the_public_reader(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path / "rec")
    for i in range(50):
        name = f"drone_{i % 5:02d}"
        cdr = example_cdr(name, float(i), -1.0, 2.5)
        assert recorder.write(f"{name}/telemetry", TYPE, SCHEMA, cdr, 10 * i, 10 * i + 3, name)
        assert recorder.write_sealed(f"{name}/telemetry", envelope_cdr(7, i, b"s" * 99, b""), 10 * i + 3)
    status = recorder.close()
    assert (status.opened, status.sealed, status.dropped, status.problem) == (50, 50, 0, "")
    assert [Path(path).name for path in status.files] == ["flight.mcap", "sealed.mcap"]
    assert status.bytes_written == sum(Path(path).stat().st_size for path in status.files)

    rows = decoded(tmp_path / "rec" / "flight.mcap")
    assert len(rows) == 50
    topic, sent_ns, received_ns, message, metadata = rows[7]
    assert (topic, sent_ns, received_ns) == ("/chimera/drone_02/telemetry", 70, 73)
    assert (message.drone, message.position_enu_m.x, message.position_enu_m.z) == ("drone_02", 7.0, 2.5)  # type: ignore[attr-defined]
    names = {"sender": "drone_02", "channel": "drone_02/telemetry"}
    assert metadata == names | {"offered_qos_profiles": "[]"}

    sealed = decoded(tmp_path / "rec" / "sealed.mcap")
    assert [row[3].epoch for row in sealed] == list(range(50))  # type: ignore[attr-defined]
    assert bytes(sealed[0][3].sealed) == b"s" * 99  # type: ignore[attr-defined]
    with (tmp_path / "rec" / "flight.mcap").open("rb") as file:
        reader = make_reader(file)
        assert reader.get_header().profile == "ros2"
        summary = reader.get_summary()
        assert summary is not None
        assert summary.statistics is not None
        assert summary.statistics.message_count == 50


def test_the_envelope_schema_is_that_of_the_interface() -> None:
    text = (ROOT / "msg" / "SecureEnvelope.msg").read_text()
    lines = [re.sub(r"\s+", " ", line.split("#")[0]).strip() for line in text.splitlines()]
    assert [line for line in lines if line] == ENVELOPE_SCHEMA.splitlines()


def test_rotation_by_size_keeps_every_message_and_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "sealed_1.mcap").write_bytes(b"somebody else's")
    clock = Clock()
    recorder = FlightRecorder(tmp_path, max_bytes=64 * 1024, clock=clock)
    for i in range(300):
        clock.now_s += 0.1
        assert recorder.write_sealed("a/b", envelope_cdr(1, i, os.urandom(1000), b""), i)
    status = recorder.close()
    files = [Path(path) for path in status.files]
    assert len(files) > 3
    assert "sealed_1.mcap" not in [path.name for path in files]
    assert (tmp_path / "sealed_1.mcap").read_bytes() == b"somebody else's"
    assert all(path.stat().st_size < 90_000 for path in files)
    assert [row[3].epoch for path in files for row in decoded(path)] == list(range(300))  # type: ignore[attr-defined]


def test_a_second_recorder_in_the_same_place_takes_new_names(tmp_path: Path) -> None:
    for _ in range(2):
        recorder = FlightRecorder(tmp_path)
        recorder.write("c", TYPE, SCHEMA, example_cdr("d", 0.0, 0.0, 0.0), 1, 1, "d")
        recorder.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flight.mcap", "flight_1.mcap"]


def test_flushed_on_time_by_tick_alone(tmp_path: Path) -> None:
    clock = Clock()
    recorder = FlightRecorder(tmp_path, clock=clock)
    recorder.write("c", TYPE, SCHEMA, example_cdr("d", 1.0, 0.0, 0.0), 1, 1, "d")
    assert list(read_messages(tmp_path / "flight.mcap")) == []
    clock.now_s += 0.6
    recorder.tick()
    assert len(list(read_messages(tmp_path / "flight.mcap"))) == 1
    recorder.close()


def test_kill_9_loses_at_most_what_came_since_the_last_flush(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from chimera_ros.records.mcap_log import FlightRecorder
recorder = FlightRecorder(Path({str(tmp_path)!r}))
i = 0
while True:
    recorder.write("c", {TYPE!r}, {SCHEMA!r}, {example_cdr("d", 1.0, 2.0, 3.0)!r}, i, i, "d")
    i += 1
    print(i, flush=True)
    time.sleep(0.005)
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        written = 0
        while written < 400:
            written = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
    found = list(read_messages(tmp_path / "flight.mcap"))
    lost = written - len(found)
    assert len(found) > 200
    assert lost <= 1.0 / 0.005 + 1, f"{lost} of {written} lost"
    schema, _, message = found[-1]
    assert schema is not None
    assert schema.name == TYPE
    assert DecoderFactory().decoder_for("cdr", schema)(message.data).drone == "d"  # type: ignore[misc]


def test_a_place_that_is_no_directory_costs_records_only_and_is_tried_again(tmp_path: Path) -> None:
    clock = Clock()
    place = tmp_path / "rec"
    place.write_text("a file")
    recorder = FlightRecorder(place, clock=clock)
    assert not recorder.write_sealed("c", b"x", 1)
    status = recorder.status()
    assert status.dropped == 1
    assert status.problem.startswith(f"records are being lost: {place} cannot be written (")
    place.unlink()
    assert not recorder.write_sealed("c", b"x", 2)
    clock.now_s += 11.0
    assert recorder.write_sealed("c", b"x", 3)
    status = recorder.close()
    assert (status.sealed, status.dropped, status.problem) == (1, 2, "")


def test_a_folder_that_is_deleted_is_said_and_made_again(tmp_path: Path) -> None:
    clock = Clock()
    recorder = FlightRecorder(tmp_path / "rec", clock=clock)
    assert recorder.write_sealed("c", b"x", 1)
    shutil.rmtree(tmp_path / "rec")
    clock.now_s += 1.0
    recorder.tick()
    assert "cannot be written (it was deleted)" in recorder.status().problem
    clock.now_s += 11.0
    assert recorder.write_sealed("c", b"x", 2)
    status = recorder.close()
    assert (status.sealed, status.dropped, status.problem) == (1, 1, "")
    (found,) = read_messages(tmp_path / "rec" / "sealed_1.mcap")
    assert found[2].log_time == 2


def test_a_full_disk_costs_records_only(tmp_path: Path) -> None:
    """A limit on the file's size stands in for the full disk: the same error, at the same place."""
    code = f"""
import resource, signal
from pathlib import Path
from chimera_ros.records.mcap_log import FlightRecorder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
now = [0.0]
recorder = FlightRecorder(Path({str(tmp_path)!r}), clock=lambda: now[0])
for i in range(200):
    now[0] += 0.04
    recorder.write_sealed("c", bytes(2000), i)
assert recorder.status().problem, "nothing went wrong"
print(recorder.status().problem)
now[0] += 11.0
assert recorder.write_sealed("c", bytes(2000), 9)
assert recorder.close().problem == ""
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout
    assert done.stderr == ""
    assert len(list(read_messages(tmp_path / "sealed.mcap"))) > 20
    assert len(list(read_messages(tmp_path / "sealed_1.mcap"))) == 1


def test_oversized_messages_and_late_ones_are_dropped_and_counted(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path)
    assert not recorder.write_sealed("c", bytes(3 * 1024 * 1024), 1)
    recorder.close()
    assert not recorder.write_sealed("c", b"x", 1)
    assert recorder.status().dropped == 2
    assert list(tmp_path.iterdir()) == []


def test_reading_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.mcap"
    path.write_text("no")
    with pytest.raises(ValueError, match="is not an MCAP file"):
        list(read_messages(path))
    with pytest.raises(ValueError, match="at least 65536"):
        FlightRecorder(tmp_path, max_bytes=10)


class FullDisk(io.FileIO):
    """A file on a disk that has `left` bytes for all files together."""

    left = 0

    def write(self, data: Any) -> int:
        room = min(len(data), FullDisk.left)
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        FullDisk.left -= room
        return super().write(memoryview(data)[:room])


@pytest.mark.parametrize("left", [0, 20, 60, 3_000, 20_000, 60_000])
def test_wherever_the_disk_is_full_what_was_written_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    def opened(path: Path, mode: str, buffering: int, opener: Any) -> io.BufferedWriter:
        return io.BufferedWriter(FullDisk(str(path), mode.replace("b", ""), opener=opener), buffering)

    monkeypatch.setattr(mcap_log, "open", opened, raising=False)
    FullDisk.left = left
    clock = Clock()
    recorder = FlightRecorder(tmp_path, clock=clock)
    trouble, draw = RecordLossMonitor(), random.Random(3)
    told = []
    written = 0
    for i in range(600):
        clock.now_s += 0.1
        if i in (3, 200):
            recorder.write_evidence({"number": i}, i)
        recorder.write("c", TYPE, SCHEMA, draw.randbytes(200), i, i, "d")
        recorder.write_sealed("c", draw.randbytes(300), i)
        written += 2
        told.append(trouble.change(recorder.status()))
        if i == 450:
            FullDisk.left = 10**9
    status = recorder.close()
    assert [text[:24] for text in told if text] == ["records are being lost: ", "records are written agai"]
    assert status.problem == ""
    assert status.opened + status.sealed + status.dropped == written
    files = [Path(name) for name in status.files]
    assert sorted(tmp_path.iterdir()) == sorted(files), "no empty file for each attempt"
    found = [item for path in files for item in read_messages(path)]
    assert len(found) == status.opened + status.sealed + 2
    assert [decode_string(item[2].data) for item in found if item[1].topic == "/chimera/record/evidence"] == [
        b'{"number":3}',
        b'{"number":200}',
    ]


def test_evidence_that_waited_is_written_without_further_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    place = tmp_path / "rec"
    place.write_text("a file")
    recorder = FlightRecorder(place, clock=clock)
    assert not recorder.write_evidence({"number": 1}, 5)
    place.unlink()
    for _ in range(2):
        clock.now_s += 11.0
        recorder.tick()
    assert recorder.status().problem == ""
    (found,) = read_messages(place / "evidence.mcap")
    assert decode_string(found[2].data) == b'{"number":1}'
    recorder.close()


@pytest.mark.parametrize("text", [b"", b"{}", "\u00e4".encode()])
def test_texts_are_what_rclpy_writes(text: bytes) -> None:
    from rclpy.serialization import serialize_message
    from std_msgs.msg import String

    data = serialize_message(String(data=text.decode()))
    assert decode_string(data) == text
    assert decode_string(encode_string(text)) == text
    for end in range(len(encode_string(text))):
        with pytest.raises(ValueError, match="String"):
            decode_string(encode_string(text)[:end])
    with pytest.raises(ValueError, match="not the CDR"):
        decode_string(b"\0\0" + encode_string(text)[2:])


def test_damage_is_said_and_costs_no_more_than_what_comes_after_it(tmp_path: Path) -> None:
    clock = Clock()
    recorder = FlightRecorder(tmp_path, clock=clock)
    for i in range(300):
        clock.now_s += 0.1
        recorder.write("c", TYPE, SCHEMA, bytes(200), i, i, "d")
    recorder.close()
    path = tmp_path / "flight.mcap"
    whole = path.read_bytes()
    draw = random.Random(7)
    for _ in range(300):
        changed = bytearray(whole)
        if draw.random() < 0.3:
            del changed[draw.randrange(len(changed)) :]
        else:
            at = draw.randrange(8, len(changed))
            changed[at] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        broken: list[Path] = []
        found = [message.log_time for _, _, message in read_messages(path, broken)]
        assert found == list(range(len(found)))
        assert len(found) == 300 or broken == [path]
    path.write_bytes(b"")
    broken = []
    assert list(read_messages(path, broken)) == []
    assert broken == [path]


def test_a_chunk_whose_opcode_is_damaged_is_not_passed_over(tmp_path: Path) -> None:
    clock = Clock()
    recorder = FlightRecorder(tmp_path, clock=clock)
    for i in range(300):
        clock.now_s += 0.1
        recorder.write("c", TYPE, SCHEMA, bytes(200), i, i, "d")
    recorder.close()
    path = tmp_path / "flight.mcap"
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None
    second = summary.chunk_indexes[1]
    for opcode in (0x04, 0x07, 0x0E, 0x86):
        data = bytearray(path.read_bytes())
        data[second.chunk_start_offset] = opcode
        damaged = tmp_path / "damaged.mcap"
        damaged.write_bytes(data)
        broken: list[Path] = []
        found = [message.log_time for _, _, message in read_messages(damaged, broken)]
        assert found == list(range(second.message_start_time))
        assert broken == [damaged]


def test_a_chunk_that_claims_to_be_enormous_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zstandard.compress(bytes(300 * 1024 * 1024))
    text = b"\x04\x00\x00\x00zstd"
    body = struct.pack("<QQQI", 0, 1, 100, 0) + text + struct.pack("<Q", len(bomb)) + bomb
    path = tmp_path / "flight.mcap"
    path.write_bytes(b"\x89MCAP0\r\n" + b"\x06" + struct.pack("<Q", len(body)) + body)
    broken: list[Path] = []
    assert list(read_messages(path, broken)) == []
    assert broken == [path]
