"""The rows of bench_moderation that look at the service: its deadline, its plans, the share it solves.

A call is what `chimera moderate` and the node do: JSON text in, the ladder with its worker process, JSON text
out, on one clock from the first byte to the last. Every plan that comes back is looked at again at every
millisecond.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from harness import Result, percentile

from chimera_ros.flight.moderation_call import ModerationRequest
from chimera_ros.moderation.brute import brute_force
from chimera_ros.moderation.cp_sat import CpSat
from chimera_ros.moderation.file_format import read_scene, result_to_dict, scene_to_dict
from chimera_ros.moderation.ladder import Moderator
from chimera_ros.moderation.manoeuvres import candidates
from chimera_ros.moderation.problem import build
from chimera_ros.moderation.scenes import SCENES, Scene
from chimera_ros.moderation.solver import SolverUnavailable, run_to_end
from chimera_ros.moderation.tracks import Track
from chimera_ros.moderation.warm_up import warm_up
from chimera_ros.quantum.sampler import AerSampler
from chimera_ros.quantum.worker import AerWorker

DEADLINES_S = {5: 0.25, 10: 0.25, 20: 1.0, 50: 3.0}
RESERVE_S = 0.02  # kept for the answer's own conversion


def service_rows(quick: bool, seed: int, worker: AerWorker | None) -> list[Result]:
    """Calls by number of drones: half of them crossings, half antipodal swaps."""
    rows: list[Result] = []
    moderator = Moderator(time.monotonic, reserve_s=RESERVE_S)
    warm_up(moderator)
    for count, deadline_s in DEADLINES_S.items():
        if quick and count == 50:
            continue
        seeds = range(seed, seed + (3 if quick else 4 if count == 50 else 15))
        calls = [
            Call(make(count, k), deadline_s, moderator, worker) for make in SCENES.values() for k in seeds
        ]
        plans = [call for call in calls if call.plan]
        solvable = [call for call in calls if call.solvable]
        took = [call.ms for call in calls]
        title = f"service, {count} drones"
        rows += [
            Result(f"{title}: time of a call, p50", percentile(took, 50), "ms"),
            Result(f"{title}: time of a call, p99", percentile(took, 99), "ms", ("<=", 1e3 * deadline_s)),
            Result(f"{title}: calls in time", share(calls, Call.in_time), "%", ("==", 100.0)),
            Result(
                f"{title}: plans free of conflicts at every ms", share(plans, Call.clean), "%", ("==", 100.0)
            ),
            Result(f"{title}: scenes that CP-SAT proves feasible", float(len(solvable)), f"of {len(calls)}"),
            Result(f"{title}: of these solved", share(solvable, lambda c: bool(c.plan)), "%", ("==", 100.0)),
            Result(f"{title}: scenes solved", share(calls, lambda c: bool(c.plan)), "%"),
        ]
        for name in sorted({call.winner for call in plans}):
            rows.append(
                Result(f"{title}: won by {name}", share(plans, lambda c, n=name: c.winner == n), "% of plans")
            )
    return rows


class Call:
    """One scene sent through the service."""

    def __init__(
        self, scene: Scene, deadline_s: float, moderator: Moderator, worker: AerWorker | None
    ) -> None:
        names = tuple(f"drone_{k + 1:02d}" for k in range(len(scene.knots)))
        text = json.dumps(
            scene_to_dict(
                ModerationRequest(
                    names, scene.knots, scene.separation, scene.limits, scene.fence, deadline_s=deadline_s
                )
            )
        )
        sampler = None if worker is None else AerSampler(worker, "aer", deadline_s)
        began = time.monotonic()
        request = read_scene(text)
        answer = moderator.run(request, began, sampler)
        answered = json.dumps(result_to_dict(request, answer))
        self.ms = 1e3 * (time.monotonic() - began)
        self.scene, self.winner, self._deadline_s = scene, answer.winner, deadline_s
        solved = json.loads(answered)["status"] == "conflict_free"
        self.plan: Any = answer.knots if solved else ()
        self.solvable = _feasible(scene)

    def in_time(self) -> bool:
        """Whether the deadline was kept, conversion included."""
        return self.ms <= 1e3 * self._deadline_s

    def clean(self) -> bool:
        """Whether no pair is too near at any millisecond."""
        return not brute_force(self.plan, self.scene.separation)


def _feasible(scene: Scene) -> bool:
    """Whether CP-SAT finds a conflict-free choice among 16 candidates a drone."""
    ways = [
        candidates(Track.of_knots(k), scene.limits, scene.fence, scene.separation, 16) for k in scene.knots
    ]
    try:
        return run_to_end(CpSat(10.0, optimise=False), build(ways, scene.separation)).feasible
    except SolverUnavailable as error:
        print(error, file=sys.stderr)
        return False


def share(items: Any, holds: Any) -> float | None:
    """Percentage of items for which something holds; None without items."""
    return 100.0 * sum(bool(holds(item)) for item in items) / len(items) if items else None
