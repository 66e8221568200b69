"""The anytime ladder: an incumbent in milliseconds, improved until the deadline, verified before it leaves.

Rungs: the trajectories as they are; for 8, then 16 manoeuvres a drone greedy, annealing, CP-SAT and VQE on
blocks; priority planning with holds at the start; a verified hold. What a rung finds gets a last look
(`outgoing.faults`) as the very knots that would leave; what fails there is not sent, and the next rung is
tried. The clock is the caller's: the room knows none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from typing import Final, Protocol

import numpy as np

from chimera_ros.flight.moderation_call import Knots, ModerationRequest, ModerationStatus

from .annealing import Annealing
from .best import Incumbent
from .blocks import choose_blocks
from .circuits import Sampler
from .conflicts import Conflict
from .cp_sat import CpSat
from .errors import ModerationError
from .exact import ENUMERATED, Exact
from .greedy import Greedy
from .manoeuvres import Candidate, candidates, planned_candidate
from .outgoing import (
    conflicts_of,
    drone_conflicts,
    endpoint_conflicts,
    first_conflicts,
    hold_fault,
    hold_knots,
    result_fault,
    tracks_of,
)  # fmt: skip
from .pace import StageDurations
from .priority import prioritise
from .problem import Problem, build, without_dominated
from .request import DroneConflict, ModerationResult, Stage, check, infeasible_result
from .solver import Solver, SolverProgress, SolverUnavailable
from .tracks import IntArray, Track
from .vqe import Vqe

Clock = Callable[[], float]


class LimitedSampler(Sampler, Protocol):
    """A sampler whose calls take at most `timeout_s`, which the ladder sets to what is left."""

    timeout_s: float


_MENUS: Final = (8, 16)  # manoeuvres a drone
_ALL_MOVE_UP_TO: Final = 64  # drones; of a larger swarm only those in a conflict are moved
_LEAST_S: Final = 0.003  # nothing is begun with less than this left
_SURE: Final = 2.5  # the last look is reserved this many times what the first one took, ...
_LOOKS: Final = 1.5  # ... or this many times what such looks took lately
_LIKELY: Final = 2.0  # what may be left out is begun where this many times what it took lately are left
_GOOD: Final = 0.7  # of the deadline, for making something better that is conflict-free already
_ALL: Final = 0.92  # of the deadline; the rest is for moments in which this process has to wait
_RESTART_S: Final = 0.02  # what it takes to replace a quantum worker that is late
_TABLES_S: Final = 2.5e-6  # what two candidates of drones in a conflict take in the tables, and ...
_MEASURED: Final = 10_000  # ... from how many of them on that is measured
_WIDER: Final = 2.5  # the next menu takes so many times what the last one took
_FOR_PRIORITY: Final = 0.3  # of the deadline, kept for priority planning while there is no way yet
_BLOCK_S: Final = {8: 0.04, 12: 0.1}  # what a block of VQE with so many qubits takes, before one was measured
_CP_SAT_SHARE: Final = 0.35  # of the time left, for one slice of CP-SAT
_FOR_WAYS: Final = 0.6  # of the time left, for candidates
_QUBITS, _QUBITS_SHORT, _SHORT_S = 12, 8, 0.5  # of a block, and with a deadline below the last


@dataclass(slots=True)
class _OpenStage:
    name: str
    outcome: str = ""


class Moderator:
    """Answers requests one at a time, each within its deadline as far as the steps' own size allows.

    Args:
        clock: seconds, never going back.
        sampler: executes quantum circuits; None leaves VQE out.
        reserve_s: kept of every deadline for what the caller has to do with the answer.
    """

    def __init__(self, clock: Clock, sampler: LimitedSampler | None = None, reserve_s: float = 0.0) -> None:
        self._clock, self._sampler, self._reserve_s = clock, sampler, reserve_s
        self._pace = StageDurations()

    def run(
        self,
        request: ModerationRequest,
        began_s: float | None = None,
        sampler: LimitedSampler | None = None,
        reserve_s: float | None = None,
    ) -> ModerationResult:
        """The answer; `began_s` is when the deadline began to run, now if None. Raises nothing foreseen.

        `sampler` and `reserve_s` stand instead of the moderator's own in this call.
        """
        began_s = self._clock() if began_s is None else began_s
        reserve_s = self._reserve_s if reserve_s is None else reserve_s
        climb = _Run(request, self._clock, sampler or self._sampler, began_s, reserve_s, self._pace)
        try:
            answer = climb.answer()
        except ModerationError as error:
            answer = ModerationResult(ModerationStatus.FAILED, f"{error}"[:480])
        return replace(
            answer, rungs=tuple(climb.rungs), total_ms=1e3 * (self._clock() - began_s),
            backend=climb.backend, qubits=climb.qubits, shots=climb.shots,
        )  # fmt: skip


class _Run:
    """One request on its way up the ladder."""

    def __init__(
        self,
        request: ModerationRequest,
        clock: Clock,
        sampler: LimitedSampler | None,
        began_s: float,
        reserve_s: float,
        pace: StageDurations,
    ) -> None:
        self._request, self._clock, self._sampler = request, clock, sampler
        self._until = began_s + _ALL * request.deadline_s - reserve_s
        self._good = min(began_s + _GOOD * request.deadline_s, self._until)
        self._pace = pace
        self._safe = False  # something conflict-free is at hand
        self._last_look_s = 0.0
        self._menu_s = 0.0  # what the last menu took
        self._spare_s = 0.0  # kept for priority planning, until something conflict-free is at hand
        self._tracks: list[Track] = []
        self._kept: list[Candidate] = []
        self._nearest: Sequence[Conflict] = ()
        self.rungs: list[Stage] = []
        self.backend, self.qubits, self.shots = "", 0, 0

    def left(self) -> float:
        """Seconds until the last look must begin; earlier where it is only about something better."""
        until = self._good if self._safe else self._until
        return until - self._last_look_s - self._spare_s - self._clock()

    def _worth(self, step: str, size: int, otherwise_s: float) -> bool:
        """Whether a step that may be left out would end in time."""
        if self.left() >= _LIKELY * self._pace.expected(step, size, otherwise_s):
            return True
        self._pace.skipped(step, size)
        return False

    @contextmanager
    def _rung(self, name: str) -> Iterator[_OpenStage]:
        began, rung = self._clock(), _OpenStage(name)
        try:
            yield rung
        finally:
            self.rungs.append(Stage(name, 1e3 * (self._clock() - began), rung.outcome))

    # ---- the rungs -------------------------------------------------------------------------------

    def answer(self) -> ModerationResult:
        """Climbs until something verified is at hand."""
        request = self._request
        check(request)
        began = self._clock()
        with self._rung("keep") as rung:
            self._tracks = tracks_of(request, request.knots)
            self._kept = [
                planned_candidate(track, request.fence, name)
                for name, track in zip(request.drones, self._tracks, strict=True)
            ]
            stuck = endpoint_conflicts(request, self._tracks)
            before, all_seen = first_conflicts(request, self._tracks, 0.0 if stuck else 0.5 * self.left())
            rung.outcome = f"{len(before)} conflicts" if before or stuck else "conflict-free"
            rung.outcome += "" if all_seen else " in a sample"
        if not all_seen:
            return self._hold(
                drone_conflicts(request, before), stuck or drone_conflicts(request, before), bool(stuck)
            )
        if not before and not stuck:
            return ModerationResult(
                ModerationStatus.CONFLICT_FREE, winner="keep", knots=request.knots, cost=0.0, proven=True
            )
        self._last_look_s = max(
            _SURE * (self._clock() - began), _LOOKS * self._pace.expected("look", len(self._tracks))
        )
        named = drone_conflicts(request, before)
        self._nearest = before
        if not stuck:
            for count in _MENUS:
                found = self._chosen(count, before)
                if found is not None:
                    return replace(found, before=named)
                self._spare_s = _FOR_PRIORITY * request.deadline_s
            self._spare_s = 0.0
            found = self._in_turn()
            if found is not None:
                return replace(found, before=named)
        return self._hold(named, stuck or drone_conflicts(request, self._nearest), bool(stuck))

    def _chosen(self, count: int, before: Sequence[Conflict]) -> ModerationResult | None:
        """One manoeuvre a drone out of `count`, by all solvers."""
        began = self._clock()
        work = len(before) * count**2
        tables_s = work * self._pace.expected("tables", 1, _TABLES_S)
        if self.left() < max(_LEAST_S, _WIDER * self._menu_s, tables_s):
            self._pace.skipped("tables", 1)
            return None
        with self._rung(f"manoeuvres-{count}") as rung:
            ways = self._ways(count, before)
            tables_from = self._clock()
            problem = build(ways, self._request.separation)
            if work >= _MEASURED:
                self._pace.took("tables", 1, (self._clock() - tables_from) / work)
            if problem.hopeless():
                rung.outcome = f"{len(problem.hopeless())} pairs conflict whatever they do"
                return None
            small, kept = without_dominated(problem)
            rung.outcome = f"{sum(small.sizes)} of {sum(problem.sizes)} ways, {len(small.pairs)} pairs"
        self._menu_s = self._clock() - began
        best = Incumbent(small)
        tracks = sum(small.sizes)
        for solver in self._solvers(small):
            step = solver.name
            if self.left() < _LEAST_S or (self._safe and not self._worth(step, tracks, _LEAST_S)):
                break
            with self._rung(f"{solver.name}-{count}") as rung:
                try:
                    self._improve(solver, best)
                except SolverUnavailable as error:
                    rung.outcome = str(error)
                    continue
                own = best.own.get(solver.name)
                rung.outcome = "no way" if own is None else f"cost {own:.2f}"
            if best.impossible:
                break
            if best.choice is not None:
                self._spare_s, self._safe = 0.0, True
            else:
                self._spare_s = _FOR_PRIORITY * self._request.deadline_s
        if self._sampler is not None and best.choice is not None:
            self._circuits(self._sampler, best, count)
        if best.choice is None:
            if best.nearest is not None and self.left() > 0.0:
                self._nearest = conflicts_of(self._request, self._knots(ways, kept, best.nearest))
            return None
        return self._verified(
            ModerationResult(
                ModerationStatus.CONFLICT_FREE,
                winner=best.winner,
                knots=self._knots(ways, kept, best.choice),
                cost=best.energy,
                gain_over_greedy=best.own.get("greedy", nan) - best.energy,
                gain_over_annealing=best.own.get("annealing", nan) - best.energy,
                proven=best.proven,
            )
        )

    def _circuits(self, sampler: LimitedSampler, best: Incumbent, count: int) -> None:
        """VQE on one block after the other while time is left; a proven optimum it can only confirm."""
        problem, choice = best.problem, best.choice
        assert choice is not None
        qubits = _QUBITS if self._request.deadline_s > _SHORT_S else _QUBITS_SHORT
        vqe = Vqe(sampler)
        with self._rung(f"{vqe.name}-{count}") as rung:
            done, backends, why, before = 0, set[str](), "", best.energy
            for block in choose_blocks(problem, choice, qubits, self._request.seed):
                # the worker is not asked for what it could not finish: that would cost it a restart
                if not self._worth(vqe.name, qubits, _BLOCK_S[qubits]):
                    break
                began, rows = self._clock(), np.array(block)
                part = problem.block(block, choice)
                for progress in self._limited(
                    sampler, vqe.run(part, choice[rows], self._request.seed + done)
                ):
                    if not progress.done:
                        continue
                    done += 1
                    choice = choice.copy()
                    choice[rows] = progress.choice
                    best.offer(vqe.name, choice)
                    said = progress.details
                    backends.add(str(said.get("backend", "")))
                    why = str(said.get("degraded", "")) or why
                    self.qubits = max(self.qubits, int(str(said.get("qubits", 0))))
                    self.shots += int(str(said.get("shots", 0)))
                self._pace.took(vqe.name, qubits, self._clock() - began)
            self.backend = ", ".join(sorted(backends))
            rung.outcome = f"{done} blocks, gain {before - best.energy:.2f}" if done else "no time"
            rung.outcome += f"; degraded: {why}" if why else ""

    def _limited(self, sampler: LimitedSampler, slices: Iterator[SolverProgress]) -> Iterator[SolverProgress]:
        """Slices while time is left; the sampler may never take longer than that either."""
        while (left := self.left()) > 0.0:
            # a slow answer is worth waiting for: another worker would take a second to start
            sampler.timeout_s = max(left, self._until - self._last_look_s - _RESTART_S - self._clock())
            progress = next(slices, None)
            if progress is None:
                return
            yield progress
            if progress.done:
                return

    def _ways(self, count: int, before: Sequence[Conflict]) -> list[list[Candidate]]:
        """What each drone could do, those in conflicts first; the others keep their trajectories when time
        runs short.
        """
        request = self._request
        meets = Counter(i for c in before for i in (c.first, c.second))
        everyone = len(request.drones) <= _ALL_MOVE_UP_TO
        ways = [[kept] for kept in self._kept]
        began, share_s = self._clock(), _FOR_WAYS * self.left()
        for row in sorted(range(len(ways)), key=lambda row: -meets[row]):
            if self._clock() - began > share_s or not (everyone or meets[row]):
                break
            ways[row] = candidates(
                self._tracks[row], request.limits, request.fence, request.separation, count,
                request.drones[row],
            )  # fmt: skip
        return ways

    def _solvers(self, problem: Problem) -> Iterator[Solver]:
        """The stages for a problem, in the order in which they are tried."""
        yield Greedy()
        yield Annealing()
        sizes = [float(np.prod([float(problem.sizes[i]) for i in group])) for group in problem.components()]
        if max(sizes, default=0.0) <= ENUMERATED:
            yield Exact()
        else:
            yield CpSat(self._cp_sat_s())

    def _cp_sat_s(self) -> float:
        """A time limit for one slice of CP-SAT, which does not always keep it."""
        return max(_CP_SAT_SHARE * self.left(), _LEAST_S)

    def _improve(self, solver: Solver, best: Incumbent) -> None:
        tracks, began = sum(best.problem.sizes), self._clock()
        for progress in solver.run(best.problem, best.choice, self._request.seed):
            self._pace.took(solver.name, tracks, self._clock() - began)  # of one slice
            best.offer(solver.name, progress.choice)
            best.proven = best.proven or (progress.proven and progress.feasible)
            best.impossible = (
                best.impossible
                or (progress.proven and not progress.feasible)
                or progress.details.get("status") == "infeasible"
            )
            if isinstance(solver, CpSat):
                solver.time_limit_s = self._cp_sat_s()
            if progress.done or self.left() <= 0.0:
                return
            began = self._clock()

    def _knots(
        self, ways: Sequence[Sequence[Candidate]], kept: Sequence[IntArray], choice: IntArray
    ) -> tuple[Knots, ...]:
        """The knots of a choice; who keeps its trajectory gets exactly what it asked."""
        return tuple(
            asked if kept[row][choice[row]] == 0 else ways[row][int(kept[row][choice[row]])].knots
            for row, asked in enumerate(self._request.knots)
        )

    def _in_turn(self) -> ModerationResult | None:
        """One drone after the other, the later ones wait at their start or fly slower."""
        request = self._request
        if self.left() < _LEAST_S:
            return None
        attempt = None
        with self._rung("priority") as rung:
            for attempt in prioritise(
                self._tracks, request.limits, request.fence, request.separation, request.seed
            ):
                if attempt.done or self.left() <= 0.0:
                    break
            chosen = attempt.chosen if attempt is not None else None
            if chosen is None:
                rung.outcome = "out of time" if attempt is None or not attempt.done else "no way"
                return None
            rung.outcome = f"cost {sum(c.cost for c in chosen):.2f}"
        return self._verified(
            ModerationResult(
                ModerationStatus.CONFLICT_FREE,
                winner="priority",
                knots=tuple(c.knots for c in chosen),
                cost=sum(c.cost for c in chosen),
            )
        )

    def _verified(self, answer: ModerationResult) -> ModerationResult | None:
        """The answer if what would leave is conflict-free, begins and ends as asked, and keeps the limits."""
        with self._rung("verify") as rung:
            began = self._clock()
            rung.outcome = result_fault(self._request, answer.knots) or "conflict-free"
            self._pace.took("look", len(answer.knots), self._clock() - began)
            self._safe = rung.outcome == "conflict-free"
            return answer if self._safe else None

    def _hold(
        self, before: Sequence[DroneConflict], remaining: Sequence[DroneConflict], stuck: bool
    ) -> ModerationResult:
        request = self._request
        with self._rung("hold") as rung:
            knots: tuple[Knots, ...] = ()
            if stuck and remaining[0].t_s == 0.0:  # the starts themselves
                why = remaining[0].sentence()
            else:
                knots = hold_knots(request, self._tracks)
                why = hold_fault(request, knots)
            rung.outcome = why or "conflict-free"
        return infeasible_result(before, remaining, stuck, knots, why)
