"""The leader: flies a checked mission by signed commands and trajectories, and takes an operator's steps."""

from __future__ import annotations

import signal
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from chimera_ros import swarm
from chimera_ros.crypto.errors import Rejected
from chimera_ros.flight.effects import AskModeration, MissionEvent, SendCommand, SendTrajectory
from chimera_ros.flight.follower.degraded import OBEYED
from chimera_ros.flight.leader.core import LeaderConfig, LeaderCore
from chimera_ros.flight.messages import SwarmCommand as Command
from chimera_ros.flight.moderation_call import ModerationRequest
from chimera_ros.flight.planning.mission_file import load_mission
from chimera_ros.moderation.for_flight import local_moderate
from chimera_ros.msg import CommandAcks, DroneTelemetry, LeaderHeartbeat, SwarmCommands, Trajectory
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.records.histogram import Histogram
from chimera_ros.ros import convert, convert_moderation, names
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import SetupError, boot_time_s
from chimera_ros.ros.parameters import parameter
from chimera_ros.ros.qkd import TICK_S as QKD_TICK_S
from chimera_ros.ros.services import Reply, SecureClient
from chimera_ros.ros.session import SecureSession
from chimera_ros.srv import ModerateTrajectories, SubmitSteps

from .entropy import LeaderQkd

TICK_HZ = 20.0
HEARTBEAT_HZ = 10.0
STATUS_S = 0.5
ANSWERS_KEPT = 16
MOST_COMMANDS = 64  # per message, the bound of SwarmCommands.msg
STAMP_AHEAD_NS = 500_000_000  # beyond what clocks may differ
UNHEARD_S = 1.0  # beyond its deadline a call of path moderation is kept open: the core has gone on by then
SENDS_PER_TICK = (
    16  # each costs a signature of about a millisecond: a plan for a large swarm leaves in pieces
)


@dataclass(frozen=True)
class LeaderParameters:
    """Parameters of the leader."""

    keystore: str = parameter("", "folder of the swarm's keystore")
    member: str = parameter(swarm.LEADER_MEMBER, "name of this node's identity")
    mission: str = parameter("", "mission file to fly")
    drones: int = parameter(1, "how many drones the swarm has", ge=1, le=swarm.MAX_DRONES)
    ready_timeout_s: float = parameter(60.0, "how long to wait for every drone to be ready", ge=5.0, le=600.0)
    qkd: bool = parameter(False, "take part in (simulated) quantum key distribution with the crypto node")
    qkd_eavesdropper: float = parameter(
        0.0, "fraction of the simulated photons that somebody intercepts", ge=0.0, le=1.0
    )
    moderation: bool = parameter(
        True, "ask path moderation before every move and when a conflict is predicted"
    )
    autostart: bool = parameter(True, "configure and activate without being asked")


class LeaderNode(MemberNode[LeaderParameters]):
    """Wires `LeaderCore` (mission) and `SecureSession` (the swarm)."""

    def __init__(self) -> None:
        super().__init__("leader", LeaderParameters)
        self._qkd: LeaderQkd | None = None
        self._events: list[str] = []
        self._answered: OrderedDict[tuple[str, str], SubmitSteps.Response] = OrderedDict()
        self._outbox: deque[SendCommand | SendTrajectory] = deque()
        self._commands_sent = 0
        self._moderation: SecureClient | None = None
        self._land_asked = False
        self._degraded = False
        self._ending = False  # the process ends as soon as everything has landed

    def setup(self) -> None:
        """Load mission and keys."""
        values = self.parameters
        try:
            mission = load_mission(values.mission)
        except (OSError, ValueError) as error:
            raise SetupError(f"mission {values.mission}: {error}") from None
        drones = [swarm.drone_name(number) for number in range(1, values.drones + 1)]
        # A term that rises with every start: command ids of an earlier leader are no duplicates.
        config = LeaderConfig(
            leader=values.member,
            term=int(time.time()) & 0xFFFFFFFF,
            ready_timeout_s=values.ready_timeout_s,
            moderate=values.moderation,
        )
        self._core = LeaderCore(config, mission, drones, local_moderate(time.monotonic))
        self._session = session = SecureSession(
            self, member=values.member, keystore=values.keystore, autostart=False
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
        """Join the swarm; SIGUSR1 from the own host asks for a supervised landing."""
        self.session.start()
        signal.signal(signal.SIGUSR1, self._ask_to_land)
        if self.parameters.qkd and self._qkd is None:
            try:
                self._qkd = LeaderQkd(self.session, self.parameters.member, self.parameters.qkd_eavesdropper)
            except PermissionError as error:
                self.session.alarm("warning", f"no quantum key distribution: {error}; sign a newer policy")
        self._periodic = [
            self.create_steady_timer(1.0 / TICK_HZ, self._tick),
            self.create_steady_timer(1.0 / HEARTBEAT_HZ, self._beat),
            self.create_steady_timer(STATUS_S, self._report_status),
        ]
        if self._qkd is not None:
            self._periodic.append(self.create_steady_timer(QKD_TICK_S, self._qkd.tick))

    def pause(self) -> None:
        """Stop leading; followers hold, then return."""
        for timer in self._periodic:
            self.destroy_timer(timer)

    def close(self) -> None:
        """Leave the swarm."""
        if self._qkd is not None:
            self._qkd.close()
            self._qkd = None
        super().close()

    def stop_requested(self, count: int) -> bool:
        """Asked to end: land everything first; True while that is under way.

        Where a parent supervises this process, the landing is the parent's to ask for (SIGUSR1).
        """
        if count > 1 or not self.active or self._core.finished or self._status.attached:
            return False
        self._land_asked = self._ending = True
        return True

    def _ask_to_land(self, *_: object) -> None:
        self._land_asked = True

    def _tick(self) -> None:
        session = self._session
        if session is None:
            return
        now, swarm_ns = boot_time_s(), session.swarm_ns()
        degraded = session.degraded
        if degraded and not self._degraded and session.epoch() is not None:  # it has been in the swarm
            self._outbox.clear()
            self._core.come_home("no crypto node is heard any more, the swarm comes home", now, swarm_ns)
        self._degraded = degraded
        if self._land_asked:
            self._land_asked = False
            self._core.abort_and_land("asked to end", now, swarm_ns)
        for effect in self._core.tick(now, swarm_ns):
            if isinstance(effect, MissionEvent):
                self._events.append(effect.text)
                self.get_logger().info(effect.text)
            elif isinstance(effect, AskModeration):
                self._ask_moderation(effect.call)
            else:
                self._outbox.append(effect)
        if session.ready or degraded:
            self._send_some()
        if self._core.finished and self._ending:
            self.stop_spinning()

    def _send_some(self) -> None:
        """Send what waits, in order; commands that follow each other leave under one signature."""
        for _ in range(SENDS_PER_TICK):
            if not self._outbox:
                return
            effect = self._outbox.popleft()
            if self._degraded and not (isinstance(effect, SendCommand) and effect.command.kind in OBEYED):
                continue
            if isinstance(effect, SendTrajectory):
                self._trajectory_publisher.publish(convert.trajectory_to_msg(effect.trajectory))
                continue
            commands = [effect.command]
            while self._outbox and len(commands) < MOST_COMMANDS:
                following = self._outbox[0]
                if not isinstance(following, SendCommand):
                    break
                commands.append(following.command)
                self._outbox.popleft()
            self.send_commands(commands)

    def send_commands(self, commands: Sequence[Command]) -> None:
        """Publish commands under one signature, `MOST_COMMANDS` at most."""
        self._command_publisher.publish(SwarmCommands(commands=[convert.command_to_msg(c) for c in commands]))
        self._commands_sent += len(commands)

    def _beat(self) -> None:
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
            self._core.on_moderation_failed(call.call_id, "path_moderation is not there")
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
                convert_moderation.moderation_request_to_msg(call), call.deadline_s + UNHEARD_S, done
            )
        except (
            Rejected,
            ValueError,
        ) as error:  # larger than an envelope, or the policy of this swarm forbids it
            self._core.on_moderation_failed(call.call_id, f"the call cannot be sent ({type(error).__name__})")

    def _on_telemetry(self, message: DroneTelemetry, sender: str) -> None:
        swarm_ns = self.session.swarm_ns()
        # The newest stamp wins, so one from the future would shut out all that follow.
        if message.drone == sender and message.stamp_ns <= swarm_ns + STAMP_AHEAD_NS:
            self._core.on_telemetry(convert.telemetry_from_msg(message), boot_time_s(), swarm_ns)

    def _on_ack(self, message: CommandAcks, sender: str) -> None:
        for ack in message.acks:
            if ack.drone == sender:
                self._core.on_ack(convert.ack_from_msg(ack), boot_time_s(), self.session.swarm_ns())

    def _on_submit(self, request: SubmitSteps.Request, sender: str) -> SubmitSteps.Response:
        # An operator who heard no answer asks again with the same text, which bears a number: done once.
        asked = (sender, request.steps_yaml)
        if asked in self._answered:
            return self._answered[asked]
        accepted, reason = self._core.on_submit(request.steps_yaml, boot_time_s(), self.session.swarm_ns())
        word = "accepted" if accepted else "refused"
        self._events.append(
            f"{sender}'s order was {word}: {reason}" if reason else f"{sender}'s order was {word}"
        )
        answer = SubmitSteps.Response(accepted=accepted, reason=reason[:500])
        self._answered[asked] = answer
        if len(self._answered) > ANSWERS_KEPT:
            self._answered.popitem(last=False)
        return answer

    def _moderation_times(self) -> dict[str, object]:
        times = Histogram()
        for ms in self._core.moderation_ms:
            times.add(ms)
        return times.to_status()

    def _report_status(self) -> None:
        if self._session is None:
            return
        events, self._events = self._events[:100], []
        core_status = self._core.status(boot_time_s())
        self.report(
            {
                **core_status,
                "process": "leader",
                "finished": self._core.finished and not self._outbox,
                "lost": list(self._core.lost),
                "events": events,
                "commands_sent": self._commands_sent,
                "qkd": None if self._qkd is None else self._qkd.status(),
                "moderation_ms": self._moderation_times(),
                "security": self.session.status(),
            }
        )


def main(args: list[str] | None = None) -> int:
    """Run the leader."""
    return run_node(LeaderNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
