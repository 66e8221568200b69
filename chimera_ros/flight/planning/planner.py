"""A whole mission becomes a plan for all drones, checked before anything arms: separation, fence, speed,
battery.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite

import numpy as np

from ..messages import TrajectoryKnot
from ..moderation_call import Moderate, ModerationRequest, ModerationStatus, Separation
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
from .transition import Legs, MoveConstraints, MoveInfeasible, move, move_any, rotate, swap

TRACKING_MARGIN_M = 0.5  # planned beyond the asked separation, for what vehicles deviate from their reference
REDUCED_MARGIN_M = 0.15  # the same for a way out of trouble, where the wide margin finds none
LAYER_MARGIN_M = 0.75  # the same between altitude layers, where barometers add their error
APPROACH_M = 3.0  # height above the pad from which the autopilot lands by itself
MAX_REASONS = 20
_ON_GROUND_S = 2.0  # that planning may take for one moderated step; ...
_IN_FLIGHT_S = 0.4  # ... while drones fly, whoever plans must not fall silent for long
_TAKEOFF_M_S, _TAKEOFF_DEAD_S = 1.2, 4.0  # estimate only: the leader goes on by telemetry
_LAND_M_S, _LAND_DEAD_S = 0.6, 4.0


@dataclass(frozen=True, slots=True)
class PlanVerdict:
    """GO when `ok`; otherwise each reason is one sentence with step, drones, time and distance."""

    ok: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Phase:
    """One thing that the leader does at a time.

    `kind` is takeoff, move, hold or land. `knots` (move) has one list per drone, `waves` (takeoff, land) rows
    of drones; `ends` (N, 3) is where all drones are afterwards.
    """

    kind: str
    step: int  # index in the mission's steps
    title: str
    duration_s: float
    ends: Array
    knots: tuple[tuple[TrajectoryKnot, ...], ...] = ()
    waves: tuple[tuple[int, ...], ...] = ()
    interval_s: float = 0.0
    height_m: float = 0.0
    min_separation_m: float = inf
    wish: tuple[tuple[TrajectoryKnot, ...], ...] = ()  # of a moderated move: what moderation was asked for


@dataclass(frozen=True, slots=True)
class MissionPlan:
    """The checked plan of a mission for the named drones; only one whose verdict is ok may be flown."""

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
        """Times (T,) and planned positions (T, N, 3), for plots; take-off and landing are estimates."""
        times, blocks, start, here = [], [], 0.0, self.starts
        for phase in self.phases:
            t = np.arange(0.0, max(phase.duration_s, 1.0 / hz), 1.0 / hz)
            if phase.kind == "move":
                block = np.stack([Path(k).sample(t) for k in phase.knots], axis=1)
            else:
                share = np.clip(t / max(phase.duration_s, 1e-3), 0.0, 1.0)[:, None, None]
                block = here[None] + share * (phase.ends - here)[None]
            times.append(t + start)
            blocks.append(block)
            start += phase.duration_s
            here = phase.ends
        if not times:
            return np.zeros(1), self.starts[None]
        return np.concatenate(times), np.concatenate(blocks)


@dataclass(slots=True)
class _PlanBuilder:
    """A plan while it grows."""

    mission: Mission
    drones: tuple[str, ...]
    pads: Array
    here: Array
    airborne: bool
    margin_m: float = TRACKING_MARGIN_M
    moderate: Moderate | None = None
    in_flight: bool = False
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
    """Plans and checks a whole mission from the pads (the mission's own when None); `battery` are fractions
    now, `moderate` is who plans the moderated steps.
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
    """Plans steps from present positions (one per drone); `pads` are the free pads, at least one per drone.

    `must_land` refuses steps that leave drones in the air at the end.
    """
    here = np.array(positions, dtype=float).reshape(-1, 3)
    draft = _PlanBuilder(
        mission, tuple(drones), np.array(pads, dtype=float).reshape(-1, 3), here, airborne, margin_m,
        moderate, airborne,
    )  # fmt: skip
    start = here.copy()
    _check_start(draft)
    if not draft.reasons:
        for index, step in enumerate(steps):
            if not _add_step(draft, index, step):
                break
    if must_land and draft.airborne and not draft.reasons:
        draft.reasons.append("the last step leaves the drones in the air: end with a land step.")
    duration = sum(phase.duration_s for phase in draft.phases)
    used = duration / mission.battery.endurance_s
    if not draft.reasons:
        for name in draft.drones:
            level = (battery or {}).get(name, 1.0)
            left = (level if isfinite(level) else 1.0) - used
            if left < mission.battery.reserve - 1e-9:
                draft.reasons.append(
                    f"{name} would land with {max(left, 0.0) * 100:.0f} % of its battery; "
                    f"{mission.battery.reserve * 100:.0f} % must be left."
                )
    return MissionPlan(
        draft.drones,
        start,
        tuple((float(x), float(y), float(z)) for x, y, z in draft.pads),
        PlanVerdict(not draft.reasons, tuple(draft.reasons[:MAX_REASONS])),
        tuple(draft.phases),
        duration,
        min((phase.min_separation_m for phase in draft.phases), default=inf),
        used,
    )


def _constraints(mission: Mission, margin_m: float) -> MoveConstraints:
    layer = margin_m + LAYER_MARGIN_M - TRACKING_MARGIN_M
    return MoveConstraints(
        mission.separation_m + margin_m, mission.separation_m + layer, mission.limits, mission.fence
    )


def _check_start(draft: _PlanBuilder) -> None:
    asked = draft.mission.separation_m
    if not draft.drones:
        draft.reasons.append("no drone takes part.")
        return
    if len(set(draft.drones)) != len(draft.drones) or len(draft.here) != len(draft.drones):
        draft.reasons.append("every drone needs one name and one position.")
        return
    if not (np.isfinite(draft.here).all() and np.isfinite(draft.pads).all()):
        missing = [n for n, p in zip(draft.drones, draft.here, strict=True) if not np.isfinite(p).all()]
        draft.reasons.append(f"the position of {', '.join(missing[:5]) or 'a pad'} is not known.")
        return
    near = nearest_pair(draft.here)
    if near.distance_m < asked - 1e-6:
        draft.reasons.append(
            f"at the start {draft.names(near.first, near.second)} are {near.distance_m:.2f} m apart; "
            f"{asked:.2f} m are asked."
        )
    flat = nearest_pair(draft.pads * (1, 1, 0))
    if flat.distance_m < asked - 1e-6:
        draft.reasons.append(
            f"pads {flat.first + 1} and {flat.second + 1} are {flat.distance_m:.2f} m apart; "
            f"{asked:.2f} m are asked (pads.spacing_m)."
        )
    outside = [
        n for n, p in zip(draft.drones, draft.here, strict=True) if draft.mission.fence.inside_m(tuple(p)) < 0
    ]
    if outside:
        draft.reasons.append(f"{', '.join(outside[:5])} would start outside the fence.")


def _add_step(draft: _PlanBuilder, index: int, step: Step) -> bool:
    """Adds one step's phases; False when it cannot be planned, so that later steps have no start."""
    mission = draft.mission
    room = _constraints(mission, draft.margin_m)
    if isinstance(step, Takeoff):
        return _add_takeoff(draft, index, step)
    if not draft.airborne:
        draft.refuse(index, step, "the drones are on the ground; a takeoff step must come first")
        return False
    if isinstance(step, Hold):
        near = nearest_pair(draft.here).distance_m
        draft.phases.append(Phase("hold", index, "hold", step.seconds, draft.here, min_separation_m=near))
        return True
    if isinstance(step, Formation | Swap) and step.moderate:
        return _add_moderated(draft, index, step, room)
    try:
        legs, goals = _plan_move(draft, step, room)
    except MoveInfeasible as error:
        who = draft.names(*error.pair) + " " if error.pair else "drones "
        draft.refuse(index, step, who + str(error))
        return False
    if not _add_move(draft, index, step, legs, goals, room):
        return False
    if isinstance(step, Land):
        _add_landing(draft, index, step)
    return True


def _plan_move(draft: _PlanBuilder, step: Step, room: MoveConstraints) -> tuple[Legs, Array]:
    here = draft.here
    if isinstance(step, Formation):
        target = slots(step.shape, len(here), step.spacing_m, step.heading_deg) + np.array(step.center_enu_m)
        return move_any(here, target, room)
    if isinstance(step, Goto):
        by = np.array(step.by_enu_m) if step.by_enu_m else np.array(step.center_enu_m) - here.mean(axis=0)
        return move(here, here + by, room), here + by
    if isinstance(step, Rotate):
        return rotate(here, compass_to_enu(step.angle_deg), room)
    if isinstance(step, Swap):
        return swap(here, step.layers, room)
    assert isinstance(step, Land)
    above = draft.pads.copy()
    above[:, 2] = np.maximum(above[:, 2] + APPROACH_M, draft.mission.fence.min_height_m + 0.2)
    if step.pads == "any" or len(above) != len(here):
        return move_any(here, above, room)
    return move(here, above, room), above


def _add_moderated(draft: _PlanBuilder, index: int, step: Formation | Swap, room: MoveConstraints) -> bool:
    """Straight to the places, each drone at its own pace or way as moderation finds it."""
    here, mission = draft.here, draft.mission
    if isinstance(step, Swap):
        goals = 2.0 * here.mean(axis=0) - here
        goals[:, 2] = here[:, 2]
    else:
        goals = slots(step.shape, len(here), step.spacing_m, step.heading_deg) + np.array(step.center_enu_m)
    wish = straight_paths(mission, here, goals)
    if not wish:
        return True
    clear = smallest_separation([Path(k) for k in wish], sampling_step_s(len(wish))).distance_m
    if clear >= room.separation_m:
        return _add_move(draft, index, step, list(wish), goals, room)
    if draft.moderate is None:
        draft.refuse(index, step, "needs path moderation, which is not installed")
        return False
    patience_s = _IN_FLIGHT_S if draft.in_flight else _ON_GROUND_S
    separation = Separation(mission.separation_m, mission.separation_m, draft.margin_m / 2.0)
    request = ModerationRequest(draft.drones, wish, separation, mission.limits, mission.fence, patience_s)
    answer = draft.moderate(request)
    if answer.status is not ModerationStatus.CONFLICT_FREE:
        draft.refuse(index, step, f"path moderation finds no way: {answer.reason.rstrip('.')}")
        return False
    longest = 10.0 * max(knots[-1].t_s for knots in wish) + 60.0
    why = answer_fault(mission, request, goals, answer.knots, longest)
    if why:
        draft.refuse(index, step, f"path moderation's answer is not flown: {why}")
        return False
    if not _add_move(draft, index, step, list(answer.knots), goals, room):
        return False
    draft.phases[-1] = replace(draft.phases[-1], wish=wish)
    return True


def _add_takeoff(draft: _PlanBuilder, index: int, step: Takeoff) -> bool:
    fence = draft.mission.fence
    if draft.airborne:
        draft.refuse(index, step, "the drones are in the air already")
        return False
    if not fence.min_height_m <= step.height_m <= fence.max_height_m:
        draft.refuse(
            index, step, f"height {step.height_m:.1f} m is not between the fence's "
            f"{fence.min_height_m:.1f} m and {fence.max_height_m:.1f} m",
        )  # fmt: skip
        return False
    climb = step.height_m - float(draft.here[:, 2].min())
    if float((step.height_m - draft.here[:, 2]).min()) < 0.5:
        draft.refuse(index, step, f"height {step.height_m:.1f} m is not above every pad")
        return False
    rows = tuple(range(len(draft.drones)))
    waves = tuple(rows[i : i + step.wave] for i in range(0, len(rows), step.wave))
    ends = draft.here.copy()
    ends[:, 2] = step.height_m
    near = nearest_pair(ends)
    if near.distance_m < draft.mission.separation_m - 1e-6:
        draft.refuse(
            index, step, f"{draft.names(near.first, near.second)} would hover {near.distance_m:.2f} m apart"
        )
        return False
    duration = climb / _TAKEOFF_M_S + _TAKEOFF_DEAD_S + step.interval_s * (len(waves) - 1)
    draft.phases.append(
        Phase(
            "takeoff",
            index,
            "takeoff",
            duration,
            ends,
            (),
            waves,
            step.interval_s,
            step.height_m,
            near.distance_m,
        )
    )
    draft.here, draft.airborne = ends, True
    return True


def _add_move(
    draft: _PlanBuilder, index: int, step: Step, legs: Legs, goals: Array, room: MoveConstraints
) -> bool:
    if not legs[0]:
        return True  # everyone is there already
    paths = [Path(knots) for knots in legs]
    before = len(draft.reasons)
    for row, text in limit_faults(draft.mission, paths, float(draft.here[:, 2].min())):
        draft.refuse(index, step, f"{draft.drones[row]} {text}")
    closest = smallest_separation(paths, sampling_step_s(len(paths)))
    if closest.distance_m < room.separation_m - SLACK_M:
        draft.refuse(
            index, step,
            f"{draft.names(closest.first, closest.second)} come within {closest.distance_m:.2f} m after "
            f"{closest.t_s:.1f} s; {draft.mission.separation_m:.2f} m are asked, "
            f"plus {draft.margin_m:.2f} m for tracking",
        )  # fmt: skip
    duration = max(path.duration_s for path in paths)
    draft.phases.append(
        Phase(
            "move", index, step_title(step), duration, goals, tuple(legs), min_separation_m=closest.distance_m
        )
    )
    draft.here = goals
    return len(draft.reasons) == before


def _add_landing(draft: _PlanBuilder, index: int, step: Land) -> None:
    ends = draft.here.copy()
    pads = draft.pads
    for row in range(len(ends)):
        pad = pads[int(((pads[:, :2] - ends[row, :2]) ** 2).sum(1).argmin())]
        ends[row] = pad
    flat = nearest_pair(ends * (1, 1, 0))
    if flat.distance_m < draft.mission.separation_m - 1e-6:
        draft.refuse(index, step, f"{draft.names(flat.first, flat.second)} would land one above the other")
    rows = tuple(range(len(ends)))
    waves = tuple(rows[i : i + step.wave] for i in range(0, len(rows), step.wave))
    fall = float((draft.here[:, 2] - ends[:, 2]).max())
    duration = fall / _LAND_M_S + _LAND_DEAD_S + step.interval_s * (len(waves) - 1)
    draft.phases.append(Phase("land", index, "land", duration, ends, (), waves, step.interval_s))
    draft.here, draft.airborne = ends, False


def straight_paths(mission: Mission, places: Array, goals: Array) -> tuple[tuple[TrajectoryKnot, ...], ...]:
    """Straight lines from places to goals (N, 3), whoever meets whom; empty when nobody has to move."""
    legs = straight_legs(places, goals, mission.limits)
    return tuple(tuple(knots) for knots in legs) if legs[0] else ()


def replan_move(
    mission: Mission,
    phase: Phase,
    drones: Sequence[str],
    positions: Array,
    goals: Array,
    margin_m: float = TRACKING_MARGIN_M,
) -> tuple[Phase | None, str]:
    """A new way to the same goals from where the drones (N, 3) hover now: the phase, or None and why there is
    none.
    """
    draft = _PlanBuilder(mission, tuple(drones), goals, positions, True, margin_m)
    room = _constraints(mission, margin_m)
    try:
        legs = move(positions, goals, room)
    except MoveInfeasible as error:
        return None, (draft.names(*error.pair) + " " if error.pair else "drones ") + str(error)
    if not _add_move(draft, phase.step, Goto(), legs, goals, room):
        return None, draft.reasons[0]
    if not draft.phases:
        return replace(phase, knots=(), ends=goals, duration_s=0.0), ""
    return replace(draft.phases[0], title=phase.title), ""
