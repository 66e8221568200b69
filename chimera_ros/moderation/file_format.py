"""JSON of `chimera moderate` (docs/moderation.md): scene and result.

The `trajectories` of a result have the format of a scene's, so that they can be moderated again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, isnan, nan
from typing import Any

import numpy as np

from chimera_ros.flight.limits import MAX_CORNERS, MOTION_RANGES, Fence
from chimera_ros.flight.messages import MAX_KNOTS, MAX_NAME, TrajectoryKnot
from chimera_ros.flight.moderation_call import (
    MAX_DEADLINE_S,
    MAX_SEED,
    MAX_TRAJECTORIES,
    MIN_DEADLINE_S,
    SEPARATION_RANGES,
    KnotSequence,
    ModerationRequest,
    Separation,
    deadline_for,
)
from chimera_ros.flight.trajectory import MAX_COORDINATE, MAX_DURATION_S, MotionLimits, straight_legs
from chimera_ros.flight.vehicle import Vec3
from chimera_ros.formats import json_values
from chimera_ros.formats.display import is_plain
from chimera_ros.formats.text import FormatError, excerpt

from .request import DroneConflict, ModerationResult

MAX_BYTES = 128 * 1024 * 1024
_COORDINATE = -MAX_COORDINATE, MAX_COORDINATE
_TOP = ("separation", "limits", "fence", "deadline_s", "seed", "trajectories")


class SceneError(ValueError):
    """An invalid scene; the text is `place: what is allowed`, or the line of a syntax error."""


def read_scene(content: str | bytes) -> ModerationRequest:
    """The request of a scene in JSON. Raises SceneError."""
    try:
        value = json_values.parse(content, MAX_BYTES)
    except FormatError as error:
        raise SceneError(str(error)) from None
    top = _mapping(value, "scene", _TOP, ("separation", "trajectories"))
    limits = _limits(top.get("limits", {}))
    rows = top["trajectories"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_TRAJECTORIES:
        raise SceneError(f"trajectories: must be a list of 1 to {MAX_TRAJECTORIES}")
    names, knots = [], []
    for index, row in enumerate(rows):
        place = f"trajectories[{index + 1}]"
        row = _mapping(row, place, ("drone", "knots", "line"), ("drone",))
        name = row["drone"]
        if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not is_plain(name):
            raise SceneError(f"{place}.drone: must be a name of 1 to {MAX_NAME} printable characters")
        if name in names:
            raise SceneError(f"{place}.drone: {name} is given twice")
        if ("knots" in row) == ("line" in row):
            raise SceneError(f"{place}: needs exactly one of knots and line")
        names.append(name)
        if "knots" in row:
            knots.append(_knots(row["knots"], f"{place}.knots"))
        else:
            knots.append(_line(row["line"], f"{place}.line", limits))
    deadline = top.get("deadline_s", deadline_for(len(names)))
    return ModerationRequest(
        tuple(names),
        tuple(knots),
        _separation(top["separation"]),
        limits,
        None if top.get("fence") is None else _fence(top["fence"]),
        _number(deadline, "deadline_s", MIN_DEADLINE_S, MAX_DEADLINE_S),
        _whole(top.get("seed", 1), "seed", 0, MAX_SEED),
    )


def scene_to_dict(request: ModerationRequest) -> dict[str, object]:
    """A request as a dict, the inverse of `read_scene`."""
    limits, separation = request.limits, request.separation
    scene: dict[str, object] = {
        "separation": {
            "horizontal_m": separation.horizontal_m,
            "vertical_m": separation.vertical_m,
            "tracking_error_m": separation.tracking_error_m,
            "clock_skew_s": separation.clock_skew_s,
        },
        "limits": {
            "speed_m_s": limits.speed_m_s,
            "climb_m_s": limits.climb_m_s,
            "descent_m_s": limits.descent_m_s,
            "acceleration_m_s2": limits.acceleration_m_s2,
            "jerk_m_s3": limits.jerk_m_s3,
        },
        "deadline_s": request.deadline_s,
        "seed": request.seed,
    }
    if request.fence is not None:
        scene["fence"] = {
            "polygon_m": [list(corner) for corner in request.fence.polygon_m],
            "height_m": [request.fence.min_height_m, request.fence.max_height_m],
        }
    scene["trajectories"] = _trajectories(request, request.knots)
    return scene


def result_to_dict(request: ModerationRequest, result: ModerationResult) -> dict[str, object]:
    """A result as a dict; NaN becomes None."""
    return {
        "status": result.status.name.lower(),
        "undecided": result.undecided,
        "reason": result.reason,
        "winner": result.winner,
        "proven": result.proven,
        "conflicts": [_conflict(conflict) for conflict in result.before],
        "remaining": [_conflict(conflict) for conflict in result.remaining],
        "cost": _finite(result.cost),
        "gain_over_greedy": _finite(result.gain_over_greedy),
        "gain_over_annealing": _finite(result.gain_over_annealing),
        "backend": result.backend,
        "qubits": result.qubits,
        "shots": result.shots,
        "rungs": [{"name": r.name, "ms": round(r.ms, 3), "outcome": r.outcome} for r in result.stages],
        "total_ms": round(result.total_ms, 3),
        "trajectories": _trajectories(request, result.knots) if result.knots else [],
    }


def _trajectories(request: ModerationRequest, knots: Sequence[KnotSequence]) -> list[dict[str, object]]:
    return [
        {
            "drone": name,
            "knots": [
                {
                    "t_s": k.t_s,
                    "position_m": list(k.position_enu_m),
                    "velocity_m_s": list(k.velocity_enu_m_s),
                    "acceleration_m_s2": list(k.acceleration_enu_m_s2),
                }
                | ({} if isnan(k.yaw_enu_rad) else {"yaw_rad": k.yaw_enu_rad})
                for k in mine
            ],
        }
        for name, mine in zip(request.drones, knots, strict=True)
    ]


def _conflict(conflict: DroneConflict) -> dict[str, object]:
    return {
        "first": conflict.first,
        "second": conflict.second,
        "t_s": round(conflict.t_s, 4),
        "horizontal_m": round(conflict.horizontal_m, 4),
        "vertical_m": round(conflict.vertical_m, 4),
    }


def _finite(value: float) -> float | None:
    return round(value, 4) if isfinite(value) else None


# ---- reading -----------------------------------------------------------------------------------------------


def _mapping(
    value: Any, place: str, allowed: tuple[str, ...], needed: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SceneError(f"{place}: must be an object with {', '.join(allowed)}")
    for key in value:
        if key not in allowed:
            raise SceneError(f"{place}: unknown field '{excerpt(key)}'; allowed are {', '.join(allowed)}")
    for key in needed:
        if key not in value:
            raise SceneError(f"{place}: {key} is missing")
    return value


def _number(value: Any, place: str, low: float, high: float) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # written so that infinity is refused
        raise SceneError(f"{place}: must be a number from {low:g} to {high:g}, not {excerpt(str(value))}")
    return float(value)


def _whole(value: Any, place: str, low: int, high: int) -> int:
    number = _number(value, place, low, high)
    if number != int(number):
        raise SceneError(f"{place}: must be a whole number from {low} to {high}")
    return int(value)


def _vector(value: Any, place: str) -> Vec3:
    if not isinstance(value, list) or len(value) != 3:
        raise SceneError(f"{place}: must be a list [east, north, up]")
    x, y, z = (_number(item, place, *_COORDINATE) for item in value)
    return x, y, z


def _knots(value: Any, place: str) -> KnotSequence:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_KNOTS:
        raise SceneError(f"{place}: must be a list of 2 to {MAX_KNOTS} knots")
    out, last = [], -1.0
    for index, row in enumerate(value):
        here = f"{place}[{index + 1}]"
        row = _mapping(
            row, here, ("t_s", "position_m", "velocity_m_s", "acceleration_m_s2", "yaw_rad"),
            ("t_s", "position_m"),
        )  # fmt: skip
        t = _number(row["t_s"], f"{here}.t_s", 0.0, MAX_DURATION_S)
        if (index == 0 and t != 0.0) or t <= last:
            raise SceneError(f"{here}.t_s: times must rise from 0, and {t:g} follows {max(last, 0.0):g}")
        last = t
        out.append(
            TrajectoryKnot(
                t,
                _vector(row["position_m"], f"{here}.position_m"),
                _vector(row.get("velocity_m_s", [0.0] * 3), f"{here}.velocity_m_s"),
                _vector(row.get("acceleration_m_s2", [0.0] * 3), f"{here}.acceleration_m_s2"),
                _number(row["yaw_rad"], f"{here}.yaw_rad", -100.0, 100.0) if "yaw_rad" in row else nan,
            )
        )
    return tuple(out)


def _line(value: Any, place: str, limits: MotionLimits) -> KnotSequence:
    """A straight trajectory from rest to rest within the limits and the given speed."""
    row = _mapping(value, place, ("from_m", "to_m", "speed_m_s"), ("from_m", "to_m"))
    start, goal = _vector(row["from_m"], f"{place}.from_m"), _vector(row["to_m"], f"{place}.to_m")
    slowest, _ = MOTION_RANGES["speed_m_s"]
    given = row.get("speed_m_s", limits.speed_m_s)
    speed = _number(given, f"{place}.speed_m_s", slowest, limits.speed_m_s)
    own = MotionLimits(
        speed, limits.climb_m_s, limits.descent_m_s, limits.acceleration_m_s2, limits.jerk_m_s3
    )
    (knots,) = straight_legs(np.array([start]), np.array([goal]), own)
    if not knots:  # start and goal coincide
        return TrajectoryKnot(0.0, start), TrajectoryKnot(1.0, start)
    return tuple(knots)


def _separation(value: Any) -> Separation:
    row = _mapping(
        value, "separation", ("horizontal_m", "vertical_m", "tracking_error_m", "clock_skew_s"),
        ("horizontal_m", "vertical_m"),
    )  # fmt: skip
    return Separation(
        *(
            _number(row.get(name, 0.0), f"separation.{name}", low, high)
            for name, (low, high) in SEPARATION_RANGES.items()
        )
    )


def _limits(value: Any) -> MotionLimits:
    usual = MotionLimits()
    row = _mapping(value, "limits", tuple(MOTION_RANGES))
    return MotionLimits(
        *(
            _number(row.get(name, getattr(usual, name)), f"limits.{name}", low, high)
            for name, (low, high) in MOTION_RANGES.items()
        )
    )


def _fence(value: Any) -> Fence:
    row = _mapping(value, "fence", ("east_m", "north_m", "polygon_m", "height_m"), ("height_m",))
    try:
        low, high = _span(row["height_m"], "fence.height_m")
        if "polygon_m" in row:
            if "east_m" in row or "north_m" in row:
                raise SceneError("fence: polygon_m excludes east_m and north_m")
            corners = row["polygon_m"]
            if not isinstance(corners, list) or not 3 <= len(corners) <= MAX_CORNERS:
                raise SceneError(
                    f"fence.polygon_m: must be a list of 3 to {MAX_CORNERS} corners [east, north]"
                )
            return Fence(tuple(_pair(corner, "fence.polygon_m") for corner in corners), low, high)
        if "east_m" not in row or "north_m" not in row:
            raise SceneError("fence: needs east_m and north_m, or polygon_m")
        return Fence.box(
            _span(row["east_m"], "fence.east_m"), _span(row["north_m"], "fence.north_m"), (low, high)
        )
    except SceneError:
        raise
    except ValueError as error:
        raise SceneError(f"fence: {error}") from None


def _pair(value: Any, place: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise SceneError(f"{place}: must be a list of two numbers")
    return _number(value[0], place, *_COORDINATE), _number(value[1], place, *_COORDINATE)


def _span(value: Any, place: str) -> tuple[float, float]:
    low, high = _pair(value, place)
    if not low < high:
        raise SceneError(f"{place}: the first number must be below the second")
    return low, high
