"""Flight objects survive the way through messages and CDR, and unknown numbers are refused."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message

from chimera_ros import msg
from chimera_ros.flight import messages
from chimera_ros.ros import convert

names = st.from_regex(r"[a-z0-9_]{1,48}", fullmatch=True)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
doubles = st.floats(allow_nan=True, allow_infinity=True)
singles = st.floats(width=32)
vectors = st.tuples(doubles, doubles, doubles)


def within(limit):
    return st.tuples(*[st.floats(-limit, limit)] * 3)


texts = st.text(alphabet=st.characters(codec="ascii", exclude_characters="\0"), max_size=200)

knots = st.builds(messages.TrajectoryKnot, doubles, vectors, vectors, vectors, singles)
CASES = {
    "command": st.builds(
        messages.SwarmCommand,
        u64,
        u32,
        st.sampled_from(messages.CommandKind),
        st.lists(names, max_size=5).map(tuple),
        vectors,
        singles,
        singles,
        u64,
        u64,
    ),
    "ack": st.builds(messages.CommandAck, names, u64, u64, u32, st.sampled_from(messages.AckStatus), texts),
    "trajectory": st.builds(
        messages.Trajectory, u64, u32, names, u64, st.lists(knots, max_size=4).map(tuple)
    ),
    "telemetry": st.builds(
        messages.DroneTelemetry,
        names,
        u64,
        st.sampled_from(messages.DroneState),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        texts,
        within(convert.MAX_POSITION_M) | st.just(messages.NO_POSITION),
        within(convert.MAX_SPEED_M_S),
        st.tuples(doubles, doubles, doubles, doubles),
        vectors,
        singles,
        singles,
        singles,
        u64,
        u64,
        u32,
        st.sampled_from(messages.ReasonCode),
    ),
    "heartbeat": st.builds(
        messages.LeaderHeartbeat, names, u32, u64, u64, st.binary(max_size=32), names, singles
    ),
}


REASONS = {
    name: getattr(msg.DroneTelemetry, name) for name in dir(type(msg.DroneTelemetry)) if name[:7] == "REASON_"
}


def same(one, other):
    """Equality in which NaN equals NaN."""
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_there_and_back(name, data):
    thing = data.draw(CASES[name])
    message = getattr(convert, f"{name}_to_msg")(thing)
    again = deserialize_message(serialize_message(message), type(message))
    assert same(getattr(convert, f"{name}_from_msg")(again), thing)


@pytest.mark.parametrize(
    ("name", "field"),
    [("command", "kind"), ("ack", "status"), ("telemetry", "state"), ("telemetry", "reason_code")],
)
@given(data=st.data())
def test_unknown_numbers_are_refused(name, field, data):
    message = getattr(convert, f"{name}_to_msg")(data.draw(CASES[name]))
    setattr(message, field, 200)
    with pytest.raises(convert.ConversionError, match="200 is unknown; known are"):
        getattr(convert, f"{name}_from_msg")(message)


def test_reason_codes_are_those_of_the_definition():
    assert {name.removeprefix("REASON_"): value for name, value in REASONS.items()} == {
        code.name: code.value for code in messages.ReasonCode
    }


def test_long_and_foreign_reasons_are_made_to_fit():
    ack = messages.CommandAck("drone_01", 1, 0, 1, messages.AckStatus.REFUSED, "ä" * 500)
    assert serialize_message(convert.ack_to_msg(ack))
    assert convert.ack_to_msg(ack).reason == "?" * 200


@pytest.mark.parametrize(
    ("position", "velocity"),
    [
        ((math.inf, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((0.0, math.nan, 0.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 1e300), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (math.nan, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, -math.inf, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 1e9)),
    ],
)
def test_motion_that_is_none_is_refused(position, velocity):
    """One NaN in a neighbour's velocity would stay in a drone's setpoints for the rest of the flight."""
    message = convert.telemetry_to_msg(
        messages.DroneTelemetry(drone="drone_02", stamp_ns=1, state=messages.DroneState.HOLDING)
    )
    message.position_enu_m.x, message.position_enu_m.y, message.position_enu_m.z = position
    message.velocity_enu_m_s.x, message.velocity_enu_m_s.y, message.velocity_enu_m_s.z = velocity
    with pytest.raises(convert.ConversionError):
        convert.telemetry_from_msg(message)
