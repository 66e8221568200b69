"""The hand-written CDR codec agrees with rclpy's serialisation and refuses everything malformed."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from chimera_ros import msg
from chimera_ros.crypto.wire import CONTROL_LIMITS, ControlKind, ControlMessage
from chimera_ros.ros.cdr import (
    MAX_SEALED,
    MAX_SIGNATURE,
    CdrError,
    decode_checkpoint,
    decode_envelope,
    decode_parts,
    encode_checkpoint,
    encode_envelope,
    encode_parts,
)
from chimera_ros.ros.control_topics import TOPICS, bounds_of, decode_control, encode_control

bodies = st.binary(max_size=70)
envelopes = st.tuples(
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 2**32 - 1),
    bodies,
    bodies,
)


def as_message(fields: tuple[int, int, int, int, bytes, bytes]) -> msg.SecureEnvelope:
    version, lane, sender, epoch, sealed, signature = fields
    return msg.SecureEnvelope(
        version=version, lane=lane, sender=sender, epoch=epoch, sealed=sealed, signature=signature
    )


def as_fields(message: msg.SecureEnvelope) -> tuple[int, int, int, int, bytes, bytes]:
    return (
        message.version,
        message.lane,
        message.sender,
        message.epoch,
        bytes(message.sealed),
        bytes(message.signature),
    )


@given(envelopes)
def test_envelopes_are_what_rclpy_reads_and_writes(fields):
    ours, theirs = encode_envelope(*fields), serialize_message(as_message(fields))
    assert len(ours) == len(theirs)
    assert as_fields(deserialize_message(ours, msg.SecureEnvelope)) == fields
    assert decode_envelope(theirs) == fields


def test_padding_is_zero():
    """Fast CDR leaves whatever was in memory there; ours is sent in clear and must not."""
    for size in range(1, 4):
        assert encode_envelope(1, 1, 2, 3, b"x" * size, b"")[16 + size : -4] == bytes(4 - size)


@pytest.mark.parametrize("kind", list(ControlKind))
def test_control_messages_are_what_rclpy_reads_and_writes(kind):
    message_type = TOPICS[kind][1]
    names = list(message_type.get_fields_and_field_types())
    for size in range(9):
        parts = tuple(bytes([index + 1]) * (size + index) for index in range(len(names)))
        theirs = serialize_message(message_type(**dict(zip(names, parts, strict=True))))
        ours = encode_control(ControlMessage(kind, parts))
        assert len(ours) == len(theirs)
        assert deserialize_message(ours, message_type) == deserialize_message(theirs, message_type)
        assert decode_control(kind, theirs) == ControlMessage(kind, parts)


@pytest.mark.parametrize("kind", list(ControlKind))
def test_bounds_are_those_of_the_message_definitions(kind):
    assert bounds_of(kind) == CONTROL_LIMITS[kind]
    message_type = TOPICS[kind][1]
    for (name, declared), bound in zip(
        message_type.get_fields_and_field_types().items(), bounds_of(kind), strict=True
    ):
        # Long fields are unbounded in the definition, because DDS sets their bound aside for each sample.
        assert declared in (f"sequence<uint8, {bound}>", "sequence<uint8>"), name
        assert (declared == "sequence<uint8>") == (bound > 65536), name


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=80), st.binary(max_size=60).map(lambda tail: b"\x00\x01\x00\x00" + tail)))
def test_any_bytes_give_an_envelope_that_rclpy_reads_too_or_a_typed_error(data):
    try:
        fields = decode_envelope(data)
    except CdrError:
        return
    if data[3] == 0:  # Fast CDR takes other option bytes for another encoding
        assert as_fields(deserialize_message(data, msg.SecureEnvelope)) == fields


@given(envelopes, st.data())
def test_a_cut_or_changed_envelope_never_reads_outside_itself(fields, data):
    whole = encode_envelope(*fields)
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CdrError):
        decode_envelope(whole[:cut])
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        got = decode_envelope(bytes(changed))
    except CdrError:
        return
    assert len(got[4]) + len(got[5]) + 20 <= len(whole)
    if place != 3:
        assert as_fields(deserialize_message(bytes(changed), msg.SecureEnvelope)) == got


@given(st.binary(max_size=100))
def test_any_bytes_give_parts_or_a_typed_error(data):
    for bounds in ((20, 10), (5,), (10, 4, 10, 8)):
        try:
            parts = decode_parts(b"\x00\x01\x00\x00" + data, bounds)
        except CdrError:
            continue
        assert all(len(part) <= bound for part, bound in zip(parts, bounds, strict=True))


def test_oversize_is_refused_both_ways():
    with pytest.raises(CdrError, match=str(MAX_SEALED)):
        encode_envelope(1, 0, 0, 1, bytes(MAX_SEALED + 1), b"")
    with pytest.raises(CdrError):
        encode_envelope(1, 0, 0, 1, b"", bytes(MAX_SIGNATURE + 1))
    with pytest.raises(CdrError):
        encode_envelope(1, 0, 65536, 1, b"", b"")
    whole = encode_envelope(1, 0, 0, 1, bytes(MAX_SEALED), bytes(MAX_SIGNATURE))
    assert len(decode_envelope(whole)[4]) == MAX_SEALED
    larger = bytearray(whole) + bytes(8)
    larger[12:16] = (MAX_SEALED + 4).to_bytes(4, "little")
    with pytest.raises(CdrError):
        decode_envelope(bytes(larger))
    with pytest.raises(CdrError, match="part 1"):
        encode_parts([b"", bytes(11)], (5, 10))
    with pytest.raises(CdrError, match="parts"):
        encode_parts([b""], (5, 10))


def test_trailing_bytes_are_padding_or_an_error():
    whole = encode_envelope(1, 1, 2, 3, b"abcde", b"f")
    assert decode_envelope(whole + b"\x00\x00\x00") == (1, 1, 2, 3, b"abcde", b"f")
    with pytest.raises(CdrError):
        decode_envelope(whole + bytes(4))
    with pytest.raises(CdrError):
        decode_envelope(b"\x00\x00" + whole[2:])  # big endian


hashes = st.binary(min_size=32, max_size=32)
checkpoints = st.tuples(
    hashes,
    st.integers(0, 2**32 - 1),
    st.integers(0, 65535),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    hashes,
    st.lists(hashes, max_size=5).map(b"".join),
    bodies,
)


@given(checkpoints)
def test_checkpoints_are_what_rclpy_reads_and_writes(fields):
    names = list(msg.Checkpoint.get_fields_and_field_types())
    theirs = serialize_message(msg.Checkpoint(**dict(zip(names, fields, strict=True))))
    assert decode_checkpoint(theirs) == fields
    ours = encode_checkpoint(*fields)
    assert len(ours) == len(theirs)
    back = deserialize_message(ours, msg.Checkpoint)
    values = [getattr(back, name) for name in names]
    assert tuple(value if isinstance(value, int) else bytes(value) for value in values) == fields


@given(checkpoints, st.data())
def test_broken_checkpoints_are_refused(fields, data):
    good = encode_checkpoint(*fields)
    with pytest.raises(CdrError):
        decode_checkpoint(good[: data.draw(st.integers(0, len(good) - 1))])
    with pytest.raises(CdrError):
        decode_checkpoint(good + b"\0" * 4)
    with contextlib.suppress(CdrError):
        decode_checkpoint(data.draw(st.binary(max_size=200)))


def test_checkpoints_out_of_range_are_not_written():
    good = (bytes(32), 1, 1, 1, 1, 1, 1, bytes(32), bytes(32), b"")
    for at, value in (
        (0, b""),
        (1, 2**32),
        (2, 2**16),
        (4, -1),
        (7, bytes(31)),
        (8, bytes(8224)),
        (9, bytes(4628)),
    ):
        with pytest.raises(CdrError):
            encode_checkpoint(*good[:at], value, *good[at + 1 :])
