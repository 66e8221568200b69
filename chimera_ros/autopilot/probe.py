"""Probe of a vehicle's UDP port: system ids of the heartbeats that arrive before MAVSDK gets the connection.

MAVSDK merges vehicles with the same system id, whatever connection they use, so a wrong or duplicate id can
no longer be detected once it is connected. The probe holds the port until a heartbeat with the vehicle's
configured system id has arrived on it.
"""

from __future__ import annotations

import socket

from chimera_ros.autopilot.connect import VehicleUrl, bind

_AUTOPILOT_COMPONENT = 1  # MAV_COMP_ID_AUTOPILOT1
_HEARTBEAT = 0  # message id
_HEARTBEAT_CRC_EXTRA = 50
_HEARTBEAT_LENGTH = 9  # bytes of payload
_NO_AUTOPILOT = 8  # MAV_AUTOPILOT_INVALID: ground stations and companions
_MAX_DATAGRAM = 2048  # bytes
_MAX_DATAGRAMS_PER_POLL = 64


def x25(data: bytes) -> int:
    """MAVLink's checksum X.25 (CRC-16/MCRF4XX), without CRC_EXTRA."""
    crc = 0xFFFF
    for byte in data:
        tmp = (byte ^ crc) & 0xFF
        tmp = (tmp ^ (tmp << 4)) & 0xFF
        crc = (crc >> 8) ^ (tmp << 8) ^ (tmp << 3) ^ (tmp >> 4)
    return crc & 0xFFFF


def autopilot_ids(datagram: bytes) -> set[int]:
    """System ids of the autopilots whose heartbeats (MAVLink 1 or 2) are in a datagram."""
    found = set()
    at = 0
    while at < len(datagram):
        magic = datagram[at]
        head = 10 if magic == 0xFD else 6
        if magic not in (0xFD, 0xFE) or at + head + 2 > len(datagram):
            at += 1
            continue
        length = datagram[at + 1]
        end = at + head + length
        if end + 2 > len(datagram):
            at += 1
            continue
        if magic == 0xFD:
            system, component = datagram[at + 5], datagram[at + 6]
            message = int.from_bytes(datagram[at + 7 : at + 10], "little")
            signed = bool(datagram[at + 2] & 1)
        else:
            system, component, message, signed = datagram[at + 3], datagram[at + 4], datagram[at + 5], False
        if message != _HEARTBEAT:
            at = end + 2 + (13 if signed else 0)
            continue
        body = datagram[at + 1 : end]
        payload = datagram[at + head : end].ljust(_HEARTBEAT_LENGTH, b"\0")
        crc = int.from_bytes(datagram[end : end + 2], "little")
        if x25(body + bytes((_HEARTBEAT_CRC_EXTRA,))) != crc:
            at += 1
            continue
        if component == _AUTOPILOT_COMPONENT and payload[5] != _NO_AUTOPILOT:
            found.add(system)
        at = end + 2 + (13 if signed else 0)
    return found


class PortProbe:
    """Probe of one vehicle: binds its UDP port and collects the system ids of the autopilots that send to it.

    Raises PortBusy.
    """

    def __init__(self, url: VehicleUrl, drone: str) -> None:
        self._socket: socket.socket | None = bind(url, drone)
        self._socket.setblocking(False)
        self.seen: set[int] = set()

    def fileno(self) -> int:
        """File descriptor for a selector; -1 after `close()`."""
        return self._socket.fileno() if self._socket else -1

    def poll(self) -> set[int]:
        """Read what has arrived; returns all system ids seen so far."""
        if self._socket is None:
            return self.seen
        for _ in range(_MAX_DATAGRAMS_PER_POLL):
            try:
                self.seen |= autopilot_ids(self._socket.recv(_MAX_DATAGRAM))
            except (BlockingIOError, ConnectionError):
                break
        return self.seen

    def close(self) -> None:
        """Close the port."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
