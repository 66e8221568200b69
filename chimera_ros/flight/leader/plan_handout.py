"""Plan hand-out: distributes trajectories before a move, and re-plans in flight.

A plan starts only when every drone has acknowledged its trajectory. In flight, a conflict predicted from
telemetry makes all switch to moderated paths at a common time; where that is not possible all hold.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from ..messages import AckStatus, CommandKind, Trajectory
from ..moderation_call import KnotSequence, deadline_for
from ..planning.mission import Mission
from ..planning.planner import TRACKING_MARGIN_M
from ..planning.prediction import Risk, predicted_risk
from ..trajectory import Path, rest_of
from .drone_tracker import DroneTracker
from .moderation_client import ModerationClient
from .outbox import Outbox
from .state import LeaderConfig, LeaderState, name_list

_SHORTEST_S = 2.0  # no re-plan of paths with less than this left
_MAX_ERROR_M = 2.0  # deviation of a drone from its path beyond which all hold
_MARGIN_M = 0.1  # added to the measured deviation


class ActivePaths:
    """Active paths of a move; replaced by an in-flight re-plan."""

    def __init__(self, paths: dict[str, Path], start_ns: int) -> None:
        self.command = 0  # id of the newest FOLLOW, 0 until a re-plan
        self.checked_s = float("-inf")
        self.replans = 0
        self.set(paths, start_ns)

    def set(self, paths: dict[str, Path], start_ns: int) -> None:
        """Replaces the paths; they start at `start_ns`."""
        self.paths, self.start_ns = paths, start_ns
        self.end_ns = start_ns + int(max(path.duration_s for path in paths.values()) * 1e9)


class PlanHandout:
    """Distributes and starts trajectories, and replaces them in flight."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        tracker: DroneTracker,
        outbox: Outbox,
        moderation: ModerationClient,
        state: LeaderState,
    ) -> None:
        self._config, self._mission, self._tracker = config, mission, tracker
        self._outbox, self._moderation, self._state = outbox, moderation, state

    def hand_out(self, parts: Mapping[str, KnotSequence], start_ns: int) -> Generator[None, None, str]:
        """Distributes a plan; returns an empty string once all have accepted it, or what failed."""
        acks = self._outbox.new_plan()
        plan = [
            Trajectory(self._outbox.plan_id, self._config.term, name, start_ns, tuple(knots))
            for name, knots in parts.items()
        ]
        queue, again = list(plan), self._state.now + self._config.retry_s
        while True:
            for ack in acks.values():
                if ack.status is not AckStatus.ACCEPTED and self._tracker.active(ack.drone):
                    return f"{ack.drone} refused its trajectory: {ack.reason}"
            missing = [p for p in plan if p.drone not in acks and self._tracker.active(p.drone)]
            if not missing:
                return ""
            if self._state.swarm_ns > start_ns - 250_000_000:
                return f"{name_list([p.drone for p in missing])} did not acknowledge a trajectory"
            if not queue and self._state.now >= again:
                queue, again = missing, self._state.now + self._config.retry_s
            self._outbox.send_trajectories(queue[: self._config.burst])
            queue = queue[self._config.burst :]
            yield

    def start(self, names: Sequence[str], start_ns: int) -> int:
        """Commands drones to follow the newest plan; returns the command's id."""
        return self._outbox.command(
            CommandKind.FOLLOW,
            names,
            plan_id=self._outbox.plan_id,
            deadline_ns=start_ns + 350_000_000,
            retry_s=0.12,
        )

    def check_risk(self, active: ActivePaths) -> Risk | None:
        """The predicted conflict, if any; computed every 0.4 s at most, and only with path moderation."""
        state = self._state
        if not self._config.moderate or state.now - active.checked_s < 0.4:
            return None
        active.checked_s = state.now
        telemetry = {name: self._tracker.drones[name].telemetry for name in active.paths}
        return predicted_risk(
            list(active.paths),
            active.paths,
            active.start_ns,
            telemetry,
            state.swarm_ns,
            self._mission.separation_m,
        )

    def replan_in_flight(self, title: str, risk: Risk, active: ActivePaths) -> Generator[None, None, str]:
        """Makes all switch to new paths that join the present ones in motion.

        Returns why all must hold instead, or an empty string.
        """
        state, names = self._state, list(active.paths)
        pair = f"{risk.first} and {risk.second}"
        conflict = f"{pair} are predicted {risk.distance_m:.2f} m apart in {risk.in_s:.1f} s"
        lead_s = deadline_for(len(names)) + self._config.replan_lead_s
        join_ns = state.swarm_ns + int((lead_s + self._config.lead_per_drone_s * len(names)) * 1e9)
        if join_ns + int(_SHORTEST_S * 1e9) > active.end_ns:
            return ""
        error_m = max(TRACKING_MARGIN_M / 2.0, risk.error_m + _MARGIN_M)
        # drones that would meet before the switch must hold now, not after the service has answered
        too_soon = risk.in_s < (join_ns - state.swarm_ns) * 1e-9
        if too_soon or error_m > _MAX_ERROR_M or active.replans >= self._config.attempts:
            return conflict
        active.replans += 1
        at_s = (join_ns - active.start_ns) * 1e-9
        wish = [rest_of(path, at_s) for path in active.paths.values()]
        goals = np.array([knots[-1].position_enu_m for knots in wish])
        longest = 2.0 * max(knots[-1].t_s for knots in wish) + 20.0
        found = yield from self._moderation.request(title, names, wish, goals, longest, error_m)
        if found is None:
            return conflict
        active.checked_s = state.now + self._config.replan_interval_s
        if found == tuple(wish):  # the active paths are conflict-free in spite of the deviation
            return ""
        self._outbox.event("replanned", f"{title}: {conflict}, all switch to new paths.")
        problem = yield from self.hand_out(dict(zip(names, found, strict=True)), join_ns)
        if problem:
            return f"{conflict}, but {problem}"
        active.command = self.start(names, join_ns)
        while self._state.swarm_ns < join_ns:
            if any(not self._tracker.active(name) for name in names):
                return f"{conflict}, but a drone is lost"
            yield
        active.set({name: Path(knots) for name, knots in zip(names, found, strict=True)}, join_ns)
        return ""
