"""The anytime ladder: an incumbent in milliseconds, improved until the deadline, verified before it leaves.

Rungs: the trajectories as they are; for 8, then 16 manoeuvres a drone greedy, annealing, CP-SAT and VQE on
blocks; priority planning with holds at the start; a verified hold. What a rung finds gets a last look
(`outgoing.faults`) as the very knots that would leave; what fails there is not sent, and the next rung is
tried. The clock is the caller's: the room knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Final, Protocol

import numpy as np

from chimera_ros.flight.moderation_call import ModerationStatus

from .annealing import Annealing
from .blocks import choose_blocks
from .circuits import Sampler
from .conflicts import Conflict, find_conflicts
from .cp_sat import CpSat
from .cp_sat import load as load_cp_sat
from .errors import ModerationError, Reason
from .exact import ENUMERATED, Exact
from .greedy import Greedy
from .manoeuvres import Candidate, candidates, keep
from .outgoing import clashes, conflicts_of, faults, hold_fault, holds, standing_clashes, tracks_of
from .priority import prioritise
from .problem import Problem, build, without_dominated
from .request import LONGEST_S, MAX_DRONES, SHORTEST_S, Answer, Clash, Knots, Request, Rung
from .solver import Progress, Solver, SolverUnavailable
from .tracks import IntArray, Track, TrackTable
from .vqe import Vqe

Clock = Callable[[], float]


class LimitedSampler(Sampler, Protocol):
    """A sampler whose calls take at most `timeout_s`, which the ladder sets to what is left."""

    timeout_s: float


_MENUS: Final = (8, 16)  # manoeuvres a drone
_ALL_MOVE_UP_TO: Final = 64  # drones; of a larger swarm only those in a conflict are moved
_SAMPLED_FROM, _SAMPLE = 200, 100  # drones
_CONFLICT_S: Final = 6e-5  # what finding one conflict takes
_LEAST_S: Final = 0.003  # nothing is begun with less than this left
_SURE: Final = 2.5  # the last look is reserved this many times what the first one took, ...
_LIKELY: Final = 1.6  # ... a block of VQE this many times what the last one took
_WIDER: Final = 2.5  # the next menu takes so many times what the last one took
_FOR_PRIORITY: Final = 0.3  # of the deadline, kept for priority planning while there is no way yet
_BLOCK_S: Final = {8: 0.03, 12: 0.1}  # what a block of VQE with so many qubits takes, before one was measured
_CP_SAT_SHARE: Final = 0.35  # of the time left, for one slice of CP-SAT
_QUBITS, _QUBITS_SHORT, _SHORT_S = 12, 8, 0.5  # of a block, and with a deadline below the last
_BETTER: Final = 1e-9


@dataclass(slots=True)
class _Rung:
    name: str
    outcome: str = ""


@dataclass(slots=True)
class _Best:
    """The best conflict-free choice of a problem so far, and what each stage had for itself."""

    problem: Problem
    choice: IntArray | None = None
    energy: float = inf
    winner: str = ""
    proven: bool = False
    impossible: bool = False
    nearest: IntArray | None = None  # with the fewest conflicts, while none is free of them
    own: dict[str, float] = field(default_factory=dict)  # least conflict-free energy by stage
    _fewest: float = inf

    def offer(self, stage: str, choice: IntArray) -> None:
        """Takes a stage's choice for what the problem says it is, not for what the stage says."""
        energy = self.problem.energy(choice)
        if self.problem.violations(choice):
            if energy < self._fewest:
                self._fewest, self.nearest = energy, choice.copy()
            return
        self.own[stage] = min(energy, self.own.get(stage, inf))
        if energy < self.energy - _BETTER:
            self.choice, self.energy, self.winner = choice.copy(), energy, stage


class Moderator:
    """Answers requests one at a time, each within its deadline as far as the steps' own size allows.

    Args:
        clock: seconds, never going back.
        sampler: executes quantum circuits; None leaves VQE out.
        reserve_s: kept of every deadline for what the caller has to do with the answer.
    """

    def __init__(self, clock: Clock, sampler: LimitedSampler | None = None, reserve_s: float = 0.0) -> None:
        self._clock, self._sampler, self._reserve_s = clock, sampler, reserve_s
        self._block_s: dict[int, float] = {}  # what blocks of so many qubits took lately

    def run(self, request: Request, began_s: float | None = None) -> Answer:
        """The answer; `began_s` is when the deadline began to run, now if None. Raises nothing foreseen."""
        began_s = self._clock() if began_s is None else began_s
        climb = _Climb(request, self._clock, self._sampler, began_s, self._reserve_s, self._block_s)
        try:
            answer = climb.answer()
        except ModerationError as error:
            answer = Answer(ModerationStatus.FAILED, f"{error}"[:480])
        return replace(
            answer, rungs=tuple(climb.rungs), total_ms=1e3 * (self._clock() - began_s),
            backend=climb.backend, qubits=climb.qubits, shots=climb.shots,
        )  # fmt: skip


class _Climb:
    """One request on its way up the ladder."""

    def __init__(
        self,
        request: Request,
        clock: Clock,
        sampler: LimitedSampler | None,
        began_s: float,
        reserve_s: float,
        block_s: dict[int, float],
    ) -> None:
        self._request, self._clock, self._sampler = request, clock, sampler
        self._until = began_s + request.deadline_s - reserve_s
        self._block_s = block_s
        self._last_look_s = 0.0
        self._menu_s = 0.0  # what the last menu took
        self._spare_s = 0.0  # kept for priority planning, until something conflict-free is at hand
        self._tracks: list[Track] = []
        self._kept: list[Candidate] = []
        self._nearest: Sequence[Conflict] = ()
        self.rungs: list[Rung] = []
        self.backend, self.qubits, self.shots = "", 0, 0

    def left(self) -> float:
        """Seconds until the last look must begin."""
        return self._until - self._last_look_s - self._spare_s - self._clock()

    @contextmanager
    def _rung(self, name: str) -> Iterator[_Rung]:
        began, rung = self._clock(), _Rung(name)
        try:
            yield rung
        finally:
            self.rungs.append(Rung(name, 1e3 * (self._clock() - began), rung.outcome))

    # ---- the rungs -------------------------------------------------------------------------------

    def answer(self) -> Answer:
        """Climbs until something verified is at hand."""
        request = self._request
        self._check()
        began = self._clock()
        with self._rung("keep") as rung:
            self._tracks = tracks_of(request, request.knots)
            self._kept = [
                keep(track, request.fence, name)
                for name, track in zip(request.names, self._tracks, strict=True)
            ]
            stuck = standing_clashes(request, self._tracks)
            before, all_seen = self._conflicts(bool(stuck))
            rung.outcome = f"{len(before)} conflicts" if before or stuck else "conflict-free"
            rung.outcome += "" if all_seen else " in a sample"
        if not all_seen:
            return self._hold(clashes(request, before), stuck or clashes(request, before), bool(stuck))
        if not before and not stuck:
            return Answer(
                ModerationStatus.CONFLICT_FREE, winner="keep", knots=request.knots, cost=0.0, proven=True
            )
        self._last_look_s = _SURE * (self._clock() - began)
        named = clashes(request, before)
        self._nearest = before
        if not stuck:
            self._spare_s = _FOR_PRIORITY * request.deadline_s
            for count in _MENUS:
                found = self._chosen(count, before)
                if found is not None:
                    return replace(found, before=named)
            self._spare_s = 0.0
            found = self._in_turn()
            if found is not None:
                return replace(found, before=named)
        return self._hold(named, stuck or clashes(request, self._nearest), bool(stuck))

    def _conflicts(self, stuck: bool) -> tuple[list[Conflict], bool]:
        """The conflicts in what was asked, and whether all were looked for.

        A large swarm is sampled first: where everybody is in everybody's way, counting that would take longer
        than the deadline, and no rung could part them either.
        """
        tracks, separation = self._tracks, self._request.separation
        if len(tracks) > _SAMPLED_FROM:
            sample = np.linspace(0, len(tracks) - 1, _SAMPLE).astype(int).tolist()
            found = find_conflicts(TrackTable([tracks[i] for i in sample]), separation)
            expected_s = _CONFLICT_S * len(found) * (len(tracks) / _SAMPLE) ** 2
            if stuck or expected_s > 0.5 * self.left():
                named = [replace(c, first=sample[c.first], second=sample[c.second]) for c in found]
                return named, False
        return find_conflicts(TrackTable(tracks), separation), True

    def _check(self) -> None:
        request = self._request
        count = len(request.names)
        if not count:
            raise ModerationError(Reason.NO_DRONES, "there is no trajectory in the request")
        if count > MAX_DRONES:
            raise ModerationError(Reason.TOO_MANY, f"{count} trajectories are more than {MAX_DRONES}")
        if len(request.knots) != count or len(set(request.names)) != count:
            raise ModerationError(Reason.BAD_KNOTS, "every drone needs one name and one trajectory")
        if not SHORTEST_S <= request.deadline_s <= LONGEST_S:
            raise ModerationError(
                Reason.BAD_LIMITS, f"the deadline must be {SHORTEST_S:g} to {LONGEST_S:g} s"
            )

    def _chosen(self, count: int, before: Sequence[Conflict]) -> Answer | None:
        """One manoeuvre a drone out of `count`, by all solvers."""
        began = self._clock()
        if self.left() < max(_LEAST_S, _WIDER * self._menu_s):
            return None
        with self._rung(f"manoeuvres-{count}") as rung:
            ways = self._ways(count, before)
            problem = build(ways, self._request.separation)
            if problem.hopeless():
                rung.outcome = f"{len(problem.hopeless())} pairs conflict whatever they do"
                return None
            small, kept = without_dominated(problem)
            rung.outcome = f"{sum(small.sizes)} of {sum(problem.sizes)} ways, {len(small.pairs)} pairs"
        self._menu_s = self._clock() - began
        best = _Best(small)
        for solver in self._solvers(small):
            if self.left() < _LEAST_S:
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
                self._spare_s = 0.0
        if self._sampler is not None and best.choice is not None:
            self._circuits(self._sampler, best, count)
        if best.choice is None:
            if best.nearest is not None and self.left() > 0.0:
                self._nearest = conflicts_of(self._request, self._knots(ways, kept, best.nearest))
            return None
        return self._verified(
            Answer(
                ModerationStatus.CONFLICT_FREE,
                winner=best.winner,
                knots=self._knots(ways, kept, best.choice),
                cost=best.energy,
                gain_over_greedy=best.own.get("greedy", nan) - best.energy,
                gain_over_annealing=best.own.get("annealing", nan) - best.energy,
                proven=best.proven,
            )
        )

    def _circuits(self, sampler: LimitedSampler, best: _Best, count: int) -> None:
        """VQE on one block after the other while time is left; a proven optimum it can only confirm."""
        problem, choice = best.problem, best.choice
        assert choice is not None
        qubits = _QUBITS if self._request.deadline_s > _SHORT_S else _QUBITS_SHORT
        vqe = Vqe(sampler)
        with self._rung(f"{vqe.name}-{count}") as rung:
            done, backends, why, before = 0, set[str](), "", best.energy
            for block in choose_blocks(problem, choice, qubits, self._request.seed):
                # the worker is not asked for what it could not finish: that would cost it a restart
                takes_s = self._block_s.get(qubits, _BLOCK_S[qubits])
                if self.left() < _LIKELY * takes_s:
                    self._block_s[qubits] = 0.9 * takes_s  # a slow moment is not believed for ever
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
                self._block_s[qubits] = self._clock() - began
            self.backend = ", ".join(sorted(backends))
            rung.outcome = f"{done} blocks, gain {before - best.energy:.2f}" if done else "no time"
            rung.outcome += f"; degraded: {why}" if why else ""

    def _limited(self, sampler: LimitedSampler, slices: Iterator[Progress]) -> Iterator[Progress]:
        """Slices while time is left; the sampler may never take longer than that either."""
        while (left := self.left()) > 0.0:
            sampler.timeout_s = left
            progress = next(slices, None)
            if progress is None:
                return
            yield progress
            if progress.done:
                return

    def _ways(self, count: int, before: Sequence[Conflict]) -> list[list[Candidate]]:
        """What each drone could do; who is in no conflict, or when time runs short, keeps its trajectory."""
        request = self._request
        involved = {i for c in before for i in (c.first, c.second)}
        everyone = len(request.names) <= _ALL_MOVE_UP_TO
        share_s = inf if everyone else 0.4 * self.left()
        began = self._clock()
        ways = []
        for row, (name, track) in enumerate(zip(request.names, self._tracks, strict=True)):
            moves = (everyone or row in involved) and self._clock() - began < share_s
            ways.append(
                candidates(track, request.limits, request.fence, request.separation, count, name)
                if moves
                else [self._kept[row]]
            )
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

    def _improve(self, solver: Solver, best: _Best) -> None:
        for progress in solver.run(best.problem, best.choice, self._request.seed):
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

    def _knots(
        self, ways: Sequence[Sequence[Candidate]], kept: Sequence[IntArray], choice: IntArray
    ) -> tuple[Knots, ...]:
        """The knots of a choice; who keeps its trajectory gets exactly what it asked."""
        return tuple(
            asked if kept[row][choice[row]] == 0 else ways[row][int(kept[row][choice[row]])].knots
            for row, asked in enumerate(self._request.knots)
        )

    def _in_turn(self) -> Answer | None:
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
            Answer(
                ModerationStatus.CONFLICT_FREE,
                winner="priority",
                knots=tuple(c.knots for c in chosen),
                cost=sum(c.cost for c in chosen),
            )
        )

    def _verified(self, answer: Answer) -> Answer | None:
        """The answer if what would leave is conflict-free, begins and ends as asked, and keeps the limits."""
        with self._rung("verify") as rung:
            rung.outcome = faults(self._request, answer.knots) or "conflict-free"
            return answer if rung.outcome == "conflict-free" else None

    def _hold(self, before: Sequence[Clash], remaining: Sequence[Clash], stuck: bool) -> Answer:
        request = self._request
        with self._rung("hold") as rung:
            knots: tuple[Knots, ...] = ()
            if stuck and remaining[0].t_s == 0.0:  # the starts themselves
                why = remaining[0].sentence()
            else:
                knots = holds(request, self._tracks)
                why = hold_fault(request, knots)
            rung.outcome = why or "conflict-free"
        what = "starts or goals are too near" if stuck else "no conflict-free way was found in time"
        more = f" and {len(remaining) - 1} more pairs" if len(remaining) > 1 else ""
        first = f": {remaining[0].sentence()}{more}" if remaining else ""
        where = "all can hold where they are" if not why else f"nor can all hold: {why}"
        return Answer(
            ModerationStatus.INFEASIBLE,
            f"{what}{first}; {where}."[:500],
            winner="hold" if not why else "",
            knots=knots if not why else (),
            before=tuple(before),
            remaining=tuple(remaining),
        )


def warm_up() -> None:
    """Loads what the first request would otherwise wait for."""
    with suppress(SolverUnavailable):
        load_cp_sat()
