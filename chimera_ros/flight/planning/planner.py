"""Mission planner: trajectories for all drones, checked before take-off.

Separation, geofence, heights, speed, acceleration, jerk and battery are checked; a plan with any violation is
NO-GO. Not handled: what happens in flight (leader).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite

import numpy as np

from ..moderation_call import KnotSequence, Moderate, ModerationRequest, ModerationStatus, Separation
from ..trajectory import Array, Path, straight_legs
from ..vehicle import Vec3
from .formations import slots
from .mission import (
    Formation,
    Goto,
    Hold,
    Land,
    Mission,
    Rotate,
    Step,
    Swap,
    Takeoff,
    compass_to_enu,
    step_title,
)
from .plan_check import SLACK_M, answer_fault, limit_faults, sampling_step_s
from .separation import nearest_pair, smallest_separation
from .transition import MoveInfeasible, MoveLimits, move, move_any, rotate, swap

TRACKING_MARGIN_M = 0.5  # added to the required separation for tracking errors
REDUCED_MARGIN_M = 0.15  # instead, for a re-plan that is infeasible with the full margin
LAYER_MARGIN_M = 0.75  # instead, between altitude layers: barometer errors add
APPROACH_M = 3.0  # height above the pad at which the autopilot's own landing begins
MAX_REASONS = 20
_BUDGET_ON_GROUND_S = 10.0  # nominal seconds of path moderation for one step, counted as work, ...
_DEADLINE_IN_FLIGHT_S = 0.4  # ... but while drones fly, planning must not stop the leader's heartbeat
_TAKEOFF_M_S, _TAKEOFF_DEAD_S = 1.2, 4.0  # estimates: in flight the leader uses telemetry
_LAND_M_S, _LAND_DEAD_S = 0.6, 4.0


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """GO if `ok`; otherwise reasons, each a sentence with step, drones, time and distance.

    `undecided`: not GO, because a search found no solution, which does not show that there is none.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the plan: takeoff, move, hold or land (`kind`).

    `knots` (move) by drone, `waves` (takeoff, land) rows of drones, `ends` (N, 3) final positions. `nominal`
    are the knots of a moderated move before moderation.
    """

    kind: str
    step: int  # index in the mission's steps
    title: str
    duration_s: float
    ends: Array
    knots: tuple[KnotSequence, ...] = ()
    waves: tuple[tuple[int, ...], ...] = ()
    interval_s: float = 0.0
    height_m: float = 0.0
    min_separation_m: float = inf
    nominal: tuple[KnotSequence, ...] = ()


@dataclass(frozen=True, slots=True)
class MissionPlan:
    """The plan of a mission for named drones; only one whose verdict is ok may be flown."""

    drones: tuple[str, ...]
    starts: Array
    pads: tuple[Vec3, ...]
    verdict: PlanVerdict
    phases: tuple[Phase, ...] = ()
    duration_s: float = 0.0
    min_separation_m: float = inf
    battery_used: float = 0.0

    @property
    def ok(self) -> bool:
        return self.verdict.ok

    def tracks(self, hz: float = 5.0) -> tuple[Array, Array]:
        """Times (T,) and planned positions (T, N, 3) for plots; take-off and landing are estimates."""
        times, blocks, start, positions = [], [], 0.0, self.starts
        for phase in self.phases:
            t = np.arange(0.0, max(phase.duration_s, 1.0 / hz), 1.0 / hz)
            if phase.kind == "move":
                block = np.stack([Path(k).sample(t) for k in phase.knots], axis=1)
            else:
                share = np.clip(t / max(phase.duration_s, 1e-3), 0.0, 1.0)[:, None, None]
                block = positions[None] + share * (phase.ends - positions)[None]
            times.append(t + start)
            blocks.append(block)
            start += phase.duration_s
            positions = phase.ends
        if not times:
            return np.zeros(1), self.starts[None]
        return np.concatenate(times), np.concatenate(blocks)


@dataclass(slots=True)
class _PlanBuilder:
    """A plan under construction: phases so far, the positions they lead to, and reasons for NO-GO."""

    mission: Mission
    drones: tuple[str, ...]
    pads: Array
    positions: Array
    airborne: bool
    margin_m: float = TRACKING_MARGIN_M
    moderate: Moderate | None = None
    in_flight: bool = False
    undecided: bool = False
    phases: list[Phase] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def names(self, first: int, second: int) -> str:
        return f"{self.drones[first]} and {self.drones[second]}"

    def refuse(self, index: int, step: Step, text: str) -> None:
        line = f", line {step.line}" if step.line else ""
        self.reasons.append(f"step {index + 1} ({step_title(step)}{line}): {text}.")


def plan_mission(
    mission: Mission,
    drones: Sequence[str],
    pads: Sequence[Vec3] | None = None,
    battery: Mapping[str, float] | None = None,
    moderate: Moderate | None = None,
) -> MissionPlan:
    """Plans and checks a mission from the pads (None: the mission's own).

    `battery` are present charges as fractions, `moderate` resolves the conflicts of moderated steps.
    """
    places = mission.pad_positions(len(drones)) if pads is None else list(pads)
    return plan_steps(
        mission, mission.steps, drones, places, places, airborne=False, battery=battery, moderate=moderate
    )


def plan_steps(
    mission: Mission,
    steps: Sequence[Step],
    drones: Sequence[str],
    positions: Sequence[Vec3],
    pads: Sequence[Vec3],
    airborne: bool,
    battery: Mapping[str, float] | None = None,
    must_land: bool = True,
    margin_m: float = TRACKING_MARGIN_M,
    moderate: Moderate | None = None,
) -> MissionPlan:
    """Plans steps from present positions, one per drone; `pads` are the free pads, at least one per drone.

    With `must_land`, steps that leave drones in the air are NO-GO.
    """
    starts = np.array(positions, dtype=float).reshape(-1, 3)
    plan = _PlanBuilder(
        mission, tuple(drones), np.array(pads, dtype=float).reshape(-1, 3), starts.copy(), airborne, margin_m,
        moderate, airborne,
    )  # fmt: skip
    _check_start(plan)
    if not plan.reasons:
        for index, step in enumerate(steps):
            if not _add_step(plan, index, step):
                break
    if must_land and plan.airborne and not plan.reasons:
        plan.reasons.append("the last step leaves the drones in the air: end with a land step.")
    duration = sum(phase.duration_s for phase in plan.phases)
    used = duration / mission.battery.endurance_s
    if not plan.reasons:
        for name in plan.drones:
            level = (battery or {}).get(name, 1.0)
            left = (level if isfinite(level) else 1.0) - used
            if left < mission.battery.reserve - 1e-9:
                plan.reasons.append(
                    f"{name} would land with {max(left, 0.0) * 100:.0f} % of its battery; "
                    f"{mission.battery.reserve * 100:.0f} % must be left."
                )
    return MissionPlan(
        plan.drones,
        starts,
        tuple((float(x), float(y), float(z)) for x, y, z in plan.pads),
        PlanVerdict(not plan.reasons, tuple(plan.reasons[:MAX_REASONS]), plan.undecided),
        tuple(plan.phases),
        duration,
        min((phase.min_separation_m for phase in plan.phases), default=inf),
        used,
    )


def _move_limits(mission: Mission, margin_m: float) -> MoveLimits:
    layer = margin_m + LAYER_MARGIN_M - TRACKING_MARGIN_M
    return MoveLimits(
        mission.separation_m + margin_m, mission.separation_m + layer, mission.limits, mission.fence
    )


def _check_start(plan: _PlanBuilder) -> None:
    required = plan.mission.separation_m
    if not plan.drones:
        plan.reasons.append("no drone takes part.")
        return
    if len(set(plan.drones)) != len(plan.drones) or len(plan.positions) != len(plan.drones):
        plan.reasons.append("every drone needs one name and one position.")
        return
    if not (np.isfinite(plan.positions).all() and np.isfinite(plan.pads).all()):
        missing = [n for n, p in zip(plan.drones, plan.positions, strict=True) if not np.isfinite(p).all()]
        plan.reasons.append(f"the position of {', '.join(missing[:5]) or 'a pad'} is not known.")
        return
    near = nearest_pair(plan.positions)
    if near.distance_m < required - 1e-6:
        plan.reasons.append(
            f"at the start {plan.names(near.first, near.second)} are {near.distance_m:.2f} m apart; "
            f"{required:.2f} m are required."
        )
    flat = nearest_pair(plan.pads * (1, 1, 0))
    if flat.distance_m < required - 1e-6:
        plan.reasons.append(
            f"pads {flat.first + 1} and {flat.second + 1} are {flat.distance_m:.2f} m apart; "
            f"{required:.2f} m are required (pads.spacing_m)."
        )
    fence = plan.mission.fence
    outside = [n for n, p in zip(plan.drones, plan.positions, strict=True) if fence.inside_m(tuple(p)) < 0]
    if outside:
        plan.reasons.append(f"{', '.join(outside[:5])} would start outside the fence.")


def _add_step(plan: _PlanBuilder, index: int, step: Step) -> bool:
    """Adds the phases of a step; False if it cannot be planned, so that no later step can."""
    mission = plan.mission
    limits = _move_limits(mission, plan.margin_m)
    if isinstance(step, Takeoff):
        return _add_takeoff(plan, index, step)
    if not plan.airborne:
        plan.refuse(index, step, "the drones are on the ground; a takeoff step must come first")
        return False
    if isinstance(step, Hold):
        near = nearest_pair(plan.positions).distance_m
        plan.phases.append(Phase("hold", index, "hold", step.seconds, plan.positions, min_separation_m=near))
        return True
    if isinstance(step, Formation | Swap) and step.moderate:
        return _add_moderated(plan, index, step, limits)
    try:
        paths, goals = _plan_move(plan, step, limits)
    except MoveInfeasible as error:
        who = plan.names(*error.pair) + " " if error.pair else "drones "
        plan.refuse(index, step, who + str(error))
        return False
    if not _add_move(plan, index, step, paths, goals, limits):
        return False
    if isinstance(step, Land):
        _add_landing(plan, index, step)
    return True


def _plan_move(plan: _PlanBuilder, step: Step, limits: MoveLimits) -> tuple[list[KnotSequence], Array]:
    positions = plan.positions
    if isinstance(step, Formation):
        return move_any(positions, _formation_slots(step, len(positions)), limits)
    if isinstance(step, Goto):
        center = positions.mean(axis=0)
        by = np.array(step.by_enu_m) if step.by_enu_m else np.array(step.center_enu_m) - center
        return move(positions, positions + by, limits), positions + by
    if isinstance(step, Rotate):
        return rotate(positions, compass_to_enu(step.angle_deg), limits)
    if isinstance(step, Swap):
        return swap(positions, step.layers, limits)
    assert isinstance(step, Land)
    above = plan.pads.copy()
    above[:, 2] = np.maximum(above[:, 2] + APPROACH_M, plan.mission.fence.min_height_m + 0.2)
    if step.pads == "any" or len(above) != len(positions):
        return move_any(positions, above, limits)
    return move(positions, above, limits), above


def _formation_slots(step: Formation, count: int) -> Array:
    return slots(step.shape, count, step.spacing_m, step.heading_deg) + np.array(step.center_enu_m)


def _add_moderated(plan: _PlanBuilder, index: int, step: Formation | Swap, limits: MoveLimits) -> bool:
    """Straight paths to the goals, replaced by path moderation where they conflict."""
    positions, mission = plan.positions, plan.mission
    if isinstance(step, Swap):
        goals = 2.0 * positions.mean(axis=0) - positions
        goals[:, 2] = positions[:, 2]
    else:
        goals = _formation_slots(step, len(positions))
    nominal = straight_paths(mission, positions, goals)
    if not nominal:
        return True
    clear = smallest_separation([Path(k) for k in nominal], sampling_step_s(len(nominal))).distance_m
    if clear >= limits.separation_m:
        return _add_move(plan, index, step, list(nominal), goals, limits)
    if plan.moderate is None:
        plan.refuse(index, step, "needs path moderation, which is not installed")
        return False
    deadline_s = _DEADLINE_IN_FLIGHT_S if plan.in_flight else _BUDGET_ON_GROUND_S
    separation = Separation(mission.separation_m, mission.separation_m, plan.margin_m / 2.0)
    request = ModerationRequest(
        plan.drones, nominal, separation, mission.limits, mission.fence, deadline_s,
        offline=not plan.in_flight,
    )  # fmt: skip
    answer = plan.moderate(request)
    if answer.status is not ModerationStatus.CONFLICT_FREE:
        plan.undecided = answer.undecided
        what = "has found no solution" if answer.undecided else "has no solution"
        plan.refuse(index, step, f"path moderation {what}: {answer.reason.rstrip('.')}")
        return False
    longest = 10.0 * max(knots[-1].t_s for knots in nominal) + 60.0
    why = answer_fault(mission, request, goals, answer.knots, longest)
    if why:
        plan.refuse(index, step, f"path moderation's answer is refused: {why}")
        return False
    if not _add_move(plan, index, step, list(answer.knots), goals, limits):
        return False
    plan.phases[-1] = replace(plan.phases[-1], nominal=nominal)
    return True


def _add_takeoff(plan: _PlanBuilder, index: int, step: Takeoff) -> bool:
    fence = plan.mission.fence
    if plan.airborne:
        plan.refuse(index, step, "the drones are in the air already")
        return False
    if not fence.min_height_m <= step.height_m <= fence.max_height_m:
        plan.refuse(
            index, step, f"height {step.height_m:.1f} m is not between the fence's "
            f"{fence.min_height_m:.1f} m and {fence.max_height_m:.1f} m",
        )  # fmt: skip
        return False
    climb = step.height_m - float(plan.positions[:, 2].min())
    if float((step.height_m - plan.positions[:, 2]).min()) < 0.5:
        plan.refuse(index, step, f"height {step.height_m:.1f} m is not above every pad")
        return False
    rows = tuple(range(len(plan.drones)))
    waves = tuple(rows[i : i + step.wave] for i in range(0, len(rows), step.wave))
    ends = plan.positions.copy()
    ends[:, 2] = step.height_m
    near = nearest_pair(ends)
    if near.distance_m < plan.mission.separation_m - 1e-6:
        plan.refuse(
            index, step, f"{plan.names(near.first, near.second)} would hover {near.distance_m:.2f} m apart"
        )
        return False
    duration = climb / _TAKEOFF_M_S + _TAKEOFF_DEAD_S + step.interval_s * (len(waves) - 1)
    plan.phases.append(
        Phase(
            "takeoff", index, "takeoff", duration, ends, (), waves, step.interval_s, step.height_m,
            near.distance_m,
        )
    )  # fmt: skip
    plan.positions, plan.airborne = ends, True
    return True


def _add_move(
    plan: _PlanBuilder, index: int, step: Step, knots: list[KnotSequence], goals: Array, limits: MoveLimits
) -> bool:
    if not knots[0]:
        return True  # all drones are at their goals
    paths = [Path(part) for part in knots]
    before = len(plan.reasons)
    for row, text in limit_faults(plan.mission, paths, float(plan.positions[:, 2].min())):
        plan.refuse(index, step, f"{plan.drones[row]} {text}")
    closest = smallest_separation(paths, sampling_step_s(len(paths)))
    if closest.distance_m < limits.separation_m - SLACK_M:
        plan.refuse(
            index, step,
            f"{plan.names(closest.first, closest.second)} come within {closest.distance_m:.2f} m after "
            f"{closest.t_s:.1f} s; {plan.mission.separation_m:.2f} m are required, "
            f"plus {plan.margin_m:.2f} m for tracking",
        )  # fmt: skip
    duration = max(path.duration_s for path in paths)
    plan.phases.append(
        Phase(
            "move",
            index,
            step_title(step),
            duration,
            goals,
            tuple(knots),
            min_separation_m=closest.distance_m,
        )
    )
    plan.positions = goals
    return len(plan.reasons) == before


def _add_landing(plan: _PlanBuilder, index: int, step: Land) -> None:
    ends = plan.positions.copy()
    pads = plan.pads
    for row in range(len(ends)):
        pad = pads[int(((pads[:, :2] - ends[row, :2]) ** 2).sum(1).argmin())]
        ends[row] = pad
    flat = nearest_pair(ends * (1, 1, 0))
    if flat.distance_m < plan.mission.separation_m - 1e-6:
        plan.refuse(index, step, f"{plan.names(flat.first, flat.second)} would land one above the other")
    rows = tuple(range(len(ends)))
    waves = tuple(rows[i : i + step.wave] for i in range(0, len(rows), step.wave))
    fall = float((plan.positions[:, 2] - ends[:, 2]).max())
    duration = fall / _LAND_M_S + _LAND_DEAD_S + step.interval_s * (len(waves) - 1)
    plan.phases.append(Phase("land", index, "land", duration, ends, (), waves, step.interval_s))
    plan.positions, plan.airborne = ends, False


def straight_paths(mission: Mission, places: Array, goals: Array) -> tuple[KnotSequence, ...]:
    """Straight paths from places to goals (N, 3), conflicts included; empty if all are at their goals."""
    paths = straight_legs(places, goals, mission.limits)
    return tuple(tuple(knots) for knots in paths) if paths[0] else ()


def replan_move(
    mission: Mission,
    phase: Phase,
    drones: Sequence[str],
    positions: Array,
    goals: Array,
    margin_m: float = TRACKING_MARGIN_M,
) -> tuple[Phase | None, str]:
    """Re-plans a move to the same goals from present positions (N, 3): the phase, or None and the reason."""
    plan = _PlanBuilder(mission, tuple(drones), goals, positions, True, margin_m)
    limits = _move_limits(mission, margin_m)
    try:
        paths = move(positions, goals, limits)
    except MoveInfeasible as error:
        return None, (plan.names(*error.pair) + " " if error.pair else "drones ") + str(error)
    if not _add_move(plan, phase.step, Goto(), paths, goals, limits):
        return None, plan.reasons[0]
    if not plan.phases:
        return replace(phase, knots=(), ends=goals, duration_s=0.0), ""
    return replace(plan.phases[0], title=phase.title), ""
