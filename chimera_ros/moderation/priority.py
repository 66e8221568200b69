"""Prioritised planning: one drone after another, each avoiding those before by excursions or waiting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from chimera_ros.flight.limits import Fence
from chimera_ros.flight.moderation_call import Separation
from chimera_ros.flight.trajectory import Array, MotionLimits

from .conflicts import Conflict, near_pairs, refine
from .manoeuvres import (
    DELAY_M_PER_S,
    BoolArray,
    Candidate,
    Manoeuvre,
    apply_manoeuvres,
    menu_steps,
    planned_candidate,
)
from .timing import at_rest
from .tracks import IntArray, Track, TrackTable

_BATCH = 24  # options per slice, ...
_PAIRS = 240  # ... and pairs: a few milliseconds
# waits tried, in multiples of the time in which one drone passes
_WAITS = np.array([*range(9), 10, 12, 14, 17, 20, 24, 28, 34, 40, 48, 60, 75, 90], dtype=float)
_RESTARTS = 12
# vertical and lateral excursions tried, in separations; each is also tried after every wait
_EXCURSIONS = (
    (0.0, 0.0), (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0), (2.0, 0.0), (-2.0, 0.0), (1.0, 1.0),
    (-1.0, -1.0), (3.0, 0.0), (-3.0, 0.0), (0.0, 2.0), (0.0, -2.0), (4.0, 0.0), (-4.0, 0.0), (2.0, 2.0),
    (-2.0, -2.0), (5.0, 0.0), (6.0, 0.0), (0.0, 4.0), (0.0, -4.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attempt:
    """Progress of planning; at the end `chosen` by drone, or None and the pairs that block."""

    planned: int
    restarts: int
    done: bool
    chosen: tuple[Candidate, ...] | None = None
    blocking: tuple[tuple[int, int], ...] = ()


def prioritise(
    tracks: Sequence[Track],
    limits: Sequence[MotionLimits] | MotionLimits,
    fence: Fence | None,
    separation: Separation,
    seed: int = 0,
) -> Iterator[Attempt]:
    """Plans one drone per slice.

    A drone without a conflict-free option is first in the next attempt. Raises ModerationError.
    """
    options = []
    for i, track in enumerate(tracks):
        mine = limits if isinstance(limits, MotionLimits) else limits[i]
        options.append(_options(track, mine, fence, separation, f"drone {i}"))
        yield Attempt(0, 0, False)
    duration = np.array([track.duration_s for track in tracks])
    order = np.argsort(-duration + 1e-3 * np.random.default_rng(seed).random(len(tracks))).tolist()
    yield from one_by_one(options, separation, order, seed)


def waiting(track: Track, delay_s: float) -> Track:
    """A track that starts at rest, delayed by `delay_s` at its start."""
    if delay_s < 5e-3:
        return track
    times = np.concatenate([[0.0], track.times_s + delay_s])
    states = np.concatenate([track.states[:1], track.states])
    yaws = np.concatenate([track.yaws_rad[:1], track.yaws_rad])
    still = np.zeros((1, 6, 3))
    still[0, 0] = track.states[0, :3]
    return Track(times, states, yaws, np.concatenate([still, track.coefficients]), track.start_s)


def unavoidable(tracks: Sequence[Track], separation: Separation) -> list[Conflict]:
    """Pairs that conflict at their starts or at their goals."""
    out: list[Conflict] = []
    for ends in (False, True):
        points = np.array([t.states[-1 if ends else 0, :3] for t in tracks])
        moments = np.array([t.end_s if ends else t.start_s for t in tracks])
        norm = np.sqrt((((points[:, None] - points[None]) / separation.scale) ** 2).sum(-1))
        for i, j in np.argwhere(np.triu(norm < separation.required_norm(), 1)).tolist():
            if any((c.first, c.second) == (i, j) for c in out):
                continue
            apart = points[i] - points[j]
            out.append(
                Conflict(
                    i,
                    j,
                    float(max(moments[i], moments[j])),
                    float(np.hypot(apart[0], apart[1])),
                    float(abs(apart[2])),
                    float(norm[i, j] / separation.required_norm()),
                )
            )
    return out


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one drone, cheapest first: rows of `base`, and the wait (s) before each."""

    base: Sequence[Candidate]
    rows: IntArray
    waits_s: Array

    @staticmethod
    def of(base: Sequence[Candidate], waits_s: Array | None = None) -> Options:
        """Every candidate after every wait."""
        waits = np.zeros(1) if waits_s is None else waits_s
        cost = np.array([c.cost for c in base])[:, None] + DELAY_M_PER_S * waits
        order = np.argsort(cost, axis=None, kind="stable")
        rows, columns = np.unravel_index(order, cost.shape)
        return Options(base, rows, waits[columns])

    def __len__(self) -> int:
        return len(self.rows)

    def track(self, k: int) -> Track:
        """The track of an option; after a wait, the same one with a later start."""
        track = self.base[self.rows[k]].track
        wait = float(self.waits_s[k])
        return replace(track, start_s=track.start_s + wait) if wait else track

    def candidate(self, k: int) -> Candidate:
        """The option as a candidate, whose knots begin with the wait."""
        base, wait = self.base[self.rows[k]], float(self.waits_s[k])
        return Candidate(
            replace(base.manoeuvre, delay_s=base.manoeuvre.delay_s + wait),
            waiting(base.track, wait),
            base.cost + DELAY_M_PER_S * wait,
            base.extra_m,
            base.late_s + wait,
        )


def _options(
    track: Track, limits: MotionLimits, fence: Fence | None, separation: Separation, who: str
) -> Options:
    up, side, wait = menu_steps(track, separation)
    excursions = [Manoeuvre(a * up, b * side) for a, b in _EXCURSIONS[1:]]
    resting = at_rest(track)
    if not resting:
        excursions += [
            Manoeuvre(a * up, b * side, f, d * wait)
            for a, b in _EXCURSIONS[:9]
            for f, d in ((1.0, 1.5), (1.0, 3.0), (1.0, 5.0), (1.0, 8.0), (0.7, 0.0), (0.5, 4.0))
        ]
    base = [
        planned_candidate(track, fence, who),
        *(c for c in apply_manoeuvres(track, excursions, limits, fence) if c is not None),
    ]
    return Options.of(base, wait * _WAITS if resting else None)


def one_by_one(
    options: Sequence[Options], separation: Separation, order: list[int], seed: int = 0
) -> Iterator[Attempt]:
    """Chooses for each drone, in `order`, its first option without a conflict with earlier choices.

    A drone without one is first in the next attempt; an order that was tried before is shuffled.
    """
    rng = np.random.default_rng([seed, 1])
    seen: set[tuple[int, ...]] = set()
    pairs: tuple[tuple[int, int], ...] = ()
    for restart in range(_RESTARTS):
        seen.add(tuple(order))
        chosen: dict[int, int] = {}
        for drone in order:
            mine = options[drone]
            done = [options[i].track(k) for i, k in chosen.items()]
            always, cheapest = np.ones(len(done), dtype=bool), np.zeros(len(done), dtype=bool)
            size = max(4, min(_BATCH, _PAIRS // max(1, len(done))))
            for low in range(0, len(mine), size):
                batch = range(low, min(low + size, len(mine)))
                hit = _conflicts([mine.track(k) for k in batch], done, separation)
                clear = ~hit.any(1)
                always &= hit.all(0)
                cheapest = hit[0] if low == 0 else cheapest
                if clear.any():
                    chosen[drone] = low + int(np.argmax(clear))
                    break
                yield Attempt(len(chosen), restart, False)
            if drone not in chosen:
                # drones that block every option; if there is none, those that block the cheapest one
                blocked = always if always.any() else cheapest
                others = [i for i, b in zip(chosen, blocked, strict=True) if b]
                pairs = tuple(sorted((min(drone, i), max(drone, i)) for i in others))
                break
            yield Attempt(len(chosen), restart, False)
        if len(chosen) == len(order):
            plan = tuple(options[i].candidate(chosen[i]) for i in range(len(order)))
            yield Attempt(len(order), restart, True, plan)
            return
        order = [drone, *(i for i in order if i != drone)]
        if tuple(order) in seen:
            if len(order) <= 2:
                break
            order = rng.permutation(len(order)).tolist()
    yield Attempt(len(chosen), restart, True, None, pairs)


def _conflicts(batch: Sequence[Track], done: Sequence[Track], separation: Separation) -> BoolArray:
    """True (B, D) for tracks of a batch in conflict with fixed ones."""
    out = np.zeros((len(batch), len(done)), dtype=bool)
    if not done:
        return out
    table = TrackTable([*batch, *done], window=4)
    first = np.repeat(np.arange(len(batch)), len(done))
    second = np.tile(len(batch) + np.arange(len(done)), len(batch))
    near = near_pairs(table, separation, 1.0, pairs=(first, second))
    hit = refine(table, separation, near) < 1.0
    out[near.first[hit], near.second[hit] - len(batch)] = True
    return out
