"""Anytime cascade of solvers: an incumbent in milliseconds, improved until the deadline, verified at the end.

Stages: the trajectories as requested; greedy, annealing, exact or CP-SAT, and VQE on blocks, with 8, then 16
manoeuvres per drone; priority planning; a verified hold. The knots of a result are verified
(`outgoing.result_fault`) before they are returned; if they fail, the next stage is tried. The clock is an
argument; an offline request has a work budget instead (`work_clock`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import nan
from typing import Final, Protocol

import numpy as np

from chimera_ros.flight.moderation_call import KnotSequence, ModerationRequest, ModerationStatus

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
from .work_clock import CANDIDATES_S, PRIORITY_S, SLICE_S, WorkClock

Clock = Callable[[], float]


class LimitedSampler(Sampler, Protocol):
    """A sampler whose calls take at most `timeout_s`, which is set to the time left."""

    timeout_s: float


_MENUS: Final = (8, 16)  # manoeuvres per drone
_ALL_MOVE_UP_TO: Final = 64  # drones; in a larger swarm only those in a conflict are moved
_MIN_STAGE_S: Final = 0.003  # no stage begins with less time left
# reserved for the verification: multiples of the first detection's duration, and of recent verifications'
_VERIFY_BY_DETECTION, _VERIFY_BY_RECENT = 2.5, 1.5
_OPTIONAL_FACTOR: Final = 2.0  # an optional stage begins with this multiple of its expected duration left
_IMPROVE_SHARE: Final = 0.7  # of the deadline, for improving a conflict-free choice
_TOTAL_SHARE: Final = 0.92  # of the deadline; the rest is for scheduling delays
_RESTART_S: Final = 0.02  # to replace a late quantum worker
_TABLES_S: Final = 2.5e-6  # initial estimate for one pair of candidates of conflicting drones, ...
_MEASURED: Final = 10_000  # ... measured from this many pairs on
_NEXT_MENU_FACTOR: Final = 2.5  # duration of the next menu over that of the last one
_PRIORITY_SHARE: Final = 0.3  # of the deadline, reserved for priority planning without an incumbent
_BLOCK_S: Final = {8: 0.04, 12: 0.1}  # initial estimate for a block of VQE, by qubits
_CP_SAT_SHARE: Final = 0.35  # of the time left, for one slice of CP-SAT
_CANDIDATES_SHARE: Final = 0.6  # of the time left, for candidates
_QUBITS, _QUBITS_SHORT, _SHORT_S = 12, 8, 0.5  # of a block, and with a deadline below the last


@dataclass(slots=True)
class _OpenStage:
    name: str
    outcome: str = ""


class Moderator:
    """Answers requests one at a time, each within its deadline as far as the length of a slice allows.

    Args:
        clock: monotonic seconds.
        sampler: executes quantum circuits; None: without VQE.
        reserve_s: part of every deadline that the caller needs for the answer.
    """

    def __init__(self, clock: Clock, sampler: LimitedSampler | None = None, reserve_s: float = 0.0) -> None:
        self._clock, self._sampler, self._reserve_s = clock, sampler, reserve_s
        self._durations = StageDurations()

    def run(
        self,
        request: ModerationRequest,
        began_s: float | None = None,
        sampler: LimitedSampler | None = None,
        reserve_s: float | None = None,
    ) -> ModerationResult:
        """The result; `began_s` is when the deadline began to run, None: now. An invalid request is FAILED.

        `sampler` and `reserve_s` override those of the moderator; an offline request uses neither.
        """
        reserve_s = self._reserve_s if reserve_s is None else reserve_s
        if request.offline:  # nothing that was measured on this machine, no call that may time out
            clock: Clock = WorkClock()
            run = _Run(request, clock, None, 0.0, 0.0, StageDurations())
            began_s = 0.0
        else:
            clock = self._clock
            began_s = clock() if began_s is None else began_s
            run = _Run(request, clock, sampler or self._sampler, began_s, reserve_s, self._durations)
        try:
            result = run.result()
        except ModerationError as error:
            result = ModerationResult(ModerationStatus.FAILED, f"{error}"[:480])
        return replace(
            result, stages=tuple(run.stages), total_ms=1e3 * (clock() - began_s),
            backend=run.backend, qubits=run.qubits, shots=run.shots,
        )  # fmt: skip


class _Run:
    """The stages of one request."""

    def __init__(
        self,
        request: ModerationRequest,
        clock: Clock,
        sampler: LimitedSampler | None,
        began_s: float,
        reserve_s: float,
        durations: StageDurations,
    ) -> None:
        self._request, self._clock, self._sampler = request, clock, sampler
        self._end_s = began_s + _TOTAL_SHARE * request.deadline_s - reserve_s
        self._improve_until_s = min(began_s + _IMPROVE_SHARE * request.deadline_s, self._end_s)
        self._durations = durations
        self._work = clock if isinstance(clock, WorkClock) else None
        self._cut_short = False  # a stage was skipped or interrupted for lack of time
        self._feasible = False  # a conflict-free choice is known
        self._verify_s = 0.0  # reserved for the verification
        self._menu_s = 0.0  # duration of the last menu
        self._reserved_s = 0.0  # reserved for priority planning until a conflict-free choice is known
        self._tracks: list[Track] = []
        self._kept: list[Candidate] = []
        self._closest: Sequence[Conflict] = ()
        self.stages: list[Stage] = []
        self.backend, self.qubits, self.shots = "", 0, 0

    def left(self) -> float:
        """Seconds until verification must begin; less once a conflict-free choice is known."""
        until = self._improve_until_s if self._feasible else self._end_s
        return until - self._verify_s - self._reserved_s - self._clock()

    def _fits(self, step: str, size: int, otherwise_s: float) -> bool:
        """True if an optional step is expected to end in time."""
        if self.left() >= _OPTIONAL_FACTOR * self._durations.expected(step, size, otherwise_s):
            return True
        self._durations.decay(step, size)
        return False

    def _charge(self, seconds: float) -> None:
        """Counts work of an offline request."""
        if self._work is not None:
            self._work.charge(seconds)

    @contextmanager
    def _stage(self, name: str) -> Iterator[_OpenStage]:
        began, stage = self._clock(), _OpenStage(name)
        try:
            yield stage
        finally:
            self.stages.append(Stage(name, 1e3 * (self._clock() - began), stage.outcome))

    # ---- the stages ------------------------------------------------------------------------------

    def result(self) -> ModerationResult:
        """Runs the stages until a result is verified."""
        request = self._request
        check(request)
        began = self._clock()
        with self._stage("keep") as stage:
            self._tracks = tracks_of(request, request.knots)
            self._kept = [
                planned_candidate(track, request.fence, name)
                for name, track in zip(request.drones, self._tracks, strict=True)
            ]
            at_ends = endpoint_conflicts(request, self._tracks)
            before, complete = first_conflicts(request, self._tracks, 0.0 if at_ends else 0.5 * self.left())
            stage.outcome = f"{len(before)} conflicts" if before or at_ends else "conflict-free"
            stage.outcome += "" if complete else " in a sample"
        if not complete:
            self._cut_short = True
            return self._hold(
                drone_conflicts(request, before), at_ends or drone_conflicts(request, before), bool(at_ends)
            )
        if not before and not at_ends:
            return ModerationResult(
                ModerationStatus.CONFLICT_FREE, winner="keep", knots=request.knots, cost=0.0, proven=True
            )
        self._verify_s = max(
            _VERIFY_BY_DETECTION * (self._clock() - began),
            _VERIFY_BY_RECENT * self._durations.expected("verify", len(self._tracks)),
        )
        named = drone_conflicts(request, before)
        self._closest = before
        if not at_ends:
            for count in _MENUS:
                result = self._by_manoeuvres(count, before)
                if result is not None:
                    return replace(result, before=named)
                self._reserved_s = _PRIORITY_SHARE * request.deadline_s
            self._reserved_s = 0.0
            result = self._by_priority()
            if result is not None:
                return replace(result, before=named)
        return self._hold(named, at_ends or drone_conflicts(request, self._closest), bool(at_ends))

    def _by_manoeuvres(self, count: int, before: Sequence[Conflict]) -> ModerationResult | None:
        """One manoeuvre per drone out of `count`, by all solvers."""
        began = self._clock()
        work = len(before) * count**2
        tables_s = work * self._durations.expected("tables", 1, _TABLES_S)
        if self.left() < max(_MIN_STAGE_S, _NEXT_MENU_FACTOR * self._menu_s, tables_s):
            self._durations.decay("tables", 1)
            self._cut_short = True
            return None
        with self._stage(f"manoeuvres-{count}") as stage:
            options = self._candidates(count, before)
            tables_from = self._clock()
            problem = build(options, self._request.separation)
            self._charge(work * _TABLES_S)
            if work >= _MEASURED:
                self._durations.record("tables", 1, (self._clock() - tables_from) / work)
            if problem.infeasible_pairs():
                stage.outcome = f"{len(problem.infeasible_pairs())} pairs conflict with every manoeuvre"
                return None
            small, kept = without_dominated(problem)
            stage.outcome = f"{sum(small.sizes)} of {sum(problem.sizes)} options, {len(small.pairs)} pairs"
        self._menu_s = self._clock() - began
        best = Incumbent(small)
        tracks = sum(small.sizes)
        for solver in self._solvers(small):
            step = solver.name
            if self.left() < _MIN_STAGE_S or (self._feasible and not self._fits(step, tracks, _MIN_STAGE_S)):
                self._cut_short = True
                break
            with self._stage(f"{solver.name}-{count}") as stage:
                try:
                    self._improve(solver, best)
                except SolverUnavailable as error:
                    stage.outcome = str(error)
                    continue
                energy = best.by_solver.get(solver.name)
                stage.outcome = "no solution" if energy is None else f"cost {energy:.2f}"
            if best.infeasible:
                break
            if best.choice is not None:
                self._reserved_s, self._feasible = 0.0, True
            else:
                self._reserved_s = _PRIORITY_SHARE * self._request.deadline_s
        if self._sampler is not None and best.choice is not None:
            self._improve_by_vqe(self._sampler, best, count)
        if best.choice is None:
            if best.closest is not None and self.left() > 0.0:
                self._closest = conflicts_of(self._request, self._knots(options, kept, best.closest))
            return None
        return self._verified(
            ModerationResult(
                ModerationStatus.CONFLICT_FREE,
                winner=best.winner,
                knots=self._knots(options, kept, best.choice),
                cost=best.energy,
                gain_over_greedy=best.by_solver.get("greedy", nan) - best.energy,
                gain_over_annealing=best.by_solver.get("annealing", nan) - best.energy,
                proven=best.proven,
            )
        )

    def _improve_by_vqe(self, sampler: LimitedSampler, best: Incumbent, count: int) -> None:
        """VQE block by block while time is left; a proven optimum can only be confirmed."""
        problem, choice = best.problem, best.choice
        assert choice is not None
        qubits = _QUBITS if self._request.deadline_s > _SHORT_S else _QUBITS_SHORT
        vqe = Vqe(sampler)
        with self._stage(f"{vqe.name}-{count}") as stage:
            done, backends, why, before = 0, set[str](), "", best.energy
            for block in choose_blocks(problem, choice, qubits, self._request.seed):
                # a circuit that the worker cannot finish in time would cost its restart
                if not self._fits(vqe.name, qubits, _BLOCK_S[qubits]):
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
                    details = progress.details
                    backends.add(str(details.get("backend", "")))
                    why = str(details.get("degraded", "")) or why
                    self.qubits = max(self.qubits, int(str(details.get("qubits", 0))))
                    self.shots += int(str(details.get("shots", 0)))
                self._durations.record(vqe.name, qubits, self._clock() - began)
            self.backend = ", ".join(sorted(backends))
            stage.outcome = f"{done} blocks, gain {before - best.energy:.2f}" if done else "no time"
            stage.outcome += f"; degraded: {why}" if why else ""

    def _limited(self, sampler: LimitedSampler, slices: Iterator[SolverProgress]) -> Iterator[SolverProgress]:
        """Slices while time is left, which also limits the sampler."""
        while (left := self.left()) > 0.0:
            # until the end of the deadline: a new worker would take a second to start
            sampler.timeout_s = max(left, self._end_s - self._verify_s - _RESTART_S - self._clock())
            progress = next(slices, None)
            if progress is None:
                return
            yield progress
            if progress.done:
                return

    def _candidates(self, count: int, before: Sequence[Conflict]) -> list[list[Candidate]]:
        """Candidates by drone, those in most conflicts first; when time is short, only the planned one."""
        request = self._request
        conflicts = Counter(i for c in before for i in (c.first, c.second))
        all_move = len(request.drones) <= _ALL_MOVE_UP_TO
        options = [[kept] for kept in self._kept]
        began, share_s = self._clock(), _CANDIDATES_SHARE * self.left()
        for row in sorted(range(len(options)), key=lambda row: -conflicts[row]):
            if not (all_move or conflicts[row]):
                break
            if self._clock() - began > share_s:
                self._cut_short = True
                break
            self._charge(CANDIDATES_S)
            options[row] = candidates(
                self._tracks[row], request.limits, request.fence, request.separation, count,
                request.drones[row],
            )  # fmt: skip
        return options

    def _solvers(self, problem: Problem) -> Iterator[Solver]:
        """The solvers for a problem, in order."""
        yield Greedy()
        yield Annealing()
        sizes = [float(np.prod([float(problem.sizes[i]) for i in group])) for group in problem.components()]
        if max(sizes, default=0.0) <= ENUMERATED:
            yield Exact()
        else:
            yield CpSat(self._cp_sat_s(), count_work=self._work is not None)

    def _cp_sat_s(self) -> float:
        """Time limit of one slice of CP-SAT, which may exceed it."""
        return max(_CP_SAT_SHARE * self.left(), _MIN_STAGE_S)

    def _improve(self, solver: Solver, best: Incumbent) -> None:
        tracks, began = sum(best.problem.sizes), self._clock()
        for progress in solver.run(best.problem, best.choice, self._request.seed):
            work_s = progress.details.get("work_s")
            self._charge(work_s if isinstance(work_s, float) else SLICE_S)
            self._durations.record(solver.name, tracks, self._clock() - began)  # of one slice
            best.offer(solver.name, progress.choice)
            best.proven = best.proven or (progress.proven and progress.feasible)
            best.infeasible = (
                best.infeasible
                or (progress.proven and not progress.feasible)
                or progress.details.get("status") == "infeasible"
            )
            if isinstance(solver, CpSat):
                solver.time_limit_s = self._cp_sat_s()
            if progress.done:
                self._cut_short |= progress.details.get("status") == "unknown"
                return
            if self.left() <= 0.0:
                self._cut_short = True
                return
            began = self._clock()

    def _knots(
        self, options: Sequence[Sequence[Candidate]], kept: Sequence[IntArray], choice: IntArray
    ) -> tuple[KnotSequence, ...]:
        """The knots of a choice; an unchanged trajectory keeps its requested knots exactly."""
        return tuple(
            planned if kept[row][choice[row]] == 0 else options[row][int(kept[row][choice[row]])].knots
            for row, planned in enumerate(self._request.knots)
        )

    def _by_priority(self) -> ModerationResult | None:
        """Priority planning: one drone after the other, each avoiding those before."""
        request = self._request
        if self.left() < _MIN_STAGE_S:
            self._cut_short = True
            return None
        attempt = None
        with self._stage("priority") as stage:
            for attempt in prioritise(
                self._tracks, request.limits, request.fence, request.separation, request.seed
            ):
                self._charge(PRIORITY_S)
                if attempt.done or self.left() <= 0.0:
                    break
            chosen = attempt.chosen if attempt is not None else None
            if chosen is None:
                stage.outcome = "out of time" if attempt is None or not attempt.done else "no solution"
                self._cut_short |= stage.outcome == "out of time"
                return None
            stage.outcome = f"cost {sum(c.cost for c in chosen):.2f}"
        return self._verified(
            ModerationResult(
                ModerationStatus.CONFLICT_FREE,
                winner="priority",
                knots=tuple(c.knots for c in chosen),
                cost=sum(c.cost for c in chosen),
            )
        )

    def _verified(self, result: ModerationResult) -> ModerationResult | None:
        """The result if its knots pass the verification."""
        with self._stage("verify") as stage:
            began = self._clock()
            stage.outcome = result_fault(self._request, result.knots) or "conflict-free"
            self._durations.record("verify", len(result.knots), self._clock() - began)
            self._feasible = stage.outcome == "conflict-free"
            return result if self._feasible else None

    def _hold(
        self, before: Sequence[DroneConflict], remaining: Sequence[DroneConflict], at_ends: bool
    ) -> ModerationResult:
        request = self._request
        with self._stage("hold") as stage:
            knots: tuple[KnotSequence, ...] = ()
            if at_ends and remaining[0].t_s == 0.0:  # the starts themselves
                why = remaining[0].sentence()
            else:
                knots = hold_knots(request, self._tracks)
                why = hold_fault(request, knots)
            stage.outcome = why or "conflict-free"
        return infeasible_result(request, before, remaining, at_ends, self._cut_short, knots, why)
