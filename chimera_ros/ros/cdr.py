"""CDR codec of the messages that carry the security protocol.

Serialised bytes go straight to ``Publisher.publish`` and come straight from ``raw=True`` subscriptions,
which saves a conversion to and from Python objects of several kilobytes in each direction. The format is
XCDR version 1, little endian (DDS-XTypes 1.3, 7.4; header ``00 01`` and two option bytes): integers aligned
to their size counted from the end of the header, sequences as uint32 length and bytes. Everything read is
bounded by the message definitions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

HEADER: Final = b"\x00\x01\x00\x00"

MAX_SEALED: Final = 1_114_112
MAX_SIGNATURE: Final = 4627

_ENVELOPE = struct.Struct("<4sBBHII")  # header, version, lane, sender, epoch, length of `sealed`
_LENGTH = struct.Struct("<I")
_PADDING: Final = (b"", b"\x00\x00\x00", b"\x00\x00", b"\x00")  # by length modulo 4
_MAX_TRAILING: Final = 3  # RTPS may pad a payload to a multiple of four; some writers say so in the header
_ACCEPTED: Final = frozenset(HEADER[:3] + bytes([padding]) for padding in range(_MAX_TRAILING + 1))

type_bounds: Final[dict[str, tuple[int, ...]]] = {
    "KeyRequest": (1024, MAX_SIGNATURE),
    "KeyPackage": (16384, MAX_SIGNATURE),
    "EpochAnnouncement": (1_048_576, 32, 4_194_304, MAX_SIGNATURE),
    "EpochReady": (1024, MAX_SIGNATURE),
    "EpochSwitch": (1024, MAX_SIGNATURE),
    "Beat": (1024, MAX_SIGNATURE),
    "Certificate": (16384,),
    "TrustUpdate": (262_400, MAX_SIGNATURE),
    "OperatorStop": (65536, MAX_SIGNATURE),
    "StopAck": (1024, MAX_SIGNATURE),
    "FallbackHello": (1024, MAX_SIGNATURE),
}
"""Maximum length of each byte field, in field order, of the plain control messages."""


_CHECKPOINT = struct.Struct("<4sI32sIHB5xQQQI32sI")  # up to the length of `leaves`
MAX_LEAVES: Final = 8192


class CdrError(ValueError):
    """Bytes are not the message they should be, or a message is larger than its definition allows."""


EnvelopeFields = tuple[int, int, int, int, bytes, bytes]
"""version, lane, sender, epoch, sealed, signature: the fields of SecureEnvelope in order."""


def encode_envelope(
    version: int, lane: int, sender: int, epoch: int, sealed: bytes, signature: bytes
) -> bytes:
    """CDR of a SecureEnvelope.

    Raises:
        CdrError: a field is outside its range or bound.
    """
    size = len(sealed)
    if size > MAX_SEALED or len(signature) > MAX_SIGNATURE:
        raise CdrError(
            f"an envelope of {size} sealed and {len(signature)} signature bytes; "
            f"allowed are {MAX_SEALED} and {MAX_SIGNATURE}"
        )
    try:
        head = _ENVELOPE.pack(HEADER, version, lane, sender, epoch, size)
    except struct.error as error:
        raise CdrError(f"a field of an envelope is out of range: {error}") from error
    return b"".join((head, sealed, _PADDING[size & 3], _LENGTH.pack(len(signature)), signature))


def decode_envelope(data: bytes) -> EnvelopeFields:
    """Fields of a SecureEnvelope from its CDR.

    Raises:
        CdrError: not little-endian XCDR1, truncated, longer than its length fields or over a bound.
    """
    total = len(data)
    if total < 20:
        raise CdrError(f"an envelope of {total} bytes is truncated")
    header, version, lane, sender, epoch, size = _ENVELOPE.unpack_from(data)
    if header not in _ACCEPTED:
        raise CdrError("an envelope in an encoding other than little-endian XCDR1")
    end = 16 + size
    start = (end + 3) & ~3
    if size > MAX_SEALED or start + 4 > total:
        raise CdrError(f"an envelope announces {size} sealed bytes; it has {total} in all")
    (signature_size,) = _LENGTH.unpack_from(data, start)
    start += 4
    stop = start + signature_size
    if signature_size > MAX_SIGNATURE or not 0 <= total - stop <= _MAX_TRAILING:
        raise CdrError(f"an envelope announces a signature of {signature_size} bytes; it has {total} in all")
    return version, lane, sender, epoch, data[16:end], data[start:stop]


CheckpointFields = tuple[bytes, int, int, int, int, int, int, bytes, bytes, bytes]
"""The fields of Checkpoint in order."""


def encode_checkpoint(
    transcript_hash: bytes,
    epoch: int,
    slot: int,
    lane: int,
    first: int,
    last: int,
    made_ns: int,
    root: bytes,
    leaves: bytes,
    signature: bytes,
) -> bytes:
    """CDR of a Checkpoint; `leaves` are joined.

    Raises:
        CdrError: a field is outside its range, bound or fixed length.
    """
    if len(transcript_hash) != 32 or len(root) != 32 or len(leaves) % 4:
        raise CdrError("a checkpoint whose hashes are not of 32 bytes")
    if len(leaves) > MAX_LEAVES or len(signature) > MAX_SIGNATURE:
        raise CdrError(f"a checkpoint with {len(leaves)} bytes of leaves; allowed are {MAX_LEAVES}")
    try:
        head = _CHECKPOINT.pack(
            HEADER, 32, transcript_hash, epoch, slot, lane, first, last, made_ns, 32, root, len(leaves)
        )
    except struct.error as error:
        raise CdrError(f"a field of a checkpoint is out of range: {error}") from error
    return b"".join((head, leaves, _LENGTH.pack(len(signature)), signature))


def decode_checkpoint(data: bytes) -> CheckpointFields:
    """Fields of a Checkpoint from its CDR.

    Raises:
        CdrError: not little-endian XCDR1, truncated, longer than its length fields, over a bound, or hashes
        that are not of 32 bytes.
    """
    total = len(data)
    if total < _CHECKPOINT.size + 4:
        raise CdrError(f"a checkpoint of {total} bytes is truncated")
    header, hash_size, transcript_hash, epoch, slot, lane, first, last, made_ns, root_size, root, size = (
        _CHECKPOINT.unpack_from(data)
    )
    if header not in _ACCEPTED or hash_size != 32 or root_size != 32:
        raise CdrError("a checkpoint in another encoding, or whose hashes are not of 32 bytes")
    end = _CHECKPOINT.size + size
    if size > MAX_LEAVES or size % 4 or end + 4 > total:
        raise CdrError(f"a checkpoint announces {size} bytes of leaves; it has {total} in all")
    (signature_size,) = _LENGTH.unpack_from(data, end)
    stop = end + 4 + signature_size
    if signature_size > MAX_SIGNATURE or not 0 <= total - stop <= _MAX_TRAILING:
        raise CdrError(f"a checkpoint announces a signature of {signature_size} bytes; it has {total} in all")
    leaves, signature = data[_CHECKPOINT.size : end], data[end + 4 : stop]
    return transcript_hash, epoch, slot, lane, first, last, made_ns, root, leaves, signature


def encode_parts(parts: Sequence[bytes], bounds: Sequence[int]) -> bytes:
    """CDR of a message whose fields are all byte sequences.

    Raises:
        CdrError: wrong number of parts, or a part longer than its bound.
    """
    if len(parts) != len(bounds):
        raise CdrError(f"a message of {len(parts)} parts; its definition has {len(bounds)}")
    pieces = [HEADER]
    last = len(parts) - 1
    for index, (part, bound) in enumerate(zip(parts, bounds, strict=True)):
        if len(part) > bound:
            raise CdrError(f"part {index} has {len(part)} bytes; allowed are {bound}")
        pieces += (_LENGTH.pack(len(part)), part)
        if index != last:
            pieces.append(_PADDING[len(part) & 3])
    return b"".join(pieces)


def decode_parts(data: bytes, bounds: Sequence[int]) -> tuple[bytes, ...]:
    """Byte fields of a control message from its CDR, as many as `bounds` has entries.

    Raises:
        CdrError: not little-endian XCDR1, truncated, longer than its length fields or over a bound.
    """
    total = len(data)
    if data[:4] not in _ACCEPTED:
        raise CdrError("a control message truncated or in an encoding other than little-endian XCDR1")
    parts = []
    end = 4
    for bound in bounds:
        start = (end + 3) & ~3
        if start + 4 > total:
            raise CdrError(f"a control message of {total} bytes is truncated")
        (size,) = _LENGTH.unpack_from(data, start)
        end = start + 4 + size
        if size > bound or end > total:
            raise CdrError(
                f"a control message announces a part of {size} bytes; allowed are {bound}, it has {total}"
            )
        parts.append(data[start + 4 : end])
    if total - end > _MAX_TRAILING:
        raise CdrError(f"a control message has {total - end} bytes too many")
    return tuple(parts)


def checked_payload(payload: bytes) -> bytes:
    """The CDR of a plaintext message, safe to pass to a deserialiser.

    A message from a member may be hostile too: Fast CDR reads outside its buffer, and the process crashes,
    when the encapsulation header announces more padding than there are bytes. Only what rmw writes
    is accepted: little-endian XCDR1, and at least one byte.

    Raises:
        CdrError: another encoding, or truncated.
    """
    header = bytes(payload[:4])
    if header not in _ACCEPTED or len(payload) <= 4 + header[3]:
        raise CdrError(f"a message of {len(payload)} bytes is truncated or not little-endian XCDR1")
    return HEADER + payload[4:] if header != HEADER else bytes(payload)
