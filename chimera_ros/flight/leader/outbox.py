"""What the leader has sent and heard: commands are repeated until answered or too late."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import nan

from ..effects import AskModeration, LeaderEffect, MissionEvent, SendCommand, SendTrajectory
from ..messages import AckStatus, CommandAck, CommandKind, SwarmCommand, Trajectory
from ..moderation_call import ModerationRequest
from ..vehicle import Vec3
from .state import LeaderConfig, Situation

_KEPT = 128  # commands and plans whose acknowledgements are remembered


@dataclass(slots=True)
class Sent:
    """A command under way: who has not answered yet, and what the others said."""

    command: SwarmCommand
    waiting: set[str]
    next_s: float
    answers: dict[str, CommandAck] = field(default_factory=dict)


class Outbox:
    """Everything that leaves the leader core passes here."""

    def __init__(self, config: LeaderConfig, situation: Situation) -> None:
        self._config, self._situation = config, situation
        self.sent: OrderedDict[int, Sent] = OrderedDict()
        self.plan_acks: OrderedDict[int, dict[str, CommandAck]] = OrderedDict()
        self.command_id = 0
        self.plan_id = 0
        self._out: list[LeaderEffect] = []

    def collect(self) -> list[LeaderEffect]:
        """What is to be sent now."""
        out, self._out = self._out, []
        return out

    def event(self, kind: str, text: str) -> None:
        """Tells people and records what happened."""
        self._out.append(MissionEvent(kind, text))

    def command(
        self,
        kind: CommandKind,
        names: Sequence[str],
        target: Vec3 = (nan, nan, nan),
        plan_id: int = 0,
        deadline_ns: int = 0,
        retry_s: float = 0.0,
    ) -> int:
        """Orders the named drones something; returns the command's id. No names: nobody, not everybody."""
        now, config = self._situation, self._config
        self.command_id += 1
        deadline = deadline_ns or now.ns + int(config.command_deadline_s * 1e9)
        command = SwarmCommand(
            self.command_id, config.term, kind, tuple(names), target, plan_id=plan_id, deadline_ns=deadline
        )
        self.sent[self.command_id] = Sent(command, set(names), now.now + (retry_s or config.retry_s))
        while len(self.sent) > _KEPT:
            self.sent.popitem(last=False)
        if names:
            self._out.append(SendCommand(command))
        return self.command_id

    def ask_again(self, command_id: int, name: str) -> None:
        """A duplicate gets the newest answer: a lost FAILED is heard this way."""
        sent = self.sent.get(command_id)
        if sent is not None:
            self._out.append(SendCommand(replace(sent.command, targets=(name,))))

    def new_plan(self) -> dict[str, CommandAck]:
        """Begins a plan, `plan_id`; returns where its acknowledgements will be found."""
        self.plan_id += 1
        acks = self.plan_acks[self.plan_id] = {}
        while len(self.plan_acks) > _KEPT:
            self.plan_acks.popitem(last=False)
        return acks

    def trajectories(self, parts: Sequence[Trajectory]) -> None:
        """Hands out parts of a plan."""
        self._out += [SendTrajectory(part) for part in parts]

    def ask(self, call: ModerationRequest) -> None:
        """Asks path moderation."""
        self._out.append(AskModeration(call))

    def heard(self, ack: CommandAck) -> None:
        """A drone's answer to a command or trajectory of this term."""
        if ack.command_id:
            sent = self.sent.get(ack.command_id)
            if sent is not None:
                sent.waiting.discard(ack.drone)
                known = sent.answers.get(ack.drone)
                # acknowledgements may overtake each other
                if known is None or known.status is AckStatus.ACCEPTED:
                    sent.answers[ack.drone] = ack
        elif ack.plan_id in self.plan_acks:
            self.plan_acks[ack.plan_id][ack.drone] = ack

    def resend(self) -> None:
        """Repeats what was not answered in time."""
        for sent in self.sent.values():
            if (
                sent.waiting
                and self._situation.now >= sent.next_s
                and self._situation.ns <= sent.command.deadline_ns
            ):
                sent.next_s = self._situation.now + self._config.retry_s
                self._out.append(SendCommand(replace(sent.command, targets=tuple(sorted(sent.waiting)))))

    def forget(self, name: str) -> None:
        """No answer is expected from a drone any more."""
        for sent in self.sent.values():
            sent.waiting.discard(name)

    def forget_all(self) -> None:
        """Nothing that was sent is repeated any more."""
        for sent in self.sent.values():
            sent.waiting.clear()
