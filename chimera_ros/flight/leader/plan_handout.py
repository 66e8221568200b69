"""Plans are handed out: at rest before a move, and in flight when telemetry predicts a conflict."""

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
from .state import LeaderConfig, Situation, some

_SHORTEST_S = 2.0  # a path with less than this left is flown to its end
_MOST_ERROR_M = 2.0  # of a drone that deviates: beyond, all hold
_SEEN_M = 0.1  # added to the deviation measured


class Turning:
    """The paths that are being flown; a turn replaces them."""

    def __init__(self, paths: dict[str, Path], start_ns: int) -> None:
        self.command = 0
        self.looked_s = float("-inf")
        self.turns = 0
        self.set(paths, start_ns)

    def set(self, paths: dict[str, Path], start_ns: int) -> None:
        """These are flown from `start_ns` on."""
        self.paths, self.start_ns = paths, start_ns
        self.end_ns = start_ns + int(max(path.duration_s for path in paths.values()) * 1e9)


class PlanHandout:
    """Hands out trajectories, starts them, and turns drones to new ones in flight."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        known: DroneTracker,
        post: Outbox,
        moderation: ModerationClient,
        situation: Situation,
    ) -> None:
        self._config, self._mission, self._known = config, mission, known
        self._post, self._moderation, self._situation = post, moderation, situation

    def hand_out(self, parts: Mapping[str, KnotSequence], start_ns: int) -> Generator[None, None, str]:
        """Returns nothing once every drone has accepted its part, or what went wrong."""
        acks = self._post.new_plan()
        plan = [
            Trajectory(self._post.plan_id, self._config.term, name, start_ns, tuple(knots))
            for name, knots in parts.items()
        ]
        queue, again = list(plan), self._situation.now + self._config.retry_s
        while True:
            for ack in acks.values():
                if ack.status is not AckStatus.ACCEPTED and self._known.takes_part(ack.drone):
                    return f"{ack.drone} refused its trajectory: {ack.reason}"
            missing = [p for p in plan if p.drone not in acks and self._known.takes_part(p.drone)]
            if not missing:
                return ""
            if self._situation.ns > start_ns - 250_000_000:
                return f"{some([p.drone for p in missing])} did not acknowledge a trajectory"
            if not queue and self._situation.now >= again:
                queue, again = missing, self._situation.now + self._config.retry_s
            self._post.trajectories(queue[: self._config.burst])
            queue = queue[self._config.burst :]
            yield

    def follow(self, names: Sequence[str], start_ns: int) -> int:
        """Orders drones to fly the plan that was handed out last; returns the command's id."""
        return self._post.command(
            CommandKind.FOLLOW,
            names,
            plan_id=self._post.plan_id,
            deadline_ns=start_ns + 350_000_000,
            retry_s=0.12,
        )

    def risk(self, turning: Turning) -> Risk | None:
        """Who is predicted to come too near; looked at a few times a second, and only with moderation."""
        now = self._situation
        if not self._config.moderate or now.now - turning.looked_s < 0.4:
            return None
        turning.looked_s = now.now
        heard = {name: self._known.drones[name].telemetry for name in turning.paths}
        return predicted_risk(
            list(turning.paths), turning.paths, turning.start_ns, heard, now.ns, self._mission.separation_m
        )

    def turn(self, title: str, risk: Risk, turning: Turning) -> Generator[None, None, str]:
        """Lets all turn to new paths, which join on in motion; returns why all must hold instead."""
        now, names = self._situation, list(turning.paths)
        who = f"{risk.first} and {risk.second}"
        what = f"{who} are predicted {risk.distance_m:.2f} m apart in {risk.in_s:.1f} s"
        lead_s = deadline_for(len(names)) + self._config.turn_lead_s
        join_ns = now.ns + int((lead_s + self._config.lead_per_drone_s * len(names)) * 1e9)
        if join_ns + int(_SHORTEST_S * 1e9) > turning.end_ns:
            return ""
        error_m = max(TRACKING_MARGIN_M / 2.0, risk.error_m + _SEEN_M)
        # who would meet before anybody can turn is stopped now, not after the service has been asked
        too_soon = risk.in_s < (join_ns - now.ns) * 1e-9
        if too_soon or error_m > _MOST_ERROR_M or turning.turns >= self._config.attempts:
            return what
        turning.turns += 1
        at_s = (join_ns - turning.start_ns) * 1e-9
        wish = [rest_of(path, at_s) for path in turning.paths.values()]
        goals = np.array([knots[-1].position_enu_m for knots in wish])
        longest = 2.0 * max(knots[-1].t_s for knots in wish) + 20.0
        found = yield from self._moderation.improve(title, names, wish, goals, longest, error_m)
        if found is None:
            return what
        turning.looked_s = now.now + self._config.turn_again_s
        if found == tuple(wish):  # what is flown keeps them apart in spite of the deviation
            return ""
        self._post.event("replanned", f"{title}: {what}, all turn to new paths.")
        problem = yield from self.hand_out(dict(zip(names, found, strict=True)), join_ns)
        if problem:
            return f"{what}, but {problem}"
        turning.command = self.follow(names, join_ns)
        while self._situation.ns < join_ns:
            if any(not self._known.takes_part(name) for name in names):
                return f"{what}, but a drone got lost"
            yield
        turning.set({name: Path(knots) for name, knots in zip(names, found, strict=True)}, join_ns)
        return ""
