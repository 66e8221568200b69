"""What every move must keep before it is flown, whoever has planned it: fence, limits, separation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import dist

from ..messages import TrajectoryKnot
from ..trajectory import Path
from ..vehicle import Vec3
from .mission import Mission
from .separation import smallest_separation

SLACK_M = 0.05  # what the lower bound on curved paths may lie below the truth
_JOIN_M, _JOIN_M_S, _JOIN_M_S2 = 1e-3, 1e-3, 1e-2


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a drone's path: where it begins and how it moves there, and where it ends, at rest."""

    begin: TrajectoryKnot
    goal_enu_m: Vec3


def limit_faults(mission: Mission, paths: Sequence[Path], low_m: float) -> list[tuple[int, str]]:
    """Rows and sentences (without the drone) of paths that leave fence, heights or limits; one for each kind.

    `low_m` is the lowest height allowed where a move begins below the fence's lowest.
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


def refuses_answer(
    mission: Mission,
    drones: Sequence[str],
    asks: Sequence[Ask],
    answer: Sequence[Sequence[TrajectoryKnot]],
    separation_m: float,
    longest_s: float,
) -> tuple[str, list[Path]]:
    """Why paths that somebody else has computed are not flown (empty: they are), and the compiled paths.

    Args:
        drones: names, in the order of `asks` and `answer`.
        asks: what was asked of each.
        answer: knots of each; anything may stand in there.
        separation_m: smallest distance that must be kept between any two, m.
        longest_s: a path that takes longer is refused: no battery was counted for it.
    """
    paths = []
    if len(answer) != len(drones):
        return f"{len(answer)} trajectories came back for {len(drones)} drones", []
    for name, ask, knots in zip(drones, asks, answer, strict=True):
        try:
            path = Path(knots)
        except ValueError as error:
            return f"{name}: {error}", []
        first, last = path.knots[0], path.knots[-1]
        if (
            dist(first.position_enu_m, ask.begin.position_enu_m) > _JOIN_M
            or dist(first.velocity_enu_m_s, ask.begin.velocity_enu_m_s) > _JOIN_M_S
            or dist(first.acceleration_enu_m_s2, ask.begin.acceleration_enu_m_s2) > _JOIN_M_S2
        ):
            return f"{name} would not begin where and as it moves", []
        if dist(last.position_enu_m, ask.goal_enu_m) > _JOIN_M:
            return f"{name} would end {dist(last.position_enu_m, ask.goal_enu_m):.2f} m from its goal", []
        if max(map(abs, (*last.velocity_enu_m_s, *last.acceleration_enu_m_s2))) > _JOIN_M_S:
            return f"{name} would not stand at its goal", []
        if path.duration_s > longest_s:
            return f"{name} would fly for {path.duration_s:.0f} s, {longest_s:.0f} s are left to it", []
        paths.append(path)
    low_m = min(ask.begin.position_enu_m[2] for ask in asks)
    faults = limit_faults(mission, paths, low_m)
    climb = max(mission.limits.climb_m_s, mission.limits.descent_m_s) * 1.05
    faults += [
        (row, f"would climb or descend faster than {climb:.1f} m/s")
        for row, path in enumerate(paths)
        if path.bounds().vertical_speed_m_s > climb
    ]
    if faults:
        row, text = faults[0]
        return f"{drones[row]} {text}", []
    closest = smallest_separation(paths, step_for(len(paths)))
    if closest.distance_m < separation_m - SLACK_M:
        return (
            f"{drones[closest.first]} and {drones[closest.second]} would come within "
            f"{closest.distance_m:.2f} m after {closest.t_s:.1f} s",
            [],
        )
    return "", paths


def step_for(count: int) -> float:
    """How finely, s, the separation of so many paths is looked at."""
    return 0.1 if count <= 40 else 0.2
