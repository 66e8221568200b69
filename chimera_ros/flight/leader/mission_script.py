"""Mission script of the leader: routines for the mission, an operator's steps, abort, return and stop.

A routine is a generator advanced once per tick. A failure raises `MissionFailed`, and the core then starts
`abort`, the supervised landing.
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
from .state import (
    FLYING,
    ON_GROUND,
    LeaderState,
    MissionFailed,
    ReplanRequired,
    Routine,
    name_list,
    to_vec3,
)

_RETURN_TIMEOUT_S = 180.0  # after this, drones still in the air land in place
_RESEND_S = 2.0


class MissionScript:
    """The routines of one mission; `LeaderCore` runs one at a time."""

    def __init__(
        self,
        mission: Mission,
        tracker: DroneTracker,
        outbox: Outbox,
        manoeuvres: Manoeuvres,
        state: LeaderState,
        moderate: Moderate | None = None,
    ) -> None:
        self._mission, self._tracker, self._outbox, self._manoeuvres = mission, tracker, outbox, manoeuvres
        self._state, self._moderate = state, moderate
        self.plan: MissionPlan | None = None
        if mission.steps:
            self.plan = plan_mission(mission, tracker.names, moderate=moderate)

    def main(self) -> Routine:
        """The mission, from the ground to its end."""
        plan = self.plan
        assert plan is not None
        if not plan.ok:
            raise MissionFailed("the mission is NO-GO: " + " ".join(plan.verdict.reasons).rstrip("."))
        yield from self._manoeuvres.wait_ready()
        tracker = self._tracker
        tracker.record_pads()
        pads = [tracker.pads[n] for n in tracker.names]
        plan = plan_mission(
            self._mission, tracker.names, pads, tracker.batteries(tracker.names), self._moderate
        )
        if not plan.ok:
            why = " ".join(plan.verdict.reasons).rstrip(".")
            raise MissionFailed(f"the mission is NO-GO from where the drones stand: {why}")
        self.plan = plan
        self._outbox.event(
            "started",
            f"{len(self._tracker.names)} drones are ready, the mission takes about {plan.duration_s:.0f} s.",
        )
        yield from self._run(plan, self._mission.steps)
        self._state.completed = True
        self.end(None)

    def submitted(self, steps: tuple[Step, ...]) -> Routine:
        """An operator's steps, from present positions."""
        self._state.operator_stop = False
        if self._tracker.airborne():
            grounded = [n for n in self._tracker.names if self._tracker.state(n) in ON_GROUND]
            if grounded:  # a TAKEOFF may still reach them: they are not part of these steps
                self._manoeuvres.order_landing(grounded)
            yield from self._manoeuvres.hold_all("holding for new steps")
        if not self._tracker.pads:
            self._tracker.record_pads()
        plan = self.plan_from_here(steps)
        if isinstance(plan, str) or not plan.ok:
            raise MissionFailed(plan if isinstance(plan, str) else " ".join(plan.verdict.reasons).rstrip("."))
        self._outbox.event("started", f"an operator's {len(steps)} step(s) begin.")
        yield from self._run(plan, steps)
        self._state.phase = "idle"
        if self._mission.steps and not self._tracker.airborne():
            self.end(self._state.failure)

    def abort(self) -> Routine:
        """Supervised landing: hold, fly to free pads, land; in place where that fails."""
        self._state.stopping, self._state.operator_stop = True, False
        self._state.phase = "landing all"
        tracker = self._tracker
        grounded = [n for n in tracker.names if tracker.state(n) in ON_GROUND]
        if self._outbox.command_id and grounded:  # a TAKEOFF may still reach them
            self._manoeuvres.order_landing(grounded)
            yield from self._manoeuvres.sleep(0.6)
        try:
            names = [n for n in tracker.names if tracker.active(n) and tracker.state(n) in FLYING]
            if tracker.operator_stopped():  # these refuse trajectories
                names = []
            if names:
                yield from self._manoeuvres.hold_all("landing all", until_s=30.0)
                names = [n for n in names if tracker.active(n) and tracker.state(n) is DroneState.HOLDING]
            if names:
                here = [to_vec3(tracker.reference(n)) for n in names]
                land = Land(wave=20, interval_s=0.5)
                for margin_m in (TRACKING_MARGIN_M, REDUCED_MARGIN_M):
                    plan = plan_steps(
                        self._mission, [land], names, here, tracker.free_pads(), True, margin_m=margin_m
                    )
                    if plan.ok:
                        yield from self._run(plan, [land])
                        break
        except MissionFailed as failed:
            self._outbox.event("abort", f"landing in place: {failed}.")
        self._state.phase = "landing all"
        yield from self._manoeuvres.land_in_place()
        self.end(self._state.failure)

    def return_all(self) -> Routine:
        """Return under fallback: every drone returns to its pad and lands.

        Fallback carries no acknowledgements: RETURN is repeated until telemetry shows that it is executed.
        """
        state = self._state
        state.stopping, state.operator_stop = True, False
        state.phase = "returning, degraded"
        until, again = state.now + _RETURN_TIMEOUT_S, state.now
        while state.now < until:
            up = [name for name in self._tracker.airborne() if not self._tracker.offboard_left(name)]
            if not up:
                break
            if state.now >= again:
                again = state.now + _RESEND_S
                idle = [name for name in up if self._tracker.state(name) in FLYING]
                deadline_ns = state.swarm_ns + int(_RESEND_S * 1e9)
                if idle:
                    self._outbox.command(CommandKind.RETURN, idle, deadline_ns=deadline_ns, retry_s=_RESEND_S)
            yield
        yield from self._manoeuvres.land_in_place()
        self.end(state.failure)

    def stopped(self, why: str) -> Routine:
        """An operator has stopped drones: the others hold, until an operator's land step or all are down."""
        self._state.stopping = self._state.operator_stop = True
        self._outbox.event("abort", f"{why}; the others hold.")
        others = [n for n in self._tracker.names if self._tracker.state(n) in FLYING]
        if others:
            self._outbox.command(CommandKind.HOLD, others)
        self._state.phase = "stopped"
        while self._tracker.airborne():
            yield
        self.end(self._state.failure)

    def end(self, failure: str | None) -> None:
        """Ends the mission; a failure already set stays the reason."""
        state = self._state
        if failure:
            state.failure = state.failure or failure.rstrip(".") + "."
        state.operator_stop = False
        state.phase = "finished" if state.failure is None else "failed"
        state.ended_s = state.now
        names = ", ".join(self._tracker.lost)
        without = f" without {names}" if names else ""
        self._outbox.event(
            "finished", f"the mission is {'completed' if state.completed else 'over'}{without}."
        )

    # ---- plans -----------------------------------------------------------------------------------

    def _run(self, plan: MissionPlan, steps: Sequence[Step]) -> Routine:
        """Executes a plan's phases, without the drones that are lost meanwhile."""
        step = -1
        rows = {name: row for row, name in enumerate(plan.drones)}
        here = plan.starts
        for phase in plan.phases:
            if phase.step != step:
                step = phase.step
                self._outbox.event("step", f"step {step + 1} of {len(steps)}: {phase.title}.")
            self._state.phase = f"{step + 1}/{len(steps)} {phase.title}"
            active = [name for name in plan.drones if self._tracker.active(name)]
            if not active:
                raise MissionFailed("no drone is left")
            last = steps[step]
            if phase.kind == "move" and isinstance(last, Land) and len(active) < len(plan.drones):
                # a lost drone may lie on a pad: assign the free pads again
                rest = plan_steps(
                    self._mission,
                    [last],
                    active,
                    [to_vec3(here[rows[n]]) for n in active],
                    self._tracker.free_pads(),
                    True,
                )
                if not rest.ok:
                    raise MissionFailed(
                        "no way to the free pads: " + " ".join(rest.verdict.reasons).rstrip(".")
                    )
                yield from self._run(rest, [last])
                return
            if phase.kind == "takeoff":
                yield from self._manoeuvres.take_off(phase, plan)
            elif phase.kind == "move":
                try:
                    yield from self._manoeuvres.move(phase, plan)
                except ReplanRequired as why:
                    yield from self._run_remaining(str(why), list(steps[step:]))
                    return
            elif phase.kind == "land":
                yield from self._manoeuvres.land(
                    [[plan.drones[r] for r in wave] for wave in phase.waves], phase.interval_s
                )
            else:
                yield from self._manoeuvres.sleep(phase.duration_s)
            here = phase.ends
            self._outbox.event("step_done", f"{phase.title} done.")

    def _run_remaining(self, why: str, steps: list[Step]) -> Routine:
        """The remaining steps, re-planned from present positions."""
        if not isinstance(steps[0], Formation | Land):
            steps = steps[1:]  # a move relative to a formation that is broken: continue with the next step
        plan = self.plan_from_here(steps) if steps else "no step is left"
        if not isinstance(plan, str) and not plan.ok:
            plan = self.plan_from_here(steps, REDUCED_MARGIN_M)
        if isinstance(plan, str) or not plan.ok:
            reason = plan if isinstance(plan, str) else " ".join(plan.verdict.reasons)
            raise MissionFailed(f"{why}; and the rest is NO-GO: {reason}".rstrip("."))
        self._outbox.event("replanned", f"the rest of the mission is re-planned: {why}.")
        yield from self._run(plan, steps)

    def plan_from_here(self, steps: Sequence[Step], margin_m: float = TRACKING_MARGIN_M) -> MissionPlan | str:
        """Plan of steps from present positions, or a text why no drones are available for them."""
        airborne = self._tracker.airborne()
        if airborne and isinstance(steps[0], Takeoff):
            return f"{name_list(airborne)} are in the air: a takeoff step needs drones on the ground"
        names = [
            n for n in (airborne or self._tracker.names) if self._tracker.active(n) and self._tracker.fresh(n)
        ]
        if not names:
            return "no drone sends telemetry"
        if not airborne:
            unready = [
                f"{n} ({self._tracker.why_not_ready(self._tracker.drones[n])})"
                for n in names
                if not self._tracker.ready(self._tracker.drones[n])
            ]
            if unready:
                return f"not ready: {', '.join(unready[:5])}"
        level = self._tracker.batteries(names)
        here = [self._tracker.reference(n) for n in names]
        pads = self._tracker.free_pads() if self._tracker.pads or airborne else here
        return plan_steps(
            self._mission, steps, names, here, pads, bool(airborne), level, must_land=False,
            margin_m=margin_m, moderate=self._moderate,
        )  # fmt: skip
