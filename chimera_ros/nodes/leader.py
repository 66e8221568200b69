"""Leader node: flies a checked mission by signed commands and trajectories; accepts operators' steps."""

from __future__ import annotations

import signal
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Sequence

from chimera_ros import swarm
from chimera_ros.crypto.errors import Rejected
from chimera_ros.flight.effects import MissionEvent, RequestModeration, SendCommand, SendTrajectory
from chimera_ros.flight.fallback import ACCEPTED_IN_FALLBACK
from chimera_ros.flight.leader.core import LeaderConfig, LeaderCore
from chimera_ros.flight.messages import SwarmCommand as Command
from chimera_ros.flight.moderation_call import ModerationRequest
from chimera_ros.flight.planning.mission_file import MissionError, load_mission
from chimera_ros.moderation.for_flight import local_moderate
from chimera_ros.moderation.warm_up import load_solvers
from chimera_ros.msg import CommandAcks, DroneTelemetry, LeaderHeartbeat, SwarmCommands, Trajectory
from chimera_ros.node_parameters import LeaderParameters
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.parent_watch import LANDING_S
from chimera_ros.records.process_status import LeaderStatus, ModerationTotals
from chimera_ros.records.status_fields import StatusFields
from chimera_ros.ros import convert, convert_moderation, names
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import SetupError, boot_time_s
from chimera_ros.ros.log import log
from chimera_ros.ros.qkd import TICK_S as QKD_TICK_S
from chimera_ros.ros.services import Reply, SecureClient
from chimera_ros.ros.session import SecureSession
from chimera_ros.srv import ModerateTrajectories, SubmitSteps
from chimera_ros.stop_requests import handle_unless_ignored

from .entropy import LeaderQkd

TICK_HZ = 20.0
HEARTBEAT_HZ = 10.0
STATUS_S = 0.5
MAX_ANSWERS = 16
MAX_COMMANDS = 64  # per message, the bound of SwarmCommands.msg
STAMP_AHEAD_NS = 500_000_000  # above the largest difference of clocks
REPLY_MARGIN_S = 1.0  # a moderation call times out so long after its deadline; the core has continued by then
SENDS_PER_TICK = 16  # each takes a signature of about a millisecond: a large plan is sent over several ticks


class LeaderNode(MemberNode[LeaderParameters]):
    """Publishes the commands, trajectories and heartbeats of `LeaderCore`.

    The core receives telemetry, acknowledgements, operators' steps and the responses of path moderation.
    """

    def __init__(self) -> None:
        super().__init__("leader", LeaderParameters)
        self._qkd: LeaderQkd | None = None
        self._events: list[str] = []
        self._answers: OrderedDict[tuple[str, str], SubmitSteps.Response] = OrderedDict()
        self._outbox: deque[SendCommand | SendTrajectory] = deque()
        self._commands_sent = 0
        self._moderation: SecureClient | None = None
        self._landing_requested = False
        self._degraded = False
        self._ending_since_s: float | None = None  # the process ends once all drones have landed

    def setup(self) -> None:
        """Load mission and keys."""
        values = self.parameters
        try:
            mission = load_mission(values.mission)
        except MissionError as error:
            raise SetupError(str(error)) from None
        load_solvers(time.monotonic)  # an operator's steps may be the first to need them, in flight
        drones = [swarm.drone_name(number) for number in range(1, values.drones + 1)]
        # The term rises with every start, so that command ids of an earlier leader are no duplicates.
        config = LeaderConfig(
            leader=values.member,
            term=int(time.time()) & 0xFFFFFFFF,
            ready_timeout_s=values.ready_timeout_s,
            moderate=values.moderation,
        )
        self._core = LeaderCore(config, mission, drones, local_moderate(time.monotonic))
        self._session = session = SecureSession(
            self,
            member=values.member,
            keystore=values.keystore,
            passphrase=self.key_passphrase(),
            autostart=False,
        )
        self._command_publisher = session.create_publisher(SwarmCommands, names.LEADER_COMMAND)
        self._trajectory_publisher = session.create_publisher(Trajectory, names.LEADER_TRAJECTORY)
        self._heartbeat_publisher = session.create_publisher(LeaderHeartbeat, names.LEADER_HEARTBEAT)
        for drone in drones:
            session.create_subscription(DroneTelemetry, names.telemetry(drone), self._on_telemetry)
            session.create_subscription(CommandAcks, names.ack(drone), self._on_ack)
        session.create_service(SubmitSteps, names.LEADER_STEPS, self._on_submit)
        if values.moderation:
            self._moderation = session.create_client(ModerateTrajectories, names.PATH_MODERATION)

    def begin(self) -> None:
        """Join the swarm; SIGUSR1 requests a supervised landing."""
        self.session.start()
        handle_unless_ignored(signal.SIGUSR1, self._request_landing)
        if self.parameters.qkd and self._qkd is None:
            try:
                self._qkd = LeaderQkd(self.session, self.parameters.member, self.parameters.qkd_eavesdropper)
            except PermissionError as error:
                self.session.alarm("warning", f"no quantum key distribution: {error}; sign a newer policy")
        self._periodic = [
            self.create_steady_timer(1.0 / TICK_HZ, self._tick),
            self.create_steady_timer(1.0 / HEARTBEAT_HZ, self._send_heartbeat),
            self.create_steady_timer(STATUS_S, self._report_status),
        ]
        if self._qkd is not None:
            self._periodic.append(self.create_steady_timer(QKD_TICK_S, self._qkd.tick))

    def pause(self) -> None:
        """Stop sending; followers hold, then return."""
        for timer in self._periodic:
            self.destroy_timer(timer)

    def close(self) -> None:
        """Leave the swarm."""
        if self._qkd is not None:
            self._qkd.close()
            self._qkd = None
        super().close()

    def stop_requested(self, count: int) -> bool:
        """Land all drones before the process ends; True until they have landed.

        A supervisor that still runs requests the landing itself (SIGUSR1).
        """
        if count > 1 or not self.active or self._core.finished or self._status.attached:
            return False
        self._landing_requested = True
        self._ending_since_s = boot_time_s()
        return True

    def _request_landing(self, *_: object) -> None:
        self._landing_requested = True

    def _tick(self) -> None:
        session = self._session
        if session is None:
            return
        now, swarm_ns = boot_time_s(), session.swarm_ns()
        degraded = session.degraded
        if degraded and not self._degraded and session.epoch() is not None:  # it had joined before
            self._outbox.clear()
            self._core.return_all("no beats from any crypto node, the swarm returns", now, swarm_ns)
        self._degraded = degraded
        if self._landing_requested:
            self._landing_requested = False
            self._core.abort_and_land("termination requested", now, swarm_ns)
        for effect in self._core.tick(now, swarm_ns):
            if isinstance(effect, MissionEvent):
                self._events.append(effect.text)
                log(self, "info", effect.text)
            elif isinstance(effect, RequestModeration):
                self._ask_moderation(effect.call)
            else:
                self._outbox.append(effect)
        if session.ready or degraded:
            self._send_queued()
        if self._ending_since_s is not None and self._may_end(now - self._ending_since_s):
            self.stop_spinning()

    def _may_end(self, landing_s: float) -> bool:
        """True once all have landed, or nobody is left to end a landing that takes too long."""
        if not self._core.finished and landing_s > LANDING_S and self.is_orphaned():
            log(self, "error", f"the swarm had not landed {LANDING_S:g} s after the parent ended")
            return True
        return self._core.finished

    def _send_queued(self) -> None:
        """Send the queue in order; consecutive commands share one signature."""
        for _ in range(SENDS_PER_TICK):
            if not self._outbox:
                return
            effect = self._outbox.popleft()
            if self._degraded and not (
                isinstance(effect, SendCommand) and effect.command.kind in ACCEPTED_IN_FALLBACK
            ):
                continue
            if isinstance(effect, SendTrajectory):
                self._trajectory_publisher.publish(convert.trajectory_to_msg(effect.trajectory))
                continue
            commands = [effect.command]
            while self._outbox and len(commands) < MAX_COMMANDS:
                following = self._outbox[0]
                if not isinstance(following, SendCommand):
                    break
                commands.append(following.command)
                self._outbox.popleft()
            self.send_commands(commands)

    def send_commands(self, commands: Sequence[Command]) -> None:
        """Publish commands under one signature, `MAX_COMMANDS` at most."""
        self._command_publisher.publish(SwarmCommands(commands=[convert.command_to_msg(c) for c in commands]))
        self._commands_sent += len(commands)

    def _send_heartbeat(self) -> None:
        session = self._session
        if session is None or not session.ready:
            return
        heartbeat = self._core.heartbeat(
            boot_time_s(), session.host.transcript_hash(self.parameters.member) or b""
        )
        self._heartbeat_publisher.publish(convert.heartbeat_to_msg(heartbeat))

    def _ask_moderation(self, call: ModerationRequest) -> None:
        client = self._moderation
        if client is None or not client.service_is_ready():
            self._core.on_moderation_failed(call.call_id, "path_moderation is not available")
            return

        def done(reply: Reply) -> None:
            if reply.response is None:
                self._core.on_moderation_failed(call.call_id, reply.failure or "no answer")
                return
            try:
                answer = convert_moderation.moderation_answer_from_msg(reply.response, call.call_id)
            except convert.ConversionError as error:
                self._core.on_moderation_failed(call.call_id, str(error))
            else:
                self._core.on_moderation(answer, boot_time_s())

        try:
            client.call_async(
                convert_moderation.moderation_request_to_msg(call), call.deadline_s + REPLY_MARGIN_S, done
            )
        except (
            Rejected,
            ValueError,
        ) as error:  # larger than an envelope, or forbidden by the policy
            self._core.on_moderation_failed(call.call_id, f"the call cannot be sent ({type(error).__name__})")

    def _on_telemetry(self, message: DroneTelemetry, sender: str) -> None:
        swarm_ns = self.session.swarm_ns()
        # The core keeps the newest stamp: one from the future would displace all that follow.
        if message.drone == sender and message.stamp_ns <= swarm_ns + STAMP_AHEAD_NS:
            self._core.on_telemetry(convert.telemetry_from_msg(message), boot_time_s(), swarm_ns)

    def _on_ack(self, message: CommandAcks, sender: str) -> None:
        for ack in message.acks:
            if ack.drone == sender:
                self._core.on_ack(convert.ack_from_msg(ack), boot_time_s(), self.session.swarm_ns())

    def _on_submit(self, request: SubmitSteps.Request, sender: str) -> SubmitSteps.Response:
        # An operator without an answer repeats the same text, which holds a number: it is executed once.
        key = (sender, request.steps_yaml)
        if key in self._answers:
            return self._answers[key]
        accepted, reason = self._core.on_submit(request.steps_yaml, boot_time_s(), self.session.swarm_ns())
        word = "accepted" if accepted else "refused"
        self._events.append(
            f"{sender}'s order was {word}: {reason}" if reason else f"{sender}'s order was {word}"
        )
        answer = SubmitSteps.Response(accepted=accepted, reason=reason[:500])
        self._answers[key] = answer
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)
        return answer

    def _moderation_totals(self, now: float) -> ModerationTotals:
        totals = ModerationTotals.from_json(StatusFields(self._core.status(now)).inner("moderation"))
        for ms in self._core.moderation_ms:
            totals.ms.add(ms)
        return totals

    def _report_status(self) -> None:
        if self._session is None:
            return
        events, self._events = self._events[:100], []
        now = boot_time_s()
        self.report(
            LeaderStatus(
                phase=self._core.phase,
                mission_time_s=round(self._core.mission_time_s(now), 2),
                finished=self._core.finished and not self._outbox,
                completed=self._core.completed,
                failure=self._core.failure,
                lost=self._core.lost,
                events=tuple(events),
                commands_sent=self._commands_sent,
                moderation=self._moderation_totals(now),
            )
        )


def main(args: list[str] | None = None) -> int:
    """Run the leader."""
    return run_node(LeaderNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
