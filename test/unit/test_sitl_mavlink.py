"""The MAVLink side of a simulated vehicle, spoken to in bytes, without sockets."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymavlink.dialects.v20 import common as m

from chimera_ros.sitl.config import Fault, FaultKind, SitlConfig
from chimera_ros.sitl.mavlink_messages import BUILDERS, CLIENT_RATES_HZ
from chimera_ros.sitl.mavlink_types import FlightMode
from chimera_ros.sitl.mavlink_vehicle import MavlinkChannel, MavlinkVehicle
from chimera_ros.sitl.parameters import NAMES
from chimera_ros.sitl.simulation import Simulation
from chimera_ros.sitl.udp_server import MAX_DATAGRAM, pack_datagrams

NAN = math.nan


class Client:
    """A ground station on the other end of one vehicle's link, in stepped time."""

    def __init__(self, **options: Any) -> None:
        self.sim = Simulation(SitlConfig(drones=1, **options))
        self.commander = self.sim.commanders[0]
        self.link = MavlinkChannel(self.commander.state.system_id, CLIENT_RATES_HZ, True)
        self.vehicle = MavlinkVehicle(self.commander, self.sim, {"client": self.link})
        self.mav = m.MAVLink(None, srcSystem=245, srcComponent=190)
        self.heard: list[Any] = []
        self.parser = m.MAVLink(None)

    def send(self, message: Any, steps: int = 2) -> list[Any]:
        """Send a message and return what the vehicle sends within the next steps."""
        self.vehicle.receive(message.pack(self.mav), self.link, self.sim.time_s)
        return self.step(steps)

    def step(self, steps: int = 2) -> list[Any]:
        """Let time pass and return what the vehicle sends."""
        fresh: list[Any] = []
        for _ in range(max(steps // 2, 1)):
            self.sim.advance(2)
            self.vehicle.tick(self.sim.time_s)
            for packet in self.link.out:
                fresh += self.parser.parse_buffer(packet) or []
            self.link.out.clear()
        self.heard += fresh
        return fresh

    def command(self, number: int, *params: float, system: int = 1) -> int | None:
        """The result that COMMAND_ACK reports, None without an answer."""
        values = [*params, *([0.0] * (7 - len(params)))]
        answers = self.send(m.MAVLink_command_long_message(system, 1, number, 0, *values))
        acks = [a for a in answers if a.get_type() == "COMMAND_ACK" and a.command == number]
        for ack in acks:
            assert (ack.target_system, ack.target_component) == (245, 190)
        return acks[0].result if acks else None

    def ready(self) -> Client:
        self.step(700)
        assert self.commander.state.ready
        return self

    def airborne(self) -> Client:
        self.ready()
        assert self.command(400, 1.0) == 0
        assert self.command(22, 0.0, 0.0, 0.0, NAN, NAN, NAN, NAN) == 0
        self.step(2000)
        assert self.commander.state.mode is FlightMode.HOLD
        return self


def of(messages: list[Any], kind: str) -> list[Any]:
    return [message for message in messages if message.get_type() == kind]


def target(client: Client, mask: int, position: tuple[float, ...], velocity: tuple[float, ...]) -> Any:
    now_ms = int(client.sim.time_s * 1000)
    return m.MAVLink_set_position_target_local_ned_message(
        now_ms, 1, 1, 1, mask, *position, *velocity, 0.0, 0.0, 0.0, 0.0, 0.0
    )


def test_heartbeat_says_px4_quadrotor_and_mode() -> None:
    beat = of(Client().step(300), "HEARTBEAT")[0]
    assert (beat.autopilot, beat.type) == (m.MAV_AUTOPILOT_PX4, m.MAV_TYPE_QUADROTOR)
    assert beat.custom_mode == 4 << 16 | 3 << 24
    assert (beat.get_srcSystem(), beat.get_srcComponent()) == (1, 1)


def test_default_rates_are_kept() -> None:
    client = Client().ready()
    heard = client.step(2500)
    seconds = 10.0
    for number, kind in (
        (32, "LOCAL_POSITION_NED"),
        (31, "ATTITUDE_QUATERNION"),
        (33, "GLOBAL_POSITION_INT"),
    ):
        assert len(of(heard, kind)) / seconds == pytest.approx(CLIENT_RATES_HZ[number], rel=0.05)
    for kind in ("HEARTBEAT", "SYS_STATUS", "EXTENDED_SYS_STATE"):
        assert len(of(heard, kind)) in (9, 10, 11)


def test_health_bits_follow_readiness() -> None:
    client = Client()
    before = of(client.step(300), "SYS_STATUS")[-1].onboard_control_sensors_health
    client.ready()
    after = of(client.step(300), "SYS_STATUS")[-1].onboard_control_sensors_health
    needed = 0x1 | 0x2 | 0x4 | 0x20 | 1 << 28
    assert after & needed == needed
    assert before & needed == 0x1 | 0x2 | 0x4


def test_every_message_can_be_requested_and_packs() -> None:
    client = Client().airborne()
    for number in BUILDERS:
        assert client.command(512, float(number)) == 0
        assert any(a.get_msgId() == number for a in client.heard), number
    assert client.command(512, 12345.0) == m.MAV_RESULT_UNSUPPORTED
    assert client.command(512, NAN) == m.MAV_RESULT_UNSUPPORTED


def test_intervals_are_set_stopped_and_told() -> None:
    client = Client().ready()
    assert client.command(511, 32.0, 20_000.0) == 0
    assert len(of(client.step(500), "LOCAL_POSITION_NED")) == pytest.approx(100, abs=16)
    assert client.command(511, 32.0, -1.0) == 0
    client.step(10)
    assert not of(client.step(500), "LOCAL_POSITION_NED")
    told = of(
        client.send(m.MAVLink_command_long_message(1, 1, 510, 0, 32.0, 0, 0, 0, 0, 0, 0)), "MESSAGE_INTERVAL"
    )
    assert told[0].interval_us == -1
    assert client.command(511, 32.0, 0.0) == 0
    assert len(of(client.step(500), "LOCAL_POSITION_NED")) == pytest.approx(40, abs=3)


def test_commands_for_others_are_not_answered() -> None:
    client = Client().ready()
    assert client.command(400, 1.0, system=7) is None
    assert not client.commander.state.armed
    assert client.command(31000, 1.0) == m.MAV_RESULT_UNSUPPORTED


def test_state_changes_are_announced_at_once() -> None:
    client = Client().ready()
    client.step(50)
    answers = client.send(m.MAVLink_command_long_message(1, 1, 400, 0, 1.0, 0, 0, 0, 0, 0, 0))
    assert of(answers, "COMMAND_ACK")[0].result == 0
    assert any(beat.base_mode & m.MAV_MODE_FLAG_SAFETY_ARMED for beat in of(answers, "HEARTBEAT"))
    assert of(answers, "HOME_POSITION")


def test_refused_disarm_in_the_air_says_why() -> None:
    client = Client().airborne()
    assert client.command(400, 0.0) == m.MAV_RESULT_TEMPORARILY_REJECTED
    assert any("not landed" in t.text for t in of(client.heard, "STATUSTEXT"))


def test_local_positions_are_relative_to_the_own_origin() -> None:
    client = Client().ready()
    client.command(512, 49.0)
    heard = client.step(500)
    local = of(heard, "LOCAL_POSITION_NED")[-1]
    world = of(heard, "GLOBAL_POSITION_INT")[-1]
    origin = of(client.heard, "GPS_GLOBAL_ORIGIN")[-1]
    earth = client.sim.earth
    place = earth.to_ned(world.lat * 1e-7, world.lon * 1e-7, world.alt * 1e-3)
    zero = earth.to_ned(origin.latitude * 1e-7, origin.longitude * 1e-7, origin.altitude * 1e-3)
    implied = [a - b for a, b in zip(place, zero, strict=True)]
    assert implied == pytest.approx([local.x, local.y, local.z], abs=0.05)
    assert min(map(abs, implied)) > 0.9, "the origin must not lie at the vehicle"


def test_a_bad_origin_shows_as_disagreement() -> None:
    client = Client(faults=(Fault(0, FaultKind.BAD_ORIGIN),)).ready()
    client.command(512, 49.0)
    heard = client.step(500)
    local, world = of(heard, "LOCAL_POSITION_NED")[-1], of(heard, "GLOBAL_POSITION_INT")[-1]
    origin, earth = of(client.heard, "GPS_GLOBAL_ORIGIN")[-1], client.sim.earth
    place = earth.to_ned(world.lat * 1e-7, world.lon * 1e-7, world.alt * 1e-3)
    zero = earth.to_ned(origin.latitude * 1e-7, origin.longitude * 1e-7, origin.altitude * 1e-3)
    implied = [a - b for a, b in zip(place, zero, strict=True)]
    assert math.dist(implied, [local.x, local.y, local.z]) > 1.0


def test_offboard_position_in_the_own_frame() -> None:
    client = Client().airborne()
    local = of(client.step(50), "LOCAL_POSITION_NED")[-1]
    wanted = (local.x + 4.0, local.y - 3.0, local.z - 2.0)
    client.send(target(client, 0x9F8, wanted, (0.0, 0.0, 0.0)))
    assert client.command(176, 1.0, 6.0, 0.0) == 0
    for _ in range(120):
        client.send(target(client, 0x9F8, wanted, (0.0, 0.0, 0.0)), steps=12)
    local = of(client.step(50), "LOCAL_POSITION_NED")[-1]
    assert (local.x, local.y, local.z) == pytest.approx(wanted, abs=0.25)


def test_offboard_velocity_mask() -> None:
    client = Client().airborne()
    client.send(target(client, 0x9C7, (NAN, NAN, NAN), (1.0, -1.0, 0.0)))
    assert client.command(176, 1.0, 6.0, 0.0) == 0
    for _ in range(60):
        client.send(target(client, 0x9C7, (NAN, NAN, NAN), (1.0, -1.0, 0.0)), steps=12)
    local = of(client.step(20), "LOCAL_POSITION_NED")[-1]
    assert (local.vx, local.vy, local.vz) == pytest.approx((1.0, -1.0, 0.0), abs=0.15)


@pytest.mark.parametrize("position", [(1e9, 0.0, 0.0), (math.inf, math.inf, math.inf), (NAN, NAN, NAN)])
def test_impossible_set_points_are_dropped_and_counted(position: tuple[float, ...]) -> None:
    client = Client().airborne()
    client.send(target(client, 0x9F8, position, (0.0, 0.0, 0.0)))
    assert client.vehicle.rejected == 1
    assert client.command(176, 1.0, 6.0, 0.0) == m.MAV_RESULT_TEMPORARILY_REJECTED


def test_parameters_are_listed_read_set_and_refused() -> None:
    client = Client().ready()
    heard = client.send(m.MAVLink_param_request_list_message(1, 1), steps=100)
    values = of(heard, "PARAM_VALUE")
    assert [v.param_id for v in values] == NAMES
    assert {v.param_count for v in values} == {len(NAMES)}

    def read(name: str) -> Any:
        return client.send(m.MAVLink_param_request_read_message(1, 1, name.encode(), -1))

    alt = of(read("MIS_TAKEOFF_ALT"), "PARAM_VALUE")[0]
    assert (alt.param_value, alt.param_type) == (2.5, 9)
    seven = struct.unpack("<f", struct.pack("<i", 5))[0]
    client.send(m.MAVLink_param_set_message(1, 1, b"COM_OBL_RC_ACT", seven, 6))
    assert client.commander.state.parameters["COM_OBL_RC_ACT"] == 5
    assert of(read("NOT_THERE"), "PARAM_ERROR")[0].error == 1
    errors = of(client.send(m.MAVLink_param_set_message(1, 1, b"MIS_TAKEOFF_ALT", -5.0, 9)), "PARAM_ERROR")
    assert errors
    assert client.commander.state.parameters["MIS_TAKEOFF_ALT"] == 2.5


def item(client: Client, seq: int, command: int = 16, frame: int = 6, north: float = 5.0) -> Any:
    lat, lon, _ = client.sim.earth.to_geodetic(north, 0.0, 0.0)
    x, y = round(lat * 1e7), round(lon * 1e7)
    return m.MAVLink_mission_item_int_message(1, 1, seq, frame, command, 0, 1, 0, 0, 0, NAN, x, y, 5.0, 0)


def upload(client: Client, count: int) -> list[Any]:
    asked = of(client.send(m.MAVLink_mission_count_message(1, 1, count, 0)), "MISSION_REQUEST_INT")
    assert asked[0].seq == 0
    answers: list[Any] = []
    for seq in range(count):
        answers = client.send(item(client, seq, north=5.0 + seq))
    return of(answers, "MISSION_ACK")


def test_missions_go_up_and_come_down_the_same() -> None:
    client = Client().ready()
    assert upload(client, 3)[0].type == 0
    count = of(client.send(m.MAVLink_mission_request_list_message(1, 1, 0)), "MISSION_COUNT")[0]
    assert count.count == 3
    for seq in range(3):
        down = of(client.send(m.MAVLink_mission_request_int_message(1, 1, seq, 0)), "MISSION_ITEM_INT")[0]
        sent = item(client, seq, north=5.0 + seq)
        assert (down.seq, down.command, down.frame, down.x, down.y, down.z) == (
            sent.seq,
            sent.command,
            sent.frame,
            sent.x,
            sent.y,
            sent.z,
        )
    assert of(client.send(m.MAVLink_mission_clear_all_message(1, 1, 0)), "MISSION_ACK")[0].type == 0
    assert not client.commander.state.mission.items


def test_a_broken_upload_leaves_the_old_mission() -> None:
    client = Client().ready()
    upload(client, 2)
    client.send(m.MAVLink_mission_count_message(1, 1, 2, 0))
    client.send(item(client, 0))
    refused = of(client.send(item(client, 1, command=82)), "MISSION_ACK")
    assert refused[0].type == 3
    assert len(client.commander.state.mission.items) == 2
    client.send(m.MAVLink_mission_count_message(1, 1, 2, 0))
    asked = [r.seq for r in of(client.step(200), "MISSION_REQUEST_INT")]
    assert asked == [0], "an item that does not come is asked for again"
    client.step(2500)
    assert len(client.commander.state.mission.items) == 2
    assert of(client.send(m.MAVLink_mission_count_message(1, 1, 60000, 0)), "MISSION_ACK")[0].type == 4


def test_timesync_and_ping_are_answered() -> None:
    client = Client()
    assert of(client.send(m.MAVLink_timesync_message(0, 1234)), "TIMESYNC")[0].ts1 == 1234
    assert of(client.send(m.MAVLink_ping_message(1, 9, 0, 0)), "PING")[0].target_system == 245


def test_flipped_bits_are_counted_and_change_nothing() -> None:
    client = Client().ready()
    packet = m.MAVLink_command_long_message(1, 1, 400, 0, 1.0, 0, 0, 0, 0, 0, 0).pack(client.mav)
    for at in range(1, len(packet)):
        broken = bytearray(packet)
        broken[at] ^= 0x10
        client.vehicle.receive(bytes(broken), client.link, client.sim.time_s)
    assert not client.commander.state.armed
    assert client.vehicle.rejected > 20


SHARED = Client()
NEVER_READY = Client()
HANDLED = [0, 4, 11, 20, 21, 23, 40, 41, 43, 44, 45, 47, 51, 73, 75, 76, 84, 86, 111]


@given(st.binary(max_size=300))
def test_noise_is_survived(noise: bytes) -> None:
    noisy = NEVER_READY
    noisy.vehicle.receive(noise, noisy.link, 1.0)
    noisy.vehicle.receive(b"\xfd" + noise, noisy.link, 1.0)
    assert not noisy.commander.state.armed


@given(
    st.integers(0, 600),
    st.lists(st.floats(width=32), min_size=7, max_size=7),
)
def test_commands_with_any_numbers_get_one_answer(number: int, params: list[float]) -> None:
    client = SHARED
    client.link.out.clear()
    message = m.MAVLink_command_long_message(1, 1, number, 0, *params)
    client.vehicle.receive(message.pack(client.mav), client.link, client.sim.time_s)
    kinds = [
        decoded.get_type() for packet in client.link.out for decoded in client.parser.parse_buffer(packet)
    ]
    assert kinds.count("COMMAND_ACK") == 1


@given(st.sampled_from(HANDLED), st.binary(min_size=1, max_size=120))
def test_any_payload_of_a_known_message_is_survived(number: int, payload: bytes) -> None:
    client = SHARED
    header = struct.pack("<BBBBBBHB", len(payload), 0, 0, 0, 245, 190, number & 0xFFFF, number >> 16)
    crc = m.x25crc(header + payload + bytes((m.mavlink_map[number].crc_extra,))).crc
    client.vehicle.receive(
        b"\xfd" + header + payload + struct.pack("<H", crc), client.link, client.sim.time_s
    )
    client.step(20)
    assert all(map(math.isfinite, client.sim.fleet.position_m.ravel()))


def test_datagrams_stay_below_the_limit() -> None:
    datagrams = pack_datagrams([bytes(100)] * 50)
    assert max(map(len, datagrams)) <= MAX_DATAGRAM
    assert sum(map(len, datagrams)) == 5000
    assert pack_datagrams([]) == []
