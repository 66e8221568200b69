"""An attacker who hears everything finds no position, command or key in clear."""

import importlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from importlib import util as import_util
from pathlib import Path

import pytest
import rclpy
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from rclpy.qos import QoSProfile, ReliabilityPolicy

from chimera_ros.ros import Spinner

HERE = Path(__file__).parent
_ETH_P_ALL = 3
# UDP on the loopback interface and nothing else: shared memory between processes never shows on a network.
LOOPBACK_ONLY = """<?xml version="1.0" encoding="UTF-8" ?>
<dds xmlns="http://www.eprosima.com"><profiles>
  <transport_descriptors><transport_descriptor>
    <transport_id>udp</transport_id><type>UDPv4</type>
    <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
  </transport_descriptor></transport_descriptors>
  <participant profile_name="loopback" is_default_profile="true"><rtps>
    <userTransports><transport_id>udp</transport_id></userTransports>
    <useBuiltinTransports>false</useBuiltinTransports>
  </rtps></participant>
</profiles></dds>
"""


def talker():
    spec = import_util.spec_from_file_location("eavesdropped_swarm", HERE / "eavesdropped_swarm.py")
    module = import_util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def get_message(name: str):
    package, _, base = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), base)


def open_sniffer():
    """A packet socket on loopback, or None where this user may not have one."""
    try:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sniffer.bind(("lo", 0))
    except (PermissionError, AttributeError, OSError):
        return None
    sniffer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
    sniffer.setblocking(False)
    return sniffer


@pytest.fixture(scope="module")
def overheard(ros_domain, keystore_path, tmp_path_factory):
    """What was heard: bytes by topic, loopback packets (or None), the keys, and what got through."""
    place = tmp_path_factory.mktemp("wire")
    keystore, keys_file = place / "keys", place / "epoch_keys.json"
    shutil.copytree(keystore_path, keystore)
    profile = place / "loopback.xml"
    profile.write_text(LOOPBACK_ONLY)
    # The range LOCALHOST would bring shared memory back; the profile keeps everything on this host as well.
    changes = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "FASTDDS_DEFAULT_PROFILES_FILE": str(profile)}
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    sniffer = open_sniffer()
    swarm = subprocess.Popen(
        [sys.executable, str(HERE / "eavesdropped_swarm.py"), str(keystore), str(keys_file)]
    )
    rclpy.init(domain_id=ros_domain)
    topics: dict[str, list[bytes]] = {}
    packets: list[bytes] = []
    try:
        node = rclpy.create_node("eavesdropper", start_parameter_services=False)
        spinner = Spinner()
        spinner.add(node)
        quality = QoSProfile(depth=1000, reliability=ReliabilityPolicy.BEST_EFFORT)

        def listen() -> bool:
            for name, types in node.get_topic_names_and_types():
                if name not in topics:
                    heard = topics[name] = []
                    node.create_subscription(get_message(types[0]), name, heard.append, quality, raw=True)
            if sniffer is not None:
                try:
                    while True:
                        packets.append(sniffer.recv(1 << 17))
                except BlockingIOError:
                    pass
            return False

        def talked() -> dict[str, int]:
            return json.loads(keys_file.read_text())["heard"] if keys_file.exists() else {}

        wanted = {
            "/chimera/plain",
            "/chimera/drone_01/telemetry",
            "/chimera/leader/command",
            "/chimera/crypto/beat",
        }
        wanted |= {"/chimera/survey/ask/request", "/chimera/survey/ask/response"}
        limit = time.monotonic() + 40.0
        enough = None

        def done() -> bool:
            nonlocal enough
            listen()
            heard_all = all(len(topics.get(name, ())) > 5 for name in wanted)
            if enough is None and heard_all and min(talked().values(), default=0) > 20:
                enough = time.monotonic()
            return (enough is not None and time.monotonic() > enough + 1.0) or time.monotonic() > limit

        node.create_timer(0.05, lambda: None)  # wakes the loop
        spinner.spin(done)
        assert swarm.poll() is None, "the swarm ended early"
        assert enough is not None, {name: len(heard) for name, heard in topics.items()}
        secrets = json.loads(keys_file.read_text())
        spinner.close()
        node.destroy_node()
    finally:
        swarm.terminate()
        swarm.wait(15)
        rclpy.try_shutdown()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    keys = [bytes.fromhex(key) for key in secrets["keys"]]
    for file in keystore.glob("members/*/identity.key"):
        keys.append(load_pem_private_key(file.read_bytes(), None).private_bytes_raw())
    return topics, packets if sniffer is not None else None, keys, secrets["heard"]


def needles() -> dict[str, bytes]:
    said = talker()
    found = {"phase": said.PHASE.encode(), "answer": said.ANSWER.encode(), "reason": b"recognisable reason"}
    for what, place in (("position", said.PLACE), ("target", said.TARGET)):
        for axis, value in zip("xyz", place, strict=True):
            for order in "<>":
                for kind in "df":
                    found[f"{what} {axis} {order}{kind}"] = struct.pack(order + kind, value)
    return found


def test_topics_carry_nothing_in_clear(overheard):
    topics, _, keys, through = overheard
    assert min(through.values()) > 20  # the swarm understood itself all the while
    assert len(keys) >= 3 * 4 + 9  # several epochs of four lanes, and the identities
    place_x = needles()["position x <d"]
    assert any(place_x in sample for sample in topics["/chimera/plain"]), "the look-out does not work"
    sealed = {name: b"\n".join(heard) for name, heard in topics.items() if name != "/chimera/plain"}
    assert {"/rosout", "/chimera/leader/heartbeat", "/chimera/crypto/epoch"} <= sealed.keys()
    for name, data in sealed.items():
        for what, needle in needles().items():
            assert needle not in data, f"{what} in clear on {name}"
        for key in keys:
            assert key[:16] not in data, f"a key in clear on {name}"
            assert key[-16:] not in data, f"a key in clear on {name}"


def test_loopback_carries_nothing_in_clear(overheard):
    _, packets, keys, _ = overheard
    if packets is None:
        pytest.skip("NOT CHECKED: bytes on loopback need a packet socket (root or CAP_NET_RAW)")
    wire = b"\n".join(packets)
    assert len(wire) > 1_000_000
    secret = needles()
    # The plain topic says the position too, with the drone name `plain` in it; every other place is a find.
    rest = [packet for packet in packets if b"plain\0" not in packet]
    assert any(secret["position x <d"] in packet for packet in packets if b"plain\0" in packet), (
        "look-out broken"
    )
    wire = b"\n".join(rest)
    for what, needle in secret.items():
        assert needle not in wire, f"{what} in clear on loopback"
    for key in keys:
        assert key[:16] not in wire
        assert key[-16:] not in wire
