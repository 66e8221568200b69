"""UDP server of the simulation: sockets, wall clock, status and tracks.

Vehicle i sends from its own port `first_port + 1000 + i` to its client at `first_port + i`, and to peers that
have sent to its own port. All vehicles share one socket towards the ground-station port. Everything is on
127.0.0.1.

Source addresses are pinned: once the client has sent a frame, only the client is obeyed, and of ground
stations only what comes from the ground-station port. A port of UDP belongs to one process of this machine,
so that another one cannot send in the client's place while it lives. Not handled: MAVLink 2 signatures.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chimera_ros.terminal.lines import print_line

from . import mavlink_messages as messages
from .config import OWN_PORT_OFFSET, FaultKind, SitlConfig, SitlError, SitlMisuse
from .mavlink_frames import split_frames
from .mavlink_vehicle import MavlinkChannel, MavlinkVehicle
from .simulation import STEP_S, Simulation
from .track_file import TrackFile

HOST = "127.0.0.1"
TICK_STEPS = 2  # the loop wakes every 8 ms
MAX_DATAGRAM = 1400
MAX_READS_PER_TICK = 64
MAX_PEERS = 4
PEER_TIMEOUT_S = 10.0
STATUS_PERIOD_S = 0.5
TRACK_PERIOD_S = 0.2
MAX_LAG_S = 0.2  # lag beyond this is dropped; it shows in the real-time factor

Address = tuple[str, int]


@dataclass(slots=True)
class UdpEndpoint:
    """A socket with the client it always sends to, and peers that have sent to it lately."""

    sock: socket.socket
    default: Address
    peers: dict[Address, float] = field(default_factory=dict)
    pinned: bool = False  # only `default` is obeyed

    def accepts(self, address: Address) -> bool:
        """True if frames from this address are obeyed."""
        if address != self.default:
            return not self.pinned
        if not self.pinned:
            self.pinned = True
            self.peers = {at: seen for at, seen in self.peers.items() if at == address}
        return True

    def refresh(self, address: Address, wall_s: float) -> None:
        """Note that a peer is alive; those beyond `MAX_PEERS` get nothing."""
        if address in self.peers or len(self.peers) < MAX_PEERS:
            self.peers[address] = wall_s

    def expire(self, wall_s: float) -> None:
        """Drop peers silent for `PEER_TIMEOUT_S`."""
        for address in [a for a, at in self.peers.items() if wall_s - at > PEER_TIMEOUT_S]:
            del self.peers[address]

    def send(self, packets: Iterable[bytes]) -> None:
        """Send messages to client and peers, several in a datagram."""
        for datagram in pack_datagrams(packets):
            self._sendto(datagram, self.default)
            for address in self.peers:
                if address != self.default:
                    self._sendto(datagram, address)

    def _sendto(self, datagram: bytes, address: Address) -> None:
        try:
            self.sock.sendto(datagram, address)
        except OSError as error:  # a full buffer drops the datagram, as a radio link would
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ECONNREFUSED, errno.EPERM):
                raise


def pack_datagrams(packets: Iterable[bytes]) -> list[bytes]:
    """Join packed messages into datagrams of at most `MAX_DATAGRAM` bytes."""
    datagrams: list[bytes] = []
    waiting: list[bytes] = []
    size = 0
    for packet in packets:
        if size + len(packet) > MAX_DATAGRAM and waiting:
            datagrams.append(b"".join(waiting))
            waiting, size = [], 0
        waiting.append(packet)
        size += len(packet)
    if waiting:
        datagrams.append(b"".join(waiting))
    return datagrams


def open_endpoint(number: int, remote: int, what: str) -> UdpEndpoint:
    """A UDP socket on loopback with exclusive use of its port.

    SO_REUSEADDR stays off: with it a port bound twice reports success and steals the other's datagrams.

    Raises:
        SitlError: if the port is busy, naming it.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind((HOST, number))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SitlError(
                f"UDP port {number} ({what}) is busy: end its user or choose another --first-port."
            ) from None
        raise SitlError(f"UDP port {number} ({what}) cannot be opened: {error.strerror}.") from None
    sock.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 18)
    return UdpEndpoint(sock, (HOST, remote))


class UdpServer:
    """Sockets and vehicles of one running simulation; use as a context manager."""

    def __init__(self, config: SitlConfig) -> None:
        config.check()
        self.config = config
        self._endpoints: list[UdpEndpoint] = []
        self._selector = selectors.DefaultSelector()
        try:
            self._station = self._open(config)
        except SitlError:
            self._selector.close()
            for endpoint in self._endpoints:
                endpoint.sock.close()
            raise
        self.simulation = Simulation(config)
        self.vehicles: list[MavlinkVehicle] = []
        for commander in self.simulation.commanders:
            channels = {"client": MavlinkChannel(commander.state.system_id, messages.CLIENT_RATES_HZ, True)}
            if self._station is not None:
                channels["station"] = MavlinkChannel(
                    commander.state.system_id, messages.STATION_RATES_HZ, False
                )
            self.vehicles.append(MavlinkVehicle(commander, self.simulation, channels))
        self._mute_from_s = [self._mute_time(i) for i in range(config.drones)]

    def _open(self, config: SitlConfig) -> UdpEndpoint | None:
        for i in range(config.drones):
            remote = config.first_port + i
            endpoint = open_endpoint(remote + OWN_PORT_OFFSET, remote, f"vehicle {i + 1}")
            self._endpoints.append(endpoint)
            self._selector.register(endpoint.sock, selectors.EVENT_READ, i)
        if not config.gcs_port:
            return None
        station = open_endpoint(0, config.gcs_port, "ground station")
        station.pinned = True
        self._selector.register(station.sock, selectors.EVENT_READ, -1)
        return station

    def _mute_time(self, vehicle: int) -> float:
        if self.config.fault_of(vehicle, FaultKind.SILENT):
            return 0.0
        freeze = self.config.fault_of(vehicle, FaultKind.FREEZE)
        return freeze.at_s if freeze else float("inf")

    def __enter__(self) -> UdpServer:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all sockets."""
        self._selector.close()
        for endpoint in self._endpoints:
            endpoint.sock.close()
        if self._station is not None:
            self._station.sock.close()

    def tick(self, steps: int, wall_s: float) -> None:
        """Receive, advance the simulation by `steps`, send what is due."""
        self._receive(wall_s)
        self.simulation.advance(steps)
        now = self.simulation.time_s
        station: list[bytes] = []
        for i, vehicle in enumerate(self.vehicles):
            vehicle.tick(now)
            muted = now >= self._mute_from_s[i]
            for name, channel in vehicle.channels.items():
                if not channel.out:
                    continue
                if not muted:
                    if name == "client":
                        self._endpoints[i].send(channel.out)
                    else:
                        station += channel.out
                channel.out.clear()
        if station and self._station is not None:
            self._station.send(station)

    def housekeeping(self, wall_s: float) -> None:
        """Drop silent peers; called with each status line."""
        for endpoint in self._endpoints:
            endpoint.expire(wall_s)
        if self._station is not None:
            self._station.expire(wall_s)
            alive = bool(self._station.peers)
            for vehicle in self.vehicles:
                vehicle.channels["station"].streaming = alive

    def _receive(self, wall_s: float) -> None:
        for key, _ in self._selector.select(0):
            index = int(key.data)
            endpoint = self._endpoints[index] if index >= 0 else self._station
            assert endpoint is not None
            for _ in range(MAX_READS_PER_TICK):
                try:
                    datagram, address = endpoint.sock.recvfrom(2048)
                except (BlockingIOError, ConnectionRefusedError):
                    break
                self._dispatch(index, endpoint, datagram, address, wall_s)

    def _dispatch(
        self, index: int, endpoint: UdpEndpoint, datagram: bytes, address: Address, wall_s: float
    ) -> None:
        now = self.simulation.time_s
        valid = False
        for frame in split_frames(datagram):
            if frame is None or not endpoint.accepts(address):
                if index >= 0:
                    self.vehicles[index].rejected += 1
                break
            valid = True
            if index >= 0:
                if now < self._mute_from_s[index]:
                    self.vehicles[index].handle(frame, self.vehicles[index].channels["client"], now)
                continue
            for i, vehicle in enumerate(self.vehicles):
                vehicle.channels["station"].streaming = True
                if now < self._mute_from_s[i]:
                    vehicle.handle(frame, vehicle.channels["station"], now)
        if valid:
            endpoint.refresh(address, wall_s)


def run(
    config: SitlConfig,
    status: Callable[[dict[str, Any]], None] | None,
    stop: Callable[[Callable[[], bool]], bool],
) -> None:
    """Simulate in real time until `stop(any_armed)` is true.

    status gets `Simulation.status` and `real_time_factor` (simulated over wall time) twice a second. The loop
    sleeps to deadlines of 8 ms; when the machine is too slow it falls behind instead of skipping physics.

    Tracks cost the simulation nothing: loss is an alarm in `status`. Without `status` nobody would see it, so
    that a file which cannot be opened is refused.

    Raises:
        SitlError: if a port is busy. SitlMisuse: if the configuration or the track file is impossible.
    """
    tracks = TrackFile(Path(config.tracks), time.monotonic()) if config.tracks is not None else None
    if tracks is not None and tracks.problem and status is None:
        raise SitlMisuse(f"--tracks: {tracks.problem}.")
    try:
        with UdpServer(config) as server:
            _loop(server, status, stop, tracks)
    finally:
        if tracks is not None:
            tracks.close()


def _loop(
    server: UdpServer,
    status: Callable[[dict[str, Any]], None] | None,
    stop: Callable[[Callable[[], bool]], bool],
    tracks: TrackFile | None,
) -> None:
    period = TICK_STEPS * STEP_S / server.config.speed_factor
    begun = deadline = time.monotonic()
    next_status = begun + STATUS_PERIOD_S
    next_track = 0.0
    while not stop(server.simulation.any_armed):
        now = time.monotonic()
        server.tick(TICK_STEPS, now)
        if tracks is not None and server.simulation.time_s >= next_track:
            next_track += TRACK_PERIOD_S
            tracks.write(server.simulation.time_s, server.simulation.true_enu_m(), now)
        if now >= next_status:
            next_status = now + STATUS_PERIOD_S
            server.housekeeping(now)
            alarms = tracks.take_alarms() if tracks is not None else []
            if status is not None:
                factor = server.simulation.time_s / max(now - begun, 1e-3)
                status({"real_time_factor": round(factor, 4), "alarms": alarms, **server.simulation.status()})
            for alarm in alarms:
                with contextlib.suppress(OSError):
                    print_line(alarm, error=True, flush=True)
        deadline += period
        wait = deadline - time.monotonic()
        if wait > 0.0:
            time.sleep(wait)
        elif wait < -MAX_LAG_S:
            deadline -= wait
    if status is not None:
        factor = server.simulation.time_s / max(time.monotonic() - begun, 1e-3)
        status({"real_time_factor": round(factor, 4), **server.simulation.status()})
