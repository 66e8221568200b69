"""The leader's manoeuvres, each a script that ends when the drones have done it."""

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
from .plan_handout import PlanHandout, Turning
from .state import FLYING, GROUND, Failed, LeaderConfig, Replan, Script, Situation, some


class Manoeuvres:
    """What the drones of a mission can be made to do together."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        known: DroneTracker,
        post: Outbox,
        moderation: ModerationClient,
        situation: Situation,
    ) -> None:
        self._config, self._mission = config, mission
        self._known, self._post, self._situation = known, post, situation
        self._moderation = moderation
        self._turns = PlanHandout(config, mission, known, post, moderation, situation)

    # ---- waiting ---------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> Script:
        """Lets time pass."""
        until = self._situation.now + seconds
        while self._situation.now < until:
            yield

    def wait_ready(self) -> Script:
        """Until every drone could arm."""
        self._post.event("waiting", f"waiting for {len(self._known.names)} drones to be ready.")
        until = self._situation.now + self._config.ready_timeout_s
        while True:
            missing = [d for d in self._known.drones.values() if not self._known.ready(d)]
            if not missing:
                return
            if self._situation.now > until:
                names = [f"{d.name} ({self._known.why_not_ready(d)})" for d in missing]
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                raise Failed(
                    f"not ready within {self._config.ready_timeout_s:.0f} s: " + ", ".join(names[:5]) + more
                )
            yield

    def wait_clear(self) -> Script:
        """Until lost drones are down, as far as one can know: the others hover meanwhile."""
        while any(self._known.coming_down(d) for d in self._known.drones.values()):
            yield

    def stand_still(self, phase: str, until_s: float = 25.0) -> Script:
        """Everyone flying holds; returns when all stand."""
        names = [n for n in self._known.names if self._known.takes_part(n) and self._known.state(n) in FLYING]
        if not names:
            return
        self._situation.phase = phase
        command = self._post.command(CommandKind.HOLD, names)
        until = self._situation.now + until_s
        since = self._situation.now
        while True:
            sent = self._post.sent.get(command)
            deaf = sent.waiting if sent is not None else set()
            open_ = [
                n for n in names if self._known.takes_part(n) and (n in deaf or not self._known.stands(n))
            ]
            # telemetry from before the order does not count
            if not open_ and self._situation.now - since > 0.4:
                return
            if self._situation.now > until:
                raise Failed(f"{some(open_)} did not come to a stop")
            if deaf and self._situation.now - since > self._config.command_deadline_s:
                command, since = self._post.command(CommandKind.HOLD, sorted(deaf)), self._situation.now
            yield

    # ---- taking off ------------------------------------------------------------------------------

    def take_off(self, phase: Phase, plan: MissionPlan) -> Script:
        """Wave by wave; ends when all hover where the plan goes on."""
        sent: dict[str, int] = {}
        for index, wave in enumerate(phase.waves):
            if index:
                yield from self.sleep(phase.interval_s)
            names = [plan.drones[r] for r in wave if self._known.takes_part(plan.drones[r])]
            if names:
                for name in names:
                    self._known.drones[name].down_ordered = False
                command = self._post.command(CommandKind.TAKEOFF, names, target=(nan, nan, phase.height_m))
                sent.update(dict.fromkeys(names, command))
        until, ask = self._situation.now + self._config.takeoff_timeout_s, self._situation.now + 3.0
        rows = {name: row for row, name in enumerate(plan.drones)}
        while True:
            open_ = []
            for name, command in sent.items():
                if not self._known.takes_part(name):
                    continue
                self._raise_refusal(command, name, "the take-off")
                if not self._known.at(name, phase.ends[rows[name]]):
                    open_.append(name)
            if not open_:
                return
            if self._situation.now > until:
                raise Failed(f"{some(open_)} did not take off within {self._config.takeoff_timeout_s:.0f} s")
            if self._situation.now > ask:
                ask = self._situation.now + 2.0
                for name in open_:
                    if self._known.state(name) in GROUND:
                        self._post.ask_again(sent[name], name)
            yield

    def _raise_refusal(self, command: int, name: str, what: str) -> None:
        sent = self._post.sent.get(command)
        if sent is None:
            return
        ack = sent.answers.get(name)
        if ack is not None and ack.status in (AckStatus.REFUSED, AckStatus.FAILED):
            raise Failed(f"{name} did not do {what}: {ack.reason}")
        if name in sent.waiting and self._situation.ns > sent.command.deadline_ns:
            if self._known.state(name) in GROUND:
                raise Failed(f"{name} never answered the order of {what}")
            sent.waiting.discard(name)  # it does what was asked: only its answers were lost

    # ---- moving ----------------------------------------------------------------------------------

    def move(self, phase: Phase, plan: MissionPlan) -> Script:
        """Hands out trajectories, lets all acknowledge, starts all at once, waits until all have arrived."""
        rows = {name: row for row, name in enumerate(plan.drones)}
        places_of = {name: phase.ends[row] for name, row in rows.items()}
        problem, tries, first = "", 0, True
        yield from self.wait_clear()
        while tries < self._config.attempts:
            names = [name for name in plan.drones if self._known.takes_part(name)]
            if first and not names:
                raise Failed("no drone is left")
            if not first:
                self._post.event("replanned", f"{phase.title} is tried again: {problem}.")
                yield from self.stand_still(f"{phase.title} again")
                yield from self.wait_clear()
                names = [name for name in plan.drones if self._known.takes_part(name)]
                if not names:
                    raise Failed("no drone is left")
                fresh = yield from self._again(phase, names, places_of)
                if not fresh.knots:
                    return
                phase, rows = fresh, {name: row for row, name in enumerate(names)}
            else:
                phase, rows = yield from self._improved(phase, plan, names, rows)
            first = False
            names = [name for name in names if self._known.takes_part(name)]
            known = set(self._known.lost)
            lead = self._config.lead_s + self._config.lead_per_drone_s * len(names)
            start_ns = self._situation.ns + int(lead * 1e9)
            parts = {name: phase.knots[rows[name]] for name in names}
            problem = yield from self._turns.hand_out(parts, start_ns)
            if not problem:
                problem = yield from self._fly(phase, parts, start_ns, places_of)
                if not problem:
                    return
            if not set(self._known.lost) - known:  # a loss is no failure of this move
                tries += 1
        raise Failed(f"{phase.title} failed {self._config.attempts} times: {problem}")

    def _improved(
        self, phase: Phase, plan: MissionPlan, names: list[str], rows: dict[str, int]
    ) -> Generator[None, None, tuple[Phase, dict[str, int]]]:
        """The phase as path moderation would fly it; as it was planned where nothing better is heard."""
        wished = phase.nominal or phase.knots
        wish = [wished[rows[name]] for name in names]
        goals = np.array([phase.ends[rows[name]] for name in names])
        later = sum(other.duration_s for other in plan.phases if other.step > phase.step)
        longest = self._longest(names, phase.duration_s, later)
        found = yield from self._moderation.improve(phase.title, names, wish, goals, longest)
        if found is None:
            return phase, rows
        duration = max(knots[-1].t_s for knots in found)
        ends = np.array([knots[-1].position_enu_m for knots in found])
        fresh = replace(phase, knots=found, ends=ends, duration_s=duration, nominal=tuple(wish))
        return fresh, {name: row for row, name in enumerate(names)}

    def _longest(self, names: Sequence[str], planned_s: float, later_s: float) -> float:
        """How long a move may take that was planned to take `planned_s`, with so much to fly afterwards."""
        battery = self._mission.battery
        level = min(self._known.batteries(names).values(), default=1.0)
        spare = ((level if isfinite(level) else 1.0) - battery.reserve) * battery.endurance_s - later_s
        return max(planned_s, min(3.0 * planned_s + 30.0, spare)) + 1e-3

    def _again(
        self, phase: Phase, names: list[str], places_of: dict[str, np.ndarray]
    ) -> Generator[None, None, Phase]:
        """A new way to the same places from where the drones hover now, without knots if all are there."""
        goals = np.array([places_of[n] for n in names])
        places = np.array([self._known.reference(n) for n in names])
        fresh, why = replan_move(self._mission, phase, names, places, goals)
        wish = fresh.knots if fresh is not None else straight_paths(self._mission, places, goals)
        if wish:
            planned = fresh.duration_s if fresh is not None else max(knots[-1].t_s for knots in wish)
            longest = self._longest(names, planned, 0.0)
            found = yield from self._moderation.improve(phase.title, names, wish, goals, longest)
            if found is not None:
                duration = max(knots[-1].t_s for knots in found)
                return replace(phase, knots=found, ends=goals, duration_s=duration, nominal=())
        if fresh is None:
            fresh, why = replan_move(self._mission, phase, names, places, goals, REDUCED_MARGIN_M)
        if fresh is None and self._known.lost:
            raise Replan(f"{phase.title} cannot be resumed: {why}".rstrip("."))
        if fresh is None:
            raise Failed(f"{phase.title} cannot be resumed: {why}".rstrip("."))
        return fresh

    def _fly(
        self, phase: Phase, parts: Mapping[str, KnotSequence], start_ns: int, ends: Mapping[str, np.ndarray]
    ) -> Generator[None, None, str]:
        """Starts a plan that all have accepted; returns what went wrong, or nothing."""
        names = list(parts)
        turning = Turning({name: Path(knots) for name, knots in parts.items()}, start_ns)
        command = self._turns.follow(names, start_ns)
        since: float | None = None
        while self._situation.ns < turning.end_ns:
            sent = self._post.sent.get(command)
            if sent is not None:
                for ack in sent.answers.values():
                    if ack.status is AckStatus.REFUSED and self._known.takes_part(ack.drone):
                        return f"{ack.drone} does not follow: {ack.reason}"
                late = [n for n in sent.waiting if self._known.takes_part(n)]
                if late and self._situation.ns > turning.start_ns + 400_000_000:
                    return f"{some(late)} did not acknowledge the start"
            gone = [n for n in names if not self._known.takes_part(n)]
            if gone:
                return f"{some(gone)} got lost"
            settled = turning.start_ns + 1_500_000_000 < self._situation.ns < turning.end_ns - 1_000_000_000
            if settled:
                idle = [n for n in names if self._known.stuck(n, ends[n])]
                since = (since or self._situation.now) if idle else None
                if since is not None and self._situation.now - since > 0.6:
                    return f"{some(idle)} stopped on the way"
            risk = self._turns.risk(turning) if settled else None
            if risk is not None:
                problem = yield from self._turns.turn(phase.title, risk, turning)
                if problem:
                    return problem
                command = turning.command or command
            yield
        until = self._situation.now + self._config.settle_s
        while True:
            away = [n for n in names if self._known.takes_part(n) and not self._known.at(n, ends[n])]
            if not away:
                return ""
            if self._situation.now > until:
                return f"{some(away)} did not reach its place"
            yield

    # ---- landing ---------------------------------------------------------------------------------

    def order_down(self, names: Sequence[str]) -> None:
        """Orders drones to land where they are."""
        for name in names:
            self._known.drones[name].down_ordered = True
        self._post.command(CommandKind.LAND, names)

    def land(self, waves: Iterable[Sequence[str]], interval_s: float) -> Script:
        """Wave by wave, each drone where it is; ends when all are down."""
        ordered: list[str] = []
        for index, wave in enumerate(waves):
            if index:
                yield from self.sleep(interval_s)
            names = [n for n in wave if self._known.takes_part(n)]
            if names:
                self.order_down(names)
                ordered += names
        yield from self._until_down(ordered)
        yield from self.land_in_place()  # whoever fell out but still hovers

    def _until_down(self, names: Sequence[str]) -> Script:
        """Waits for landings; who neither lands nor says so is told again."""
        until, again = (
            self._situation.now + self._config.landing_timeout_s,
            self._situation.now + self._config.command_deadline_s + 1.0,
        )
        while True:
            open_ = [n for n in self._known.airborne() if n in names and not self._known.taken(n)]
            if not open_:
                return
            if self._situation.now > until:
                raise Failed(f"{some(open_)} did not land within {self._config.landing_timeout_s:.0f} s")
            if self._situation.now > again:
                again = self._situation.now + self._config.command_deadline_s + 1.0
                idle = [n for n in open_ if self._known.state(n) is not DroneState.LANDING]
                if idle:
                    self.order_down(idle)
            yield

    def land_in_place(self) -> Script:
        """Everyone still in the air lands where it is, never while another hovers below.

        Lost drones that come down by themselves are waited for, but do not fail the mission a second time.
        """
        until = self._situation.now + self._config.landing_timeout_s
        ordered: set[str] = set()
        again = 0.0
        while True:
            up = [self._known.drones[n] for n in self._known.airborne() if not self._known.taken(n)]
            if not up:
                return
            if self._situation.now > until:
                late = [d.name for d in up if not d.lost]
                if late:
                    raise Failed(f"{some(late)} did not land within {self._config.landing_timeout_s:.0f} s")
                return
            own = (DroneState.RETURNING, DroneState.FAILSAFE)  # on their own way down
            wait = [d for d in up if self._known.state(d.name) not in own]
            free = [d.name for d in wait if not any(self._known.below(o, d) for o in up if o is not d)]
            if self._situation.now > again:
                ordered = {d.name for d in up if self._known.state(d.name) is DroneState.LANDING}
                again = self._situation.now + self._config.command_deadline_s + 1.0
            fresh = [n for n in free if n not in ordered]
            if fresh:
                self.order_down(fresh)
                ordered.update(fresh)
            yield
