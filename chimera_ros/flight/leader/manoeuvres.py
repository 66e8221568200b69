"""Manoeuvres of the leader: take-off, move, hold and land of several drones.

Each is a routine that sends commands and ends when telemetry shows that the drones have done it; it raises
`MissionFailed` when they have not within a time limit.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from math import isfinite, nan

import numpy as np

from ..messages import AckStatus, CommandKind, DroneState
from ..moderation_call import KnotSequence
from ..planning.mission import Mission
from ..planning.planner import REDUCED_MARGIN_M, MissionPlan, Phase, replan_move, straight_paths
from ..trajectory import Path
from .drone_tracker import DroneTracker
from .moderation_client import ModerationClient
from .outbox import Outbox
from .plan_handout import ActivePaths, PlanHandout
from .state import (
    FLYING,
    ON_GROUND,
    LeaderConfig,
    LeaderState,
    MissionFailed,
    ReplanRequired,
    Routine,
    name_list,
)


class Manoeuvres:
    """Routines that `MissionScript` combines to a mission."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        tracker: DroneTracker,
        outbox: Outbox,
        moderation: ModerationClient,
        state: LeaderState,
    ) -> None:
        self._config, self._mission = config, mission
        self._tracker, self._outbox, self._state = tracker, outbox, state
        self._moderation = moderation
        self._handout = PlanHandout(config, mission, tracker, outbox, moderation, state)

    # ---- waiting ---------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> Routine:
        """Waits for a time."""
        until = self._state.now + seconds
        while self._state.now < until:
            yield

    def wait_ready(self) -> Routine:
        """Waits until every drone reports that it can arm."""
        self._outbox.event("waiting", f"waiting for {len(self._tracker.names)} drones to be ready.")
        limit_s = self._config.ready_timeout_s
        until = self._state.now + limit_s
        while True:
            missing = [d for d in self._tracker.drones.values() if not self._tracker.ready(d)]
            if not missing:
                return
            if self._state.now > until:
                names = [f"{d.name} ({self._tracker.why_not_ready(d)})" for d in missing]
                raise MissionFailed(f"not ready within {limit_s:.0f} s: {name_list(names)}")
            yield

    def wait_clear(self) -> Routine:
        """Waits until no lost drone may be in the air any more; the others hover."""
        while any(self._tracker.may_be_airborne(d) for d in self._tracker.drones.values()):
            yield

    def hold_all(self, phase: str, until_s: float = 25.0) -> Routine:
        """All flying drones hold; ends when all are stationary."""
        tracker = self._tracker
        names = [n for n in tracker.names if tracker.active(n) and tracker.state(n) in FLYING]
        if not names:
            return
        self._state.phase = phase
        command = self._outbox.command(CommandKind.HOLD, names)
        until = self._state.now + until_s
        since = self._state.now
        while True:
            pending = self._outbox.pending.get(command)
            no_ack = pending.unacknowledged if pending is not None else set()
            open_ = [n for n in names if tracker.active(n) and (n in no_ack or not tracker.stationary(n))]
            # telemetry from before the command does not count
            if not open_ and self._state.now - since > 0.4:
                return
            if self._state.now > until:
                raise MissionFailed(f"{name_list(open_)} did not stop")
            if no_ack and self._state.now - since > self._config.command_deadline_s:
                command, since = self._outbox.command(CommandKind.HOLD, sorted(no_ack)), self._state.now
            yield

    # ---- take-off --------------------------------------------------------------------------------

    def take_off(self, phase: Phase, plan: MissionPlan) -> Routine:
        """Take-off in waves; ends when all hover where the plan continues."""
        sent: dict[str, int] = {}
        for index, wave in enumerate(phase.waves):
            if index:
                yield from self.sleep(phase.interval_s)
            names = [plan.drones[r] for r in wave if self._tracker.active(plan.drones[r])]
            if names:
                for name in names:
                    self._tracker.drones[name].landing_ordered = False
                command = self._outbox.command(CommandKind.TAKEOFF, names, target=(nan, nan, phase.height_m))
                sent.update(dict.fromkeys(names, command))
        limit_s = self._config.takeoff_timeout_s
        until, resend_s = self._state.now + limit_s, self._state.now + 3.0
        rows = {name: row for row, name in enumerate(plan.drones)}
        while True:
            open_ = []
            for name, command in sent.items():
                if not self._tracker.active(name):
                    continue
                self._raise_refusal(command, name, "the take-off")
                if not self._tracker.at_goal(name, phase.ends[rows[name]]):
                    open_.append(name)
            if not open_:
                return
            if self._state.now > until:
                raise MissionFailed(f"{name_list(open_)} did not take off within {limit_s:.0f} s")
            if self._state.now > resend_s:
                resend_s = self._state.now + 2.0
                for name in open_:
                    if self._tracker.state(name) in ON_GROUND:
                        self._outbox.resend_to(sent[name], name)
            yield

    def _raise_refusal(self, command: int, name: str, what: str) -> None:
        pending = self._outbox.pending.get(command)
        if pending is None:
            return
        ack = pending.acks.get(name)
        if ack is not None and ack.status in (AckStatus.REFUSED, AckStatus.FAILED):
            raise MissionFailed(f"{name} did not execute {what}: {ack.reason}")
        if name in pending.unacknowledged and self._state.swarm_ns > pending.command.deadline_ns:
            if self._tracker.state(name) in ON_GROUND:
                raise MissionFailed(f"{name} never acknowledged {what}")
            pending.unacknowledged.discard(
                name
            )  # it executes the command: only its acknowledgements were lost

    # ---- moves -----------------------------------------------------------------------------------

    def move(self, phase: Phase, plan: MissionPlan) -> Routine:
        """Distributes trajectories, starts them once all are acknowledged, ends when all are at their goals.

        After a failed attempt all hold and the move is re-planned; `attempts` in all.
        """
        rows = {name: row for row, name in enumerate(plan.drones)}
        goals_of = {name: phase.ends[row] for name, row in rows.items()}
        problem, tries, first = "", 0, True
        yield from self.wait_clear()
        while tries < self._config.attempts:
            names = [name for name in plan.drones if self._tracker.active(name)]
            if first and not names:
                raise MissionFailed("no drone is left")
            if not first:
                self._outbox.event("replanned", f"{phase.title} is repeated: {problem}.")
                yield from self.hold_all(f"{phase.title} again")
                yield from self.wait_clear()
                names = [name for name in plan.drones if self._tracker.active(name)]
                if not names:
                    raise MissionFailed("no drone is left")
                fresh = yield from self._replanned(phase, names, goals_of)
                if not fresh.knots:
                    return
                phase, rows = fresh, {name: row for row, name in enumerate(names)}
            else:
                phase, rows = yield from self._moderated(phase, plan, names, rows)
            first = False
            names = [name for name in names if self._tracker.active(name)]
            lost_before = set(self._tracker.lost)
            lead = self._config.lead_s + self._config.lead_per_drone_s * len(names)
            start_ns = self._state.swarm_ns + int(lead * 1e9)
            parts = {name: phase.knots[rows[name]] for name in names}
            problem = yield from self._handout.hand_out(parts, start_ns)
            if not problem:
                problem = yield from self._execute(phase, parts, start_ns, goals_of)
                if not problem:
                    return
            if not set(self._tracker.lost) - lost_before:  # a loss does not count as a failed attempt
                tries += 1
        raise MissionFailed(f"{phase.title} failed {self._config.attempts} times: {problem}")

    def _moderated(
        self, phase: Phase, plan: MissionPlan, names: list[str], rows: dict[str, int]
    ) -> Generator[None, None, tuple[Phase, dict[str, int]]]:
        """The phase with the paths of path moderation; as planned if no usable answer comes."""
        wished = phase.nominal or phase.knots
        wish = [wished[rows[name]] for name in names]
        goals = np.array([phase.ends[rows[name]] for name in names])
        later = sum(other.duration_s for other in plan.phases if other.step > phase.step)
        longest = self._duration_limit(names, phase.duration_s, later)
        found = yield from self._moderation.request(phase.title, names, wish, goals, longest)
        if found is None:
            return phase, rows
        duration = max(knots[-1].t_s for knots in found)
        ends = np.array([knots[-1].position_enu_m for knots in found])
        fresh = replace(phase, knots=found, ends=ends, duration_s=duration, nominal=tuple(wish))
        return fresh, {name: row for row, name in enumerate(names)}

    def _duration_limit(self, names: Sequence[str], planned_s: float, later_s: float) -> float:
        """Longest duration that the battery allows a move of `planned_s`, with `later_s` to fly after it."""
        battery = self._mission.battery
        level = min(self._tracker.batteries(names).values(), default=1.0)
        spare = ((level if isfinite(level) else 1.0) - battery.reserve) * battery.endurance_s - later_s
        return max(planned_s, min(3.0 * planned_s + 30.0, spare)) + 1e-3

    def _replanned(
        self, phase: Phase, names: list[str], goals_of: dict[str, np.ndarray]
    ) -> Generator[None, None, Phase]:
        """The phase re-planned from present positions to the same goals; without knots if all are there."""
        goals = np.array([goals_of[n] for n in names])
        places = np.array([self._tracker.reference(n) for n in names])
        fresh, why = replan_move(self._mission, phase, names, places, goals)
        wish = fresh.knots if fresh is not None else straight_paths(self._mission, places, goals)
        if wish:
            planned = fresh.duration_s if fresh is not None else max(knots[-1].t_s for knots in wish)
            longest = self._duration_limit(names, planned, 0.0)
            found = yield from self._moderation.request(phase.title, names, wish, goals, longest)
            if found is not None:
                duration = max(knots[-1].t_s for knots in found)
                return replace(phase, knots=found, ends=goals, duration_s=duration, nominal=())
        if fresh is None:
            fresh, why = replan_move(self._mission, phase, names, places, goals, REDUCED_MARGIN_M)
        if fresh is None and self._tracker.lost:
            raise ReplanRequired(f"{phase.title} cannot be resumed: {why}".rstrip("."))
        if fresh is None:
            raise MissionFailed(f"{phase.title} cannot be resumed: {why}".rstrip("."))
        return fresh

    def _execute(
        self, phase: Phase, parts: Mapping[str, KnotSequence], start_ns: int, ends: Mapping[str, np.ndarray]
    ) -> Generator[None, None, str]:
        """Starts a plan that all have accepted; returns what failed, or an empty string."""
        names = list(parts)
        active = ActivePaths({name: Path(knots) for name, knots in parts.items()}, start_ns)
        command = self._handout.start(names, start_ns)
        since: float | None = None
        while self._state.swarm_ns < active.end_ns:
            pending = self._outbox.pending.get(command)
            if pending is not None:
                for ack in pending.acks.values():
                    if ack.status is AckStatus.REFUSED and self._tracker.active(ack.drone):
                        return f"{ack.drone} refuses to follow: {ack.reason}"
                late = [n for n in pending.unacknowledged if self._tracker.active(n)]
                if late and self._state.swarm_ns > active.start_ns + 400_000_000:
                    return f"{name_list(late)} did not acknowledge the start"
            lost = [n for n in names if not self._tracker.active(n)]
            if lost:
                return f"{name_list(lost)} lost"
            settled = active.start_ns + 1_500_000_000 < self._state.swarm_ns < active.end_ns - 1_000_000_000
            if settled:
                idle = [n for n in names if self._tracker.stuck(n, ends[n])]
                since = (since or self._state.now) if idle else None
                if since is not None and self._state.now - since > 0.6:
                    return f"{name_list(idle)} stopped before its goal"
            risk = self._handout.check_risk(active) if settled else None
            if risk is not None:
                problem = yield from self._handout.replan_in_flight(phase.title, risk, active)
                if problem:
                    return problem
                command = active.command or command
            yield
        until = self._state.now + self._config.settle_s
        while True:
            away = [n for n in names if self._tracker.active(n) and not self._tracker.at_goal(n, ends[n])]
            if not away:
                return ""
            if self._state.now > until:
                return f"{name_list(away)} did not reach its goal"
            yield

    # ---- landing ---------------------------------------------------------------------------------

    def order_landing(self, names: Sequence[str]) -> None:
        """Commands drones to land in place."""
        for name in names:
            self._tracker.drones[name].landing_ordered = True
        self._outbox.command(CommandKind.LAND, names)

    def land(self, waves: Iterable[Sequence[str]], interval_s: float) -> Routine:
        """Landing in waves, each drone in place; ends when all are down."""
        ordered: list[str] = []
        for index, wave in enumerate(waves):
            if index:
                yield from self.sleep(interval_s)
            names = [n for n in wave if self._tracker.active(n)]
            if names:
                self.order_landing(names)
                ordered += names
        yield from self._wait_landed(ordered)
        yield from self.land_in_place()  # lost drones that still hover

    def _wait_landed(self, names: Sequence[str]) -> Routine:
        """Waits until the drones are down; the command is repeated to those that do not land."""
        limit_s, repeat_s = self._config.landing_timeout_s, self._config.command_deadline_s + 1.0
        until, again = self._state.now + limit_s, self._state.now + repeat_s
        while True:
            open_ = [n for n in self._tracker.airborne() if n in names and not self._tracker.offboard_left(n)]
            if not open_:
                return
            if self._state.now > until:
                raise MissionFailed(f"{name_list(open_)} did not land within {limit_s:.0f} s")
            if self._state.now > again:
                again = self._state.now + repeat_s
                idle = [n for n in open_ if self._tracker.state(n) is not DroneState.LANDING]
                if idle:
                    self.order_landing(idle)
            yield

    def land_in_place(self) -> Routine:
        """All drones in the air land in place, none while another hovers below it.

        Lost drones that descend by themselves are waited for, but do not fail the mission a second time.
        """
        tracker, limit_s = self._tracker, self._config.landing_timeout_s
        until = self._state.now + limit_s
        ordered: set[str] = set()
        again = 0.0
        while True:
            up = [tracker.drones[n] for n in tracker.airborne() if not tracker.offboard_left(n)]
            if not up:
                return
            if self._state.now > until:
                late = [d.name for d in up if not d.lost]
                if late:
                    raise MissionFailed(f"{name_list(late)} did not land within {limit_s:.0f} s")
                return
            own = (DroneState.RETURNING, DroneState.FAILSAFE)  # these descend by themselves
            wait = [d for d in up if tracker.state(d.name) not in own]
            free = [d.name for d in wait if not any(tracker.blocks_landing(o, d) for o in up if o is not d)]
            if self._state.now > again:
                ordered = {d.name for d in up if tracker.state(d.name) is DroneState.LANDING}
                again = self._state.now + self._config.command_deadline_s + 1.0
            fresh = [n for n in free if n not in ordered]
            if fresh:
                self.order_landing(fresh)
                ordered.update(fresh)
            yield
