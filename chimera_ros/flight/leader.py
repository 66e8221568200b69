"""The heart of the leader: flies a checked mission step by step. Events in, effects out; no clock, no socket.

The mission is a script (a generator that is advanced once per tick), which reads as what happens: wait until
all are ready, take off in waves, for every move hand each drone its trajectory, let all acknowledge before
the common start, fly, land in waves. What goes wrong in the script raises `_Failed`, and the swarm is landed
under supervision.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan

import numpy as np

from .effects import LeaderEffect, MissionEvent, SendCommand, SendTrajectory
from .guidance import distance, norm
from .mission import Formation, Land, Mission, Step, Takeoff
from .mission_file import MissionError, parse_steps
from .planner import TIGHT_MARGIN_M, TRACKING_MARGIN_M, Phase, Plan, plan_mission, plan_steps, replan_move
from .types import (
    OPERATOR,
    TAKEN,
    AckStatus,
    CommandAck,
    CommandKind,
    DroneState,
    DroneTelemetry,
    LeaderHeartbeat,
    SwarmCommand,
    Trajectory,
)
from .vehicle import Vec3

Script = Generator[None, None, None]

_GROUND = (DroneState.UNKNOWN, DroneState.GROUNDED, DroneState.ARMED, DroneState.LANDED)
_FLYING = (DroneState.TAKING_OFF, DroneState.HOLDING, DroneState.FOLLOWING)
_KEPT = 128  # commands and plans whose acknowledgements are remembered


@dataclass(frozen=True, slots=True)
class LeaderConfig:
    """How the leader goes about it; seconds unless the name says otherwise."""

    leader: str
    term: int = 1
    ready_timeout_s: float = 60.0  # all drones must report ready within this
    silent_s: float = 1.5  # a drone in flight not heard for this long is lost
    lead_s: float = 1.2  # from handing out trajectories to their common start, plus ...
    lead_per_drone_s: float = 0.012  # ... this for every drone
    retry_s: float = 0.25  # what is not acknowledged is sent again
    command_deadline_s: float = 5.0
    takeoff_timeout_s: float = 60.0
    landing_timeout_s: float = 120.0
    settle_s: float = 8.0  # how long a drone may take to reach its place after a move
    settle_m: float = 1.0  # from its measured position, and ...
    join_m: float = 0.5  # ... from its reference
    clear_s: float = 60.0  # how long at most the others wait until a lost drone is down
    fall_m_s: float = 0.5  # how fast a silent drone comes down at least
    attempts: int = 3  # per move, before the mission fails
    burst: int = 16  # trajectories sent per tick


class _Replan(Exception):
    """After a loss there is no way to the present step's places: the rest of the mission must be planned
    anew.
    """


class _Failed(Exception):
    """The mission cannot go on; the text is one sentence without the full stop."""


@dataclass(slots=True)
class _Drone:
    name: str
    telemetry: DroneTelemetry | None = None
    heard_s: float = -1e9
    lost: str = ""  # why it no longer takes part
    lost_s: float = 0.0  # since when
    silent: bool = False  # lost because it was not heard: it may be found again
    found_s: float | None = None
    flew: bool = False  # has been seen on its way up or in the air, and not yet down by order
    down_ordered: bool = False
    odd_since: float | None = None


@dataclass(slots=True)
class _Sent:
    command: SwarmCommand
    waiting: set[str]
    next_s: float
    answers: dict[str, CommandAck] = field(default_factory=dict)


class LeaderCore:
    """Runs one mission for the named drones; times as in `FollowerCore`."""

    def __init__(self, config: LeaderConfig, mission: Mission, drones: Sequence[str]) -> None:
        self.config = config
        self.mission = mission
        self.drones = tuple(drones)
        self.phase = "waiting"
        self.finished = False
        self.completed = False
        self.failure: str | None = None
        self.plan: Plan | None = plan_mission(mission, drones) if mission.steps else None
        self._drones = {name: _Drone(name) for name in drones}
        self._pads: dict[str, Vec3] = {}
        self._now, self._ns = 0.0, 0
        self._began: float | None = None
        self._ended: float | None = None
        self._out: list[LeaderEffect] = []
        self._sent: OrderedDict[int, _Sent] = OrderedDict()
        self._plan_acks: OrderedDict[int, dict[str, CommandAck]] = OrderedDict()
        self._command_id = 0
        self._plan_id = 0
        self._stopping = False  # landing under supervision, or stopped by an operator
        self._script: Script | None = self._main() if mission.steps else None
        if self._script is None:
            self.phase = "idle"

    # ---- events ----------------------------------------------------------------------------------

    def on_telemetry(self, telemetry: DroneTelemetry, now: float, swarm_ns: int) -> None:
        """A drone's verified telemetry; unknown drones are ignored."""
        drone = self._drones.get(telemetry.drone)
        if drone is not None and (drone.telemetry is None or telemetry.stamp_ns >= drone.telemetry.stamp_ns):
            drone.telemetry, drone.heard_s = telemetry, now

    def on_ack(self, ack: CommandAck, now: float, swarm_ns: int) -> None:
        """A drone's verified answer to a command or trajectory of this term."""
        if ack.term != self.config.term or ack.drone not in self._drones:
            return
        if ack.command_id:
            sent = self._sent.get(ack.command_id)
            if sent is not None:
                sent.waiting.discard(ack.drone)
                known = sent.answers.get(ack.drone)
                if (
                    known is None or known.status is AckStatus.ACCEPTED
                ):  # acknowledgements may overtake each other
                    sent.answers[ack.drone] = ack
        elif ack.plan_id in self._plan_acks:
            self._plan_acks[ack.plan_id][ack.drone] = ack

    def on_submit(self, steps_yaml: str, now: float, swarm_ns: int) -> tuple[bool, str]:
        """An operator's steps to fly now instead of what remains: checked from present positions, then flown.

        Returns whether they are accepted, and why not or what will be done.
        """
        if self._stopping and not self.finished and self.phase != "stopped":
            return False, "the swarm is being landed"
        try:
            steps = parse_steps(steps_yaml)
        except MissionError as error:
            return False, str(error)[:500]
        self._now, self._ns = now, swarm_ns
        if self.phase == "stopped" and [type(s) for s in steps] == [Land]:
            self._script = self._abort()  # what an operator has stopped takes no plan: it lands where it is
            return True, "landing"
        plan = self._plan_from_here(steps)
        if isinstance(plan, str):
            return False, plan[:500]
        if not plan.ok:
            return False, " ".join(plan.verdict.reasons)[:500]
        if self._script is not None or (self.mission.steps and not self.finished):
            self.failure = self.failure or "an operator's steps replaced the rest of the mission."
        self.finished = self._stopping = False
        self._script = self._submitted(steps)
        return True, f"{len(steps)} step(s) for {len(plan.drones)} drones, about {plan.duration_s:.0f} s"

    def abort_and_land(self, reason: str, now: float, swarm_ns: int) -> None:
        """Ends the mission: hold, fly to free pads, land; where that cannot be done, land in place."""
        if self.finished or self._stopping:
            return
        self._now, self._ns = now, swarm_ns
        self._fail(reason)

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, now: float, swarm_ns: int) -> list[LeaderEffect]:
        """Advances the mission; call it at 20 Hz or more."""
        self._now, self._ns = now, swarm_ns
        if self._began is None:
            self._began = now
        self._watch()
        if self._script is not None:
            try:
                next(self._script)
            except StopIteration:
                self._script = None
            except _Failed as failed:
                self._script = None
                if self._stopping:
                    self._end(str(failed))
                else:
                    self._fail(str(failed))
        self._resend()
        out, self._out = self._out, []
        return out

    def heartbeat(self, now: float, transcript_hash: bytes = b"") -> LeaderHeartbeat:
        """What to publish at 10 Hz."""
        return LeaderHeartbeat(
            self.config.leader, self.config.term, self._plan_id, self._command_id, transcript_hash,
            self.phase[:48], self.mission_time_s(now),
        )  # fmt: skip

    def mission_time_s(self, now: float) -> float:
        """Seconds since the first tick, until the end."""
        return 0.0 if self._began is None else (self._ended if self._ended is not None else now) - self._began

    @property
    def lost(self) -> tuple[str, ...]:
        """Drones that no longer take part."""
        return tuple(d.name for d in self._drones.values() if d.lost)

    @property
    def lost_reasons(self) -> dict[str, str]:
        """Why each lost drone no longer takes part."""
        return {d.name: d.lost for d in self._drones.values() if d.lost}

    def status(self, now: float) -> dict[str, object]:
        """For tables and reports."""
        return {
            "phase": self.phase,
            "mission": self.mission.name,
            "mission_time_s": round(self.mission_time_s(now), 2),
            "finished": self.finished,
            "completed": self.completed,
            "failure": self.failure,
            "lost": self.lost_reasons,
            "last_heard_s": {
                d.name: round(now - d.heard_s, 2) if d.telemetry is not None else None
                for d in self._drones.values()
            },
        }

    # ---- scripts ---------------------------------------------------------------------------------

    def _main(self) -> Script:
        plan = self.plan
        assert plan is not None
        if not plan.ok:
            raise _Failed("the mission is NO-GO: " + " ".join(plan.verdict.reasons).rstrip("."))
        yield from self._wait_ready()
        self._pads = {
            d.name: d.telemetry.position_enu_m for d in self._drones.values() if d.telemetry is not None
        }
        level = {
            d.name: d.telemetry.battery_fraction for d in self._drones.values() if d.telemetry is not None
        }
        plan = plan_mission(self.mission, self.drones, [self._pads[n] for n in self.drones], level)
        if not plan.ok:
            raise _Failed(
                "the mission is NO-GO from where the drones stand: "
                + " ".join(plan.verdict.reasons).rstrip(".")
            )
        self.plan = plan
        self._event(
            "started",
            f"{len(self.drones)} drones are ready, the mission takes about {plan.duration_s:.0f} s.",
        )
        yield from self._run(plan, self.mission.steps)
        self.completed = True
        self._end(None)

    def _submitted(self, steps: tuple[Step, ...]) -> Script:
        if self._airborne():
            yield from self._stand_still("holding for new steps")
        if not self._pads:
            self._pads = {
                d.name: d.telemetry.position_enu_m for d in self._drones.values() if d.telemetry is not None
            }
        plan = self._plan_from_here(steps)
        if isinstance(plan, str) or not plan.ok:
            raise _Failed(plan if isinstance(plan, str) else " ".join(plan.verdict.reasons).rstrip("."))
        self._event("started", f"an operator's {len(steps)} step(s) begin.")
        yield from self._run(plan, steps)
        self.phase = "idle"
        if self.mission.steps and not self._airborne():
            self._end(self.failure)

    def _run(self, plan: Plan, steps: Sequence[Step]) -> Script:
        """Flies a plan's phases, leaving out drones that are lost on the way."""
        step = -1
        rows = {name: row for row, name in enumerate(plan.drones)}
        here = plan.starts
        for phase in plan.phases:
            if phase.step != step:
                step = phase.step
                self._event("step", f"step {step + 1} of {len(steps)}: {phase.title}.")
            self.phase = f"{step + 1}/{len(steps)} {phase.title}"
            active = [name for name in plan.drones if self._takes_part(name)]
            if not active:
                raise _Failed("no drone is left")
            last = steps[step]
            if phase.kind == "move" and isinstance(last, Land) and len(active) < len(plan.drones):
                # a pad may be taken by what came down there: assign the free ones anew
                rest = plan_steps(
                    self.mission,
                    [last],
                    active,
                    [_point(here[rows[n]]) for n in active],
                    self._free_pads(),
                    True,
                )
                if not rest.ok:
                    raise _Failed("no way to the free pads: " + " ".join(rest.verdict.reasons).rstrip("."))
                yield from self._run(rest, [last])
                return
            if phase.kind == "takeoff":
                yield from self._take_off(phase, plan)
            elif phase.kind == "move":
                try:
                    yield from self._move(phase, plan)
                except _Replan as why:
                    yield from self._run_rest(str(why), list(steps[step:]))
                    return
            elif phase.kind == "land":
                yield from self._land(
                    [[plan.drones[r] for r in wave] for wave in phase.waves], phase.interval_s
                )
            else:
                yield from self._sleep(phase.duration_s)
            here = phase.ends
            self._event("step_done", f"{phase.title} done.")

    def _run_rest(self, why: str, steps: list[Step]) -> Script:
        """The remaining steps, planned anew from where everyone hovers now."""
        if not isinstance(steps[0], Formation | Land):
            steps = steps[1:]  # a move relative to a figure that no longer stands: go on with the next step
        plan = self._plan_from_here(steps) if steps else "no step is left"
        if not isinstance(plan, str) and not plan.ok:
            plan = self._plan_from_here(steps, TIGHT_MARGIN_M)
        if isinstance(plan, str) or not plan.ok:
            reason = plan if isinstance(plan, str) else " ".join(plan.verdict.reasons)
            raise _Failed(f"{why}; and the rest is NO-GO: {reason}".rstrip("."))
        self._event("replanned", f"the rest of the mission is planned anew: {why}.")
        yield from self._run(plan, steps)

    def _wait_clear(self) -> Script:
        """Until lost drones are down, as far as one can know: the others hover meanwhile."""
        while any(self._coming_down(d) for d in self._drones.values()):
            yield

    def _wait_ready(self) -> Script:
        self._event("waiting", f"waiting for {len(self.drones)} drones to be ready.")
        until = self._now + self.config.ready_timeout_s
        while True:
            missing = [d for d in self._drones.values() if not self._ready(d)]
            if not missing:
                return
            if self._now > until:
                names = [f"{d.name} ({self._why_not_ready(d)})" for d in missing]
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                raise _Failed(
                    f"not ready within {self.config.ready_timeout_s:.0f} s: " + ", ".join(names[:5]) + more
                )
            yield

    def _take_off(self, phase: Phase, plan: Plan) -> Script:
        sent: dict[str, int] = {}
        for index, wave in enumerate(phase.waves):
            if index:
                yield from self._sleep(phase.interval_s)
            names = [plan.drones[r] for r in wave if self._takes_part(plan.drones[r])]
            if names:
                for name in names:
                    self._drones[name].down_ordered = False
                command = self._command(CommandKind.TAKEOFF, names, target=(nan, nan, phase.height_m))
                sent.update(dict.fromkeys(names, command))
        until, ask = self._now + self.config.takeoff_timeout_s, self._now + 3.0
        rows = {name: row for row, name in enumerate(plan.drones)}
        while True:
            open_ = []
            for name, command in sent.items():
                if not self._takes_part(name):
                    continue
                self._raise_refusal(command, name, "the take-off")
                if not self._at(name, phase.ends[rows[name]]):
                    open_.append(name)
            if not open_:
                return
            if self._now > until:
                raise _Failed(f"{_some(open_)} did not take off within {self.config.takeoff_timeout_s:.0f} s")
            if self._now > ask:
                ask = self._now + 2.0
                for name in open_:  # a duplicate gets the newest answer: a lost FAILED is heard this way
                    if self._state(name) in _GROUND and sent[name] in self._sent:
                        self._out.append(
                            SendCommand(replace(self._sent[sent[name]].command, targets=(name,)))
                        )
            yield

    def _move(self, phase: Phase, plan: Plan) -> Script:
        """Hands out trajectories, lets all acknowledge, starts all at once, waits until all have arrived."""
        rows = {name: row for row, name in enumerate(plan.drones)}
        places_of = {name: phase.ends[row] for name, row in rows.items()}
        problem, tries, first = "", 0, True
        yield from self._wait_clear()
        while tries < self.config.attempts:
            names = [name for name in plan.drones if self._takes_part(name)]
            if not first:
                self._event("replanned", f"{phase.title} is tried again: {problem}.")
                yield from self._stand_still(f"{phase.title} again")
                yield from self._wait_clear()
                names = [name for name in plan.drones if self._takes_part(name)]
                if not names:
                    raise _Failed("no drone is left")
                goals = np.array([places_of[n] for n in names])
                places = np.array([self._reference(n) for n in names])
                fresh, why = replan_move(self.mission, phase, names, places, goals)
                if fresh is None:
                    fresh, why = replan_move(self.mission, phase, names, places, goals, TIGHT_MARGIN_M)
                if fresh is None and self.lost:
                    raise _Replan(f"{phase.title} cannot be resumed: {why}".rstrip("."))
                if fresh is None:
                    raise _Failed(f"{phase.title} cannot be resumed: {why}".rstrip("."))
                if not fresh.knots:
                    return
                phase, rows = fresh, {name: row for row, name in enumerate(names)}
            first = False
            known = len(self.lost)
            start_ns = yield from self._hand_out(phase, names, rows)
            if isinstance(start_ns, str):
                problem = start_ns
            else:
                problem = yield from self._fly(phase, names, rows, start_ns)
                if not problem:
                    return
            if len(self.lost) == known:  # a loss is no failure of this move
                tries += 1
        raise _Failed(f"{phase.title} failed {self.config.attempts} times: {problem}")

    def _hand_out(
        self, phase: Phase, names: list[str], rows: dict[str, int]
    ) -> Generator[None, None, int | str]:
        """Returns the common start time once every drone has accepted its part, or what went wrong."""
        self._plan_id += 1
        lead = self.config.lead_s + self.config.lead_per_drone_s * len(names)
        start_ns = self._ns + int(lead * 1e9)
        acks = self._plan_acks[self._plan_id] = {}
        while len(self._plan_acks) > _KEPT:
            self._plan_acks.popitem(last=False)
        parts = [
            Trajectory(self._plan_id, self.config.term, n, start_ns, phase.knots[rows[n]]) for n in names
        ]
        queue, again = list(parts), self._now + self.config.retry_s
        while True:
            for ack in acks.values():
                if ack.status is not AckStatus.ACCEPTED and self._takes_part(ack.drone):
                    return f"{ack.drone} refused its trajectory: {ack.reason}"
            missing = [p for p in parts if p.drone not in acks and self._takes_part(p.drone)]
            if not missing:
                return start_ns
            if self._ns > start_ns - 250_000_000:
                return f"{_some([p.drone for p in missing])} did not acknowledge a trajectory"
            if not queue and self._now >= again:
                queue, again = missing, self._now + self.config.retry_s
            self._out += [SendTrajectory(part) for part in queue[: self.config.burst]]
            queue = queue[self.config.burst :]
            yield

    def _fly(
        self, phase: Phase, names: list[str], rows: dict[str, int], start_ns: int
    ) -> Generator[None, None, str]:
        """Starts a plan that all have accepted; returns what went wrong, or nothing."""
        command = self._command(
            CommandKind.FOLLOW, names, plan_id=self._plan_id, deadline_ns=start_ns + 350_000_000, retry_s=0.12
        )
        end_ns = start_ns + int(phase.duration_s * 1e9)
        since: float | None = None
        known = len(self.lost)
        while self._ns < end_ns:
            sent = self._sent.get(command)
            if sent is not None:
                for ack in sent.answers.values():
                    if ack.status is AckStatus.REFUSED and self._takes_part(ack.drone):
                        return f"{ack.drone} does not follow: {ack.reason}"
                late = [n for n in sent.waiting if self._takes_part(n)]
                if late and self._ns > start_ns + 400_000_000:
                    return f"{_some(late)} did not acknowledge the start"
            if len(self.lost) > known:
                return f"{_some(self.lost[known:])} got lost"
            if self._ns > start_ns + 1_500_000_000 and self._ns < end_ns - 1_000_000_000:
                idle = [n for n in names if self._stuck(n, phase.ends[rows[n]])]
                since = (since or self._now) if idle else None
                if since is not None and self._now - since > 0.6:
                    return f"{_some(idle)} stopped on the way"
            yield
        until = self._now + self.config.settle_s
        while True:
            away = [n for n in names if self._takes_part(n) and not self._at(n, phase.ends[rows[n]])]
            if not away:
                return ""
            if self._now > until:
                return f"{_some(away)} did not reach its place"
            yield

    def _land(self, waves: Iterable[Sequence[str]], interval_s: float) -> Script:
        ordered: list[str] = []
        for index, wave in enumerate(waves):
            if index:
                yield from self._sleep(interval_s)
            names = [n for n in wave if self._takes_part(n)]
            if names:
                self._order_down(names)
                ordered += names
        yield from self._until_down(lambda: ordered)
        yield from self._land_in_place()  # whoever fell out but still hovers

    def _until_down(self, names: Callable[[], Sequence[str]]) -> Script:
        """Waits for landings; who neither lands nor says so is told again."""
        until, again = (
            self._now + self.config.landing_timeout_s,
            self._now + self.config.command_deadline_s + 1.0,
        )
        while True:
            open_ = [n for n in names() if n in self._airborne()]
            if not open_:
                return
            if self._now > until:
                raise _Failed(f"{_some(open_)} did not land within {self.config.landing_timeout_s:.0f} s")
            if self._now > again:
                again = self._now + self.config.command_deadline_s + 1.0
                idle = [n for n in open_ if self._state(n) is not DroneState.LANDING]
                if idle:
                    self._order_down(idle)
            yield

    def _land_in_place(self) -> Script:
        """Everyone still in the air lands where it is, never while another hovers below.

        Lost drones that come down by themselves are waited for, but do not fail the mission a second time.
        """
        until = self._now + self.config.landing_timeout_s
        ordered: set[str] = set()
        again = 0.0
        while True:
            up = [self._drones[n] for n in self._airborne() if not self._taken(n)]
            if not up:
                return
            if self._now > until:
                late = [d.name for d in up if not d.lost]
                if late:
                    raise _Failed(f"{_some(late)} did not land within {self.config.landing_timeout_s:.0f} s")
                return
            own = (DroneState.RETURNING, DroneState.FAILSAFE)  # on their own way down
            wait = [d for d in up if self._state(d.name) not in own]
            free = [d.name for d in wait if not any(self._below(o, d) for o in up if o is not d)]
            if self._now > again:
                ordered = {d.name for d in up if self._state(d.name) is DroneState.LANDING}
                again = self._now + self.config.command_deadline_s + 1.0
            fresh = [n for n in free if n not in ordered]
            if fresh:
                self._order_down(fresh)
                ordered.update(fresh)
            yield

    def _taken(self, name: str) -> bool:
        """Somebody else flies it: a pilot, or the autopilot by itself."""
        t = self._drones[name].telemetry
        return t is not None and t.state is DroneState.FAILSAFE and t.reason.startswith(TAKEN)

    def _abort(self) -> Script:
        """Supervised landing of everyone who is in the air."""
        self._stopping = True
        self.phase = "landing all"
        grounded = [n for n in self.drones if self._state(n) in _GROUND]
        if self._command_id and grounded:  # an order to take off may still be under way to them
            self._order_down(grounded)
            yield from self._sleep(0.6)
        try:
            names = [n for n in self.drones if self._takes_part(n) and self._state(n) in _FLYING]
            if names:
                yield from self._stand_still("landing all", until_s=30.0)
                names = [n for n in names if self._takes_part(n) and self._state(n) is DroneState.HOLDING]
            if names:
                here = [_point(self._reference(n)) for n in names]
                land = Land(wave=20, interval_s=0.5)
                for margin_m in (TRACKING_MARGIN_M, TIGHT_MARGIN_M):
                    plan = plan_steps(
                        self.mission, [land], names, here, self._free_pads(), True, margin_m=margin_m
                    )
                    if plan.ok:
                        yield from self._run(plan, [land])
                        break
        except _Failed as failed:
            self._event("abort", f"landing where they are, because {failed}.")
        self.phase = "landing all"
        yield from self._land_in_place()
        self._end(self.failure)

    def _stopped(self, why: str) -> Script:
        """An operator has stopped drones: the others hold too, until an operator decides or all are down."""
        self._stopping = True
        self._event("abort", f"{why}; the others hold.")
        others = [n for n in self.drones if self._state(n) in _FLYING]
        if others:
            self._command(CommandKind.HOLD, others)
        self.phase = "stopped"
        while self._airborne():
            yield
        self._end(self.failure)

    def _stand_still(self, phase: str, until_s: float = 25.0) -> Script:
        """Everyone flying holds; returns when all stand."""
        names = [n for n in self.drones if self._takes_part(n) and self._state(n) in _FLYING]
        if not names:
            return
        self.phase = phase
        command = self._command(CommandKind.HOLD, names)
        until = self._now + until_s
        since = self._now
        while True:
            sent = self._sent.get(command)
            deaf = sent.waiting if sent is not None else set()
            open_ = [n for n in names if self._takes_part(n) and (n in deaf or not self._stands(n))]
            if not open_ and self._now - since > 0.4:  # telemetry from before the order does not count
                return
            if self._now > until:
                raise _Failed(f"{_some(open_)} did not come to a stop")
            if deaf and self._now - since > self.config.command_deadline_s:
                command, since = self._command(CommandKind.HOLD, sorted(deaf)), self._now
            yield

    def _sleep(self, seconds: float) -> Script:
        until = self._now + seconds
        while self._now < until:
            yield

    # ---- watching --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Marks drones that fell out of the mission, and notices an operator's stop."""
        for drone in self._drones.values():
            t = drone.telemetry
            if t is not None and drone.silent:
                self._find(drone, t)
            if t is None or drone.lost:
                continue
            if t.state in _FLYING or t.in_air:
                drone.flew = True
            elif drone.down_ordered and t.state in _GROUND and not t.armed:
                drone.flew = False
            if not drone.flew:
                continue
            silence = self._now - drone.heard_s
            if silence > self.config.silent_s:
                self._lose(drone, f"not heard for {silence:.1f} s")
                drone.silent, drone.found_s = True, None
                continue
            if t.reason.startswith(OPERATOR):
                drone.down_ordered = True
                if self._stopping:
                    continue
                self.failure = f"{drone.name} was stopped: {t.reason}."
                self._script = self._stopped(f"{drone.name}: {t.reason}")
                return
            if t.state in (DroneState.FAILSAFE, DroneState.LOST) or (
                t.state in (DroneState.RETURNING, DroneState.LANDING, DroneState.LANDED)
                and not drone.down_ordered
            ):
                if drone.odd_since is None:
                    drone.odd_since = self._now
                elif self._now - drone.odd_since > 1.0:
                    self._lose(drone, f"{t.state.name.lower()}: {t.reason or 'its autopilot is silent'}")
            else:
                drone.odd_since = None

    def _find(self, drone: _Drone, t: DroneTelemetry) -> None:
        """A drone that was silent only for a while takes part again, at the next move or its repetition."""
        if self._now - drone.heard_s > 0.5 or t.state not in _FLYING:
            drone.found_s = None
        elif drone.found_s is None:
            drone.found_s = self._now
        elif self._now - drone.found_s > 0.5:
            drone.lost, drone.silent = "", False
            self._event("found", f"{drone.name} is heard again and takes part.")

    def _lose(self, drone: _Drone, why: str) -> None:
        drone.lost, drone.lost_s = f"{why}, during {self.phase}", self._now
        self._event("lost", f"{drone.name} is lost: {drone.lost}; the others fly on.")
        for sent in self._sent.values():
            sent.waiting.discard(drone.name)

    def _raise_refusal(self, command: int, name: str, what: str) -> None:
        sent = self._sent.get(command)
        if sent is None:
            return
        ack = sent.answers.get(name)
        if ack is not None and ack.status in (AckStatus.REFUSED, AckStatus.FAILED):
            raise _Failed(f"{name} did not do {what}: {ack.reason}")
        if name in sent.waiting and self._ns > sent.command.deadline_ns:
            if self._state(name) in _GROUND:
                raise _Failed(f"{name} never answered the order of {what}")
            sent.waiting.discard(name)  # it does what was asked: only its answers were lost

    # ---- what is known of drones -----------------------------------------------------------------

    def _takes_part(self, name: str) -> bool:
        return not self._drones[name].lost

    def _heard(self, name: str) -> bool:
        drone = self._drones[name]
        return drone.telemetry is not None and self._now - drone.heard_s <= self.config.silent_s

    def _state(self, name: str) -> DroneState:
        t = self._drones[name].telemetry
        return DroneState.UNKNOWN if t is None else t.state

    def _airborne(self) -> list[str]:
        """Heard, in the air, and with an autopilot that answers."""
        down = (*_GROUND, DroneState.LOST)
        return [n for n in self.drones if self._heard(n) and self._state(n) not in down]

    def _ready(self, drone: _Drone) -> bool:
        return drone.telemetry is not None and drone.telemetry.ready and self._now - drone.heard_s < 1.5

    def _why_not_ready(self, drone: _Drone) -> str:
        if drone.telemetry is None:
            return "never heard"
        if self._now - drone.heard_s >= 1.5:
            return f"not heard for {self._now - drone.heard_s:.0f} s"
        return drone.telemetry.reason or drone.telemetry.state.name.lower()

    def _reference(self, name: str) -> Vec3:
        t = self._drones[name].telemetry
        assert t is not None
        return t.position_enu_m if isnan(t.reference_enu_m[0]) else t.reference_enu_m

    def _at(self, name: str, goal: np.ndarray) -> bool:
        t = self._drones[name].telemetry
        if t is None or t.state is not DroneState.HOLDING:
            return False
        place = _point(goal)
        asked = 0.0 if isnan(t.reference_enu_m[0]) else distance(t.reference_enu_m, place)
        return asked < self.config.join_m and distance(t.position_enu_m, place) < self.config.settle_m

    def _stuck(self, name: str, goal: np.ndarray) -> bool:
        """It holds although it should be flying, and not where it is to go."""
        return (
            self._takes_part(name)
            and self._heard(name)
            and self._state(name) is DroneState.HOLDING
            and distance(self._reference(name), _point(goal)) > self.config.settle_m
        )

    def _stands(self, name: str) -> bool:
        t = self._drones[name].telemetry
        return t is not None and t.state is DroneState.HOLDING and norm(t.velocity_enu_m_s) < 0.4

    def _coming_down(self, drone: _Drone) -> bool:
        t = drone.telemetry
        if (
            not drone.lost
            or t is None
            or self._taken(drone.name)
            or self._now - drone.lost_s > self.config.clear_s
        ):
            return False
        if self._heard(drone.name) and t.state is not DroneState.LOST:
            return t.state not in _GROUND
        ground = min((p[2] for p in self._pads.values()), default=self.mission.pads.center_enu_m[2])
        height = t.position_enu_m[2] - ground
        return t.in_air and self._now - drone.lost_s < 3.0 + height / self.config.fall_m_s

    def _below(self, low: _Drone, high: _Drone) -> bool:
        if low.telemetry is None or high.telemetry is None:
            return False
        a, b = low.telemetry.position_enu_m, high.telemetry.position_enu_m
        flat = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5
        return flat < self.mission.separation_m and (a[2], low.name) < (b[2], high.name)

    def _free_pads(self) -> list[Vec3]:
        """Pads on which nothing lies: no lost drone's last position within the separation."""
        pads = list(self._pads.values()) or self.mission.pad_positions(len(self.drones))
        wrecks = [
            d.telemetry.position_enu_m for d in self._drones.values() if d.lost and d.telemetry is not None
        ]
        wide = self.mission.separation_m
        return [p for p in pads if all((p[0] - w[0]) ** 2 + (p[1] - w[1]) ** 2 > wide * wide for w in wrecks)]

    def _plan_from_here(self, steps: Sequence[Step], margin_m: float = TRACKING_MARGIN_M) -> Plan | str:
        """Steps planned from present positions; a text when it is not clear who would fly them."""
        airborne = self._airborne()
        if airborne and isinstance(steps[0], Takeoff):
            return f"{_some(airborne)} fly already: a takeoff step is for drones on the ground"
        names = [n for n in (airborne or self.drones) if self._takes_part(n) and self._heard(n)]
        if not names:
            return "no drone is heard"
        if not airborne:
            unready = [
                f"{n} ({self._why_not_ready(self._drones[n])})"
                for n in names
                if not self._ready(self._drones[n])
            ]
            if unready:
                return f"not ready: {', '.join(unready[:5])}"
        level = {n: self._drones[n].telemetry.battery_fraction for n in names}  # type: ignore[union-attr]
        here = [self._reference(n) for n in names]
        pads = self._free_pads() if self._pads or airborne else here
        return plan_steps(
            self.mission, steps, names, here, pads, bool(airborne), level, must_land=False, margin_m=margin_m
        )

    # ---- sending ---------------------------------------------------------------------------------

    def _command(
        self,
        kind: CommandKind,
        names: Sequence[str],
        target: Vec3 = (nan, nan, nan),
        plan_id: int = 0,
        deadline_ns: int = 0,
        retry_s: float = 0.0,
    ) -> int:
        self._command_id += 1
        deadline = deadline_ns or self._ns + int(self.config.command_deadline_s * 1e9)
        command = SwarmCommand(
            self._command_id,
            self.config.term,
            kind,
            tuple(names),
            target,
            plan_id=plan_id,
            deadline_ns=deadline,
        )
        self._sent[self._command_id] = _Sent(
            command, set(names), self._now + (retry_s or self.config.retry_s)
        )
        while len(self._sent) > _KEPT:
            self._sent.popitem(last=False)
        self._out.append(SendCommand(command))
        return self._command_id

    def _order_down(self, names: Sequence[str]) -> None:
        for name in names:
            self._drones[name].down_ordered = True
        self._command(CommandKind.LAND, names)

    def _resend(self) -> None:
        for sent in self._sent.values():
            if sent.waiting and self._now >= sent.next_s and self._ns <= sent.command.deadline_ns:
                sent.next_s = self._now + self.config.retry_s
                self._out.append(SendCommand(replace(sent.command, targets=tuple(sorted(sent.waiting)))))

    def _event(self, kind: str, text: str) -> None:
        self._out.append(MissionEvent(kind, text))

    def _fail(self, reason: str) -> None:
        self.failure = (self.failure or reason).rstrip(".") + "."
        self._event("failed", self.failure)
        for sent in self._sent.values():
            sent.waiting.clear()
        self._stopping = True
        self._script = self._abort()

    def _end(self, failure: str | None) -> None:
        if failure:
            self.failure = self.failure or failure.rstrip(".") + "."
        self.phase = "finished" if self.failure is None else "failed"
        self.finished, self._script, self._ended = True, None, self._now
        names = ", ".join(self.lost)
        without = f" without {names}" if names else ""
        self._event("finished", f"the mission is {'completed' if self.completed else 'over'}{without}.")


def _point(row: Sequence[float] | np.ndarray) -> Vec3:
    return float(row[0]), float(row[1]), float(row[2])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
