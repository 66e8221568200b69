"""Source addresses of the simulated vehicles' MAVLink: another process is not obeyed."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pymavlink.dialects.v20 import common as m

from chimera_ros.sitl.config import OWN_PORT_OFFSET, SitlConfig, SitlError
from chimera_ros.sitl.udp_server import UdpServer

DISARM = 400


def bound(port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", port))
    return sock


def disarm() -> bytes:
    """A forced disarm, as any process can make it."""
    maker = m.MAVLink(None, srcSystem=245, srcComponent=190)
    return bytes(m.MAVLink_command_long_message(1, 1, DISARM, 0, 0, 21196, 0, 0, 0, 0, 0).pack(maker))


@dataclass
class Field:
    server: UdpServer
    client: socket.socket
    station: socket.socket
    handled: list[int]

    def send(self, sender: socket.socket, port: int) -> int:
        """How many frames of three datagrams reach the vehicle."""
        before = len(self.handled)
        for _ in range(3):
            sender.sendto(disarm(), ("127.0.0.1", port))
        self.server.tick(1, 0.0)  # loopback delivers within sendto
        return len(self.handled) - before


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> Iterator[Field]:
    with contextlib.ExitStack() as stack:
        for first in range(25000, 40000, 7):
            try:
                client = stack.enter_context(bound(first))
                station = stack.enter_context(bound())
                gcs = station.getsockname()[1]
                server = stack.enter_context(UdpServer(SitlConfig(drones=1, first_port=first, gcs_port=gcs)))
                break
            except (OSError, SitlError):
                continue
        handled: list[int] = []
        monkeypatch.setattr(
            server.vehicles[0], "handle", lambda frame, *rest: handled.append(frame.message_id)
        )
        yield Field(server, client, station, handled)


def test_three_packets_of_another_process_do_not_disarm(field: Field) -> None:
    own = field.client.getsockname()[1] + OWN_PORT_OFFSET
    assert field.send(field.client, own) == 3
    with bound() as stranger:
        assert field.send(stranger, own) == 0
        assert stranger.getsockname() not in field.server._endpoints[0].peers, "nothing is sent to it either"
    assert field.server.vehicles[0].rejected == 3
    assert field.send(field.client, own) == 3


def test_a_ground_station_is_obeyed_from_its_port_only(field: Field) -> None:
    station = field.server._station
    assert station is not None
    own = station.sock.getsockname()[1]
    with bound() as stranger:
        assert field.send(stranger, own) == 0
    assert field.send(field.station, own) == 3


def test_without_a_client_peers_are_obeyed(field: Field) -> None:
    """A client that connects to the vehicle's own port, until the one at the usual port is there."""
    own = field.client.getsockname()[1] + OWN_PORT_OFFSET
    with bound() as peer:
        assert field.send(peer, own) == 3
        assert field.send(field.client, own) == 3
        assert field.send(peer, own) == 0
