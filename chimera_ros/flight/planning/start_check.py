"""Checks of a mission beyond its planner: what would end a start or be refused by a follower in flight.

Followers keep an envelope of their own whatever the mission file allows, the leader plans anew from where the
drones stand with the batteries they have, and an autopilot's take-off has a time limit. Assumes drones on
their pads with charged batteries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ..datum import Datum
from ..follower.config import FollowerConfig
from ..limits import UNLIMITED, USUAL, FlightEnvelope, OwnLimits, VehicleLimits
from ..trajectory import Path
from ..vehicle import Vec3
from .mission import Mission
from .plan_check import SLACK_M
from .planner import MAX_REASONS, TRACKING_MARGIN_M, MissionPlan, Phase
from .separation import nearest_pair

CHARGED: Final = 0.97  # of a battery, at take-off
PLACED_M: Final = 0.15  # by how much distances between drones differ from those between their pads
_TAKEOFF_M_S, _TAKEOFF_DEAD_S = 1.5, 4.5  # of an autopilot that is set as it was delivered (MPC_TKO_SPEED)
_SAMPLING_S, _TOLERANCE = 0.1, 1.02
_CLEAR_M: Final = 0.5  # a take-off must end so much above the pad


def require_datum(mission: Mission) -> Datum:
    """The mission's datum. Raises ValueError for a mission in a local frame."""
    if mission.datum is None:
        raise ValueError(
            "`datum: local` needs a pose from outside, and this version flies by GPS: give the datum as "
            "lat_deg, lon_deg and amsl_m"
        )
    return mission.datum


def start_faults(
    mission: Mission, plan: MissionPlan, vehicle: VehicleLimits = UNLIMITED, own: OwnLimits = USUAL
) -> tuple[str, ...]:
    """Why a plan that is GO would not be flown to its end, one sentence each; empty if it would."""
    try:
        require_datum(mission)
        envelope = FlightEnvelope.of_mission(mission.fence, own)
    except ValueError as error:
        return (f"{error}.",)
    found = [*_pad_faults(mission, plan), *_battery_faults(plan, envelope, vehicle)]
    for phase in plan.phases:
        refused = list(_refusals(phase, plan, envelope, vehicle))
        if refused:
            drone, why = refused[0]
            more = f" (and {len(refused) - 1} more drones)" if len(refused) > 1 else ""
            found.append(f"step {phase.step + 1} ({phase.title}): {drone} would refuse it: {why}{more}.")
    return tuple(dict.fromkeys(found))[:MAX_REASONS]


def _pad_faults(mission: Mission, plan: MissionPlan) -> Iterator[str]:
    near = nearest_pair(np.asarray(plan.pads) * (1, 1, 0)).distance_m
    least = mission.separation_m + TRACKING_MARGIN_M - SLACK_M + PLACED_M
    if near < least:
        yield (
            f"the pads are {near:.2f} m apart; as drones do not stand exactly on them, {least:.2f} m are "
            "required (pads.spacing_m)."
        )
    inside = min(mission.fence.inside_m(pad) for pad in plan.pads)
    if inside < PLACED_M:
        yield f"a pad is {max(inside, 0.0):.2f} m inside the fence; {PLACED_M} m are required."


def _battery_faults(plan: MissionPlan, envelope: FlightEnvelope, vehicle: VehicleLimits) -> Iterator[str]:
    left = CHARGED - max(plan.battery_used, plan.duration_s / vehicle.endurance_s)
    if left < envelope.min_battery_fraction:
        yield (
            f"the drones would land with {100.0 * max(left, 0.0):.0f} % of a charged battery, and return by "
            f"themselves at {100.0 * envelope.min_battery_fraction:.0f} %."
        )


def _refusals(
    phase: Phase, plan: MissionPlan, envelope: FlightEnvelope, vehicle: VehicleLimits
) -> Iterator[tuple[str, str]]:
    for row, drone in enumerate(plan.drones):
        east, north, up = plan.starts[row]
        home = (float(east), float(north), float(up))
        why = ""
        if phase.kind == "takeoff":
            why = _takeoff_refusal(phase.height_m, home, envelope)
        elif phase.kind == "move":
            path = Path(phase.knots[row])
            why = envelope.refuses_path(path, home) or _too_steep(path, vehicle)
        if why:
            yield drone, why


def _too_steep(path: Path, vehicle: VehicleLimits) -> str:
    height_m = path.sample(np.arange(0.0, path.duration_s + _SAMPLING_S, _SAMPLING_S))[:, 2]
    rate_m_s = np.diff(height_m) / _SAMPLING_S
    for what, fastest, limit in (
        ("climbs", rate_m_s.max(initial=0.0), vehicle.climb_m_s),
        ("descends", -rate_m_s.min(initial=0.0), vehicle.descent_m_s),
    ):
        if fastest > limit * _TOLERANCE:
            return f"the trajectory {what} at {fastest:.1f} m/s, its autopilot's limit is {limit:.1f} m/s"
    return ""


def _takeoff_refusal(height_m: float, home_enu_m: Vec3, envelope: FlightEnvelope) -> str:
    why = envelope.refuses_point((home_enu_m[0], home_enu_m[1], height_m), home_enu_m)
    climb_m, limit_s = height_m - home_enu_m[2], FollowerConfig("").takeoff_timeout_s
    if not why and climb_m < _CLEAR_M + PLACED_M:
        why = f"the height is {climb_m:.1f} m above its pad; {_CLEAR_M + PLACED_M:.2f} m are required"
    most_m = (limit_s - _TAKEOFF_DEAD_S) * _TAKEOFF_M_S
    if not why and climb_m > most_m:
        why = f"a take-off is limited to {limit_s:.0f} s and so to {most_m:.0f} m, not {climb_m:.0f} m"
    return why
