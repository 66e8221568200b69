"""MAVLink 2 (and 1) framing: splits datagrams into frames and checks length and checksum. No signing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pymavlink.dialects.v20 import common as m

SET_POSITION_TARGET_LOCAL_NED = 84
POSITION_TARGET = struct.Struct("<I11fHBBB")
_V1, _V2 = 0xFE, 0xFD
_SIGNED = 0x01


@dataclass(frozen=True, slots=True)
class MavlinkFrame:
    """A frame with a valid checksum. `payload` is as sent: MAVLink 2 truncates zeros at its end."""

    message_id: int
    system_id: int
    component_id: int
    payload: bytes
    raw: bytes


def split_frames(datagram: bytes) -> Iterator[MavlinkFrame | None]:
    """Frames of a datagram in order; None for an invalid one, after which the rest is skipped."""
    at, end = 0, len(datagram)
    while at < end:
        magic = datagram[at]
        if magic == _V2 and at + 12 <= end:
            header, flags = 10, datagram[at + 2]
            tail = 2 + (13 if flags & _SIGNED else 0)
            number = datagram[at + 7] | datagram[at + 8] << 8 | datagram[at + 9] << 16
            system, component = datagram[at + 5], datagram[at + 6]
        elif magic == _V1 and at + 8 <= end:
            header, tail = 6, 2
            system, component, number = datagram[at + 3], datagram[at + 4], datagram[at + 5]
        else:
            yield None
            return
        body_end = at + header + datagram[at + 1]
        stop = body_end + tail
        if stop > end:
            yield None
            return
        kind = m.mavlink_map.get(number)
        if kind is not None:
            crc = m.x25crc(datagram[at + 1 : body_end] + bytes((kind.crc_extra,))).crc
            if crc != datagram[body_end] | datagram[body_end + 1] << 8:
                yield None
                return
            yield MavlinkFrame(number, system, component, datagram[at + header : body_end], datagram[at:stop])
        at = stop


def unpack_position_target(payload: bytes) -> tuple[Any, ...]:
    """Fields of SET_POSITION_TARGET_LOCAL_NED in wire order, faster than pymavlink's decoder."""
    size = POSITION_TARGET.size
    return POSITION_TARGET.unpack(payload[:size].ljust(size, b"\0"))
