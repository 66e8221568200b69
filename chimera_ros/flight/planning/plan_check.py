"""Check of every move before it is flown, whoever planned it: geofence, motion limits, separation."""

from __future__ import annotations

from collections.abc import Sequence
from math import dist

from ..moderation_call import KnotSequence, ModerationRequest
from ..trajectory import Array, Path
from .mission import Mission
from .separation import smallest_separation

SLACK_M = 0.05  # how far the lower bound on curved paths may lie below the true separation
_JOIN_M, _JOIN_M_S, _JOIN_M_S2 = 1e-3, 1e-3, 1e-2


def limit_faults(mission: Mission, paths: Sequence[Path], low_m: float) -> list[tuple[int, str]]:
    """Rows and sentences (without the drone) of paths that exceed fence, heights or limits; one of each kind.

    `low_m` is the lowest height allowed if a move begins below the fence's lowest.
    """
    fence, limits = mission.fence, mission.limits
    low_m = min(fence.min_height_m, low_m)
    found = []
    for text, values in (
        ("would leave the fence by {:.1f} m", [-fence.worst(p.hull()) for p in paths]),
        (
            f"would go {{:.1f}} m below the fence's lowest height of {fence.min_height_m:.1f} m",
            [low_m - p.bounds().low_enu_m[2] for p in paths],
        ),
        (
            f"would go {{:.1f}} m above the fence's highest height of {fence.max_height_m:.1f} m",
            [p.bounds().high_enu_m[2] - fence.max_height_m for p in paths],
        ),
        (
            f"would fly {{:.1f}} m/s faster than the {limits.speed_m_s:.1f} m/s allowed",
            [p.bounds().horizontal_speed_m_s - limits.speed_m_s * 1.05 for p in paths],
        ),
        (
            f"would accelerate {{:.1f}} m/s^2 more than the {limits.acceleration_m_s2:.1f} m/s^2 allowed",
            [p.bounds().acceleration_m_s2 - limits.acceleration_m_s2 * 1.1 for p in paths],
        ),
        (
            f"would jerk {{:.1f}} m/s^3 more than the {limits.jerk_m_s3:.1f} m/s^3 allowed",
            [p.bounds().jerk_m_s3 - limits.jerk_m_s3 * 1.15 for p in paths],
        ),
    ):
        worst = max(values)
        if worst > 1e-6:
            others = sum(value > 1e-6 for value in values) - 1
            more = f" (and {others} more drones less so)" if others else ""
            found.append((values.index(worst), text.format(worst) + more))
    return found


def answer_fault(
    mission: Mission,
    request: ModerationRequest,
    goals: Array,
    answer: Sequence[KnotSequence],
    longest_s: float,
) -> str:
    """Why the answer to a moderation request is refused; empty if it is not.

    Args:
        mission: geofence and motion limits.
        request: the drones, and the state in which each path must begin.
        goals: (N, 3) where each path must end, at rest.
        answer: knots by drone, from an untrusted source.
        longest_s: limit for the duration of each path; the battery was checked for no more.
    """
    drones, paths = request.drones, []
    if len(answer) != len(drones):
        return f"{len(answer)} trajectories came back for {len(drones)} drones"
    begins = [knots[0] for knots in request.knots]
    for name, begin, goal, knots in zip(drones, begins, goals, answer, strict=True):
        try:
            path = Path(knots)
        except ValueError as error:
            return f"{name}: {error}"
        first, last = path.knots[0], path.knots[-1]
        if (
            dist(first.position_enu_m, begin.position_enu_m) > _JOIN_M
            or dist(first.velocity_enu_m_s, begin.velocity_enu_m_s) > _JOIN_M_S
            or dist(first.acceleration_enu_m_s2, begin.acceleration_enu_m_s2) > _JOIN_M_S2
        ):
            return f"{name} would not begin in its present state"
        if dist(last.position_enu_m, goal) > _JOIN_M:
            return f"{name} would end {dist(last.position_enu_m, goal):.2f} m from its goal"
        if max(map(abs, (*last.velocity_enu_m_s, *last.acceleration_enu_m_s2))) > _JOIN_M_S:
            return f"{name} would not be at rest at its goal"
        if path.duration_s > longest_s:
            return f"{name} would fly for {path.duration_s:.0f} s; {longest_s:.0f} s are allowed"
        paths.append(path)
    low_m = min(begin.position_enu_m[2] for begin in begins)
    faults = limit_faults(mission, paths, low_m)
    climb = max(mission.limits.climb_m_s, mission.limits.descent_m_s) * 1.05
    faults += [
        (row, f"would climb or descend faster than {climb:.1f} m/s")
        for row, path in enumerate(paths)
        if path.bounds().vertical_speed_m_s > climb
    ]
    if faults:
        row, text = faults[0]
        return f"{drones[row]} {text}"
    closest = smallest_separation(paths, sampling_step_s(len(paths)))
    required = request.separation
    if closest.distance_m < required.horizontal_m + 2.0 * required.tracking_error_m - SLACK_M:
        return (
            f"{drones[closest.first]} and {drones[closest.second]} would come within "
            f"{closest.distance_m:.2f} m after {closest.t_s:.1f} s"
        )
    return ""


def sampling_step_s(count: int) -> float:
    """Sampling step, s, for the separation of so many paths."""
    return 0.1 if count <= 40 else 0.2
