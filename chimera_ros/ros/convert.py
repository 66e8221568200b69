"""Conversion between the dataclasses of flight and the generated messages.

Both have the same field names. A received message may hold numbers that no enum has, NaN or impossible
motion: `…_from_msg` raises ConversionError and the message is dropped.
"""

from __future__ import annotations

from enum import IntEnum
from math import isnan
from typing import Any, Final, TypeVar

from geometry_msgs.msg import Point, Quaternion, Vector3

from chimera_ros import msg
from chimera_ros.flight import messages
from chimera_ros.flight.vehicle import Vec3

E = TypeVar("E", bound=IntEnum)

MAX_POSITION_M: Final = 1e6  # no drone is farther from the swarm's datum, ...
MAX_SPEED_M_S: Final = 1e3  # ... or faster


class ConversionError(ValueError):
    """A message holds a value outside its definition."""


def _point(value: Vec3) -> Point:
    return Point(x=float(value[0]), y=float(value[1]), z=float(value[2]))


def _vector(value: Vec3) -> Vector3:
    return Vector3(x=float(value[0]), y=float(value[1]), z=float(value[2]))


def _xyz(value: Any) -> Vec3:
    return (value.x, value.y, value.z)


def _motion(position: Vec3, velocity: Vec3) -> None:
    """Raises ConversionError unless both are possible, or the position is NaN (unknown)."""
    if all(isnan(value) for value in position):
        return
    # Written so that NaN and infinity are refused.
    if not all(abs(value) <= MAX_POSITION_M for value in position):
        raise ConversionError(f"a position is no number or farther than {MAX_POSITION_M:g} m")
    if not all(abs(value) <= MAX_SPEED_M_S for value in velocity):
        raise ConversionError(f"a velocity is no number or faster than {MAX_SPEED_M_S:g} m/s")


def _enum(kind: type[E], number: int) -> E:
    try:
        return kind(number)
    except ValueError:
        allowed = ", ".join(f"{item.value} {item.name}" for item in kind)
        raise ConversionError(f"{kind.__name__} {number} is unknown; known are {allowed}") from None


def command_to_msg(command: messages.SwarmCommand) -> msg.SwarmCommand:
    """SwarmCommand.msg of a command."""
    return msg.SwarmCommand(
        command_id=command.command_id,
        term=command.term,
        kind=int(command.kind),
        targets=list(command.targets),
        target_enu_m=_point(command.target_enu_m),
        yaw_enu_rad=float(command.yaw_enu_rad),
        speed_m_s=float(command.speed_m_s),
        plan_id=command.plan_id,
        deadline_ns=command.deadline_ns,
    )


def command_from_msg(message: msg.SwarmCommand) -> messages.SwarmCommand:
    """A command from its message. Raises ConversionError for an unknown kind."""
    return messages.SwarmCommand(
        command_id=message.command_id,
        term=message.term,
        kind=_enum(messages.CommandKind, message.kind),
        targets=tuple(message.targets),
        target_enu_m=_xyz(message.target_enu_m),
        yaw_enu_rad=message.yaw_enu_rad,
        speed_m_s=message.speed_m_s,
        plan_id=message.plan_id,
        deadline_ns=message.deadline_ns,
    )


def ack_to_msg(ack: messages.CommandAck) -> msg.CommandAck:
    """CommandAck.msg of an acknowledgement; the reason is truncated."""
    return msg.CommandAck(
        drone=ack.drone,
        command_id=ack.command_id,
        plan_id=ack.plan_id,
        term=ack.term,
        status=int(ack.status),
        reason=fitting(ack.reason),
    )


def ack_from_msg(message: msg.CommandAck) -> messages.CommandAck:
    """An acknowledgement from its message. Raises ConversionError for an unknown status."""
    return messages.CommandAck(
        drone=message.drone,
        command_id=message.command_id,
        plan_id=message.plan_id,
        term=message.term,
        status=_enum(messages.AckStatus, message.status),
        reason=message.reason,
    )


def trajectory_to_msg(trajectory: messages.Trajectory) -> msg.Trajectory:
    """Trajectory.msg of one drone's trajectory."""
    return msg.Trajectory(
        plan_id=trajectory.plan_id,
        term=trajectory.term,
        drone=trajectory.drone,
        start_ns=trajectory.start_ns,
        knots=[
            msg.TrajectoryKnot(
                t_s=float(knot.t_s),
                position_enu_m=_point(knot.position_enu_m),
                velocity_enu_m_s=_vector(knot.velocity_enu_m_s),
                acceleration_enu_m_s2=_vector(knot.acceleration_enu_m_s2),
                yaw_enu_rad=float(knot.yaw_enu_rad),
            )
            for knot in trajectory.knots
        ],
    )


def trajectory_from_msg(message: msg.Trajectory) -> messages.Trajectory:
    """One drone's trajectory from its message; the flight core checks it."""
    return messages.Trajectory(
        plan_id=message.plan_id,
        term=message.term,
        drone=message.drone,
        start_ns=message.start_ns,
        knots=tuple(
            messages.TrajectoryKnot(
                t_s=knot.t_s,
                position_enu_m=_xyz(knot.position_enu_m),
                velocity_enu_m_s=_xyz(knot.velocity_enu_m_s),
                acceleration_enu_m_s2=_xyz(knot.acceleration_enu_m_s2),
                yaw_enu_rad=knot.yaw_enu_rad,
            )
            for knot in message.knots
        ),
    )


def telemetry_to_msg(telemetry: messages.DroneTelemetry) -> msg.DroneTelemetry:
    """DroneTelemetry.msg of a drone's state; the reason is truncated."""
    x, y, z, w = telemetry.orientation
    return msg.DroneTelemetry(
        drone=telemetry.drone,
        stamp_ns=telemetry.stamp_ns,
        state=int(telemetry.state),
        armed=telemetry.armed,
        in_air=telemetry.in_air,
        ready=telemetry.ready,
        reason=fitting(telemetry.reason),
        position_enu_m=_point(telemetry.position_enu_m),
        velocity_enu_m_s=_vector(telemetry.velocity_enu_m_s),
        orientation=Quaternion(x=float(x), y=float(y), z=float(z), w=float(w)),
        reference_enu_m=_point(telemetry.reference_enu_m),
        tracking_error_m=float(telemetry.tracking_error_m),
        battery_fraction=float(telemetry.battery_fraction),
        clock_offset_s=float(telemetry.clock_offset_s),
        plan_id=telemetry.plan_id,
        command_id=telemetry.command_id,
        epoch=telemetry.epoch,
        reason_code=int(telemetry.reason_code),
    )


def telemetry_from_msg(message: msg.DroneTelemetry) -> messages.DroneTelemetry:
    """A drone's state from its message. Raises ConversionError for an unknown state or reason code, or an
    impossible motion.
    """
    orientation = message.orientation
    position, velocity = _xyz(message.position_enu_m), _xyz(message.velocity_enu_m_s)
    _motion(position, velocity)
    return messages.DroneTelemetry(
        drone=message.drone,
        stamp_ns=message.stamp_ns,
        state=_enum(messages.DroneState, message.state),
        armed=message.armed,
        in_air=message.in_air,
        ready=message.ready,
        reason=message.reason,
        position_enu_m=position,
        velocity_enu_m_s=velocity,
        orientation=(orientation.x, orientation.y, orientation.z, orientation.w),
        reference_enu_m=_xyz(message.reference_enu_m),
        tracking_error_m=message.tracking_error_m,
        battery_fraction=message.battery_fraction,
        clock_offset_s=message.clock_offset_s,
        plan_id=message.plan_id,
        command_id=message.command_id,
        epoch=message.epoch,
        reason_code=_enum(messages.ReasonCode, message.reason_code),
    )


def heartbeat_to_msg(heartbeat: messages.LeaderHeartbeat) -> msg.LeaderHeartbeat:
    """LeaderHeartbeat.msg of a heartbeat."""
    return msg.LeaderHeartbeat(
        leader=heartbeat.leader,
        term=heartbeat.term,
        plan_id=heartbeat.plan_id,
        command_id=heartbeat.command_id,
        transcript_hash=heartbeat.transcript_hash,
        phase=heartbeat.phase,
        mission_time_s=float(heartbeat.mission_time_s),
    )


def heartbeat_from_msg(message: msg.LeaderHeartbeat) -> messages.LeaderHeartbeat:
    """A heartbeat from its message."""
    return messages.LeaderHeartbeat(
        leader=message.leader,
        term=message.term,
        plan_id=message.plan_id,
        command_id=message.command_id,
        transcript_hash=bytes(message.transcript_hash),
        phase=message.phase,
        mission_time_s=message.mission_time_s,
    )


def fitting(text: str, most: int = messages.MAX_REASON) -> str:
    """The text truncated to the bound of its message field, as ASCII, since ROS counts bytes."""
    return text.encode("ascii", "replace").decode()[:most]
