"""Leader core: executes a checked mission step by step. Events in, effects out; no clock, no socket.

The core passes events and time to its parts, which share one `LeaderState`: `MissionScript` orders the steps,
`Manoeuvres` executes them with the drones, `DroneTracker` keeps telemetry and detects losses, `Outbox` sends
commands, retransmits them and collects acknowledgements.
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
from .state import LeaderConfig, LeaderState, MissionFailed, Routine, name_list

__all__ = ["LeaderConfig", "LeaderCore"]


class LeaderCore:
    """Runs one mission for the named drones; `now` is monotonic seconds, `swarm_ns` swarm time."""

    def __init__(
        self,
        config: LeaderConfig,
        mission: Mission,
        drones: Sequence[str],
        moderate: Moderate | None = None,
    ) -> None:
        """`moderate` plans moderated steps before take-off; in flight the shell calls path moderation, if
        `config.moderate` is set.
        """
        self.config = config
        self.mission = mission
        self.drones = tuple(drones)
        self._state = LeaderState()
        self._outbox = Outbox(config, self._state)
        self._tracker = DroneTracker(config, mission, drones, self._outbox, self._state)
        self._moderation = ModerationClient(config, mission, self._outbox, self._state)
        manoeuvres = Manoeuvres(config, mission, self._tracker, self._outbox, self._moderation, self._state)
        self._mission_script = MissionScript(
            mission, self._tracker, self._outbox, manoeuvres, self._state, moderate
        )
        self._started_s: float | None = None
        self._routine: Routine | None = self._mission_script.main() if mission.steps else None
        if self._routine is None:
            self._state.phase = "idle"

    # ---- events ----------------------------------------------------------------------------------

    def on_telemetry(self, telemetry: DroneTelemetry, now: float, swarm_ns: int) -> None:
        """A drone's verified telemetry; unknown drones are ignored."""
        self._tracker.on_telemetry(telemetry, now)

    def on_ack(self, ack: CommandAck, now: float, swarm_ns: int) -> None:
        """A drone's verified acknowledgement; those of another term are ignored."""
        if ack.term == self.config.term and ack.drone in self._tracker.drones:
            self._outbox.on_ack(ack)

    def on_moderation(self, answer: ModerationAnswer, now: float) -> None:
        """The answer to a `RequestModeration`; its paths are checked before they are flown."""
        self._moderation.on_answer(answer, now)

    def on_moderation_failed(self, call_id: int, why: str) -> None:
        """A `RequestModeration` has failed: no answer will come."""
        self._moderation.on_failure(call_id, why)

    def on_submit(self, steps_yaml: str, now: float, swarm_ns: int) -> tuple[bool, str]:
        """An operator's steps, which replace the rest of the mission, planned from present positions.

        Returns True and what will be flown, or False and why the steps are refused.
        """
        state = self._state
        if state.stopping and not self.finished and not state.operator_stop:
            return False, "the swarm is being landed"
        try:
            steps = parse_steps(steps_yaml)
        except MissionError as error:
            return False, str(error)[:500]
        state.now, state.swarm_ns = now, swarm_ns
        if state.operator_stop and [type(s) for s in steps] == [Land]:
            # A drone under an operator's stop refuses trajectories: it lands in place.
            self._routine = self._mission_script.abort()
            return True, "landing"
        held = self._tracker.operator_stopped()
        if held:
            return False, f"{name_list(held)} was stopped by an operator: only a land step is left"
        plan = self._mission_script.plan_from_here(steps)
        if isinstance(plan, str):
            return False, plan[:500]
        if not plan.ok:
            return False, " ".join(plan.verdict.reasons)[:500]
        if self._routine is not None or (self.mission.steps and not self.finished):
            state.failure = state.failure or "an operator's steps replaced the rest of the mission."
        state.ended_s, state.stopping = None, False
        self._routine = self._mission_script.submitted(steps)
        return True, f"{len(steps)} step(s) for {len(plan.drones)} drones, about {plan.duration_s:.0f} s"

    def abort_and_land(self, reason: str, now: float, swarm_ns: int) -> None:
        """Ends the mission: hold, fly to free pads, land; where that fails, land in place.

        A swarm that an operator's stop holds in the air lands in place.
        """
        if self.finished or (self._state.stopping and not self._state.operator_stop):
            return
        self._state.now, self._state.swarm_ns = now, swarm_ns
        self._fail(reason)

    def return_all(self, reason: str, now: float, swarm_ns: int) -> None:
        """Ends the mission: every drone in the air returns to its pad and lands."""
        if self.finished:
            return
        self._state.now, self._state.swarm_ns = now, swarm_ns
        self._fail(reason)
        self._routine = self._mission_script.return_all()

    # ---- time ------------------------------------------------------------------------------------

    def tick(self, now: float, swarm_ns: int) -> list[LeaderEffect]:
        """Advances the mission; to be called at 20 Hz or more."""
        self._state.now, self._state.swarm_ns = now, swarm_ns
        if self._started_s is None:
            self._started_s = now
        stopped = self._tracker.check()
        if stopped:
            reason = self._tracker.reason(stopped)
            self._state.failure = f"{stopped} was stopped: {reason}."
            self._routine = self._mission_script.stopped(f"{stopped}: {reason}")
        if self._routine is not None:
            try:
                next(self._routine)
            except StopIteration:
                self._routine = None
            except MissionFailed as failed:
                self._routine = None
                if self._state.stopping:
                    self._mission_script.end(str(failed))
                else:
                    self._fail(str(failed))
        self._outbox.resend()
        return self._outbox.collect()

    def _fail(self, reason: str) -> None:
        """The mission has failed: retransmissions stop, all drones are landed."""
        state = self._state
        state.failure = (state.failure or reason).rstrip(".") + "."
        self._outbox.event("failed", state.failure)
        self._outbox.cancel_all()
        state.stopping = True
        self._routine = self._mission_script.abort()

    def heartbeat(self, now: float, transcript_hash: bytes = b"") -> LeaderHeartbeat:
        """The heartbeat to publish at 10 Hz."""
        return LeaderHeartbeat(
            self.config.leader, self.config.term, self._outbox.plan_id, self._outbox.command_id,
            transcript_hash, self.phase[:48], self.mission_time_s(now),
        )  # fmt: skip

    # ---- read-only view -------------------------------------------------------------------------

    @property
    def phase(self) -> str:
        """The present phase, a few words for people."""
        return self._state.phase

    @property
    def finished(self) -> bool:
        """True once the mission has ended, completed or not."""
        return self._state.ended_s is not None

    @property
    def completed(self) -> bool:
        """True if the mission was flown to its end."""
        return self._state.completed

    @property
    def failure(self) -> str | None:
        """Why the mission failed, one sentence."""
        return self._state.failure

    @property
    def plan(self) -> MissionPlan | None:
        """The plan of the whole mission; None without a mission."""
        return self._mission_script.plan

    def mission_time_s(self, now: float) -> float:
        """Seconds since the first tick, until the end."""
        ended_s = self._state.ended_s
        return 0.0 if self._started_s is None else (now if ended_s is None else ended_s) - self._started_s

    @property
    def moderation_ms(self) -> tuple[float, ...]:
        """Round-trip times of the newest path moderation calls."""
        return tuple(self._moderation.ms)

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the lost drones."""
        return self._tracker.lost

    @property
    def lost_reasons(self) -> dict[str, str]:
        """Why each lost drone is lost."""
        return {d.name: d.lost for d in self._tracker.drones.values() if d.lost}

    def status(self, now: float) -> dict[str, object]:
        """State and counters for status and report."""
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
                d.name: round(now - d.received_s, 2) if d.telemetry is not None else None
                for d in self._tracker.drones.values()
            },
        }
