"""The leader's manoeuvres, each a script that ends when the drones have done it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from math import nan

import numpy as np

from .leader_known import KnownSwarm
from .leader_post import Post
from .leader_state import FLYING, GROUND, Failed, LeaderConfig, Replan, Script, Situation, some
from .mission import Mission
from .planner import TIGHT_MARGIN_M, Phase, Plan, replan_move
from .types import AckStatus, CommandKind, DroneState, Trajectory


class Manoeuvres:
    """What the drones of a mission can be made to do together."""

    def __init__(
        self, config: LeaderConfig, mission: Mission, known: KnownSwarm, post: Post, situation: Situation
    ) -> None:
        self._config, self._mission = config, mission
        self._known, self._post, self._situation = known, post, situation

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

    def take_off(self, phase: Phase, plan: Plan) -> Script:
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

    def move(self, phase: Phase, plan: Plan) -> Script:
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
                goals = np.array([places_of[n] for n in names])
                places = np.array([self._known.reference(n) for n in names])
                fresh, why = replan_move(self._mission, phase, names, places, goals)
                if fresh is None:
                    fresh, why = replan_move(self._mission, phase, names, places, goals, TIGHT_MARGIN_M)
                if fresh is None and self._known.lost:
                    raise Replan(f"{phase.title} cannot be resumed: {why}".rstrip("."))
                if fresh is None:
                    raise Failed(f"{phase.title} cannot be resumed: {why}".rstrip("."))
                if not fresh.knots:
                    return
                phase, rows = fresh, {name: row for row, name in enumerate(names)}
            first = False
            known = set(self._known.lost)
            start_ns = yield from self._hand_out(phase, names, rows)
            if isinstance(start_ns, str):
                problem = start_ns
            else:
                problem = yield from self._fly(phase, names, rows, start_ns)
                if not problem:
                    return
            if not set(self._known.lost) - known:  # a loss is no failure of this move
                tries += 1
        raise Failed(f"{phase.title} failed {self._config.attempts} times: {problem}")

    def _hand_out(
        self, phase: Phase, names: list[str], rows: dict[str, int]
    ) -> Generator[None, None, int | str]:
        """Returns the common start time once every drone has accepted its part, or what went wrong."""
        acks = self._post.new_plan()
        lead = self._config.lead_s + self._config.lead_per_drone_s * len(names)
        start_ns = self._situation.ns + int(lead * 1e9)
        parts = [
            Trajectory(self._post.plan_id, self._config.term, n, start_ns, phase.knots[rows[n]])
            for n in names
        ]
        queue, again = list(parts), self._situation.now + self._config.retry_s
        while True:
            for ack in acks.values():
                if ack.status is not AckStatus.ACCEPTED and self._known.takes_part(ack.drone):
                    return f"{ack.drone} refused its trajectory: {ack.reason}"
            missing = [p for p in parts if p.drone not in acks and self._known.takes_part(p.drone)]
            if not missing:
                return start_ns
            if self._situation.ns > start_ns - 250_000_000:
                return f"{some([p.drone for p in missing])} did not acknowledge a trajectory"
            if not queue and self._situation.now >= again:
                queue, again = missing, self._situation.now + self._config.retry_s
            self._post.trajectories(queue[: self._config.burst])
            queue = queue[self._config.burst :]
            yield

    def _fly(
        self, phase: Phase, names: list[str], rows: dict[str, int], start_ns: int
    ) -> Generator[None, None, str]:
        """Starts a plan that all have accepted; returns what went wrong, or nothing."""
        command = self._post.command(
            CommandKind.FOLLOW,
            names,
            plan_id=self._post.plan_id,
            deadline_ns=start_ns + 350_000_000,
            retry_s=0.12,
        )
        end_ns = start_ns + int(phase.duration_s * 1e9)
        since: float | None = None
        while self._situation.ns < end_ns:
            sent = self._post.sent.get(command)
            if sent is not None:
                for ack in sent.answers.values():
                    if ack.status is AckStatus.REFUSED and self._known.takes_part(ack.drone):
                        return f"{ack.drone} does not follow: {ack.reason}"
                late = [n for n in sent.waiting if self._known.takes_part(n)]
                if late and self._situation.ns > start_ns + 400_000_000:
                    return f"{some(late)} did not acknowledge the start"
            gone = [n for n in names if not self._known.takes_part(n)]
            if gone:
                return f"{some(gone)} got lost"
            if self._situation.ns > start_ns + 1_500_000_000 and self._situation.ns < end_ns - 1_000_000_000:
                idle = [n for n in names if self._known.stuck(n, phase.ends[rows[n]])]
                since = (since or self._situation.now) if idle else None
                if since is not None and self._situation.now - since > 0.6:
                    return f"{some(idle)} stopped on the way"
            yield
        until = self._situation.now + self._config.settle_s
        while True:
            away = [
                n for n in names if self._known.takes_part(n) and not self._known.at(n, phase.ends[rows[n]])
            ]
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
