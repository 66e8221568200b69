"""ModerateTrajectories.srv to and from the moderation request, answer and result.

Messages from the network are untrusted: `…_from_msg` raises ConversionError for invalid ones.
"""

from __future__ import annotations

from math import nan
from typing import Final

from chimera_ros import msg, srv
from chimera_ros.flight.limits import MOTION_RANGES, Fence
from chimera_ros.flight.messages import Trajectory
from chimera_ros.flight.moderation_call import (
    MAX_DEADLINE_S,
    MIN_DEADLINE_S,
    ModerationAnswer,
    ModerationRequest,
    ModerationStatus,
    Separation,
)
from chimera_ros.flight.trajectory import MotionLimits
from chimera_ros.moderation.request import ModerationResult

from .convert import ConversionError, fitting, trajectory_from_msg, trajectory_to_msg

MAX_LISTED: Final = 64  # conflicts in a response
_MAX_STAGES: Final = 16


# ---- leader ------------------------------------------------------------------------------------------------


def moderation_request_to_msg(request: ModerationRequest) -> srv.ModerateTrajectories.Request:
    """The request of ModerateTrajectories.srv."""
    separation, limits, fence = request.separation, request.limits, request.fence
    return srv.ModerateTrajectories.Request(
        trajectories=[
            trajectory_to_msg(Trajectory(0, 0, drone, request.start_ns, knots))
            for drone, knots in zip(request.drones, request.knots, strict=True)
        ],
        separation_horizontal_m=float(separation.horizontal_m),
        separation_vertical_m=float(separation.vertical_m),
        deadline_s=float(request.deadline_s),
        tracking_error_m=float(separation.tracking_error_m),
        clock_skew_s=float(separation.clock_skew_s),
        speed_m_s=float(limits.speed_m_s),
        climb_m_s=float(limits.climb_m_s),
        descent_m_s=float(limits.descent_m_s),
        acceleration_m_s2=float(limits.acceleration_m_s2),
        jerk_m_s3=float(limits.jerk_m_s3),
        fence_polygon_m=[float(value) for corner in fence.polygon_m for value in corner] if fence else [],
        fence_min_height_m=float(fence.min_height_m) if fence else 0.0,
        fence_max_height_m=float(fence.max_height_m) if fence else 0.0,
        seed=request.seed,
    )


def moderation_answer_from_msg(message: srv.ModerateTrajectories.Response, call_id: int) -> ModerationAnswer:
    """The answer of a service, unchecked. Raises ConversionError for an unknown status."""
    parts = [trajectory_from_msg(trajectory) for trajectory in message.trajectories]
    return ModerationAnswer(
        call_id,
        _status(message.status),
        message.reason,
        message.winner,
        tuple(part.drone for part in parts),
        tuple(part.knots for part in parts),
        message.conflicts,
    )


def _status(number: int) -> ModerationStatus:
    try:
        return ModerationStatus(number)
    except ValueError:
        raise ConversionError(f"status {number} of path moderation is unknown") from None


# ---- service -----------------------------------------------------------------------------------------------


def moderation_request_from_msg(message: srv.ModerateTrajectories.Request) -> ModerationRequest:
    """The request of a message. Raises ConversionError."""
    parts = [trajectory_from_msg(trajectory) for trajectory in message.trajectories]
    if not parts:
        raise ConversionError("there is no trajectory in the request")
    names = tuple(part.drone for part in parts)
    if len(set(names)) != len(names) or not all(names):
        raise ConversionError("every trajectory needs the name of a drone, and each drone one trajectory")
    if not MIN_DEADLINE_S <= message.deadline_s <= MAX_DEADLINE_S:  # written so that NaN is refused
        raise ConversionError(f"the deadline must be {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g} s")
    limits = MotionLimits(
        message.speed_m_s,
        message.climb_m_s,
        message.descent_m_s,
        message.acceleration_m_s2,
        message.jerk_m_s3,
    )
    for name, (low, high) in MOTION_RANGES.items():
        if not low <= getattr(limits, name) <= high:
            raise ConversionError(f"{name} must be {low:g} to {high:g}")
    if len({part.start_ns for part in parts}) > 1:
        raise ConversionError("trajectories must begin at the same time")
    try:
        separation = Separation(
            message.separation_horizontal_m,
            message.separation_vertical_m,
            message.tracking_error_m,
            message.clock_skew_s,
        )
    except ValueError as error:
        raise ConversionError(str(error)) from None
    return ModerationRequest(
        names,
        tuple(part.knots for part in parts),
        separation,
        limits,
        _fence(message),
        message.deadline_s,
        message.seed,
        start_ns=parts[0].start_ns,
    )


def _fence(message: srv.ModerateTrajectories.Request) -> Fence | None:
    corners = list(message.fence_polygon_m)
    if not corners:
        return None
    if len(corners) % 2:
        raise ConversionError("a fence's corners are pairs of numbers")
    try:
        return Fence(
            tuple(zip(corners[::2], corners[1::2], strict=True)),
            message.fence_min_height_m,
            message.fence_max_height_m,
        )
    except ValueError as error:
        raise ConversionError(str(error)) from None


def moderation_result_to_msg(
    message: srv.ModerateTrajectories.Request, result: ModerationResult
) -> srv.ModerateTrajectories.Response:
    """The response to a request: its drones, plan ids, terms and start times with the knots of the result."""
    stages = result.stages[:_MAX_STAGES]
    return srv.ModerateTrajectories.Response(
        status=int(result.status),
        reason=fitting(result.reason, 500),
        winner=fitting(result.winner, 48),
        trajectories=[
            trajectory_to_msg(Trajectory(part.plan_id, part.term, part.drone, part.start_ns, knots))
            for part, knots in zip(message.trajectories, result.knots, strict=False)
        ],
        conflicts=len(result.before),
        remaining=[
            msg.Conflict(
                first=conflict.first,
                second=conflict.second,
                t_s=conflict.t_s,
                horizontal_m=conflict.horizontal_m,
                vertical_m=conflict.vertical_m,
            )
            for conflict in result.remaining[:MAX_LISTED]
        ],
        cost=result.cost,
        gain_over_greedy=result.gain_over_greedy,
        gain_over_annealing=result.gain_over_annealing,
        backend=fitting(result.backend, 64),
        qubits=min(result.qubits, 65535),
        shots=result.shots,
        rungs=[fitting(stage.name, 32) for stage in stages],
        rung_ms=[stage.ms for stage in stages],
        total_ms=result.total_ms,
    )


def moderation_failure_to_msg(reason: str) -> srv.ModerateTrajectories.Response:
    """A response with status FAILED and the reason."""
    return srv.ModerateTrajectories.Response(
        status=int(ModerationStatus.FAILED),
        reason=fitting(reason, 500),
        cost=nan,
        gain_over_greedy=nan,
        gain_over_annealing=nan,
    )
