"""The heart of the leader: flies a checked mission step by step. Events in, effects out; no clock, no socket.

The core itself only hands events and time to its parts, which share where the mission stands
(`state`): `MissionScript` says what happens, `Manoeuvres` makes the drones do it, `DroneTracker` knows the
drones and watches for losses, `Outbox` sends, repeats and collects the answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..effects import LeaderEffect
from ..messages import CommandAck, DroneTelemetry, LeaderHeartbeat
from ..moderation_call import Moderate, ModerationAnswer
from ..planning.mission import Land, Mission
from ..planning.mission_file import MissionError, parse_steps
from ..planning.planner import MissionPlan
from .drone_tracker import DroneTracker
from .manoeuvres import Manoeuvres
from .mission_script import MissionScript
from .moderation_client import ModerationClient
from .outbox import Outbox
from .state import LeaderConfig, LeaderState, MissionFailed, Routine, abbreviated

__all__ = ["LeaderConfig", "LeaderCore"]


class LeaderCore:
    """Runs one mission for the named drones; times as in `FollowerCore`."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        drones: Sequence[str],
        moderate: Moderate | None = None,
    ) -> None:
        """`moderate` plans moderated steps before take-off; in flight the shell asks (`config.moderate`)."""
        self.config = config
        self.mission = mission
        self.drones = tuple(drones)
        self._situation = LeaderState()
        self._post = Outbox(config, self._situation)
        self._known = DroneTracker(config, mission, drones, self._post, self._situation)
        self._moderation = ModerationClient(config, mission, self._post, self._situation)
        fly = Manoeuvres(config, mission, self._known, self._post, self._moderation, self._situation)
        self._scripts = MissionScript(mission, self._known, self._post, fly, self._situation, moderate)
        self._began: float | None = None
        self._script: Routine | None = self._scripts.main() if mission.steps else None
        if self._script is None:
            self._situation.phase = "idle"

    # ---- events ----------------------------------------------------------------------------------

    def on_telemetry(self, telemetry: DroneTelemetry, now: float, swarm_ns: int) -> None:
        """A drone's verified telemetry; unknown drones are ignored."""
        self._known.hear(telemetry, now)

    def on_ack(self, ack: CommandAck, now: float, swarm_ns: int) -> None:
        """A drone's verified answer to a command or trajectory of this term."""
        if ack.term == self.config.term and ack.drone in self._known.drones:
            self._post.heard(ack)

    def on_moderation(self, answer: ModerationAnswer, now: float) -> None:
        """What path moderation says to an `AskModeration`; it is checked before anything of it is flown."""
        self._moderation.heard(answer, now)

    def on_moderation_failed(self, call_id: int, why: str) -> None:
        """There will be no answer to an `AskModeration`."""
        self._moderation.failed(call_id, why)

    def on_submit(self, steps_yaml: str, now: float, swarm_ns: int) -> tuple[bool, str]:
        """An operator's steps to fly now instead of what remains: checked from present positions, then flown.

        Returns whether they are accepted, and why not or what will be done.
        """
        situation = self._situation
        if situation.stopping and not self.finished and self.phase != "stopped":
            return False, "the swarm is being landed"
        try:
            steps = parse_steps(steps_yaml)
        except MissionError as error:
            return False, str(error)[:500]
        situation.now, situation.ns = now, swarm_ns
        if self.phase == "stopped" and [type(s) for s in steps] == [Land]:
            self._script = self._scripts.abort()  # what an operator has stopped takes no plan: it lands there
            return True, "landing"
        held = self._known.stopped()
        if held:
            return False, f"{abbreviated(held)} was stopped by an operator: only a land step is left"
        plan = self._scripts.plan_from_here(steps)
        if isinstance(plan, str):
            return False, plan[:500]
        if not plan.ok:
            return False, " ".join(plan.verdict.reasons)[:500]
        if self._script is not None or (self.mission.steps and not self.finished):
            situation.failure = situation.failure or "an operator's steps replaced the rest of the mission."
        situation.ended_s, situation.stopping = None, False
        self._script = self._scripts.submitted(steps)
        return True, f"{len(steps)} step(s) for {len(plan.drones)} drones, about {plan.duration_s:.0f} s"

    def abort_and_land(self, reason: str, now: float, swarm_ns: int) -> None:
        """Ends the mission: hold, fly to free pads, land; where that cannot be done, land in place.

        That goes for a swarm which an operator's stop holds in the air, too: it all lands in place.
        """
        if self.finished or (self._situation.stopping and self.phase != "stopped"):
            return
        self._situation.now, self._situation.ns = now, swarm_ns
        self._fail(reason)

    def come_home(self, reason: str, now: float, swarm_ns: int) -> None:
        """Ends the mission: everyone in the air returns to its pad and lands there."""
        if self.finished:
            return
        self._situation.now, self._situation.ns = now, swarm_ns
        self._fail(reason)
        self._script = self._scripts.come_home()

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, now: float, swarm_ns: int) -> list[LeaderEffect]:
        """Advances the mission; call it at 20 Hz or more."""
        self._situation.now, self._situation.ns = now, swarm_ns
        if self._began is None:
            self._began = now
        stopped = self._known.watch()
        if stopped:
            reason = self._known.reason(stopped)
            self._situation.failure = f"{stopped} was stopped: {reason}."
            self._script = self._scripts.stopped(f"{stopped}: {reason}")
        if self._script is not None:
            try:
                next(self._script)
            except StopIteration:
                self._script = None
            except MissionFailed as failed:
                self._script = None
                if self._situation.stopping:
                    self._scripts.end(str(failed))
                else:
                    self._fail(str(failed))
        self._post.resend()
        return self._post.collect()

    def _fail(self, reason: str) -> None:
        """Something went wrong: nothing that was sent is repeated, everyone is landed."""
        situation = self._situation
        situation.failure = (situation.failure or reason).rstrip(".") + "."
        self._post.event("failed", situation.failure)
        self._post.forget_all()
        situation.stopping = True
        self._script = self._scripts.abort()

    def heartbeat(self, now: float, transcript_hash: bytes = b"") -> LeaderHeartbeat:
        """What to publish at 10 Hz."""
        return LeaderHeartbeat(
            self.config.leader, self.config.term, self._post.plan_id, self._post.command_id, transcript_hash,
            self.phase[:48], self.mission_time_s(now),
        )  # fmt: skip

    # ---- what others may look at -----------------------------------------------------------------

    @property
    def phase(self) -> str:
        """What happens now, in a few words."""
        return self._situation.phase

    @property
    def finished(self) -> bool:
        """The mission is over, well or not."""
        return self._situation.ended_s is not None

    @property
    def completed(self) -> bool:
        """The mission was flown to its end."""
        return self._situation.completed

    @property
    def failure(self) -> str | None:
        """Why it was not, as a sentence."""
        return self._situation.failure

    @property
    def plan(self) -> MissionPlan | None:
        """The whole mission's plan; None where there is no mission."""
        return self._scripts.plan

    def mission_time_s(self, now: float) -> float:
        """Seconds since the first tick, until the end."""
        ended_s = self._situation.ended_s
        return 0.0 if self._began is None else (now if ended_s is None else ended_s) - self._began

    @property
    def moderation_ms(self) -> tuple[float, ...]:
        """How long the newest calls of path moderation took, from asking to hearing."""
        return tuple(self._moderation.ms)

    @property
    def lost(self) -> tuple[str, ...]:
        """Drones that no longer take part."""
        return self._known.lost

    @property
    def lost_reasons(self) -> dict[str, str]:
        """Why each lost drone no longer takes part."""
        return {d.name: d.lost for d in self._known.drones.values() if d.lost}

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
            "moderation": self._moderation.status(),
            "last_heard_s": {
                d.name: round(now - d.heard_s, 2) if d.telemetry is not None else None
                for d in self._known.drones.values()
            },
        }
