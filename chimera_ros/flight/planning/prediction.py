"""Looks ahead while a plan is flown: planned tracks, shifted by the deviations measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..messages import DroneTelemetry
from ..trajectory import Path

HORIZON_S = 6.0
_STEP_S = 0.2
_GROWS_S = 0.8  # a deviation goes on growing at its present rate for so long
_FRESH_NS = 700_000_000  # older telemetry says nothing about now, nor does one from the future
_USUAL_M = 0.25  # what every plan allows each drone to be off
_SMALL_M = 0.3  # who deviates less than this is where the plan was checked for


@dataclass(frozen=True, slots=True)
class Risk:
    """Two drones are predicted to come too near; `error_m` is what two drones may be off, halved."""

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
    """The nearest predicted approach below `separation_m`, or None.

    Args:
        names: drones that fly the plan.
        paths: of each, t = 0 at `start_ns` (swarm time).
        telemetry: newest of each; without a fresh one a drone is taken to be where it should be.
        now_ns: swarm time.

    Only a pair of which one deviates measurably counts: the plan itself has been checked.
    """
    if len(names) < 2:
        return None
    now_s = (now_ns - start_ns) * 1e-9
    ahead = np.arange(0.0, horizon_s + 1e-9, _STEP_S)
    offsets, rates = np.zeros((len(names), 3)), np.zeros((len(names), 3))
    for row, name in enumerate(names):
        t = telemetry.get(name)
        if t is None or not -_FRESH_NS < now_ns - t.stamp_ns < _FRESH_NS:
            continue
        if not all(map(isfinite, (*t.position_enu_m, *t.velocity_enu_m_s))):
            continue
        position, velocity, _ = paths[name].evaluate((t.stamp_ns - start_ns) * 1e-9)
        offsets[row] = np.subtract(t.position_enu_m, position)
        rates[row] = np.subtract(t.velocity_enu_m_s, velocity)
    off = np.linalg.norm(offsets + rates * _GROWS_S, axis=1)
    off = np.maximum(off, np.linalg.norm(offsets, axis=1))
    moved = np.flatnonzero(off > _SMALL_M)
    if not len(moved):
        return None
    places = np.stack([paths[name].sample(np.maximum(now_s + ahead, 0.0)) for name in names])
    grown = np.minimum(ahead, _GROWS_S)
    places = places + offsets[:, None] + rates[:, None] * grown[None, :, None]
    worst = np.sort(np.maximum(off, _USUAL_M))[-2:]
    best: Risk | None = None
    for row in moved.tolist():
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
