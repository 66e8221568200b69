"""Conflict prediction in flight: planned paths, shifted by the measured deviations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..messages import DroneTelemetry
from ..trajectory import Path

HORIZON_S = 6.0
_STEP_S = 0.2
_GROWTH_S = 0.8  # a deviation is extrapolated at its present rate for so long
_MAX_AGE_NS = 700_000_000  # of telemetry, and how far it may be ahead
_PLANNED_ERROR_M = 0.25  # tracking error of each drone that every plan allows for
_MIN_DEVIATION_M = 0.3  # below, a drone is where the plan was checked


@dataclass(frozen=True, slots=True)
class Risk:
    """A predicted conflict of two drones; `error_m` is the mean of the two largest deviations."""

    first: str
    second: str
    in_s: float
    distance_m: float
    error_m: float


def predicted_risk(
    names: Sequence[str],
    paths: Mapping[str, Path],
    start_ns: int,
    telemetry: Mapping[str, DroneTelemetry | None],
    now_ns: int,
    separation_m: float,
    horizon_s: float = HORIZON_S,
) -> Risk | None:
    """The closest predicted approach below `separation_m`, or None.

    Args:
        names: drones that fly the plan.
        paths: path of each, t = 0 at `start_ns` (swarm time).
        telemetry: newest of each; without a recent one a drone is assumed to be on its path.
        now_ns: swarm time.

    Only pairs with a drone off its path count: the plan itself has been checked.
    """
    if len(names) < 2:
        return None
    now_s = (now_ns - start_ns) * 1e-9
    ahead = np.arange(0.0, horizon_s + 1e-9, _STEP_S)
    offsets, rates = np.zeros((len(names), 3)), np.zeros((len(names), 3))
    for row, name in enumerate(names):
        t = telemetry.get(name)
        if t is None or not -_MAX_AGE_NS < now_ns - t.stamp_ns < _MAX_AGE_NS:
            continue
        if not all(map(isfinite, (*t.position_enu_m, *t.velocity_enu_m_s))):
            continue
        position, velocity, _ = paths[name].evaluate((t.stamp_ns - start_ns) * 1e-9)
        offsets[row] = np.subtract(t.position_enu_m, position)
        rates[row] = np.subtract(t.velocity_enu_m_s, velocity)
    off = np.linalg.norm(offsets + rates * _GROWTH_S, axis=1)
    off = np.maximum(off, np.linalg.norm(offsets, axis=1))
    deviating = np.flatnonzero(off > _MIN_DEVIATION_M)
    if not len(deviating):
        return None
    places = np.stack([paths[name].sample(np.maximum(now_s + ahead, 0.0)) for name in names])
    grown = np.minimum(ahead, _GROWTH_S)
    places = places + offsets[:, None] + rates[:, None] * grown[None, :, None]
    worst = np.sort(np.maximum(off, _PLANNED_ERROR_M))[-2:]
    best: Risk | None = None
    for row in deviating.tolist():
        gaps = places - places[row]
        first, step = gaps[:, :-1], np.diff(gaps, axis=1)
        square = np.maximum((step**2).sum(-1), 1e-12)
        foot = np.clip(-(first * step).sum(-1) / square, 0.0, 1.0)
        near = np.linalg.norm(first + foot[..., None] * step, axis=-1)
        near[row] = np.inf
        other, when = divmod(int(near.argmin()), near.shape[1])
        distance = float(near[other, when])
        if distance < separation_m and (best is None or distance < best.distance_m):
            best = Risk(names[row], names[other], float(ahead[when]), distance, float(worst.mean()))
    return best
