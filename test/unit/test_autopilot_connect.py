"""Connection templates, URLs, ports, and the configuration of a fleet."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera_ros.autopilot.config import VehicleConfig, check_fleet
from chimera_ros.autopilot.connect import (
    ConnectError,
    PortBusy,
    bind,
    evaluate,
    expand,
    expand_all,
    parse_url,
    require_free_port,
)
from chimera_ros.autopilot.probe import PortProbe, autopilot_ids


@pytest.mark.parametrize(
    ("template", "i", "url"),
    [
        ("udpin://127.0.0.1:{14540+i}", 3, "udpin://127.0.0.1:14543"),
        ("tcpout://127.0.0.1:{5760+10*i}", 2, "tcpout://127.0.0.1:5780"),
        ("udpin://127.0.0.1:{(i//10)*100 + i%10 + 14540 - -1}", 12, "udpin://127.0.0.1:14643"),
        ("udpout://10.0.0.{i+1}:14550", 4, "udpout://10.0.0.5:14550"),
        ("serial:///dev/ttyACM{i}:57600", 1, "serial:///dev/ttyACM1:57600"),
    ],
)
def test_templates(template: str, i: int, url: str) -> None:
    assert expand(template, i).text == url


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "i.__class__",
        "i**i",
        "9999999999",
        "99999999*99999999",
        "1/2",
        "1<<60",
        "True",
        "j",
        "[i]",
        "i if i else 1",
        "lambda: 1",
        "1//0",
        "",
        "i i",
        "1.5",
        "(" * 60,
        "i+" * 40 + "i",
    ],
)
def test_only_arithmetic_is_evaluated(expression: str) -> None:
    with pytest.raises(ConnectError):
        evaluate(expression, 0)


@given(st.text(max_size=80), st.integers(0, 100))
def test_any_text_is_a_number_or_a_sentence(text: str, i: int) -> None:
    try:
        value = evaluate(text, i)
    except ConnectError:
        return
    assert isinstance(value, int)


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("udp://127.0.0.1:14540", "udpin"),
        ("http://127.0.0.1:80", "starts with one of"),
        ("127.0.0.1:80", "starts with one of"),
        ("udpin://127.0.0.1", "port must be"),
        ("udpin://127.0.0.1:0", "port must be"),
        ("udpin://127.0.0.1:65536", "port must be"),
        ("udpin://:14540", "0.0.0.0"),
        ("udpin://a b:14540", "not a host name"),
        ("serial://ttyACM0:57600", "serial:///dev"),
        ("udpin://127.0.0.1:{1", "brace"),
    ],
)
def test_bad_urls_say_what_to_write(url: str, hint: str) -> None:
    with pytest.raises(ConnectError, match=hint):
        expand(url, 0)


def test_same_url_for_two_drones() -> None:
    with pytest.raises(ConnectError, match="drones 1 and 2 the same URL"):
        expand_all("udpin://127.0.0.1:14540", range(2))
    assert len(expand_all("udpin://127.0.0.1:14540", range(1))) == 1


def test_loopback() -> None:
    assert parse_url("udpin://127.0.0.1:1").loopback_only
    assert parse_url("udpin://[::1]:1").loopback_only
    assert not parse_url("udpin://0.0.0.0:1").loopback_only
    assert not parse_url("tcpout://drone.example:1").loopback_only


def test_busy_port_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        url = parse_url(f"udpin://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(PortBusy, match=rf"UDP port {url.port}, where drone_07 is expected"):
            require_free_port(url, "drone_07")
    require_free_port(url, "drone_07")
    bind(url, "drone_07").close()


def heartbeat(system: int, component: int = 1, autopilot: int = 12) -> bytes:
    from pymavlink.dialects.v20 import common

    mav = common.MAVLink(None, srcSystem=system, srcComponent=component)
    return bytes(mav.heartbeat_encode(2, autopilot, 81, 0, 4).pack(mav))


def test_heartbeats_are_found_among_others() -> None:
    from pymavlink.dialects.v20 import common

    mav = common.MAVLink(None, srcSystem=9, srcComponent=1)
    other = bytes(mav.attitude_encode(1, 0.1, 0.2, 0.3, 0, 0, 0).pack(mav))
    assert autopilot_ids(heartbeat(7)) == {7}
    assert autopilot_ids(other + heartbeat(3) + other + heartbeat(200)) == {3, 200}
    assert autopilot_ids(b"junk\xfd\xfe" + heartbeat(7)) == {7}
    assert autopilot_ids(other) == set()


def test_not_autopilots() -> None:
    assert autopilot_ids(heartbeat(7, component=190)) == set()
    assert autopilot_ids(heartbeat(7, autopilot=8)) == set()


def test_damaged_heartbeat_is_no_heartbeat() -> None:
    whole = heartbeat(7)
    for at in range(1, len(whole)):
        assert autopilot_ids(whole[:at] + bytes((whole[at] ^ 0x40,)) + whole[at + 1 :]) <= set()


@given(st.binary(max_size=400))
def test_any_datagram_is_survived(datagram: bytes) -> None:
    autopilot_ids(datagram)


def test_probe_hears_and_gives_the_port_back() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = parse_url(f"udpin://127.0.0.1:{port}")
    probe = PortProbe(url, "drone_01")
    with pytest.raises(PortBusy):
        require_free_port(url, "drone_01")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as vehicle:
        vehicle.sendto(heartbeat(4), ("127.0.0.1", port))
        assert probe.poll() == {4}  # loopback delivers within sendto
    probe.close()
    require_free_port(url, "drone_01")


def config(drone: str = "drone_01", port: int = 14540, system_id: int = 1) -> VehicleConfig:
    return VehicleConfig(drone, f"udpin://127.0.0.1:{port}", system_id)


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (config(port=14541, system_id=2), "name"),
        (config("drone_02", system_id=2), "connection"),
        (config("drone_02", port=14541), "MAVLink system id"),
        (config("drone_02", port=14541, system_id=245), "bridge's own"),
    ],
)
def test_vehicles_must_differ(second: VehicleConfig, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        check_fleet((config(), second), 245)


def test_fleet_of_different_vehicles() -> None:
    check_fleet((config(), config("drone_02", 14541, 2)), 245)


def test_vehicle_config_is_checked() -> None:
    with pytest.raises(ValueError, match="system id"):
        config(system_id=0)
    with pytest.raises(ValueError, match="autopilot"):
        VehicleConfig("drone_01", "udpin://127.0.0.1:1", 1, kind="betaflight")  # type: ignore[arg-type]
    with pytest.raises(ConnectError):
        VehicleConfig("drone_01", "nonsense", 1)
