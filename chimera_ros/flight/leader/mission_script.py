"""The leader's mission as a script (a generator that is advanced once per tick), which reads as what happens.

What goes wrong in a script raises `Failed`, and the swarm is landed under supervision.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import CommandKind, DroneState
from ..moderation_call import Moderate
from ..planning.mission import Formation, Land, Mission, Step, Takeoff
from ..planning.planner import REDUCED_MARGIN_M, TRACKING_MARGIN_M, MissionPlan, plan_mission, plan_steps
from .drone_tracker import DroneTracker
from .manoeuvres import Manoeuvres
from .outbox import Outbox
from .state import FLYING, GROUND, Failed, Replan, Script, Situation, point, some

_COME_HOME_S = 180.0  # after that, whoever is still up lands where it is
_SAY_AGAIN_S = 2.0


class MissionScript:
    """The whole courses that a leader can take."""

    def __init__(
        self,
        mission: Mission,
        known: DroneTracker,
        post: Outbox,
        fly: Manoeuvres,
        situation: Situation,
        moderate: Moderate | None = None,
    ) -> None:
        self._mission, self._known, self._post, self._fly = mission, known, post, fly
        self._situation, self._moderate = situation, moderate
        self.plan: MissionPlan | None = None
        if mission.steps:
            self.plan = plan_mission(mission, known.names, moderate=moderate)

    def main(self) -> Script:
        """The mission from the ground to the end."""
        plan = self.plan
        assert plan is not None
        if not plan.ok:
            raise Failed("the mission is NO-GO: " + " ".join(plan.verdict.reasons).rstrip("."))
        yield from self._fly.wait_ready()
        known = self._known
        known.take_pads()
        pads = [known.pads[n] for n in known.names]
        plan = plan_mission(self._mission, known.names, pads, known.batteries(known.names), self._moderate)
        if not plan.ok:
            why = " ".join(plan.verdict.reasons).rstrip(".")
            raise Failed(f"the mission is NO-GO from where the drones stand: {why}")
        self.plan = plan
        self._post.event(
            "started",
            f"{len(self._known.names)} drones are ready, the mission takes about {plan.duration_s:.0f} s.",
        )
        yield from self._run(plan, self._mission.steps)
        self._situation.completed = True
        self.end(None)

    def submitted(self, steps: tuple[Step, ...]) -> Script:
        """An operator's steps, from wherever the drones are."""
        if self._known.airborne():
            grounded = [n for n in self._known.names if self._known.state(n) in GROUND]
            if (
                grounded
            ):  # an order to take off may still be under way to them: they have no part in these steps
                self._fly.order_down(grounded)
            yield from self._fly.stand_still("holding for new steps")
        if not self._known.pads:
            self._known.take_pads()
        plan = self.plan_from_here(steps)
        if isinstance(plan, str) or not plan.ok:
            raise Failed(plan if isinstance(plan, str) else " ".join(plan.verdict.reasons).rstrip("."))
        self._post.event("started", f"an operator's {len(steps)} step(s) begin.")
        yield from self._run(plan, steps)
        self._situation.phase = "idle"
        if self._mission.steps and not self._known.airborne():
            self.end(self._situation.failure)

    def abort(self) -> Script:
        """Supervised landing of everyone who is in the air."""
        self._situation.stopping = True
        self._situation.phase = "landing all"
        grounded = [n for n in self._known.names if self._known.state(n) in GROUND]
        if self._post.command_id and grounded:  # an order to take off may still be under way to them
            self._fly.order_down(grounded)
            yield from self._fly.sleep(0.6)
        try:
            names = [
                n for n in self._known.names if self._known.takes_part(n) and self._known.state(n) in FLYING
            ]
            if self._known.stopped():  # they take no plan
                names = []
            if names:
                yield from self._fly.stand_still("landing all", until_s=30.0)
                names = [
                    n
                    for n in names
                    if self._known.takes_part(n) and self._known.state(n) is DroneState.HOLDING
                ]
            if names:
                here = [point(self._known.reference(n)) for n in names]
                land = Land(wave=20, interval_s=0.5)
                for margin_m in (TRACKING_MARGIN_M, REDUCED_MARGIN_M):
                    plan = plan_steps(
                        self._mission, [land], names, here, self._known.free_pads(), True, margin_m=margin_m
                    )
                    if plan.ok:
                        yield from self._run(plan, [land])
                        break
        except Failed as failed:
            self._post.event("abort", f"landing where they are, because {failed}.")
        self._situation.phase = "landing all"
        yield from self._fly.land_in_place()
        self.end(self._situation.failure)

    def come_home(self) -> Script:
        """Without keys for anything but hold, land and return: everybody returns to its pad and lands. No
        drone can acknowledge, so the order is repeated until telemetry shows that it is obeyed.
        """
        now = self._situation
        now.stopping = True
        now.phase = "returning, degraded"
        until, again = now.now + _COME_HOME_S, now.now
        while now.now < until:
            up = [name for name in self._known.airborne() if not self._known.taken(name)]
            if not up:
                break
            if now.now >= again:
                again = now.now + _SAY_AGAIN_S
                idle = [name for name in up if self._known.state(name) in FLYING]
                deadline_ns = now.ns + int(_SAY_AGAIN_S * 1e9)
                if idle:
                    self._post.command(
                        CommandKind.RETURN, idle, deadline_ns=deadline_ns, retry_s=_SAY_AGAIN_S
                    )
            yield
        yield from self._fly.land_in_place()
        self.end(now.failure)

    def stopped(self, why: str) -> Script:
        """An operator has stopped drones: the others hold too, until an operator decides or all are down."""
        self._situation.stopping = True
        self._post.event("abort", f"{why}; the others hold.")
        others = [n for n in self._known.names if self._known.state(n) in FLYING]
        if others:
            self._post.command(CommandKind.HOLD, others)
        self._situation.phase = "stopped"
        while self._known.airborne():
            yield
        self.end(self._situation.failure)

    def end(self, failure: str | None) -> None:
        """The mission is over; a failure that is known already stays the reason."""
        now = self._situation
        if failure:
            now.failure = now.failure or failure.rstrip(".") + "."
        now.phase = "finished" if now.failure is None else "failed"
        now.ended_s = now.now
        names = ", ".join(self._known.lost)
        without = f" without {names}" if names else ""
        self._post.event("finished", f"the mission is {'completed' if now.completed else 'over'}{without}.")

    # ---- plans -----------------------------------------------------------------------------------

    def _run(self, plan: MissionPlan, steps: Sequence[Step]) -> Script:
        """Flies a plan's phases, leaving out drones that are lost on the way."""
        step = -1
        rows = {name: row for row, name in enumerate(plan.drones)}
        here = plan.starts
        for phase in plan.phases:
            if phase.step != step:
                step = phase.step
                self._post.event("step", f"step {step + 1} of {len(steps)}: {phase.title}.")
            self._situation.phase = f"{step + 1}/{len(steps)} {phase.title}"
            active = [name for name in plan.drones if self._known.takes_part(name)]
            if not active:
                raise Failed("no drone is left")
            last = steps[step]
            if phase.kind == "move" and isinstance(last, Land) and len(active) < len(plan.drones):
                # a pad may be taken by what came down there: assign the free ones anew
                rest = plan_steps(
                    self._mission,
                    [last],
                    active,
                    [point(here[rows[n]]) for n in active],
                    self._known.free_pads(),
                    True,
                )
                if not rest.ok:
                    raise Failed("no way to the free pads: " + " ".join(rest.verdict.reasons).rstrip("."))
                yield from self._run(rest, [last])
                return
            if phase.kind == "takeoff":
                yield from self._fly.take_off(phase, plan)
            elif phase.kind == "move":
                try:
                    yield from self._fly.move(phase, plan)
                except Replan as why:
                    yield from self._run_rest(str(why), list(steps[step:]))
                    return
            elif phase.kind == "land":
                yield from self._fly.land(
                    [[plan.drones[r] for r in wave] for wave in phase.waves], phase.interval_s
                )
            else:
                yield from self._fly.sleep(phase.duration_s)
            here = phase.ends
            self._post.event("step_done", f"{phase.title} done.")

    def _run_rest(self, why: str, steps: list[Step]) -> Script:
        """The remaining steps, planned anew from where everyone hovers now."""
        if not isinstance(steps[0], Formation | Land):
            steps = steps[1:]  # a move relative to a figure that no longer stands: go on with the next step
        plan = self.plan_from_here(steps) if steps else "no step is left"
        if not isinstance(plan, str) and not plan.ok:
            plan = self.plan_from_here(steps, REDUCED_MARGIN_M)
        if isinstance(plan, str) or not plan.ok:
            reason = plan if isinstance(plan, str) else " ".join(plan.verdict.reasons)
            raise Failed(f"{why}; and the rest is NO-GO: {reason}".rstrip("."))
        self._post.event("replanned", f"the rest of the mission is planned anew: {why}.")
        yield from self._run(plan, steps)

    def plan_from_here(self, steps: Sequence[Step], margin_m: float = TRACKING_MARGIN_M) -> MissionPlan | str:
        """Steps planned from present positions; a text when it is not clear who would fly them."""
        airborne = self._known.airborne()
        if airborne and isinstance(steps[0], Takeoff):
            return f"{some(airborne)} fly already: a takeoff step is for drones on the ground"
        names = [
            n for n in (airborne or self._known.names) if self._known.takes_part(n) and self._known.heard(n)
        ]
        if not names:
            return "no drone is heard"
        if not airborne:
            unready = [
                f"{n} ({self._known.why_not_ready(self._known.drones[n])})"
                for n in names
                if not self._known.ready(self._known.drones[n])
            ]
            if unready:
                return f"not ready: {', '.join(unready[:5])}"
        level = self._known.batteries(names)
        here = [self._known.reference(n) for n in names]
        pads = self._known.free_pads() if self._known.pads or airborne else here
        return plan_steps(
            self._mission, steps, names, here, pads, bool(airborne), level, must_land=False,
            margin_m=margin_m, moderate=self._moderate,
        )  # fmt: skip
